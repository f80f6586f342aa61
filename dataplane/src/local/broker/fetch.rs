//! Fetch with a long poll that wakes up on appended records, ListOffsets and `OffsetForLeaderEpoch`.

use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::ResponseError as Code;
use kafka_protocol::messages::fetch_response::{
    EpochEndOffset as DivergingEpoch, FetchableTopicResponse, PartitionData,
};
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use kafka_protocol::messages::{
    FetchRequest, FetchResponse, ListOffsetsRequest, ListOffsetsResponse, OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use lighterman_proto::ids::Offset;
use tokio::time::Instant;

use super::log::BrokerLog;
use super::sessions::{ClientTopic, ServerSession, SessionFit, SessionPartition};
use super::state::{BrokerState, SharedBroker};

const BYTES_MAX: usize = 50 * 1024 * 1024;
/// First Fetch version that names topics by id.
const BY_IDS: i16 = 13;

pub(super) async fn fetch(
    shared: &SharedBroker,
    session: &mut ServerSession,
    request: FetchRequest,
    version: i16,
) -> FetchResponse {
    let fresh = {
        let mut state = shared.state.borrow_mut();
        state.next_session += 1;
        state.next_session
    };
    let full = match session.apply(&request, version >= BY_IDS, fresh) {
        SessionFit::Full => true,
        SessionFit::Increment => false,
        SessionFit::NoSuchSession => return refused(Code::FetchSessionIdNotFound),
        SessionFit::WrongEpoch => return refused(Code::InvalidFetchSessionEpoch),
        SessionFit::OtherNames => return refused(Code::FetchSessionTopicIdError),
    };
    let deadline =
        Instant::now() + Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or_default());
    let bytes_min = usize::try_from(request.min_bytes).unwrap_or_default();
    let bytes_max = usize::try_from(request.max_bytes).unwrap_or_default().min(BYTES_MAX);
    loop {
        let rung = shared.appended.notified();
        let (bytes, urgent, topics) = collect(&shared.state.borrow(), session, bytes_max, full);
        let done = bytes >= bytes_min.max(1) || urgent || bytes_min == 0 || Instant::now() >= deadline;
        if done || session.asked.is_empty() {
            let topics = finish(session, topics);
            return FetchResponse::default().with_session_id(session.id).with_responses(topics);
        }
        let _ = tokio::time::timeout_at(deadline, rung).await;
    }
}

fn refused(code: Code) -> FetchResponse {
    FetchResponse::default().with_error_code(code.code())
}

/// Returns the number of bytes found, true if the response must not wait, and the partitions of the response.
fn collect(
    state: &BrokerState,
    session: &ServerSession,
    bytes_max: usize,
    full: bool,
) -> (usize, bool, Vec<(ClientTopic, PartitionData)>) {
    let (mut bytes, mut urgent, mut found) = (0, false, Vec::new());
    for ((topic, partition), asked) in &session.asked {
        let mut data =
            PartitionData::default().with_partition_index(*partition).with_records(Some(Bytes::new()));
        let name = if topic.1.is_nil() { Some(&topic.0) } else { state.names.get(&topic.1) };
        let led = name.ok_or(Code::UnknownTopicId).and_then(|name| state.led(name, *partition));
        let log = match led {
            Ok(log) => log,
            Err(code) => {
                urgent = true;
                found.push((topic.clone(), data.with_error_code(code.code()).with_high_watermark(-1)));
                continue;
            }
        };
        let end = log.end().0;
        data = data
            .with_high_watermark(end)
            .with_last_stable_offset(end)
            .with_log_start_offset(log.start().0)
            .with_aborted_transactions(Some(Vec::new()));
        if let Some(parting) = parting(log, *asked) {
            urgent = true;
            found.push((topic.clone(), data.with_diverging_epoch(parting)));
            continue;
        }
        let room = bytes_max.saturating_sub(bytes);
        match log.read(Offset(asked.offset), asked.bytes_max.min(room)) {
            None => {
                urgent = true;
                found.push((topic.clone(), data.with_error_code(Code::OffsetOutOfRange.code())));
            }
            Some(records) if !records.is_empty() && (bytes == 0 || records.len() <= room) => {
                bytes += records.len();
                found.push((topic.clone(), data.with_records(Some(records))));
            }
            Some(_) if full || asked.told != end => found.push((topic.clone(), data)),
            Some(_) => {}
        }
    }
    (bytes, urgent, found)
}

/// Returns the end of the last epoch that the client's log and this log share, or `None` if they do not diverge
/// (KIP-595).
fn parting(log: &BrokerLog, asked: SessionPartition) -> Option<DivergingEpoch> {
    if asked.last_epoch < 0 {
        return None;
    }
    let (epoch, end) = log.end_of_epoch(asked.last_epoch)?;
    let parted = epoch < asked.last_epoch || end.0 < asked.offset;
    parted.then(|| DivergingEpoch::default().with_epoch(epoch).with_end_offset(end.0))
}

fn finish(
    session: &mut ServerSession,
    found: Vec<(ClientTopic, PartitionData)>,
) -> Vec<FetchableTopicResponse> {
    let mut topics: Vec<FetchableTopicResponse> = Vec::new();
    for (topic, data) in found {
        if let Some(asked) = session.asked.get_mut(&(topic.clone(), data.partition_index)) {
            asked.told = data.high_watermark;
        }
        match topics.last_mut().filter(|last| last.topic.as_str() == topic.0 && last.topic_id == topic.1) {
            Some(last) => last.partitions.push(data),
            None => topics.push(
                FetchableTopicResponse::default()
                    .with_topic(TopicName(StrBytes::from_string(topic.0)))
                    .with_topic_id(topic.1)
                    .with_partitions(vec![data]),
            ),
        }
    }
    topics
}

pub(super) fn list_offsets(
    shared: &SharedBroker,
    request: ListOffsetsRequest,
    version: i16,
) -> ListOffsetsResponse {
    let state = shared.state.borrow();
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|asked| {
            let answer = ListOffsetsPartitionResponse::default().with_partition_index(asked.partition_index);
            let log = match state.led(&topic.name, asked.partition_index) {
                Ok(log) => log,
                Err(code) => return answer.with_error_code(code.code()),
            };
            let (offset, timestamp) = match asked.timestamp {
                -1 => (log.end().0, -1),
                -2 => (log.start().0, -1),
                time => log.at_time(time).map_or((-1, -1), |(offset, found)| (offset.0, found)),
            };
            let answer = answer.with_offset(offset).with_timestamp(timestamp);
            if version >= 4 { answer.with_leader_epoch(log.leader_epoch()) } else { answer }
        });
        ListOffsetsTopicResponse::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    ListOffsetsResponse::default().with_topics(topics.collect())
}

pub(super) fn leader_epochs(
    shared: &SharedBroker,
    request: OffsetForLeaderEpochRequest,
) -> OffsetForLeaderEpochResponse {
    let state = shared.state.borrow();
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|asked| {
            let answer = EpochEndOffset::default().with_partition(asked.partition);
            let log = match state.led(&topic.topic, asked.partition) {
                Ok(log) => log,
                Err(code) => return answer.with_error_code(code.code()),
            };
            let current = log.leader_epoch();
            match asked.current_leader_epoch {
                older if older >= 0 && older < current => {
                    answer.with_error_code(Code::FencedLeaderEpoch.code())
                }
                newer if newer > current => answer.with_error_code(Code::UnknownLeaderEpoch.code()),
                _ => {
                    let (epoch, end) = log.end_of_epoch(asked.leader_epoch).unwrap_or((-1, Offset(-1)));
                    answer.with_leader_epoch(epoch).with_end_offset(end.0)
                }
            }
        });
        OffsetForLeaderTopicResult::default()
            .with_topic(topic.topic.clone())
            .with_partitions(partitions.collect())
    });
    OffsetForLeaderEpochResponse::default().with_topics(topics.collect())
}
