//! The event source mapping API as AWS defines it: shapes, constraints, exact messages.
