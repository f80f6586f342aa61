//! Configuration: file, environment and flags into validated settings.
