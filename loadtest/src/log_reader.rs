//! Reader of a partition's log with kafka-protocol's decoder, independent of Lighterman's.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{BrokerId, FetchRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::RecordBatchDecoder;
use lighterman::kafka::connection::versions;

use crate::produce::TestProducer;

const DEADLINE: Duration = Duration::from_secs(30);
const BYTES_MAX: i32 = 64 * 1024 * 1024;
/// Time after which an unchanged log counts as fully compacted.
const UNCHANGED_FOR: Duration = Duration::from_secs(2);

/// Waits until compaction has removed records of partition 0 of `topic`, whose log ends at `end`, and has finished.
/// Returns the remaining offsets.
pub async fn await_compacted(producer: &mut TestProducer, topic: &str, end: i64) -> Result<BTreeSet<i64>> {
    let settled = async {
        let mut before = BTreeSet::new();
        loop {
            let left = offsets_left(producer, topic, end).await?;
            if left == before && (left.len() as i64) < end {
                return Ok(left);
            }
            before = left;
            tokio::time::sleep(UNCHANGED_FOR).await;
        }
    };
    tokio::time::timeout(DEADLINE * 2, settled).await.context("the broker does not compact")?
}

/// Waits for the first `count` records of partition 0 of `topic` and returns their values.
pub async fn await_values(producer: &mut TestProducer, topic: &str, count: usize) -> Result<Vec<Bytes>> {
    let read = async {
        loop {
            let mut records = fetch(producer, topic, 0).await?;
            let sets = RecordBatchDecoder::decode_all(&mut records)?;
            let values: Vec<Bytes> =
                sets.into_iter().flat_map(|set| set.records).filter_map(|record| record.value).collect();
            if values.len() >= count {
                return Ok(values);
            }
        }
    };
    tokio::time::timeout(DEADLINE, read)
        .await
        .with_context(|| format!("fewer than {count} records in {topic}"))?
}

async fn offsets_left(producer: &mut TestProducer, topic: &str, end: i64) -> Result<BTreeSet<i64>> {
    let (mut left, mut position) = (BTreeSet::new(), 0);
    while position < end {
        let mut records = fetch(producer, topic, position).await?;
        let before = position;
        while records.len() > 61 {
            // The next offset is in the batch's header: an emptied batch has no record that contains it.
            let next = i64::from_be_bytes(records[..8].try_into()?)
                + i64::from(i32::from_be_bytes(records[23..27].try_into()?))
                + 1;
            let length = 12 + usize::try_from(i32::from_be_bytes(records[8..12].try_into()?))?;
            if records.len() < length {
                break;
            }
            let mut batch = records.split_to(length);
            left.extend(RecordBatchDecoder::decode(&mut batch)?.records.iter().map(|record| record.offset));
            position = position.max(next);
        }
        ensure!(position > before, "nothing more at {position} of {end}");
    }
    Ok(left)
}

/// Fetches record batches of partition 0 of `topic` from `position` on.
pub(crate) async fn fetch(producer: &mut TestProducer, topic: &str, position: i64) -> Result<Bytes> {
    let partition = FetchPartition::default().with_fetch_offset(position).with_partition_max_bytes(BYTES_MAX);
    let topic = FetchTopic::default()
        .with_topic(TopicName(StrBytes::from_string(topic.to_owned())))
        .with_partitions(vec![partition]);
    let build = |_| {
        FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_wait_ms(1_000)
            .with_min_bytes(1)
            .with_max_bytes(BYTES_MAX)
            .with_session_epoch(-1)
            .with_topics(vec![topic])
    };
    let (reply, _) = producer.connection().call(versions(11, 11), DEADLINE, build).await?;
    let answer = reply.responses.into_iter().next().and_then(|topic| topic.partitions.into_iter().next());
    let answer = answer.context("no answer for the partition")?;
    ensure!(answer.error_code == 0, "Fetch: {}", answer.error_code);
    Ok(answer.records.unwrap_or_default())
}
