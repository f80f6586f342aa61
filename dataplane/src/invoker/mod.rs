//! The invocation, its verdict, throttle control.
