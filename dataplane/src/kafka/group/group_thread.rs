//! Thread that runs all memberships of a node. Nothing else runs on it, so that no other work of the node can delay a
//! heartbeat.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use super::client::CoordinatorClient;
use super::commands;
use super::driver::MemberDriver;
use super::membership_handle::{EventSink, Membership, MembershipSettings, SharedView};
use super::ownership_lease::OwnershipLease;
use crate::kafka::cluster::KafkaCluster;

type MemberStart = Box<dyn FnOnce() + Send>;

/// Handle of the thread that runs all memberships.
#[derive(Clone)]
pub struct GroupThread {
    /// Queue of members to start. It is unbounded, but each mapping waits in it at most once.
    starts: Arc<Mutex<mpsc::UnboundedSender<MemberStart>>>,
}

impl GroupThread {
    /// Starts the thread, which ends when the last handle and the last membership are dropped.
    pub fn start() -> std::io::Result<Self> {
        Ok(Self { starts: Arc::new(Mutex::new(start_thread()?)) })
    }

    /// Joins a group and delivers the membership's events to `sink`.
    pub fn join(&self, cluster: KafkaCluster, settings: MembershipSettings, sink: EventSink) -> Membership {
        let (commands, incoming) = commands::channel();
        let settings = Arc::new(settings);
        let membership = Membership {
            commands,
            lease: OwnershipLease::default(),
            published: SharedView::default(),
            client: Arc::new(CoordinatorClient::new(cluster, Arc::clone(&settings))),
            settings,
        };
        let member = MemberDriver::new(&membership, sink);
        let start: MemberStart = Box::new(move || {
            tokio::task::spawn_local(member.run(incoming));
        });
        self.begin(start);
        membership
    }

    /// Starts a member, on a new thread if the last one has ended. The members of an ended thread have all reported
    /// [`GroupEvent::Ended`](super::GroupEvent::Ended). If no thread can be started, `start` is dropped with its member, which reports the
    /// same.
    fn begin(&self, start: MemberStart) {
        let mut starts = self.starts.lock();
        let Err(mpsc::error::SendError(start)) = starts.send(start) else { return };
        match start_thread() {
            Ok(fresh) => {
                *starts = fresh;
                let _ = starts.send(start);
            }
            Err(error) => tracing::error!(%error, "the thread of the group memberships cannot be started"),
        }
    }
}

fn start_thread() -> std::io::Result<mpsc::UnboundedSender<MemberStart>> {
    let (starts, mut incoming) = mpsc::unbounded_channel::<MemberStart>();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("lighterman-group".to_owned()).spawn(move || {
        let local = LocalSet::new();
        runtime.block_on(local.run_until(async move {
            while let Some(start) = incoming.recv().await {
                start();
            }
        }));
        runtime.block_on(local);
    })?;
    Ok(starts)
}
