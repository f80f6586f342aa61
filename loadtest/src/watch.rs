//! COM-1, all the time: what is committed has ended by then, and no commit goes back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::function::{FakeLambda, InvocationAction, InvocationEvent};
use crate::produce::TestProducer;

/// A watch over the commits of one group; ask it [`CommitWatch::was_clean`] at the end.
pub struct CommitWatch {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<()>>,
}

/// What is watched: a topic in which every offset from 0 is a record that the function must take, but for some.
pub struct WatchedTopic {
    /// Asks for the commits; its own connection.
    pub producer: TestProducer,
    /// Remembers what was taken.
    pub lambda: FakeLambda,
    /// By which of its functions.
    pub function: String,
    /// Whose commits.
    pub group: String,
    /// Of which topic.
    pub topic: String,
    /// With so many partitions.
    pub partitions: i32,
    /// Records that may be committed although the function never took them; a test adds to them while it runs.
    pub ended_otherwise: Arc<Mutex<BTreeSet<(i32, i64)>>>,
    /// How often it looks.
    pub every: Duration,
}

impl CommitWatch {
    /// Watches from now on.
    pub fn over(watched: WatchedTopic) -> Self {
        let (stop, stopped) = oneshot::channel();
        Self { stop, task: tokio::spawn(watched.run(stopped)) }
    }

    /// Stops watching; fails with the first commit that was ahead, or went back.
    pub async fn was_clean(self) -> Result<()> {
        let _ = self.stop.send(());
        self.task.await?
    }
}

impl WatchedTopic {
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) -> Result<()> {
        let mut before: BTreeMap<i32, i64> = BTreeMap::new();
        while stopped.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Empty) {
            // A broker that restarts answers nothing for a while.
            if let Ok(committed) = self.producer.committed(&self.group, &self.topic, self.partitions).await {
                self.check(&committed, &before)?;
                before = committed;
            }
            tokio::time::sleep(self.every).await;
        }
        Ok(())
    }

    fn check(&self, committed: &BTreeMap<i32, i64>, before: &BTreeMap<i32, i64>) -> Result<()> {
        // Read after the commit: whatever had been taken when that was decided is in it.
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

/// What the function has taken so far, by partition and offset.
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
