//! Fetch sessions (KIP-227) over all partitions of one broker.
