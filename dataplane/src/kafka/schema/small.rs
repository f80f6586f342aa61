//! Schemas of the responses without arrays, and of the response header. Only their unknown tagged fields can be
//! many.

use FieldType::{Blob, Fixed, Text};

use super::{FieldType, MessageSchema, always, plain, since, within};

pub(super) static HEADER: MessageSchema = plain(1, &[always(Fixed(4))]);

pub(super) static FIND_COORDINATOR: MessageSchema = plain(
    3,
    &[since(1, Fixed(4)), always(Fixed(2)), since(1, Text), always(Fixed(4)), always(Text), always(Fixed(4))],
);

pub(super) static SYNC_GROUP: MessageSchema =
    plain(4, &[since(1, Fixed(4)), always(Fixed(2)), since(5, Text), since(5, Text), always(Blob)]);

pub(super) static HEARTBEAT: MessageSchema = plain(4, &[since(1, Fixed(4)), always(Fixed(2))]);

/// `LeaveGroup` lists members from version 3 on, which the client does not use.
pub(super) static LEAVE_GROUP: MessageSchema = plain(4, &[since(1, Fixed(4)), within(0, 2, Fixed(2))]);
