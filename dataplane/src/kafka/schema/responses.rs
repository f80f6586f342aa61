//! Schemas of the responses that contain arrays, in the versions that the client uses.

use std::mem::size_of;

use kafka_protocol::messages::{
    ApiKey, api_versions_response as api_versions, consumer_group_heartbeat_response as beat,
    describe_configs_response as configs, fetch_response as fetch, join_group_response as join,
    list_offsets_response as list, metadata_response as metadata, offset_commit_response as commit,
    offset_fetch_response as offset_fetch, offset_for_leader_epoch_response as epochs,
};

use super::FieldType::{Blob, Fixed, Ints, List, Option as Maybe, Struct, Text};
use super::{MessageSchema, SchemaField, always, list, plain, since, small, within};

static FETCH: MessageSchema = plain(
    12,
    &[
        since(1, Fixed(4)),
        since(7, Fixed(6)),
        always(list(
            &[
                within(0, 12, Text),
                since(13, Fixed(16)),
                always(List(
                    &[
                        always(Fixed(14)),
                        since(4, Fixed(8)),
                        since(5, Fixed(8)),
                        since(4, list(&[always(Fixed(16))], size_of::<fetch::AbortedTransaction>())),
                        since(11, Fixed(4)),
                        always(Blob),
                    ],
                    size_of::<fetch::PartitionData>(),
                    &[
                        (0, &[always(Struct(&[always(Fixed(12))]))]),
                        (1, &[always(Struct(&[always(Fixed(8))]))]),
                        (2, &[always(Struct(&[always(Fixed(12))]))]),
                    ],
                )),
            ],
            size_of::<fetch::FetchableTopicResponse>(),
        )),
    ],
);

static LIST_OFFSETS: MessageSchema = plain(
    6,
    &[
        since(2, Fixed(4)),
        always(list(
            &[
                always(Text),
                always(list(
                    &[always(Fixed(22)), since(4, Fixed(4))],
                    size_of::<list::ListOffsetsPartitionResponse>(),
                )),
            ],
            size_of::<list::ListOffsetsTopicResponse>(),
        )),
    ],
);

static METADATA: MessageSchema = plain(
    9,
    &[
        since(3, Fixed(4)),
        always(list(
            &[always(Fixed(4)), always(Text), always(Fixed(4)), since(1, Text)],
            size_of::<metadata::MetadataResponseBroker>(),
        )),
        since(2, Text),
        since(1, Fixed(4)),
        always(list(
            &[
                always(Fixed(2)),
                always(Text),
                since(10, Fixed(16)),
                since(1, Fixed(1)),
                always(list(
                    &[always(Fixed(10)), since(7, Fixed(4)), always(Ints), always(Ints), since(5, Ints)],
                    size_of::<metadata::MetadataResponsePartition>(),
                )),
                since(8, Fixed(4)),
            ],
            size_of::<metadata::MetadataResponseTopic>(),
        )),
        within(8, 10, Fixed(4)),
    ],
);

static OFFSET_COMMIT: MessageSchema = plain(
    8,
    &[
        since(3, Fixed(4)),
        always(list(
            &[
                always(Text),
                always(list(&[always(Fixed(6))], size_of::<commit::OffsetCommitResponsePartition>())),
            ],
            size_of::<commit::OffsetCommitResponseTopic>(),
        )),
    ],
);

static OFFSET_FETCH: MessageSchema = plain(
    6,
    &[
        since(3, Fixed(4)),
        within(
            0,
            7,
            list(
                &[
                    always(Text),
                    always(list(OFFSETS, size_of::<offset_fetch::OffsetFetchResponsePartition>())),
                ],
                size_of::<offset_fetch::OffsetFetchResponseTopic>(),
            ),
        ),
        within(2, 7, Fixed(2)),
        since(
            8,
            list(
                &[
                    always(Text),
                    always(list(
                        &[
                            always(Text),
                            always(list(OFFSETS, size_of::<offset_fetch::OffsetFetchResponsePartitions>())),
                        ],
                        size_of::<offset_fetch::OffsetFetchResponseTopics>(),
                    )),
                    always(Fixed(2)),
                ],
                size_of::<offset_fetch::OffsetFetchResponseGroup>(),
            ),
        ),
    ],
);

const OFFSETS: &[SchemaField] = &[always(Fixed(12)), since(5, Fixed(4)), always(Text), always(Fixed(2))];

static CONSUMER_HEARTBEAT: MessageSchema = plain(
    0,
    &[
        always(Fixed(6)),
        always(Text),
        always(Text),
        always(Fixed(8)),
        always(Maybe(&[always(list(
            &[always(Fixed(16)), always(Ints)],
            size_of::<beat::TopicPartitions>(),
        ))])),
    ],
);

static DESCRIBE_CONFIGS: MessageSchema = plain(
    4,
    &[
        always(Fixed(4)),
        always(list(
            &[
                always(Fixed(2)),
                always(Text),
                always(Fixed(1)),
                always(Text),
                always(list(
                    &[
                        always(Text),
                        always(Text),
                        always(Fixed(3)),
                        since(
                            1,
                            list(
                                &[always(Text), always(Text), always(Fixed(1))],
                                size_of::<configs::DescribeConfigsSynonym>(),
                            ),
                        ),
                        since(3, Fixed(1)),
                        since(3, Text),
                    ],
                    size_of::<configs::DescribeConfigsResourceResult>(),
                )),
            ],
            size_of::<configs::DescribeConfigsResult>(),
        )),
    ],
);

static LEADER_EPOCHS: MessageSchema = plain(
    4,
    &[
        since(2, Fixed(4)),
        always(list(
            &[
                always(Text),
                always(list(
                    &[always(Fixed(6)), since(1, Fixed(4)), always(Fixed(8))],
                    size_of::<epochs::EpochEndOffset>(),
                )),
            ],
            size_of::<epochs::OffsetForLeaderTopicResult>(),
        )),
    ],
);

static JOIN_GROUP: MessageSchema = plain(
    6,
    &[
        since(2, Fixed(4)),
        always(Fixed(6)),
        since(7, Text),
        always(Text),
        always(Text),
        since(9, Fixed(1)),
        always(Text),
        always(list(
            &[always(Text), since(5, Text), always(Blob)],
            size_of::<join::JoinGroupResponseMember>(),
        )),
    ],
);

static API_VERSIONS: MessageSchema = MessageSchema {
    flexible_since: 3,
    fields: &[
        always(Fixed(2)),
        always(list(&[always(Fixed(6))], size_of::<api_versions::ApiVersion>())),
        since(1, Fixed(4)),
    ],
    tagged: &[
        (
            0,
            &[always(list(
                &[always(Text), always(Fixed(4))],
                size_of::<api_versions::SupportedFeatureKey>(),
            ))],
        ),
        (1, &[always(Fixed(8))]),
        (
            2,
            &[always(list(
                &[always(Text), always(Fixed(4))],
                size_of::<api_versions::FinalizedFeatureKey>(),
            ))],
        ),
        (3, &[always(Fixed(1))]),
    ],
};

pub(super) fn shape_of(api: ApiKey) -> Option<&'static MessageSchema> {
    Some(match api {
        ApiKey::Fetch => &FETCH,
        ApiKey::ListOffsets => &LIST_OFFSETS,
        ApiKey::Metadata => &METADATA,
        ApiKey::OffsetCommit => &OFFSET_COMMIT,
        ApiKey::OffsetFetch => &OFFSET_FETCH,
        ApiKey::OffsetForLeaderEpoch => &LEADER_EPOCHS,
        ApiKey::JoinGroup => &JOIN_GROUP,
        ApiKey::ApiVersions => &API_VERSIONS,
        ApiKey::ConsumerGroupHeartbeat => &CONSUMER_HEARTBEAT,
        ApiKey::DescribeConfigs => &DESCRIBE_CONFIGS,
        ApiKey::FindCoordinator => &small::FIND_COORDINATOR,
        ApiKey::SyncGroup => &small::SYNC_GROUP,
        ApiKey::Heartbeat => &small::HEARTBEAT,
        ApiKey::LeaveGroup => &small::LEAVE_GROUP,
        // The client sends no other requests.
        _ => return None,
    })
}
