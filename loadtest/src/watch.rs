//! Continuous check of COM-1: committed records have ended before the commit, and no commit goes back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::function::{FakeLambda, InvocationAction, InvocationEvent};
use crate::produce::TestProducer;

/// Watch over the commits of one group. [`CommitWatch::was_clean`] returns its result.
pub struct CommitWatch {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<()>>,
}

/// Watched topic, in which every offset from 0 is a record that the function must take, except those in
/// `ended_otherwise`.
pub struct WatchedTopic {
    /// Connection that reads the commits.
    pub producer: TestProducer,
    /// Endpoint that records what was taken.
    pub lambda: FakeLambda,
    /// Function that takes the records.
    pub function: String,
    /// Group whose commits are watched.
    pub group: String,
    /// Topic of the commits.
    pub topic: String,
    /// Number of partitions.
    pub partitions: i32,
    /// Records that may be committed although the function never took them. A test adds to them while it runs.
    pub ended_otherwise: Arc<Mutex<BTreeSet<(i32, i64)>>>,
    /// Interval between two checks.
    pub every: Duration,
}

impl CommitWatch {
    /// Starts a watch.
    pub fn over(watched: WatchedTopic) -> Self {
        let (stop, stopped) = oneshot::channel();
        Self { stop, task: tokio::spawn(watched.run(stopped)) }
    }

    /// Stops the watch. Returns the first commit that was ahead or went back as an error.
    pub async fn was_clean(self) -> Result<()> {
        let _ = self.stop.send(());
        self.task.await?
    }
}

impl WatchedTopic {
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) -> Result<()> {
        let mut before: BTreeMap<i32, i64> = BTreeMap::new();
        while stopped.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Empty) {
            // A restarting broker answers nothing for a while.
            if let Ok(committed) = self.producer.committed(&self.group, &self.topic, self.partitions).await {
                self.check(&committed, &before)?;
                before = committed;
            }
            tokio::time::sleep(self.every).await;
        }
        Ok(())
    }

    fn check(&self, committed: &BTreeMap<i32, i64>, before: &BTreeMap<i32, i64>) -> Result<()> {
        // Read after the commit, so that it contains every record taken when the commit was decided.
        let (taken, otherwise) = (taken(&self.lambda.events_of(&self.function)), self.ended_otherwise.lock());
        for (partition, end) in committed {
            if before.get(partition).is_some_and(|before| before > end) {
                bail!("COM-1: {partition} went back from {before:?} to {end}");
            }
            let open = |offset: &i64| {
                let place = (*partition, *offset);
                !taken.contains(&place) && !otherwise.contains(&place)
            };
            if let Some(open) = (0..*end).find(open) {
                bail!("COM-1: {end} is committed in {partition}, but {open} has not ended");
            }
        }
        Ok(())
    }
}

/// Returns the records that the function has taken, by partition and offset.
pub fn taken(events: &[InvocationEvent]) -> BTreeSet<(i32, i64)> {
    let mut open: BTreeMap<u64, &BTreeMap<i32, Vec<i64>>> = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for event in events {
        match event {
            InvocationEvent::Start { id, offsets } => {
                open.insert(*id, offsets);
            }
            InvocationEvent::End { id, act, failed } => {
                let ran = open.remove(id).filter(|_| act.succeeds() || *act == InvocationAction::Report);
                let all = ran.into_iter().flatten();
                let places =
                    all.flat_map(|(partition, list)| list.iter().map(|offset| (*partition, *offset)));
                taken.extend(places.filter(|place| !failed.contains(place)));
            }
        }
    }
    taken
}
