//! Connections of a group member, modelled on `kafka/group/client.rs`: one request at a time on each, with a
//! coordinator lookup where it is unknown.

use std::collections::VecDeque;
use std::time::Duration;

use lighterman::kafka::group::effects::{GroupEffect, MemberIdentity};
use lighterman::messages::commit::CommitRequest;
use lighterman_proto::ids::Offset;

use super::super::cluster::{BrokerReply, RequestKind};
use super::super::environment::SimulatedEnvironment;
use super::SimulatedNode;

pub(super) const DEADLINE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SimulatedConnection {
    Heartbeat,
    Join,
    Commit,
}

/// Purpose of a request on a connection.
#[derive(Debug)]
pub(super) enum LinePurpose {
    Join(MemberIdentity),
    Sync(MemberIdentity),
    Heartbeat(u64),
    Beat(u64),
    Leave,
    Commits { who: MemberIdentity },
    StartCommit { resolve: u64, who: MemberIdentity },
    Committed { resolve: u64 },
    ReadBack { requests: Vec<CommitRequest> },
}

#[derive(Debug)]
pub(super) struct QueuedRequest {
    purpose: LinePurpose,
    request: RequestKind,
    deadline: Duration,
}

#[derive(Debug, Default)]
pub(super) struct LineState {
    busy: bool,
    waiting: VecDeque<QueuedRequest>,
}

/// Purpose of a request.
#[derive(Debug)]
pub(super) enum RequestPurpose {
    FindCoordinator,
    FindFor(SimulatedConnection, Box<QueuedRequest>),
    OnLine(SimulatedConnection, LinePurpose),
    Shares { effect: Box<GroupEffect> },
    CountTopic,
    View { resolve: u64 },
    Offsets { resolve: u64 },
    Ends { resolve: u64 },
    LogEnds { resolve: u64 },
    LookUp,
    Bounds { broker: usize, partition: i32, position: Offset, start: Option<Offset> },
    Fetch { broker: usize },
}

impl SimulatedNode {
    pub(super) fn ask(
        &mut self,
        env: &mut SimulatedEnvironment,
        broker: usize,
        request: RequestKind,
        purpose: RequestPurpose,
    ) {
        let wait = if let RequestKind::Fetch { wait, .. } = &request { *wait } else { Duration::ZERO };
        let id = env.ask(self.id, self.incarnation, broker, request, DEADLINE + wait);
        self.purposes.insert(id, purpose);
    }

    pub(super) fn on_line(
        &mut self,
        env: &mut SimulatedEnvironment,
        line: SimulatedConnection,
        purpose: LinePurpose,
        request: RequestKind,
        deadline: Duration,
    ) {
        self.lines[line as usize].waiting.push_back(QueuedRequest { purpose, request, deadline });
        self.pump_line(env, line);
    }

    fn pump_line(&mut self, env: &mut SimulatedEnvironment, line: SimulatedConnection) {
        let state = &mut self.lines[line as usize];
        if state.busy {
            return;
        }
        let Some(next) = state.waiting.pop_front() else { return };
        state.busy = true;
        match self.group.coordinator {
            Some(broker) => self.send_on_line(env, line, broker, next),
            None => {
                let broker = env.random.below(2) as usize;
                self.ask(
                    env,
                    broker,
                    RequestKind::FindCoordinator,
                    RequestPurpose::FindFor(line, Box::new(next)),
                );
            }
        }
    }

    fn send_on_line(
        &mut self,
        env: &mut SimulatedEnvironment,
        line: SimulatedConnection,
        broker: usize,
        queued: QueuedRequest,
    ) {
        let QueuedRequest { purpose, request, deadline } = queued;
        let id = env.ask(self.id, self.incarnation, broker, request, deadline);
        self.purposes.insert(id, RequestPurpose::OnLine(line, purpose));
    }

    pub(super) fn answer(
        &mut self,
        env: &mut SimulatedEnvironment,
        purpose: RequestPurpose,
        reply: Option<BrokerReply>,
    ) {
        match purpose {
            RequestPurpose::FindCoordinator => self.coordinator_found(env, reply),
            RequestPurpose::FindFor(line, queued) => match reply {
                Some(BrokerReply::Coordinator(Ok(broker))) => {
                    self.group.coordinator = Some(broker);
                    self.send_on_line(env, line, broker, *queued);
                }
                _ => self.line_answered(env, line, queued.purpose, None),
            },
            RequestPurpose::OnLine(line, purpose) => self.line_answered(env, line, purpose, reply),
            RequestPurpose::Shares { effect } => self.share_out(env, *effect, reply),
            RequestPurpose::CountTopic => self.topic_counted(env, reply),
            RequestPurpose::View { resolve } => self.resolve_view(env, resolve, reply),
            RequestPurpose::Offsets { resolve } => self.resolve_offsets(env, resolve, reply),
            RequestPurpose::Ends { resolve } => self.resolve_ends(env, resolve, reply),
            RequestPurpose::LogEnds { resolve } => self.resolve_log_ends(env, resolve, reply),
            RequestPurpose::LookUp => self.looked_up(env, reply),
            RequestPurpose::Bounds { broker, partition, position, start } => {
                self.bounds(env, broker, (partition, position), start, reply);
            }
            RequestPurpose::Fetch { broker } => self.polled(env, broker, reply),
        }
    }

    fn line_answered(
        &mut self,
        env: &mut SimulatedEnvironment,
        line: SimulatedConnection,
        purpose: LinePurpose,
        reply: Option<BrokerReply>,
    ) {
        self.lines[line as usize].busy = false;
        if reply.is_none() {
            // A broker that does not respond may no longer be the coordinator.
            self.group.coordinator = None;
        }
        match purpose {
            LinePurpose::Join(who) => self.joined(env, who, reply),
            LinePurpose::Sync(who) => self.synced(env, who, reply),
            LinePurpose::Heartbeat(seq) => self.heartbeat_answered(env, seq, reply),
            LinePurpose::Beat(seq) => self.told(env, seq, reply),
            LinePurpose::Leave => self.has_left(),
            LinePurpose::Commits { who } => self.commits_answered(env, &who, reply),
            LinePurpose::StartCommit { resolve, who } => self.start_committed(env, resolve, &who, reply),
            LinePurpose::ReadBack { requests } => self.has_read_back(env, requests, reply),
            LinePurpose::Committed { resolve } => self.resolve_committed(env, resolve, reply),
        }
        self.pump_line(env, line);
    }
}
