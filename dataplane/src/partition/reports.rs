//! Reports from a partition to its consumer, and the handling of fetch errors.

use actix::{AsyncContext, Context};

use super::actor::PartitionActor;
use super::turns::LOOK_AGAIN;
use crate::kafka::fetch::FetchError;
use crate::messages::report::{PartitionReport, PartitionState};
use crate::messages::resume::ResumePoint;
use crate::runtime::clock;
use crate::runtime::outbox::post;

impl PartitionActor {
    /// Reports `Drained` once no invocation of this partition can still have an effect (DRN-1, H4).
    pub(super) fn report_drained(&mut self, ctx: &mut Context<Self>) {
        if self.in_flight.is_clear(self.mapping, &self.id, clock::now()) {
            let committed = self.core.ledger().frontier();
            let (progress, failures) = (self.core.progress().cloned(), self.core.work().failures());
            let leader_epoch = self.core.frontier_leader_epoch();
            let position = ResumePoint { topic: self.topic, committed, leader_epoch, progress, failures };
            self.report(PartitionState::Drained { position });
        } else {
            ctx.run_later(LOOK_AGAIN, Self::report_drained);
        }
    }

    /// Reports that the log was replaced, once no invocation of the old log can still run (OWN-1). The partition then
    /// restarts, on this node or another.
    pub(super) fn report_parted(&mut self, ctx: &mut Context<Self>) {
        if self.in_flight.is_clear(self.mapping, &self.id, clock::now()) {
            self.report(PartitionState::BeginAnew);
        } else {
            ctx.run_later(LOOK_AGAIN, Self::report_parted);
        }
    }

    pub(super) fn report(&self, state: PartitionState) {
        let (partition, epoch) = (self.id.partition, self.epoch);
        let _ = post(&self.consumer, PartitionReport { partition, epoch, state });
    }

    pub(super) fn on_fetch_error(&mut self, trouble: &FetchError, ctx: &mut Context<Self>) {
        let now = clock::now();
        match trouble {
            FetchError::OutOfRange { log_start, log_end } => {
                let (start, end) = (*log_start, *log_end);
                self.step(ctx, |core, context| core.out_of_range(now, start, end, context));
            }
            FetchError::Diverged { end, .. } => {
                let end = *end;
                tracing::warn!(partition = %self.id, end = end.0, "the log was truncated below the fetch position");
                self.step(ctx, |core, _| core.diverged(end));
            }
            FetchError::Recreated => {
                tracing::warn!(partition = %self.id, topic_id = self.topic.map(|id| id.to_string()), "{trouble}");
                self.step(ctx, |core, _| core.parted());
            }
            other => {
                let text = format!("partition {}: {other}", self.id);
                self.status.poll_failed(&text);
                self.stats.set_last_error(Some(text));
                self.step(ctx, |core, _| core.unreadable(now));
            }
        }
    }
}
