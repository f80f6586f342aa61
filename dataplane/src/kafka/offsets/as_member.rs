//! OffsetFetch of a member of the consumer protocol. The request names the member and its epoch: a member that was
//! fenced is rejected, and does not start where another member has continued (KIP-848).

use std::collections::BTreeMap;

use kafka_protocol::messages::OffsetFetchRequest;
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::protocol::StrBytes;

use super::{CommitIdentity, OffsetAndMetadata, StatedOffset, gather, group_id, name, of_group};
use crate::kafka::cluster::REQUEST_DEADLINE;
use crate::kafka::connection::{BrokerConnection, versions};
use crate::kafka::error::KafkaError;

/// Fetches the offsets that the group of `who` has committed for `partitions` of `topic`, with the same result as
/// [`super::fetch_committed`].
pub async fn fetch_committed_as_member(
    connection: &mut BrokerConnection,
    who: &CommitIdentity,
    topic: &str,
    partitions: &[i32],
) -> Result<BTreeMap<i32, Option<OffsetAndMetadata>>, KafkaError> {
    let build = |_| {
        let wanted = OffsetFetchRequestTopics::default()
            .with_name(name(topic))
            .with_partition_indexes(partitions.to_vec());
        let group = OffsetFetchRequestGroup::default()
            .with_group_id(group_id(&who.group))
            .with_member_id(Some(StrBytes::from_string(who.member.clone())))
            .with_member_epoch(who.generation)
            .with_topics(Some(vec![wanted]));
        OffsetFetchRequest::default().with_groups(vec![group]).with_require_stable(true)
    };
    let (reply, _) = connection.call(versions(9, 9), REQUEST_DEADLINE, build).await?;
    let mut stated = Vec::new();
    for group in reply.groups.into_iter().filter(|group| &*group.group_id.0 == who.group.as_str()) {
        of_group(&who.group, group.error_code)?;
        let ours = group.topics.into_iter().filter(|answer| &*answer.name.0 == topic);
        stated.extend(ours.flat_map(|topic| topic.partitions).map(|answer| StatedOffset {
            code: answer.error_code,
            partition: answer.partition_index,
            offset: answer.committed_offset,
            leader_epoch: answer.committed_leader_epoch,
            metadata: answer.metadata,
        }));
    }
    gather(stated.into_iter(), &who.group, topic, partitions)
}
