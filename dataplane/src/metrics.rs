//! Every metric once: name, unit, sentence. Definitions follow AWS's (`PolledEventCount` and its family) under Prometheus names.

/// Bytes leased from the node's budget.
pub const BYTES_LEASED: &str = "lighterman_bytes_leased";
