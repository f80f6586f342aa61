//! What a partition gives back when others are short of bytes. Records behind those that are not getting through are of no use
//! before these are resolved: they are fetched again then, and not sooner. What is offered or in flight is never touched.

use std::sync::Arc;

use bytes::BytesMut;

use super::core::{Flight, PartitionCore, Phase};
use super::cut::{Hold, Slice};
use super::effects::{Effect, Effects, Tools};
use super::fetch_buffer::Opener;

impl PartitionCore {
    /// Others are short of bytes.
    pub fn give_back(&mut self, tools: &mut Tools<'_>) -> Effects {
        let mut out = Effects::new();
        if !self.is_running() || !self.is_held_up() || self.lost_before.is_some() {
            return out;
        }
        if self.wanted || !self.buffer.is_empty() {
            self.position = self.later.first().unwrap_or(&self.work).cut.range.end;
            self.buffer.clear();
            self.wanted = false;
            out.push(Effect::Pause);
        }
        self.gave_back = true;
        if matches!(self.flight, Flight::Waiting { .. }) {
            let cuts = std::iter::once(&mut self.work).chain(&mut self.later).map(|work| &mut work.cut);
            keep_only(cuts.flat_map(|cut| &mut cut.slices).collect(), tools.opener);
        }
        out
    }

    /// Whether what is in work has been tried, or given up, and is still here.
    fn is_held_up(&self) -> bool {
        match self.flight {
            Flight::Waiting { .. } | Flight::Burying { .. } => true,
            Flight::Idle | Flight::Recording | Flight::Offered { .. } | Flight::Sealed { .. } => {
                self.held_up && !self.work.may_grow()
            }
        }
    }

    /// Whether records would only lie here: others have been short of bytes, and what is in work has not got through since.
    pub(super) fn holds_back(&mut self) -> bool {
        self.gave_back &= !self.work.cut.is_empty() || !self.later.is_empty();
        self.gave_back && self.phase == Phase::Running
    }
}

/// Slices that are less than half of what keeps them on the budget are copied out of it, so that the rest can go.
fn keep_only(mut slices: Vec<&mut Slice>, opener: &mut dyn Opener) {
    while let Some(hold) = slices.last().map(|slice| Hold::clone(&slice.hold)) {
        let (mut of_hold, others): (Vec<_>, Vec<_>) =
            slices.into_iter().partition(|slice| Arc::ptr_eq(&slice.hold, &hold));
        slices = others;
        let bytes: usize = of_hold.iter().map(|slice| slice.end - slice.at).sum();
        if bytes.saturating_mul(2) > hold.bytes() {
            continue;
        }
        let is_all_ours = Arc::strong_count(&hold) == of_hold.len() + 1;
        let lent = if is_all_ours { None } else { opener.lend(bytes) };
        if !is_all_ours && lent.is_none() {
            continue;
        }
        copy(&mut of_hold, bytes, &Arc::new(hold.nothing()));
        let kept = lent.or_else(|| {
            let mut lease = Arc::into_inner(hold)?;
            lease.shrink_to(bytes);
            Some(Arc::new(lease))
        });
        let Some(kept) = kept else { continue };
        for slice in of_hold {
            slice.hold = Hold::clone(&kept);
        }
    }
}

fn copy(slices: &mut [&mut Slice], bytes: usize, hold: &Hold) {
    let mut copy = BytesMut::with_capacity(bytes);
    for slice in slices.iter() {
        copy.extend_from_slice(&slice.plain[slice.at..slice.end]);
    }
    let copy = copy.freeze();
    let mut at = 0;
    for slice in slices {
        let end = at + slice.end - slice.at;
        (slice.plain, slice.hold) = (copy.clone(), Hold::clone(hold));
        (slice.at, slice.end) = (at, end);
        at = end;
    }
}
