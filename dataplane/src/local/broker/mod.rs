//! An in-memory Kafka broker for laptops and tests, with fault hooks.
