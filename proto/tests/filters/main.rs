//! Filter tests: random patterns and records against a naive evaluator, AWS's documentation case by case, and
//! allocations.

mod allocations;
mod documented;
mod naive;
mod random;
