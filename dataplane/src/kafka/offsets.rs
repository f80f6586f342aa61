//! ListOffsets, OffsetForLeaderEpoch, OffsetFetch, OffsetCommit.
