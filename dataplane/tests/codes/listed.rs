//! Error codes that Kafka lists for each API that the node uses: the "possible error codes" of the response classes
//! in `org.apache.kafka.common.requests`. If a class lists none, the codes that Java's client handles.
//! `UNKNOWN_SERVER_ERROR` (-1) may come from every API.

use kafka_protocol::messages::ApiKey;

/// An API and its codes.
pub(crate) struct ListedApi {
    pub(crate) api: ApiKey,
    /// Java class that lists the codes.
    pub(crate) source: &'static str,
    pub(crate) codes: &'static [i16],
}

const fn listed(api: ApiKey, source: &'static str, codes: &'static [i16]) -> ListedApi {
    ListedApi { api, source, codes }
}

pub(crate) const LISTED: &[ListedApi] = &[
    listed(ApiKey::Fetch, "FetchResponse", &[-1, 1, 2, 3, 6, 9, 29, 56, 74, 75, 76, 100, 103, 106]),
    // Codes of fetch sessions, and of an offset that the leader does not have yet.
    listed(ApiKey::Fetch, "FetchSession, FetchCollector", &[70, 71, 78]),
    listed(ApiKey::ListOffsets, "ListOffsetsResponse", &[-1, 3, 5, 6, 9, 29, 43, 56, 74, 75, 78]),
    listed(ApiKey::OffsetForLeaderEpoch, "OffsetsForLeaderEpochResponse", &[-1, 3, 6, 9, 29, 56, 74, 75]),
    listed(ApiKey::Metadata, "MetadataResponse", &[3, 5, 9, 17, 29]),
    listed(ApiKey::FindCoordinator, "FindCoordinatorResponse", &[14, 15, 30, 42, 53]),
    listed(
        ApiKey::JoinGroup,
        "AbstractCoordinator.JoinGroupResponseHandler",
        &[14, 15, 16, 23, 24, 25, 26, 27, 30, 35, 79, 81, 82],
    ),
    listed(
        ApiKey::SyncGroup,
        "AbstractCoordinator.SyncGroupResponseHandler",
        &[15, 16, 22, 23, 25, 27, 30, 82],
    ),
    listed(ApiKey::Heartbeat, "HeartbeatResponse", &[15, 16, 22, 25, 27, 30]),
    listed(ApiKey::Heartbeat, "AbstractCoordinator.HeartbeatResponseHandler", &[82]),
    listed(
        ApiKey::ConsumerGroupHeartbeat,
        "ConsumerGroupHeartbeatResponse",
        &[14, 15, 16, 25, 30, 42, 81, 110, 111, 112, 128],
    ),
    listed(ApiKey::LeaveGroup, "LeaveGroupResponse", &[14, 15, 16, 25, 30, 82]),
    listed(
        ApiKey::OffsetCommit,
        "OffsetCommitResponse",
        &[3, 7, 12, 14, 15, 16, 22, 25, 27, 28, 29, 30, 48, 49, 69, 113],
    ),
    listed(ApiKey::OffsetFetch, "OffsetFetchResponse", &[3, 14, 15, 16, 25, 29, 30, 88, 113]),
    listed(ApiKey::ApiVersions, "ApiVersionsResponse", &[35, 42]),
];

/// Returns all codes listed for `api`, and those that may come from every API.
pub(crate) fn codes_of(api: ApiKey) -> Vec<i16> {
    let own = LISTED.iter().filter(|listed| listed.api == api).flat_map(|listed| listed.codes);
    let mut codes: Vec<i16> = own.copied().chain([-1]).collect();
    codes.sort_unstable();
    codes.dedup();
    codes
}
