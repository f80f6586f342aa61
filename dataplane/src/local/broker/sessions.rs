//! Fetch session of one connection (KIP-227): a partition stays in the session until the client forgets it.

use std::collections::BTreeMap;

use kafka_protocol::messages::FetchRequest;
use uuid::Uuid;

/// Topic in a request: its name with a zero id, or its id with an empty name.
pub(super) type ClientTopic = (String, Uuid);

/// Partition in a fetch session.
#[derive(Clone, Copy, Debug)]
pub(super) struct SessionPartition {
    pub offset: i64,
    /// Leader epoch of the client's last record before `offset`, −1 if unspecified.
    pub last_epoch: i32,
    pub bytes_max: usize,
    /// High watermark in the last response; unchanged partitions are left out of incremental responses.
    pub told: i64,
}

/// Fetch session of one connection. A client that opens another session on the connection replaces it.
#[derive(Debug, Default)]
pub(super) struct ServerSession {
    pub id: i32,
    epoch: i32,
    by_ids: bool,
    pub asked: BTreeMap<(ClientTopic, i32), SessionPartition>,
}

/// Result of applying a request to the session.
pub(super) enum SessionFit {
    /// Full request: the response has every partition.
    Full,
    /// Incremental request: the response has only partitions with records, errors or a new high watermark.
    Increment,
    /// Unknown session id.
    NoSuchSession,
    /// Epoch is not the next one.
    WrongEpoch,
    /// Topics are named by id where the session uses names, or the reverse.
    OtherNames,
}

impl ServerSession {
    /// Applies a request. `fresh` is the id for a session that the request opens.
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
