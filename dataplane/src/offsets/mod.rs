//! Coalesced commits: one OffsetCommit in flight per member.
