//! What members of a group write to each other inside JoinGroup and SyncGroup. Brokers pass it on unread: any client that may join
//! the group can put a lying count before us.

use std::mem::size_of;

use bytes::Bytes;
use kafka_protocol::messages::{
    consumer_protocol_assignment as assignment, consumer_protocol_subscription as subscription,
};
use kafka_protocol::protocol::StrBytes;

use super::{FieldType, SchemaField, SchemaWalk, always, list, since};

use FieldType::{Blob, Fixed, Ints, Text};

static SUBSCRIPTION: &[SchemaField] = &[
    always(list(&[always(Text)], size_of::<StrBytes>())),
    always(Blob),
    since(1, list(&[always(Text), always(Ints)], size_of::<subscription::TopicPartition>())),
    since(2, Fixed(4)),
    since(3, Text),
];

static ASSIGNMENT: &[SchemaField] =
    &[always(list(&[always(Text), always(Ints)], size_of::<assignment::TopicPartition>())), always(Blob)];

/// Refuses a subscription as [`super::check`] does a reply; `body` begins behind the version.
pub(in crate::kafka) fn check_subscription(version: i16, body: &Bytes) -> Result<(), String> {
    check(SUBSCRIPTION, version, body)
}

/// Refuses an assignment as [`super::check`] does a reply; `body` begins behind the version.
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
    fn d1_no_count_of_a_member_is_believed_beyond_its_bytes() {
        for version in 0..=3 {
            let mut lie = BytesMut::new();
            lie.put_i32(i32::MAX);
            let lie = lie.freeze();
            assert!(check_subscription(version, &lie).is_err());
            assert!(check_assignment(version, &lie).is_err());
        }
    }
}
