//! Fuzz subject: an arbitrary list of aborted transactions and an arbitrary log. A batch is dropped if and only if
//! a naive reading of the log finds that its transaction was aborted.

use lighterman_proto::ids::Offset;
use lighterman_proto::records::{AbortedTransactions, batches};

const TRANSACTION: i16 = 16;
const CONTROL: i16 = 32;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Plain,
    Transactional,
    Abort,
    Commit,
}

struct Logged {
    kind: Kind,
    producer: i64,
    next: i64,
}

/// Reads the number of aborted transactions from the first byte, then two bytes for each, then batches of two
/// bytes each. Returns the number of dropped batches, so that callers can check that some are.
pub(crate) fn run(bytes: &[u8]) -> usize {
    let [count, rest @ ..] = bytes else { return 0 };
    let Some((aborted, log)) = rest.split_at_checked(usize::from(count % 16) * 2) else { return 0 };
    let aborted: Vec<(i64, Offset)> =
        aborted.chunks_exact(2).map(|pair| (i64::from(pair[0] % 4), Offset(i64::from(pair[1])))).collect();
    let (mut frame, mut logged) = (Vec::new(), Vec::new());
    let mut base = 0;
    for pair in log.chunks_exact(2) {
        let kind = [Kind::Plain, Kind::Transactional, Kind::Abort, Kind::Commit][usize::from(pair[0] % 4)];
        let (producer, offsets) = (i64::from(pair[0] / 4 % 4), i64::from(pair[1] % 16) + 1);
        // Compaction leaves gaps.
        base += i64::from(pair[1] / 64);
        frame.extend(batch(base, offsets, kind, producer));
        base += offsets;
        logged.push(Logged { kind, producer, next: base });
    }
    let mut index = AbortedTransactions::new(aborted.clone());
    let mut dropped = 0;
    for (at, batch) in batches(&frame).enumerate() {
        let batch = batch.expect("well made");
        assert_eq!(batch.header.next_offset(), Offset(logged[at].next));
        let drops = index.is_aborted(&batch);
        assert_eq!(drops, is_aborted(&aborted, &logged[..=at]), "batch {at}");
        dropped += usize::from(drops);
    }
    dropped
}

/// Returns true if the last batch of `log` belongs to an aborted transaction of its producer. The transaction's
/// first offset is then before the batch's end, and no abort marker of the producer after that offset precedes the
/// batch.
fn is_aborted(aborted: &[(i64, Offset)], log: &[Logged]) -> bool {
    let Some((batch, before)) = log.split_last() else { return false };
    let ended = |first: i64| {
        let marks = |mark: &&Logged| mark.kind == Kind::Abort && mark.producer == batch.producer;
        before.iter().filter(marks).any(|mark| mark.next > first)
    };
    let mut of_producer = aborted.iter().filter(|(producer, _)| *producer == batch.producer);
    batch.kind == Kind::Transactional && of_producer.any(|(_, first)| first.0 < batch.next && !ended(first.0))
}

/// Encodes a batch of `offsets` offsets. A marker has one record, other batches have none.
fn batch(base: i64, offsets: i64, kind: Kind, producer: i64) -> Vec<u8> {
    let (attributes, mark): (i16, &[u8]) = match kind {
        Kind::Plain => (0, &[]),
        Kind::Transactional => (TRANSACTION, &[]),
        Kind::Abort => (TRANSACTION | CONTROL, &[20, 0, 0, 0, 8, 0, 0, 0, 0, 1, 0]),
        Kind::Commit => (TRANSACTION | CONTROL, &[20, 0, 0, 0, 8, 0, 0, 0, 1, 1, 0]),
    };
    let mut batch = Vec::new();
    batch.extend(base.to_be_bytes());
    batch.extend((49 + mark.len() as i32).to_be_bytes());
    batch.extend((-1i32).to_be_bytes());
    batch.push(2);
    batch.extend(0i32.to_be_bytes());
    batch.extend(attributes.to_be_bytes());
    batch.extend((offsets as i32 - 1).to_be_bytes());
    batch.extend([0; 16]);
    batch.extend(producer.to_be_bytes());
    batch.extend([0; 6]);
    batch.extend(i32::from(!mark.is_empty()).to_be_bytes());
    batch.extend(mark);
    batch
}
