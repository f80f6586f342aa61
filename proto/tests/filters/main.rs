//! Filters: against a naive evaluator on random patterns and records, case by case against AWS's documentation, and without
//! an allocation for a record.

mod allocations;
mod documented;
mod naive;
mod random;
