//! Command queue of the audit thread. No command is dropped. The queue is bounded by the number of entries, not of
//! commands.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender};
use lighterman_proto::ids::MappingId;
use lighterman_proto::topic_id::TopicId;
use tokio::sync::{Notify, oneshot};

use super::entry::AuditEntry;
use super::partition_audit::AuditReport;

/// Maximum number of queued entries, of about a hundred bytes each. The last command may exceed it, and so may the
/// starts of all partitions of one mapping.
const WAITING_MAX: usize = 128 * 1024;

pub(super) enum WriterCommand {
    Append {
        mapping: MappingId,
        topic: Option<TopicId>,
        entries: Vec<AuditEntry>,
        written: Option<oneshot::Sender<()>>,
    },
    Read {
        mapping: MappingId,
        pages: oneshot::Sender<BTreeMap<i32, AuditReport>>,
    },
    Remove {
        mapping: MappingId,
    },
    Close {
        mapping: MappingId,
    },
}

impl WriterCommand {
    pub(super) fn mapping(&self) -> MappingId {
        match self {
            Self::Append { mapping, .. }
            | Self::Read { mapping, .. }
            | Self::Remove { mapping }
            | Self::Close { mapping } => *mapping,
        }
    }

    fn weight(&self) -> usize {
        match self {
            Self::Append { entries, .. } => entries.len().max(1),
            Self::Read { .. } | Self::Remove { .. } | Self::Close { .. } => 1,
        }
    }
}

struct QueueRoom {
    waiting: AtomicUsize,
    freed: Notify,
}

/// Sending side of the queue. Clones share it.
#[derive(Clone)]
pub(super) struct OrderSender {
    orders: Sender<WriterCommand>,
    room: Arc<QueueRoom>,
}

/// Receiving side of the queue, held by the audit thread.
pub(super) struct OrderReceiver {
    orders: Receiver<WriterCommand>,
    room: Arc<QueueRoom>,
    carried_out: std::cell::Cell<usize>,
}

/// Creates a queue. The channel itself is unbounded, so that a sender waiting for room cannot block the thread it
/// waits for.
pub(super) fn channel() -> (OrderSender, OrderReceiver) {
    let (sender, receiver) = crossbeam_channel::unbounded();
    let room = Arc::new(QueueRoom { waiting: AtomicUsize::new(0), freed: Notify::new() });
    (
        OrderSender { orders: sender, room: Arc::clone(&room) },
        OrderReceiver { orders: receiver, room, carried_out: std::cell::Cell::new(0) },
    )
}

impl OrderSender {
    /// Sends `order` once there is room.
    pub(super) async fn send(&self, order: WriterCommand) {
        let weight = order.weight();
        loop {
            let mut freed = std::pin::pin!(self.room.freed.notified());
            // Register before checking, so that a release after the check is not missed.
            freed.as_mut().enable();
            if self.room.take(weight) {
                break;
            }
            freed.await;
        }
        self.push(order, weight);
    }

    /// Sends `order` even if the queue is full.
    pub(super) fn send_over(&self, order: WriterCommand) {
        let weight = order.weight();
        self.room.waiting.fetch_add(weight, Ordering::Relaxed);
        self.push(order, weight);
    }

    pub(super) fn has_room(&self) -> bool {
        self.room.waiting.load(Ordering::Relaxed) < WAITING_MAX
    }

    /// Pushes `order`. The thread ends only when no sender is left.
    fn push(&self, order: WriterCommand, weight: usize) {
        if self.orders.send(order).is_err() {
            metrics::counter!(crate::metrics::AUDIT_ERRORS).increment(1);
            self.room.free(weight);
        }
    }
}

impl OrderReceiver {
    /// Returns the next command and frees the room of the previous one. Returns `None` when all senders are gone.
    pub(super) fn next(&self) -> Option<WriterCommand> {
        self.room.free(self.carried_out.take());
        let order = self.orders.recv().ok()?;
        self.carried_out.set(order.weight());
        Some(order)
    }
}

impl QueueRoom {
    fn take(&self, weight: usize) -> bool {
        let take = |waiting: usize| (waiting < WAITING_MAX).then_some(waiting + weight);
        self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    fn free(&self, weight: usize) {
        let before = self.waiting.fetch_sub(weight, Ordering::Relaxed);
        metrics::gauge!(crate::metrics::AUDIT_WAITING).set((before - weight) as f64);
        if before >= WAITING_MAX {
            self.freed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use lighterman_proto::ids::{Offset, OffsetRange};
    use lighterman_proto::units::TimestampMs;

    use super::*;
    use crate::audit::EntryKind;

    const MAPPING: MappingId = MappingId(uuid::Uuid::nil());

    fn began(partitions: std::ops::Range<i32>) -> WriterCommand {
        let range = OffsetRange { first: Offset(0), end: Offset(0) };
        let entry =
            |partition| AuditEntry { at: TimestampMs(1), partition, range, what: EntryKind::Began(None) };
        WriterCommand::Append {
            mapping: MAPPING,
            topic: None,
            entries: partitions.map(entry).collect(),
            written: None,
        }
    }

    fn partitions(order: Option<WriterCommand>) -> Vec<i32> {
        let Some(WriterCommand::Append { entries, .. }) = order else { panic!("an append") };
        entries.iter().map(|entry| entry.partition).collect()
    }

    /// Models a thread behind a hanging disk, which takes no command.
    #[test]
    fn alo_1_mem_1_commands_wait_for_hanging_disk_without_loss() {
        let (sender, receiver) = channel();
        // More commands than any bound on their number would allow: their entries are what counts.
        let hundred = |at: i32| at * 100..at * 100 + 100;
        let most = WAITING_MAX.div_ceil(100) as i32;
        let mut sent = 0;
        while sender.send(began(hundred(sent))).now_or_never().is_some() {
            sent += 1;
            assert!(sent <= most, "the queue exceeds its limit");
        }
        assert_eq!(sent, most, "the queue is filled to its limit");
        assert!(!sender.has_room(), "no room for another partition");
        // A sender may have checked for room before the last of it was taken.
        sender.send_over(began(hundred(sent)));
        sent += 1;
        let mut late: Vec<_> = (sent..sent + 3).map(|at| Box::pin(sender.send(began(hundred(at))))).collect();
        for place in &mut late {
            assert!(place.as_mut().now_or_never().is_none(), "commits wait");
        }
        let mut arrived = Vec::new();
        while !late.is_empty() {
            arrived.extend(partitions(receiver.next()));
            late.retain_mut(|place| place.as_mut().now_or_never().is_none());
        }
        drop(late);
        drop(sender);
        while let Some(order) = receiver.next() {
            arrived.extend(partitions(Some(order)));
        }
        arrived.sort_unstable();
        assert!(arrived.into_iter().eq(0..(sent + 3) * 100), "each once");
        assert_eq!(receiver.room.waiting.load(Ordering::Relaxed), 0);
    }
}
