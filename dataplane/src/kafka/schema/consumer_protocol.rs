//! Schemas of the messages that group members exchange inside JoinGroup and SyncGroup. Brokers pass them on unread,
//! so any client that may join the group can send a forged count.

use std::mem::size_of;

use FieldType::{Blob, Fixed, Ints, Text};
use bytes::Bytes;
use kafka_protocol::messages::{
    consumer_protocol_assignment as assignment, consumer_protocol_subscription as subscription,
};
use kafka_protocol::protocol::StrBytes;

use super::{FieldType, SchemaField, SchemaWalk, always, list, since};

static SUBSCRIPTION: &[SchemaField] = &[
    always(list(&[always(Text)], size_of::<StrBytes>())),
    always(Blob),
    since(1, list(&[always(Text), always(Ints)], size_of::<subscription::TopicPartition>())),
    since(2, Fixed(4)),
    since(3, Text),
];

static ASSIGNMENT: &[SchemaField] =
    &[always(list(&[always(Text), always(Ints)], size_of::<assignment::TopicPartition>())), always(Blob)];

/// Rejects a subscription as [`super::check`] rejects a response; `body` starts after the version.
pub(in crate::kafka) fn check_subscription(version: i16, body: &Bytes) -> Result<(), String> {
    check(SUBSCRIPTION, version, body)
}

/// Rejects an assignment as [`super::check`] rejects a response; `body` starts after the version.
pub(in crate::kafka) fn check_assignment(version: i16, body: &Bytes) -> Result<(), String> {
    check(ASSIGNMENT, version, body)
}

fn check(fields: &'static [SchemaField], version: i16, body: &Bytes) -> Result<(), String> {
    SchemaWalk { left: body, version, flexible: false, cost: 0 }.fields(fields)
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut, BytesMut};

    use super::*;

    #[test]
    fn d1_member_count_beyond_bytes_is_rejected() {
        for version in 0..=3 {
            let mut lie = BytesMut::new();
            lie.put_i32(i32::MAX);
            let lie = lie.freeze();
            assert!(check_subscription(version, &lie).is_err());
            assert!(check_assignment(version, &lie).is_err());
        }
    }
}
