//! Brokers, leaders and epochs: the metadata cache and the connections to each broker.
