//! The connections of a membership, as `kafka/group/requests.rs` keeps them: one request on each line at a time, the
//! coordinator looked up where it is not known.

use std::collections::VecDeque;
use std::time::Duration;

use lighterman_proto::ids::Offset;

use super::super::cluster::{Reply, Request};
use super::super::outside::Outside;
use super::Node;
use crate::kafka::group::effects::{Effect, Identity};
use crate::offsets::committer::Frontier;

pub(super) const DEADLINE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    Heartbeat,
    Join,
    Commit,
}

/// What a request on a line is for.
#[derive(Debug)]
pub(super) enum LinePurpose {
    Join(Identity),
    Sync(Identity),
    Heartbeat(u64),
    Beat(u64),
    Leave,
    Commits { who: Identity },
    StartCommit { resolve: u64, who: Identity },
    Committed { resolve: u64 },
    ReadBack { frontiers: Vec<Frontier> },
}

#[derive(Debug)]
pub(super) struct Queued {
    purpose: LinePurpose,
    request: Request,
    deadline: Duration,
}

#[derive(Debug, Default)]
pub(super) struct LineState {
    busy: bool,
    waiting: VecDeque<Queued>,
}

/// What a request was for.
#[derive(Debug)]
pub(super) enum Purpose {
    FindCoordinator,
    FindFor(Line, Box<Queued>),
    OnLine(Line, LinePurpose),
    Shares { effect: Box<Effect> },
    CountTopic,
    View { resolve: u64 },
    Offsets { resolve: u64 },
    Ends { resolve: u64 },
    LogEnds { resolve: u64 },
    LookUp,
    Bounds { broker: usize, partition: i32, position: Offset, start: Option<Offset> },
    Fetch { broker: usize },
}

impl Node {
    pub(super) fn ask(&mut self, outside: &mut Outside, broker: usize, request: Request, purpose: Purpose) {
        let wait = if let Request::Fetch { wait, .. } = &request { *wait } else { Duration::ZERO };
        let id = outside.ask(self.id, self.life, broker, request, DEADLINE + wait);
        self.purposes.insert(id, purpose);
    }

    pub(super) fn on_line(
        &mut self,
        outside: &mut Outside,
        line: Line,
        purpose: LinePurpose,
        request: Request,
        deadline: Duration,
    ) {
        self.lines[line as usize].waiting.push_back(Queued { purpose, request, deadline });
        self.pump_line(outside, line);
    }

    fn pump_line(&mut self, outside: &mut Outside, line: Line) {
        let state = &mut self.lines[line as usize];
        if state.busy {
            return;
        }
        let Some(next) = state.waiting.pop_front() else { return };
        state.busy = true;
        match self.group.coordinator {
            Some(broker) => self.send_on_line(outside, line, broker, next),
            None => {
                let broker = outside.random.below(2) as usize;
                self.ask(outside, broker, Request::FindCoordinator, Purpose::FindFor(line, Box::new(next)));
            }
        }
    }

    fn send_on_line(&mut self, outside: &mut Outside, line: Line, broker: usize, queued: Queued) {
        let Queued { purpose, request, deadline } = queued;
        let id = outside.ask(self.id, self.life, broker, request, deadline);
        self.purposes.insert(id, Purpose::OnLine(line, purpose));
    }

    pub(super) fn answer(&mut self, outside: &mut Outside, purpose: Purpose, reply: Option<Reply>) {
        match purpose {
            Purpose::FindCoordinator => self.coordinator_found(outside, reply),
            Purpose::FindFor(line, queued) => match reply {
                Some(Reply::Coordinator(Ok(broker))) => {
                    self.group.coordinator = Some(broker);
                    self.send_on_line(outside, line, broker, *queued);
                }
                _ => self.line_answered(outside, line, queued.purpose, None),
            },
            Purpose::OnLine(line, purpose) => self.line_answered(outside, line, purpose, reply),
            Purpose::Shares { effect } => self.share_out(outside, *effect, reply),
            Purpose::CountTopic => self.topic_counted(outside, reply),
            Purpose::View { resolve } => self.resolve_view(outside, resolve, reply),
            Purpose::Offsets { resolve } => self.resolve_offsets(outside, resolve, reply),
            Purpose::Ends { resolve } => self.resolve_ends(outside, resolve, reply),
            Purpose::LogEnds { resolve } => self.resolve_log_ends(outside, resolve, reply),
            Purpose::LookUp => self.looked_up(outside, reply),
            Purpose::Bounds { broker, partition, position, start } => {
                self.bounds(outside, broker, (partition, position), start, reply);
            }
            Purpose::Fetch { broker } => self.polled(outside, broker, reply),
        }
    }

    fn line_answered(
        &mut self,
        outside: &mut Outside,
        line: Line,
        purpose: LinePurpose,
        reply: Option<Reply>,
    ) {
        self.lines[line as usize].busy = false;
        if reply.is_none() {
            // Whoever does not answer may not be the coordinator any more.
            self.group.coordinator = None;
        }
        match purpose {
            LinePurpose::Join(who) => self.joined(outside, who, reply),
            LinePurpose::Sync(who) => self.synced(outside, who, reply),
            LinePurpose::Heartbeat(seq) => self.heartbeat_answered(outside, seq, reply),
            LinePurpose::Beat(seq) => self.told(outside, seq, reply),
            LinePurpose::Leave => self.has_left(),
            LinePurpose::Commits { who } => self.commits_answered(outside, &who, reply),
            LinePurpose::StartCommit { resolve, who } => self.start_committed(outside, resolve, &who, reply),
            LinePurpose::ReadBack { frontiers } => self.has_read_back(outside, frontiers, reply),
            LinePurpose::Committed { resolve } => self.resolve_committed(outside, resolve, reply),
        }
        self.pump_line(outside, line);
    }
}
