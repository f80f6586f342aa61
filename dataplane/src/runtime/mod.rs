//! The only folder that knows actix threads: placement, outbox, death watch, owned tasks, in-flight registry, clock.

pub mod clock;
pub mod death_watch;
pub mod in_flight;
pub mod live_count;
pub mod open_files;
pub mod outbox;
pub mod owned_task;
pub mod placement;
pub mod task;
