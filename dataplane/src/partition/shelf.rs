//! What the partition's core borrows from its shell: exact sizes, and inflating on credit.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use lighterman_proto::event::Envelope;
use lighterman_proto::filter::Filters;
use lighterman_proto::ids::TopicPartition;
use lighterman_proto::records::{Compression, Inflater, Record, RecordError};
use lighterman_proto::units::INFLATED_BYTES_MAX;

use super::cut::Hold;
use super::fetch_buffer::{Opener, Sieve, Sizer};
use crate::credit::bytes::{ByteBudget, Overdraft};

/// What the core borrows for one event.
pub(super) struct Shelf {
    pub envelope: Arc<Envelope>,
    pub filters: Arc<Filters>,
    pub id: TopicPartition,
    pub inflater: Rc<RefCell<Inflater>>,
    pub budget: ByteBudget,
}

impl Sizer for Shelf {
    fn record_bytes(&self, record: &Record<'_>, first: bool) -> usize {
        self.envelope.record_bytes(self.id.partition, record, first)
    }
}

impl Sieve for Shelf {
    fn passes(&self, record: &Record<'_>) -> bool {
        self.filters.passes(&self.id.topic, self.id.partition, record)
    }
}

/// Inflates when the node's budget lends the bytes.
pub(super) struct OnCredit<'a> {
    pub inflater: &'a RefCell<Inflater>,
    pub budget: &'a ByteBudget,
}

impl Opener for OnCredit<'_> {
    fn open(
        &mut self,
        compression: Compression,
        packed: &Bytes,
    ) -> Result<Option<(Bytes, Hold)>, RecordError> {
        let mut plain = Vec::new();
        self.inflater.borrow_mut().inflate(compression, packed, INFLATED_BYTES_MAX, &mut plain)?;
        let lease = self.budget.try_lease_or_overdraft(plain.len(), Overdraft::Inflated);
        Ok(lease.map(|lease| (Bytes::from(plain), Arc::new(lease))))
    }

    fn is_short(&self) -> bool {
        self.budget.is_short()
    }

    fn lend(&mut self, bytes: usize) -> Option<Hold> {
        self.budget.try_lease(bytes).map(Arc::new)
    }
}
