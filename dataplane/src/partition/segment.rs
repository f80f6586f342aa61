//! One record batch in the fetch buffer: inflated when it is needed, then walked record by record into cuts.

use bytes::Bytes;
use lighterman_proto::ids::Offset;
use lighterman_proto::records::{BatchHeader, RecordError, records_at};
use lighterman_proto::units::Moment;

use super::cut::{Cut, Hold, Slice};
use super::fetch_buffer::{Opener, Opening, Reach, Sieve, Sizer, Stop};
use super::ledger::Outcome;
use super::sparse::copy_out;

pub(super) struct Segment {
    pub header: BatchHeader,
    pub body: Body,
    pub from: Offset,
    pub wire_bytes: usize,
    pub hold: Hold,
    pub arrived: Moment,
}

pub(super) enum Body {
    /// Nothing to deliver: control batch or aborted transaction.
    Absent,
    Packed {
        bytes: Bytes,
        /// Its size inflated, once that was found out in vain.
        known: Option<usize>,
    },
    Plain {
        bytes: Bytes,
        at: usize,
        left: u32,
    },
}

impl Segment {
    pub(super) fn is_used_up(&self) -> bool {
        match &self.body {
            Body::Absent => true,
            Body::Packed { .. } => false,
            Body::Plain { left, .. } => *left == 0,
        }
    }

    /// Inflates what is compressed; how many bytes that takes when there is no credit for them.
    pub(super) fn unpack(&mut self, opener: &mut dyn Opener) -> Result<Option<usize>, RecordError> {
        if let Body::Packed { bytes, known } = &mut self.body {
            match opener.open(self.header.compression, bytes, *known)? {
                Opening::NoCredit(needed) => {
                    *known = Some(needed);
                    return Ok(Some(needed));
                }
                Opening::Plain(bytes, hold) => {
                    self.body = Body::Plain { bytes, at: 0, left: self.header.record_count };
                    self.hold = hold;
                }
            }
        }
        Ok(None)
    }

    /// Moves records from its front into `cut`, as far as `reach` allows.
    pub(super) fn grow(
        &mut self,
        cut: &mut Cut,
        reach: Reach<'_>,
        sizer: &dyn Sizer,
        sieve: &dyn Sieve,
        opener: &mut dyn Opener,
    ) -> Result<Option<Stop>, RecordError> {
        let slices_before = cut.slices.len();
        let Body::Plain { bytes, at, left } = &mut self.body else { return Ok(None) };
        let mut walk = records_at(&self.header, bytes, *at, *left);
        let mut run = Run { at: *at, end: *at, records: 0 };
        let mut stop = None;
        loop {
            if cut.records == reach.limits.records_max {
                cut.full = true;
            }
            if cut.full {
                break;
            }
            let before = (walk.at(), walk.left());
            let Some(record) = walk.next() else { break };
            let record = record?;
            if let Some(end) = reach.end_max.filter(|end| record.offset >= *end) {
                walk = records_at(&self.header, bytes, before.0, before.1);
                (cut.range.end, cut.full) = (end, true);
                break;
            }
            if record.offset < self.from.max(reach.frontier) {
                run.close(cut, &self.header, bytes, &self.hold);
                cut.range.end = cut.range.end.max(record.offset.next());
                continue;
            }
            if reach.knows(record.offset) {
                run.close(cut, &self.header, bytes, &self.hold);
                cut.leave_out(record.offset, Outcome::Earlier);
                continue;
            }
            if !sieve.passes(&record) {
                run.close(cut, &self.header, bytes, &self.hold);
                cut.leave_out(record.offset, Outcome::Filtered);
                continue;
            }
            let size = sizer.record_bytes(&record, cut.is_empty());
            if cut.payload_bytes + size > reach.limits.payload_bytes_max {
                walk = records_at(&self.header, bytes, before.0, before.1);
                if cut.is_empty() {
                    stop = Some(Stop::Oversized { offset: record.offset, bytes: size });
                } else {
                    cut.full = true;
                }
                break;
            }
            if cut.is_empty() {
                cut.oldest = self.arrived;
            }
            if run.records == 0 {
                run.at = before.0;
            }
            run.records += 1;
            run.end = walk.at();
            cut.records += 1;
            cut.payload_bytes += size;
            cut.range.end = record.offset.next();
        }
        (*at, *left) = (walk.at(), walk.left());
        run.close(cut, &self.header, bytes, &self.hold);
        copy_out(&mut cut.slices[slices_before..], bytes.len(), opener);
        Ok(stop)
    }
}

/// Neighbouring records that become one slice.
struct Run {
    at: usize,
    end: usize,
    records: u32,
}

impl Run {
    fn close(&mut self, cut: &mut Cut, header: &BatchHeader, plain: &Bytes, hold: &Hold) {
        if self.records > 0 {
            let (plain, hold) = (plain.clone(), Hold::clone(hold));
            let (at, end, records) = (self.at, self.end, self.records);
            cut.slices.push(Slice { header: *header, plain, at, end, records, hold });
            self.records = 0;
        }
    }
}
