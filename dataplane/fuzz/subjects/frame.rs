//! Fuzz subject: arbitrary bytes in place of a frame: any length, any correlation id, any body, in pieces of any
//! size. Nothing panics, no memory is allocated for an excessive length, and only one whole frame that responds to
//! the request is accepted.

use std::time::Duration;

use allocation_counter::measure;
use bytes::Bytes;
use kafka_protocol::messages::{ApiKey, FetchRequest, HeartbeatRequest};
use kafka_protocol::protocol::Request;
use lighterman::kafka::connection::{BrokerConnection, versions};
use lighterman::kafka::error::KafkaError;
use lighterman::kafka::transport::BrokerAddress;

use super::line::{Line, block_on};

const DEADLINE: Duration = Duration::from_secs(5);
/// Maximum frame sizes with records and without.
const FRAME_BYTES_MAX: [u64; 2] = [100 * 1024 * 1024, 16 * 1024 * 1024];
/// Memory of an exchange without a result.
const BYTES_MAX: u64 = 64 * 1024;
const BYTES_A_BYTE_MAX: u64 = 128;

/// Selects a fetch or a heartbeat by the first byte and the size of the pieces by the second; the rest is the
/// response. Returns 1 if it was a valid frame.
pub(crate) fn run(bytes: &[u8]) -> usize {
    let [api, bytes_at_a_time, wire @ ..] = bytes else { return 0 };
    let at_a_time = usize::from(*bytes_at_a_time);
    let mut outcome = None;
    let kind = usize::from(api % 2);
    let cost = measure(|| {
        outcome = Some(match kind {
            0 => exchange::<FetchRequest>(12, wire, at_a_time),
            _ => exchange::<HeartbeatRequest>(4, wire, at_a_time),
        });
    });
    let length = wire.first_chunk().map_or(0, |length| i32::from_be_bytes(*length));
    let length = u64::try_from(length).unwrap_or(0);
    let reserved = if length <= FRAME_BYTES_MAX[kind] { length } else { 0 };
    let cost_max = BYTES_MAX + BYTES_A_BYTE_MAX * wire.len() as u64 + reserved;
    assert!(cost.bytes_max <= cost_max, "{} bytes for {}", cost.bytes_max, wire.len());
    match outcome.expect("it ran") {
        Ok(()) => {
            // Bytes that arrive after the frame belong to the next request, to which they do not respond.
            let whole = if at_a_time < wire.len() {
                wire.len() as u64 >= length + 4
            } else {
                wire.len() as u64 == length + 4
            };
            assert!(whole, "one whole frame and nothing behind it");
            assert_eq!(wire[4..8], 2i32.to_be_bytes(), "it answers the second request of the connection");
            1
        }
        Err(error) => {
            let whole = length + 4 == wire.len() as u64 && length >= 4;
            assert!(
                !whole || matches!(error, KafkaError::Decode { .. }),
                "whole, so it is looked at: {error}"
            );
            0
        }
    }
}

fn exchange<R: Request + Default>(version: i16, wire: &[u8], at_a_time: usize) -> Result<(), KafkaError> {
    let api = ApiKey::try_from(R::KEY).expect("known");
    let line = Line::speaking(api, version, Bytes::copy_from_slice(wire), at_a_time);
    block_on(async {
        let address = BrokerAddress::new("broker", 9092);
        let mut connection = BrokerConnection::open(&line, &address, "fuzz", DEADLINE).await?;
        let answer = connection.call::<R>(versions(version, version), DEADLINE, |_| R::default()).await;
        assert_eq!(connection.is_spoiled(), answer.is_err(), "an error spoils it, nothing else does");
        answer.map(drop)
    })
}
