//! Log ends for display. A partition with an unknown log end does not affect the others.

use std::collections::BTreeMap;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::ApiKey;
use lighterman_proto::ids::Offset;

use super::logs::list_request;
use super::response::PartitionQuery;
use super::{IsolationLevel, OffsetSpec};
use crate::kafka::cluster::REQUEST_DEADLINE;
use crate::kafka::connection::{BrokerConnection, versions};
use crate::kafka::error::KafkaError;

/// Returns the log ends of those `partitions` that the broker leads. Under `read_committed`, a log ends before its
/// first open transaction. The end is `None` if the broker responds with an error or without an offset; an unknown
/// end is never shown as zero.
pub async fn log_ends(
    connection: &mut BrokerConnection,
    topic: &str,
    partitions: &[i32],
    isolation: IsolationLevel,
) -> Result<BTreeMap<i32, Option<Offset>>, KafkaError> {
    let build = |version| list_request(topic, partitions, OffsetSpec::Latest, isolation, version);
    let (reply, _) = connection.call(versions(1, 7), REQUEST_DEADLINE, build).await?;
    let ours = reply.topics.into_iter().filter(|answer| &*answer.name.0 == topic);
    let parts = ours.flat_map(|topic| topic.partitions).map(|answer| (answer.partition_index, answer));
    PartitionQuery { api: ApiKey::ListOffsets, topic, partitions }.match_response(parts, |answer| {
        let is_told = ResponseError::try_from_code(answer.error_code).is_none() && answer.offset >= 0;
        Ok(is_told.then_some(Offset(answer.offset)))
    })
}
