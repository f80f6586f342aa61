//! Size check of responses before they are decoded. The decoder trusts each array's count and allocates for it at
//! once. A count of 2³¹−1 in a frame of forty bytes requests hundreds of gigabytes. A frame filled with the smallest
//! entries grows to thirty times its size. A walk over the response's schema rejects both (D1).

mod consumer_protocol;
mod responses;
mod small;

use std::mem::size_of;

use bytes::{Buf, Bytes};
use kafka_protocol::messages::ApiKey;

pub(super) use consumer_protocol::{check_assignment, check_subscription};

/// Limit on the decoded structs of one response, in bytes. Records and strings do not count, as they are slices of
/// the frame.
const DECODED_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Decoded size of one unknown tagged field, in bytes.
const TAG_BYTES: usize = 64;

enum FieldType {
    /// Fixed number of bytes.
    Fixed(usize),
    /// Nullable string.
    Text,
    /// Nullable bytes.
    Blob,
    /// Array: the fields of an entry, its decoded size in bytes, and its known tagged fields.
    List(&'static [SchemaField], usize, TaggedFields),
    /// Struct, followed by unknown tagged fields.
    Struct(&'static [SchemaField]),
    /// Nullable struct: a byte that is 1 if the struct follows, its fields, then unknown tagged fields.
    Option(&'static [SchemaField]),
    /// Array of four-byte integers.
    Ints,
}

/// Known tagged fields of a struct, by tag.
type TaggedFields = &'static [(u32, &'static [SchemaField])];

struct SchemaField {
    since: i16,
    until: i16,
    kind: FieldType,
}

/// Fields of a message and its known tagged fields.
struct MessageSchema {
    flexible_since: i16,
    fields: &'static [SchemaField],
    tagged: TaggedFields,
}

const fn always(kind: FieldType) -> SchemaField {
    SchemaField { since: 0, until: i16::MAX, kind }
}

const fn since(since: i16, kind: FieldType) -> SchemaField {
    SchemaField { since, until: i16::MAX, kind }
}

const fn within(since: i16, until: i16, kind: FieldType) -> SchemaField {
    SchemaField { since, until, kind }
}

const fn plain(flexible_since: i16, fields: &'static [SchemaField]) -> MessageSchema {
    MessageSchema { flexible_since, fields, tagged: &[] }
}

const fn list(fields: &'static [SchemaField], bytes: usize) -> FieldType {
    List(fields, bytes, &[])
}

use FieldType::{Blob, Fixed, Ints, List, Option as Maybe, Struct, Text};

/// Rejects a response whose array counts exceed its bytes or whose decoded entries would take too much memory.
/// `body` starts after the header.
pub(super) fn check(api: ApiKey, version: i16, body: &Bytes) -> Result<(), String> {
    responses::shape_of(api).map_or(Ok(()), |shape| walk(shape, version, body))
}

/// Applies the same check to the response header; `frame` starts with the header.
pub(super) fn check_header(version: i16, frame: &Bytes) -> Result<(), String> {
    walk(&small::HEADER, version, frame)
}

fn walk(shape: &'static MessageSchema, version: i16, body: &Bytes) -> Result<(), String> {
    let flexible = version >= shape.flexible_since;
    let mut walk = SchemaWalk { left: body, version, flexible, cost: 0 };
    walk.fields(shape.fields)?;
    if flexible { walk.tags(shape.tagged) } else { Ok(()) }
}

struct SchemaWalk<'b> {
    left: &'b [u8],
    version: i16,
    flexible: bool,
    cost: usize,
}

impl SchemaWalk<'_> {
    fn fields(&mut self, fields: &'static [SchemaField]) -> Result<(), String> {
        let version = self.version;
        for field in fields.iter().filter(|field| (field.since..=field.until).contains(&version)) {
            match &field.kind {
                Fixed(bytes) => self.skip(*bytes)?,
                Text => {
                    let bytes = if self.flexible { self.compact()? } else { self.short()? };
                    self.skip(bytes)?;
                }
                Blob => {
                    let bytes = self.count()?;
                    self.skip(bytes)?;
                }
                Ints => {
                    let entries = self.count()?;
                    self.charge(entries, size_of::<i32>())?;
                    self.skip(entries.saturating_mul(4))?;
                }
                List(of, bytes, tagged) => self.list(of, *bytes, tagged)?,
                Maybe(of) => {
                    if self.left.try_get_u8().map_err(|_| "it ends too early")? == 1 {
                        self.fields(of)?;
                        self.tags(&[])?;
                    }
                }
                Struct(of) => {
                    self.fields(of)?;
                    self.tags(&[])?;
                }
            }
        }
        Ok(())
    }

    fn list(&mut self, of: &'static [SchemaField], bytes: usize, tagged: TaggedFields) -> Result<(), String> {
        let entries = self.count()?;
        if entries > self.left.len() {
            return Err(format!("{entries} entries in {} bytes", self.left.len()));
        }
        self.charge(entries, bytes)?;
        for _ in 0..entries {
            self.fields(of)?;
            if self.flexible {
                self.tags(tagged)?;
            }
        }
        Ok(())
    }

    /// Walks the tagged fields after a struct. The decoder parses those that it knows and keeps the others.
    fn tags(&mut self, known: TaggedFields) -> Result<(), String> {
        let tags = self.varint()?;
        for _ in 0..tags {
            let (tag, bytes) = (self.varint()?, self.varint()?);
            match known.iter().find(|(known, _)| *known == tag) {
                Some((_, fields)) => self.fields(fields)?,
                None => {
                    self.charge(1, TAG_BYTES)?;
                    self.skip(bytes as usize)?;
                }
            }
        }
        Ok(())
    }

    fn charge(&mut self, entries: usize, bytes: usize) -> Result<(), String> {
        self.cost = self.cost.saturating_add(entries.saturating_mul(bytes));
        if self.cost > DECODED_BYTES_MAX {
            return Err(format!("its entries would take more than {DECODED_BYTES_MAX} bytes"));
        }
        Ok(())
    }

    fn skip(&mut self, bytes: usize) -> Result<(), String> {
        self.left = self.left.get(bytes..).ok_or("it ends too early")?;
        Ok(())
    }

    fn count(&mut self) -> Result<usize, String> {
        if self.flexible {
            return self.compact();
        }
        let count = self.left.try_get_i32().map_err(|_| "it ends too early")?;
        if count < -1 { Err(format!("a length of {count}")) } else { Ok(count.max(0) as usize) }
    }

    fn short(&mut self) -> Result<usize, String> {
        let count = self.left.try_get_i16().map_err(|_| "it ends too early")?;
        if count < -1 { Err(format!("a length of {count}")) } else { Ok(count.max(0) as usize) }
    }

    fn compact(&mut self) -> Result<usize, String> {
        Ok(self.varint()?.saturating_sub(1) as usize)
    }

    fn varint(&mut self) -> Result<u32, String> {
        let mut value = 0;
        for shift in (0..35).step_by(7) {
            let byte = self.left.try_get_u8().map_err(|_| "it ends too early")?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a number without end".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut, BytesMut};
    use kafka_protocol::messages::fetch_response::{
        AbortedTransaction, EpochEndOffset, FetchableTopicResponse, PartitionData,
    };
    use kafka_protocol::messages::{
        api_versions_response as api_versions, consumer_group_heartbeat_response as beat,
        describe_configs_response as configs, join_group_response as join, list_offsets_response as list,
        metadata_response as metadata, offset_commit_response as commit,
        offset_fetch_response as offset_fetch, offset_for_leader_epoch_response as epochs, *,
    };
    use kafka_protocol::protocol::StrBytes;
    use proptest::prelude::*;

    use super::*;

    const SPOKEN: &[(ApiKey, i16, i16)] = &[
        (ApiKey::Fetch, 4, 12),
        (ApiKey::ListOffsets, 1, 7),
        (ApiKey::Metadata, 4, 9),
        (ApiKey::OffsetCommit, 2, 9),
        (ApiKey::OffsetFetch, 1, 9),
        (ApiKey::OffsetForLeaderEpoch, 2, 4),
        (ApiKey::JoinGroup, 2, 7),
        (ApiKey::ApiVersions, 0, 3),
        (ApiKey::ConsumerGroupHeartbeat, 0, 1),
        (ApiKey::DescribeConfigs, 1, 4),
    ];

    fn text(text: &'static str) -> StrBytes {
        StrBytes::from_static_str(text)
    }

    fn fetched() -> FetchResponse {
        let aborted = vec![AbortedTransaction::default(); 3];
        let part = |index: i32| {
            PartitionData::default()
                .with_partition_index(index)
                .with_aborted_transactions(Some(aborted.clone()))
                .with_records(Some(Bytes::from_static(b"records")))
        };
        let topic = FetchableTopicResponse::default().with_topic(TopicName(text("orders")));
        FetchResponse::default().with_responses(vec![topic.with_partitions(vec![part(0), part(1)])])
    }

    fn of_groups() -> ResponseKind {
        let part = offset_fetch::OffsetFetchResponsePartitions::default().with_metadata(Some(text("n=2")));
        let topic = offset_fetch::OffsetFetchResponseTopics::default()
            .with_name(TopicName(text("orders")))
            .with_partitions(vec![part; 2]);
        let group = offset_fetch::OffsetFetchResponseGroup::default().with_topics(vec![topic; 2]);
        ResponseKind::OffsetFetch(OffsetFetchResponse::default().with_groups(vec![group; 2]))
    }

    fn of_the_consumer_protocol(api: ApiKey) -> ResponseKind {
        if api == ApiKey::ConsumerGroupHeartbeat {
            let topic = beat::TopicPartitions::default().with_partitions(vec![1, 2]);
            let assignment = beat::Assignment::default().with_topic_partitions(vec![topic; 2]);
            let reply = ConsumerGroupHeartbeatResponse::default()
                .with_member_id(Some(text("member")))
                .with_assignment(Some(assignment));
            return ResponseKind::ConsumerGroupHeartbeat(reply);
        }
        let synonym = configs::DescribeConfigsSynonym::default().with_name(text("session"));
        let config = configs::DescribeConfigsResourceResult::default()
            .with_value(Some(text("45000")))
            .with_synonyms(vec![synonym; 2]);
        let result = configs::DescribeConfigsResult::default().with_configs(vec![config; 2]);
        ResponseKind::DescribeConfigs(DescribeConfigsResponse::default().with_results(vec![result; 2]))
    }

    /// Builds a response with two of everything.
    fn reply(api: ApiKey, version: i16) -> ResponseKind {
        let name = || TopicName(text("orders"));
        match api {
            ApiKey::Fetch => ResponseKind::Fetch(fetched()),
            ApiKey::ListOffsets => {
                let topic = list::ListOffsetsTopicResponse::default()
                    .with_name(name())
                    .with_partitions(vec![Default::default(); 2]);
                ResponseKind::ListOffsets(ListOffsetsResponse::default().with_topics(vec![topic; 2]))
            }
            ApiKey::Metadata => {
                let part = metadata::MetadataResponsePartition::default()
                    .with_replica_nodes(vec![1.into(), 2.into()])
                    .with_isr_nodes(vec![1.into()]);
                let topic = metadata::MetadataResponseTopic::default()
                    .with_name(Some(name()))
                    .with_partitions(vec![part; 2]);
                let broker = metadata::MetadataResponseBroker::default().with_host(text("host"));
                let reply = MetadataResponse::default()
                    .with_brokers(vec![broker; 2])
                    .with_cluster_id(Some(text("id")))
                    .with_topics(vec![topic; 2]);
                ResponseKind::Metadata(reply)
            }
            ApiKey::OffsetCommit => {
                let topic = commit::OffsetCommitResponseTopic::default()
                    .with_name(name())
                    .with_partitions(vec![Default::default(); 2]);
                ResponseKind::OffsetCommit(OffsetCommitResponse::default().with_topics(vec![topic; 2]))
            }
            ApiKey::OffsetFetch if version >= 8 => of_groups(),
            ApiKey::ConsumerGroupHeartbeat | ApiKey::DescribeConfigs => of_the_consumer_protocol(api),
            ApiKey::OffsetFetch => {
                let part =
                    offset_fetch::OffsetFetchResponsePartition::default().with_metadata(Some(text("n=2")));
                let topic = offset_fetch::OffsetFetchResponseTopic::default()
                    .with_name(name())
                    .with_partitions(vec![part; 2]);
                ResponseKind::OffsetFetch(OffsetFetchResponse::default().with_topics(vec![topic; 2]))
            }
            ApiKey::OffsetForLeaderEpoch => {
                let topic = epochs::OffsetForLeaderTopicResult::default()
                    .with_topic(name())
                    .with_partitions(vec![Default::default(); 2]);
                let reply = OffsetForLeaderEpochResponse::default().with_topics(vec![topic; 2]);
                ResponseKind::OffsetForLeaderEpoch(reply)
            }
            ApiKey::JoinGroup => {
                let member = join::JoinGroupResponseMember::default()
                    .with_member_id(text("member"))
                    .with_metadata(Bytes::from_static(b"subscription"));
                let reply = JoinGroupResponse::default()
                    .with_protocol_name(Some(text("cooperative-sticky")))
                    .with_members(vec![member; 2]);
                ResponseKind::JoinGroup(reply)
            }
            _ => {
                let reply = ApiVersionsResponse::default().with_api_keys(vec![Default::default(); 2]);
                let feature = api_versions::SupportedFeatureKey::default().with_name(text("kraft.version"));
                ResponseKind::ApiVersions(match version {
                    3 => reply.with_supported_features(vec![feature; 2]).with_finalized_features_epoch(7),
                    _ => reply,
                })
            }
        }
    }

    fn encoded(reply: &ResponseKind, version: i16) -> Bytes {
        let mut bytes = BytesMut::new();
        reply.encode(&mut bytes, version).expect("encodes");
        bytes.freeze()
    }

    #[test]
    fn truncated_response_of_any_version_fails() {
        for (api, min, max) in SPOKEN {
            for version in *min..=*max {
                let bytes = encoded(&reply(*api, version), version);
                assert_eq!(check(*api, version, &bytes), Ok(()), "{api:?} {version}");
                for end in 0..bytes.len() {
                    assert!(check(*api, version, &bytes.slice(..end)).is_err(), "{api:?} {version} {end}");
                }
            }
        }
        let diverged = EpochEndOffset::default().with_epoch(3).with_end_offset(9);
        let mut fetched = fetched();
        fetched.responses[0].partitions[0].diverging_epoch = diverged;
        let bytes = encoded(&ResponseKind::Fetch(fetched), 12);
        assert_eq!(check(ApiKey::Fetch, 12, &bytes), Ok(()));
    }

    #[test]
    fn d1_count_beyond_bytes_is_rejected() {
        // The topic array follows the throttle time.
        let mut lie = BytesMut::new();
        lie.put_i32(0);
        lie.put_i32(i32::MAX);
        assert!(check(ApiKey::OffsetCommit, 7, &lie.freeze()).is_err());
        let mut lie = BytesMut::new();
        lie.put_i32(0);
        lie.put_slice(&[0xff, 0xff, 0xff, 0xff, 0x0f]);
        assert!(check(ApiKey::OffsetCommit, 8, &lie.freeze()).is_err());
    }

    #[test]
    fn d1_header_with_many_unknown_tags_is_rejected() {
        const TAGS: u32 = 1024 * 1024;
        let stuffed = |tags: u32| {
            let mut frame = BytesMut::new();
            frame.put_i32(7);
            // A count of three bytes, then one-byte tags with empty values.
            frame.put_slice(&[tags as u8 | 0x80, (tags >> 7) as u8 | 0x80, (tags >> 14) as u8]);
            frame.put_bytes(0, tags as usize * 2);
            frame.freeze()
        };
        assert_eq!(check_header(1, &stuffed(1024)), Ok(()));
        let error = check_header(1, &stuffed(TAGS)).expect_err("too much");
        assert!(error.contains("would take more"), "{error}");
        assert_eq!(check_header(0, &stuffed(TAGS)), Ok(()), "a header that has no such fields");
    }

    #[test]
    fn d1_frame_full_of_smallest_entries_is_rejected() {
        const ENTRIES: usize = 1024 * 1024;
        let mut stuffed = BytesMut::new();
        stuffed.put_i32(0);
        stuffed.put_i32(ENTRIES as i32);
        // Entries without name and partitions.
        stuffed.put_bytes(0, ENTRIES * 6);
        let error = check(ApiKey::OffsetCommit, 7, &stuffed.freeze()).expect_err("too much");
        assert!(error.contains("would take more"), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// A response that passes is decoded without a panic, and within the memory that was charged for it.
        #[test]
        fn mutated_response_is_rejected_or_decoded(
            which in 0..SPOKEN.len(),
            at_version: prop::sample::Index,
            changes in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 1..5),
        ) {
            let (api, min, max) = SPOKEN[which];
            let version = min + at_version.index((max - min) as usize + 1) as i16;
            let mut bytes = BytesMut::from(&encoded(&reply(api, version), version)[..]);
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let mut bytes = bytes.freeze();
            if check(api, version, &bytes).is_ok() {
                let _ = ResponseKind::decode(api, &mut bytes, version);
            }
        }
    }
}
