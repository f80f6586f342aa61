//! Messages that the stages of the data path exchange, and the values in them. Nothing here knows a stage.

pub mod batch;
pub mod commit;
pub mod dead_letter;
pub mod offer;
pub mod outcome;
pub mod records;
pub mod report;
pub mod resolution;
pub mod resume;
pub mod skip;
pub mod unreadable;
