//! When to seal a batch, and the one-pass payload.
