//! Group membership, classic protocol: join barrier, cooperative sticky assignment, heartbeats, lease.
