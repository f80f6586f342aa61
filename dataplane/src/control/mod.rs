//! The AWS-compatible API, the registry it writes, and the store of one node.
