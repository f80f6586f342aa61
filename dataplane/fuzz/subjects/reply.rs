//! Fuzz subject: arbitrary bodies for every response that the client reads, in every version that it supports.
//! Nothing panics, and memory is proportional to the input. A decoded response is encoded and decoded again
//! without change. Nothing is rejected that the decoder could read within that memory.

use std::time::Duration;

use allocation_counter::measure;
use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, VersionRange};
use lighterman::kafka::connection::{BrokerConnection, versions};
use lighterman::kafka::error::KafkaError;
use lighterman::kafka::transport::BrokerAddress;

use super::line::{Line, block_on, frame};

const DEADLINE: Duration = Duration::from_secs(5);
/// Maximum memory per response byte after decoding. The largest entry (a fetched partition) takes few bytes on the
/// wire.
const BYTES_A_BYTE_MAX: u64 = 128;
/// Memory of an exchange without a result: the request, the broker's version response, the first read.
const BYTES_MAX: u64 = 64 * 1024;

/// APIs with the versions that the client uses in production.
const SPOKEN: &[(Reads, i16, i16)] = &[
    (read::<FetchRequest>, 10, 12),
    (read::<ListOffsetsRequest>, 1, 7),
    (read::<MetadataRequest>, 4, 9),
    (read::<FindCoordinatorRequest>, 0, 3),
    (read::<OffsetCommitRequest>, 2, 8),
    (read::<OffsetFetchRequest>, 1, 7),
    (read::<OffsetForLeaderEpochRequest>, 2, 4),
    (read::<JoinGroupRequest>, 2, 7),
    (read::<SyncGroupRequest>, 1, 4),
    (read::<HeartbeatRequest>, 0, 4),
    (read::<LeaveGroupRequest>, 0, 2),
    (negotiated, 3, 3),
    (read::<ConsumerGroupHeartbeatRequest>, 0, 1),
    (read::<DescribeConfigsRequest>, 1, 4),
    (read::<OffsetFetchRequest>, 9, 9),
    (read::<OffsetCommitRequest>, 9, 9),
];

type Reads = fn(i16, &[u8]) -> bool;

/// Selects the API by the first byte and its version by the second; the rest is the body. Returns 1 if the client
/// read it, so that callers can check that some inputs are valid.
pub(crate) fn run(bytes: &[u8]) -> usize {
    let [api, version, body @ ..] = bytes else { return 0 };
    let (reads, min, max) = SPOKEN[usize::from(*api) % SPOKEN.len()];
    usize::from(reads(min + i16::from(*version) % (max - min + 1), body))
}

fn read<R: Request + Default>(version: i16, body: &[u8]) -> bool
where
    R::Response: PartialEq + std::fmt::Debug,
{
    let mut outcome = None;
    let cost = measure(|| outcome = Some(asked::<R>(version, body)));
    judge(R::KEY, version, body, outcome.expect("it ran"), cost.bytes_max)
}

/// Performs one exchange on a connection that has negotiated.
fn asked<R: Request + Default>(version: i16, body: &[u8]) -> Result<R::Response, KafkaError> {
    let api = ApiKey::try_from(R::KEY).expect("known");
    let line = Line::speaking(api, version, frame(2, api, version, body), usize::MAX);
    block_on(async {
        let address = BrokerAddress::new("broker", 9092);
        let mut connection = BrokerConnection::open(&line, &address, "fuzz", DEADLINE).await?;
        let ours: VersionRange = versions(version, version);
        connection.call::<R>(ours, DEADLINE, |_| R::default()).await.map(|(reply, _)| reply)
    })
}

/// Performs the first exchange of a connection, whose response the client does not return.
fn negotiated(version: i16, body: &[u8]) -> bool {
    let mut outcome = None;
    let cost = measure(|| {
        // A broker that lacks the version is asked once more, with version 0.
        let answer = |correlation| frame(correlation, ApiKey::ApiVersions, version, body);
        let line = Line::saying([answer(1), answer(2)], usize::MAX);
        let address = BrokerAddress::new("broker", 9092);
        outcome = Some(block_on(BrokerConnection::open(&line, &address, "fuzz", DEADLINE)));
    });
    check_cost(body, cost.bytes_max);
    matches!(outcome, Some(Ok(_)))
}

fn check_cost(body: &[u8], cost: u64) {
    assert!(cost <= BYTES_MAX + BYTES_A_BYTE_MAX * body.len() as u64, "{cost} bytes for {}", body.len());
}

fn judge<B>(key: i16, version: i16, body: &[u8], outcome: Result<B, KafkaError>, cost: u64) -> bool
where
    B: Decodable + Encodable + HeaderVersion + PartialEq + std::fmt::Debug,
{
    check_cost(body, cost);
    match outcome {
        Ok(reply) => {
            assert_eq!(decoded::<B>(version, body).as_ref(), Some(&reply), "what the decoder reads");
            let mut written = BytesMut::new();
            reply.encode(&mut written, version).expect("what was read can be written");
            assert_eq!(decoded::<B>(version, &written).as_ref(), Some(&reply), "it says the same again");
            true
        }
        Err(error) => {
            let text = error.to_string();
            assert!(text.len() < 1024, "errors stay short");
            // A wrong count is not passed to the decoder here either.
            let lies = [" entries in ", "its entries would take", "a number without end"];
            let lies = lies.iter().any(|lie| text.contains(lie));
            assert!(lies || decoded::<B>(version, body).is_none(), "{key} {version} refused: {text}");
            false
        }
    }
}

/// Decodes a body with the decoder alone; `None` unless it consumes all of it.
fn decoded<B: Decodable>(version: i16, body: &[u8]) -> Option<B> {
    let mut body = Bytes::copy_from_slice(body);
    B::decode(&mut body, version).ok().filter(|_| !body.has_remaining())
}
