//! Modified responses: error codes, throttling, corruption and misleading frames.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::ResponseKind;
use lighterman_proto::units::FRAME_BYTES_MAX;

use super::fault::{ActiveFaults, HostileFrame};
use super::frame::RequestIdentity;

/// Offset from which a batch's checksum applies. The fields before it (offset, length, leader epoch, format,
/// checksum) are not covered.
const CHECKED_FROM: usize = 21;
/// Bytes sent for a frame of unlimited length.
const ENDLESS_BYTES: usize = 8 * 1024 * 1024;

/// Sets `code` in every error field of the response that a client reads.
pub(super) fn set_code(reply: &mut ResponseKind, code: i16) {
    match reply {
        ResponseKind::Fetch(reply) => match code {
            // Codes of the session are at the top level; the others belong to partitions.
            -1 | 70 | 71 | 106 => {
                reply.error_code = code;
                reply.responses.clear();
            }
            code => {
                for part in reply.responses.iter_mut().flat_map(|topic| &mut topic.partitions) {
                    part.error_code = code;
                    part.records = Some(Bytes::new());
                }
            }
        },
        ResponseKind::ListOffsets(reply) => {
            for part in reply.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
                (part.error_code, part.offset, part.timestamp) = (code, -1, -1);
            }
        }
        ResponseKind::OffsetForLeaderEpoch(reply) => {
            for part in reply.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
                (part.error_code, part.end_offset, part.leader_epoch) = (code, -1, -1);
            }
        }
        ResponseKind::OffsetCommit(reply) => {
            for part in reply.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
                part.error_code = code;
            }
        }
        ResponseKind::OffsetFetch(reply) => {
            // As brokers do: an error together with "no offset".
            for part in reply.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
                (part.error_code, part.committed_offset) = (code, -1);
                part.metadata = Some(Default::default());
            }
            // From version 8 on the response has groups, each with these fields.
            for group in &mut reply.groups {
                for part in group.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
                    (part.error_code, part.committed_offset) = (code, -1);
                    part.metadata = Some(Default::default());
                }
            }
            let of_a_partition = matches!(code, 3 | 29 | 88);
            if !of_a_partition {
                reply.error_code = code;
                reply.groups.iter_mut().for_each(|group| group.error_code = code);
            }
        }
        ResponseKind::Metadata(reply) => {
            for topic in &mut reply.topics {
                topic.error_code = code;
                match code {
                    // No leader: the topic is valid, its partitions carry the code.
                    5 | 9 => {
                        topic.error_code = 0;
                        for part in &mut topic.partitions {
                            (part.error_code, part.leader_id) = (code, (-1).into());
                        }
                    }
                    _ => topic.partitions.clear(),
                }
            }
        }
        ResponseKind::ApiVersions(reply) => {
            reply.error_code = code;
            reply.api_keys.clear();
        }
        reply => set_code_of_group(reply, code),
    }
}

fn set_code_of_group(reply: &mut ResponseKind, code: i16) {
    match reply {
        ResponseKind::FindCoordinator(reply) => {
            (reply.error_code, reply.port) = (code, -1);
            reply.host = Default::default();
        }
        ResponseKind::JoinGroup(reply) => {
            reply.error_code = code;
            reply.members.clear();
            // MEMBER_ID_REQUIRED carries the new member id.
            if code != 79 {
                (reply.generation_id, reply.member_id) = (-1, Default::default());
            }
        }
        ResponseKind::SyncGroup(reply) => {
            (reply.error_code, reply.assignment) = (code, Bytes::new());
        }
        ResponseKind::Heartbeat(reply) => reply.error_code = code,
        ResponseKind::LeaveGroup(reply) => reply.error_code = code,
        ResponseKind::ConsumerGroupHeartbeat(reply) => {
            // As brokers do: an error and nothing else.
            (reply.error_code, reply.member_epoch) = (code, 0);
            reply.assignment = None;
        }
        _ => {}
    }
}

/// Sets the throttle time of the response.
pub(super) fn set_throttle(reply: &mut ResponseKind, millis: i32) {
    match reply {
        ResponseKind::Fetch(reply) => reply.throttle_time_ms = millis,
        ResponseKind::ListOffsets(reply) => reply.throttle_time_ms = millis,
        ResponseKind::OffsetForLeaderEpoch(reply) => reply.throttle_time_ms = millis,
        ResponseKind::OffsetCommit(reply) => reply.throttle_time_ms = millis,
        ResponseKind::OffsetFetch(reply) => reply.throttle_time_ms = millis,
        ResponseKind::FindCoordinator(reply) => reply.throttle_time_ms = millis,
        ResponseKind::JoinGroup(reply) => reply.throttle_time_ms = millis,
        ResponseKind::SyncGroup(reply) => reply.throttle_time_ms = millis,
        ResponseKind::Heartbeat(reply) => reply.throttle_time_ms = millis,
        ResponseKind::ConsumerGroupHeartbeat(reply) => reply.throttle_time_ms = millis,
        ResponseKind::Metadata(reply) => reply.throttle_time_ms = millis,
        _ => {}
    }
}

/// Flips a bit that the checksum covers: a client cannot detect changes elsewhere, except with TLS.
pub(super) fn corrupt_records(reply: &mut ResponseKind, faults: &ActiveFaults) {
    let ResponseKind::Fetch(reply) = reply else { return };
    for part in reply.responses.iter_mut().flat_map(|topic| &mut topic.partitions) {
        let Some(records) = part.records.as_ref().filter(|records| records.len() > CHECKED_FROM) else {
            continue;
        };
        let length = i32::from_be_bytes([records[8], records[9], records[10], records[11]]);
        let first_batch = records.len().min(12 + length.max(0) as usize);
        if first_batch <= CHECKED_FROM {
            continue;
        }
        let at = CHECKED_FROM + faults.below((first_batch - CHECKED_FROM) as u64) as usize;
        let mut other = BytesMut::from(&records[..]);
        other[at] ^= 1 << faults.below(8);
        part.records = Some(other.freeze());
    }
}

/// Creates a malformed or misleading frame.
pub(super) fn hostile(asked: RequestIdentity, how: HostileFrame, faults: &ActiveFaults) -> Bytes {
    let mut frame = BytesMut::new();
    match how {
        HostileFrame::HugeLength => {
            frame.put_i32(i32::MAX);
            frame.put_bytes(0x7f, ENDLESS_BYTES);
            return frame.freeze();
        }
        HostileFrame::NegativeLength => {
            frame.put_i32(-1);
            return frame.freeze();
        }
        HostileFrame::EmptyPromise => {
            frame.put_i32(FRAME_BYTES_MAX as i32);
            return frame.freeze();
        }
        HostileFrame::Garbage => {
            header(&mut frame, asked);
            let bytes = 16 + faults.below(500);
            frame.extend((0..bytes).map(|_| faults.below(256) as u8));
        }
        HostileFrame::Entries(entries) => {
            header(&mut frame, asked);
            array(&mut frame, asked, entries);
        }
        HostileFrame::Stuffed(bytes) => {
            header(&mut frame, asked);
            array(&mut frame, asked, bytes as u32);
            // Zeros decode as empty names, empty arrays and no tags: the smallest entry for any fields.
            frame.put_bytes(0, bytes);
        }
    }
    let length = frame.len() as i32 - 4;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    frame.freeze()
}

fn header(frame: &mut BytesMut, asked: RequestIdentity) {
    frame.put_i32(0);
    frame.put_i32(asked.correlation);
    frame.put_bytes(0, usize::from(asked.api.response_header_version(asked.version) >= 1));
}

/// Writes zeros for the fields before the response's first array, and the array's count.
fn array(frame: &mut BytesMut, asked: RequestIdentity, entries: u32) {
    use kafka_protocol::messages::ApiKey as K;
    let before = match asked.api {
        K::Fetch => 10,
        // Error code, generation, protocol type and name, leader, (skip,) member id: short strings or bytes of one
        // zero.
        K::JoinGroup if asked.version >= 6 => 4 + 2 + 4 + 4,
        K::JoinGroup => 4 + 2 + 4 + 2 + 2 + 2,
        K::ApiVersions => 2,
        K::ListOffsets | K::OffsetForLeaderEpoch if asked.version < 2 => 0,
        K::OffsetCommit | K::OffsetFetch if asked.version < 3 => 0,
        _ => 4,
    };
    frame.put_bytes(0, before);
    if asked.api.request_header_version(asked.version) < 2 {
        frame.put_i32(entries.min(i32::MAX as u32) as i32);
        return;
    }
    let mut left = entries.saturating_add(1);
    while left >= 0x80 {
        frame.put_u8(left as u8 | 0x80);
        left >>= 7;
    }
    frame.put_u8(left as u8);
}
