//! The only folder that knows actix threads: placement, outbox, death watch, in-flight registry, clock.

pub mod clock;
pub mod death_watch;
pub mod in_flight;
pub mod outbox;
pub mod placement;
pub mod task;
