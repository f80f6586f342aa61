//! The only folder that knows actix threads: placement, outbox, death watch, drain, clock.

pub mod clock;
