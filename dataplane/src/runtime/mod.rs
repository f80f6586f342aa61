//! Runtime support, the only folder that deals with actix threads: placement, outbox, death watch, owned tasks,
//! in-flight registry, current epochs and clock.

pub mod backoff;
pub mod clock;
pub mod current_epochs;
pub mod death_watch;
pub mod in_flight;
pub mod live_count;
pub mod outbox;
pub mod owned_task;
pub mod placement;
pub mod task;
