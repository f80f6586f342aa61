//! Order and spacing of dials. A broker that does not respond must not block those that do.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use lighterman_proto::units::Moment;
use tokio::time::timeout;

use super::transport::BrokerAddress;

/// Minimum interval between new connections to one broker (H19).
const DIAL_SPACING: Duration = Duration::from_millis(100);
/// Number of brokers remembered; the least recently dialled are dropped first.
const REMEMBERED_MAX: usize = 1024;

/// Dial history of one broker.
#[derive(Clone, Copy, Debug, Default)]
struct DialRecord {
    last: Option<Moment>,
    /// Moment of the last dial, while it is unanswered. A dial that was abandoned counts as unanswered.
    silent_since: Option<Moment>,
}

/// Dial history of a cluster: the last dial of each broker, and the brokers that did not answer.
#[derive(Debug, Default)]
pub(super) struct DialBook {
    records: HashMap<BrokerAddress, DialRecord>,
}

impl DialBook {
    /// Records a dial of `address` and returns the wait before it may start. The dial counts as made at the end of
    /// that wait.
    pub(super) fn begin(&mut self, address: &BrokerAddress, now: Moment) -> Duration {
        self.make_room(address);
        let record = self.records.entry(address.clone()).or_default();
        let at = record.last.map_or(now, |last| (last + DIAL_SPACING).max(now));
        record.last = Some(at);
        record.silent_since = Some(at);
        at.since(now)
    }

    /// Records that a dial was answered.
    pub(super) fn answered(&mut self, address: &BrokerAddress) {
        if let Some(record) = self.records.get_mut(address) {
            record.silent_since = None;
        }
    }

    /// Sorts brokers that have answered or were never dialled first, in their given order. The others follow, the
    /// least recently dialled first.
    pub(super) fn sort(&self, candidates: &mut [BrokerAddress]) {
        candidates.sort_by_key(|address| self.records.get(address).and_then(|record| record.silent_since));
    }

    fn make_room(&mut self, address: &BrokerAddress) {
        if self.records.len() < REMEMBERED_MAX || self.records.contains_key(address) {
            return;
        }
        let oldest = self.records.iter().min_by_key(|(_, record)| record.last);
        if let Some(oldest) = oldest.map(|(address, _)| address.clone()) {
            self.records.remove(&oldest);
        }
    }
}

/// Dials `candidates` in order and returns the first connection (RFC 8305). The next candidate is dialled after a
/// failure, or in parallel after `patience` without a response. Returns the last error, or `None` if there is no
/// candidate.
pub(super) async fn dial_first<C, T, E, F>(
    candidates: impl IntoIterator<Item = C>,
    patience: Duration,
    dial: impl Fn(C) -> F,
) -> Result<T, Option<E>>
where
    F: Future<Output = Result<T, E>>,
{
    let mut candidates = candidates.into_iter().peekable();
    let mut dials = FuturesUnordered::new();
    let mut last = None;
    loop {
        dials.extend(candidates.next().map(&dial));
        let ended = if candidates.peek().is_some() {
            timeout(patience, dials.next()).await
        } else {
            Ok(dials.next().await)
        };
        match ended {
            Ok(Some(Ok(opened))) => return Ok(opened),
            Ok(Some(Err(error))) => last = Some(error),
            Ok(None) => return Err(last),
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn broker(host: &str) -> BrokerAddress {
        BrokerAddress::new(host, 9092)
    }

    fn at(millis: u64) -> Moment {
        Moment::from_micros(millis * 1_000)
    }

    #[test]
    fn h19_dials_to_a_broker_are_spaced() {
        let mut book = DialBook::default();
        assert_eq!(book.begin(&broker("a"), at(0)), Duration::ZERO);
        assert_eq!(book.begin(&broker("a"), at(40)), Duration::from_millis(60));
        assert_eq!(book.begin(&broker("a"), at(40)), Duration::from_millis(160), "after the previous dial");
        assert_eq!(book.begin(&broker("b"), at(40)), Duration::ZERO, "each for itself");
        assert_eq!(book.begin(&broker("a"), at(900)), Duration::ZERO);
    }

    #[test]
    fn silent_broker_sorts_last_until_it_answers() {
        let mut book = DialBook::default();
        let mut order = ["a", "b", "c", "d"].map(broker);
        book.begin(&broker("b"), at(10));
        book.begin(&broker("a"), at(50));
        book.sort(&mut order);
        assert_eq!(order, ["c", "d", "b", "a"].map(broker));
        book.answered(&broker("a"));
        book.sort(&mut order);
        assert_eq!(order, ["c", "d", "a", "b"].map(broker));
    }

    #[test]
    fn dial_book_is_bounded() {
        let mut book = DialBook::default();
        for number in 0..2 * REMEMBERED_MAX {
            book.begin(&broker(&number.to_string()), at(number as u64));
        }
        assert_eq!(book.records.len(), REMEMBERED_MAX);
        assert!(!book.records.contains_key(&broker("0")));
    }

    const PATIENCE: Duration = Duration::from_millis(20);

    /// Dials by name: `silent` never answers, `refuses` fails at once, a number answers after that many times
    /// `PATIENCE`.
    async fn dial(name: &'static str) -> Result<&'static str, &'static str> {
        match name {
            "silent" => std::future::pending().await,
            "refuses" => Err(name),
            times => {
                tokio::time::sleep(PATIENCE * times.parse().expect("a number")).await;
                Ok(name)
            }
        }
    }

    async fn first(names: &[&'static str]) -> Result<&'static str, Option<&'static str>> {
        let dialled = dial_first(names.iter().copied(), PATIENCE, dial);
        timeout(Duration::from_secs(60), dialled).await.expect("a silent candidate does not block")
    }

    #[tokio::test]
    async fn silent_candidate_does_not_block_others() {
        assert_eq!(first(&["silent", "silent", "0"]).await, Ok("0"));
        assert_eq!(first(&["silent", "refuses", "1"]).await, Ok("1"));
        assert_eq!(first(&["5", "silent"]).await, Ok("5"), "a slow candidate may still win");
        assert_eq!(first(&["500", "0"]).await, Ok("0"), "the first open connection wins");
        assert_eq!(first(&["refuses", "refuses"]).await, Err(Some("refuses")));
        assert_eq!(first(&[]).await, Err(None));
    }

    #[tokio::test]
    async fn prompt_candidate_starts_no_parallel_dial() {
        let dialled = RefCell::new(Vec::new());
        let noted = |name: &'static str| {
            dialled.borrow_mut().push(name);
            dial(name)
        };
        assert_eq!(dial_first(["0", "silent"], Duration::from_secs(60), noted).await, Ok("0"));
        assert_eq!(*dialled.borrow(), ["0"]);
    }
}
