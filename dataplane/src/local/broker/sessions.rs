//! Fetch sessions of one connection (KIP-227): what a client has named stays named until it forgets it.

use std::collections::BTreeMap;

use kafka_protocol::messages::FetchRequest;
use uuid::Uuid;

/// A topic as a client names it: by its name with a zero id, or by its id without a name.
pub(super) type ClientTopic = (String, Uuid);

/// One partition as a session knows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct SessionPartition {
    pub offset: i64,
    /// Leader epoch of the record before it as the client has it, −1 when it does not say.
    pub last_epoch: i32,
    pub bytes_max: usize,
    /// The high watermark that was told last, to leave unchanged partitions out of replies.
    pub told: i64,
}

/// The session of one connection; a client that opens another on the same connection replaces it.
#[derive(Debug, Default)]
pub(super) struct ServerSession {
    pub id: i32,
    epoch: i32,
    by_ids: bool,
    pub asked: BTreeMap<(ClientTopic, i32), SessionPartition>,
}

/// Whether a request fits the session.
pub(super) enum SessionFit {
    /// Full request: answer for every partition.
    Full,
    /// Increment: answer for what has something to tell.
    Increment,
    /// No such session.
    NoSuchSession,
    /// Not the next epoch.
    WrongEpoch,
    /// Topics are named otherwise than before.
    OtherNames,
}

impl ServerSession {
    /// Applies a request; `fresh` is the id of a session that it opens, if it does.
    pub(super) fn apply(&mut self, request: &FetchRequest, by_ids: bool, fresh: i32) -> SessionFit {
        let fit = match (request.session_id, request.session_epoch) {
            (_, -1) => {
                *self = Self { by_ids, ..Self::default() };
                SessionFit::Full
            }
            (_, 0) => {
                *self = Self { id: fresh, by_ids, ..Self::default() };
                SessionFit::Full
            }
            (id, _) if id != self.id => return SessionFit::NoSuchSession,
            (_, epoch) if epoch != self.epoch + 1 => return SessionFit::WrongEpoch,
            _ if by_ids != self.by_ids => return SessionFit::OtherNames,
            (_, epoch) => {
                self.epoch = epoch;
                SessionFit::Increment
            }
        };
        for topic in &request.topics {
            for partition in &topic.partitions {
                let asked = SessionPartition {
                    offset: partition.fetch_offset,
                    last_epoch: partition.last_fetched_epoch,
                    bytes_max: usize::try_from(partition.partition_max_bytes).unwrap_or_default(),
                    told: -1,
                };
                self.asked.insert(((topic.topic.to_string(), topic.topic_id), partition.partition), asked);
            }
        }
        for topic in &request.forgotten_topics_data {
            for partition in &topic.partitions {
                self.asked.remove(&((topic.topic.to_string(), topic.topic_id), *partition));
            }
        }
        fit
    }
}
