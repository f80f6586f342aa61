//! The Lambda event of a Kafka batch, written in one pass into one buffer of a size known beforehand.
