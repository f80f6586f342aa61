//! Well-formed responses that do not match the request.

use kafka_protocol::messages::{ResponseKind, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::fault::WrongAnswer;

/// Partition that no client requests.
const FOREIGN_PARTITION: i32 = 99;
/// Offset beyond the end of every log.
const FAR: i64 = 1 << 40;

fn other(name: &TopicName) -> TopicName {
    TopicName(StrBytes::from_string(format!("{}-other", name.as_str())))
}

/// Alters `$topics` of a response, whose partitions have `$index` and are changed by `$spoilt`.
macro_rules! tell {
    ($how:expr, $topics:expr, $name:ident, $index:ident, $spoilt:expr) => {{
        let spoilt = $spoilt;
        match $how {
            WrongAnswer::Other => $topics.iter_mut().for_each(|topic| topic.$name = other(&topic.$name)),
            WrongAnswer::Twice => {
                for topic in $topics.iter_mut() {
                    if let Some(mut again) = topic.partitions.first().cloned() {
                        spoilt(&mut again);
                        topic.partitions.push(again);
                    }
                }
            }
            WrongAnswer::More => {
                let mut more = $topics.clone();
                for (topic, foreign) in $topics.iter_mut().zip(&mut more) {
                    foreign.$name = other(&topic.$name);
                    foreign.partitions.iter_mut().for_each(&spoilt);
                    if let Some(mut further) = foreign.partitions.first().cloned() {
                        further.$index = FOREIGN_PARTITION;
                        topic.partitions.push(further);
                    }
                }
                $topics.extend(more);
            }
        }
    }};
}

/// Alters a response that names topics; others are unchanged.
pub(super) fn tell(reply: &mut ResponseKind, how: WrongAnswer) {
    use kafka_protocol::messages as of;
    match reply {
        ResponseKind::Fetch(reply) => {
            tell!(
                how,
                reply.responses,
                topic,
                partition_index,
                |part: &mut of::fetch_response::PartitionData| {
                    (part.error_code, part.high_watermark) = (1, -1);
                    part.records = Some(Default::default());
                }
            );
        }
        ResponseKind::ListOffsets(reply) => {
            type Part = of::list_offsets_response::ListOffsetsPartitionResponse;
            tell!(how, reply.topics, name, partition_index, |part: &mut Part| part.offset = FAR);
        }
        ResponseKind::OffsetForLeaderEpoch(reply) => {
            type Part = of::offset_for_leader_epoch_response::EpochEndOffset;
            tell!(how, reply.topics, topic, partition, |part: &mut Part| part.end_offset = 0);
        }
        ResponseKind::OffsetCommit(reply) => {
            type Part = of::offset_commit_response::OffsetCommitResponsePartition;
            tell!(how, reply.topics, name, partition_index, |part: &mut Part| {
                // `More` adds a partition that was not requested. `Twice` repeats one, and the worse code counts;
                // it must not end the membership.
                part.error_code = if how == WrongAnswer::More { 25 } else { 3 };
            });
        }
        ResponseKind::OffsetFetch(reply) => {
            type Part = of::offset_fetch_response::OffsetFetchResponsePartition;
            tell!(how, reply.topics, name, partition_index, |part: &mut Part| part.committed_offset = FAR);
            type OfGroup = of::offset_fetch_response::OffsetFetchResponsePartitions;
            for group in &mut reply.groups {
                tell!(how, group.topics, name, partition_index, |part: &mut OfGroup| part.committed_offset =
                    FAR);
            }
        }
        _ => {}
    }
}

/// Alters metadata separately: a group member counts its partitions.
pub(super) fn describe(reply: &mut ResponseKind, how: WrongAnswer) {
    let ResponseKind::Metadata(reply) = reply else { return };
    let Some(topic) = reply.topics.first_mut() else { return };
    match how {
        WrongAnswer::Other => topic.partitions.retain(|part| part.partition_index > 0),
        WrongAnswer::Twice => topic.partitions.extend(topic.partitions.first().cloned()),
        WrongAnswer::More => {
            let mut foreign = topic.clone();
            foreign.name = topic.name.as_ref().map(other);
            foreign.partitions.iter_mut().for_each(|part| part.leader_id = (-1).into());
            reply.topics.insert(0, foreign);
        }
    }
}
