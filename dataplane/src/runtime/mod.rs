//! The only folder that knows actix threads: placement, outbox, death watch, in-flight registry, clock.

pub mod clock;
pub mod death_watch;
pub mod in_flight;
pub mod live_count;
pub mod open_files;
pub mod outbox;
pub mod placement;
