//! Function behind Lambda: accepts records, fails, hangs, is throttled, loses its connection.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use lighterman::invoker::outcome::InvokeResponse;
use lighterman::messages::batch::BatchId;
use lighterman_proto::units::Moment;

use super::environment::{EnvironmentEvent, SimulatedEnvironment, owner};
use super::schedule::{FaultKind, FaultTrigger};
use crate::history::{HistoryEvent as Happened, InvocationShare};
use crate::node::messages::NodeMessage;

/// Records of an event above which schedules with service errors may reject it.
const RECORDS_TAKEN_MAX: usize = 5;

/// Invocation in transit.
#[derive(Debug)]
pub(super) struct SimulatedCall {
    pub node: usize,
    pub life: u32,
    pub consumer: u32,
    pub batch: BatchId,
    pub shares: Vec<InvocationShare>,
    /// Set if nobody waits for the response.
    pub orphaned: bool,
}

/// Behaviour of the function in one invocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FunctionAct {
    Succeed,
    Fail,
    /// Reports these records as failed.
    Name(Vec<(i32, i64)>),
    /// Is killed at its timeout.
    TimeOut,
}

#[derive(Debug)]
struct RunningCall {
    call: SimulatedCall,
    answers: bool,
}

/// Running invocations.
#[derive(Debug, Default)]
pub(super) struct SimulatedFunction {
    running: BTreeMap<u64, RunningCall>,
    next: u64,
    /// Records that fail, with the number of remaining failures.
    pub poison: BTreeMap<(i32, i64), u32>,
}

pub(super) fn answer(status: u16, function_error: bool, body: Bytes) -> InvokeResponse {
    InvokeResponse::Answer {
        status,
        function_error: function_error.then(|| "Unhandled".to_owned()),
        error_type: None,
        retry_after: (status == 429).then_some(0),
        executed_version: None,
        request_id: None,
        body,
    }
}

impl SimulatedEnvironment {
    /// Sends an invocation. Exactly one `Invoked` answers it.
    pub(super) fn call(&mut self, call: SimulatedCall) {
        self.cue(call.node, FaultTrigger::InvocationSent);
        let timeout = self.plan.function_timeout;
        if self.draws_fault(FaultKind::LostInvocation, 25) {
            let sent = self.random.chance(500);
            let text = "cut".to_owned();
            let reply = if sent { InvokeResponse::Lost(text) } else { InvokeResponse::NotSent(text) };
            let comes_late = matches!(reply, InvokeResponse::Lost(_)) && self.random.chance(400);
            let wait = self.random.micros(300, timeout.as_micros() as u64);
            self.answered(call.node, call.life, call.consumer, call.batch, reply, wait);
            if comes_late {
                let partitions = call.shares.iter().map(|share| share.partition).collect();
                self.record(Happened::AnswerLost { partitions });
                let way = self.late();
                self.after(way, EnvironmentEvent::Called(Box::new(SimulatedCall { orphaned: true, ..call })));
            }
            return;
        }
        let slow = self.draws_fault(FaultKind::SlowInvocation, 80);
        let way = if slow { self.late() } else { self.way() };
        self.after(way, EnvironmentEvent::Called(Box::new(call)));
    }

    /// Draws a long latency of an invocation, within the margin of a lease.
    fn late(&mut self) -> Duration {
        let longest = (self.plan.session / 5).as_millis() as u64 - 50;
        self.random.millis(1, longest)
    }

    fn answered(
        &mut self,
        node: usize,
        life: u32,
        consumer: u32,
        batch: BatchId,
        reply: InvokeResponse,
        wait: Duration,
    ) {
        let what = NodeMessage::Invoked { consumer, batch, reply: Box::new(reply) };
        self.after(wait, EnvironmentEvent::Inside { node, life, what });
    }

    /// Receives an invocation.
    pub(super) fn called(&mut self, call: SimulatedCall) {
        let records: usize = call.shares.iter().map(|share| share.offsets.len()).sum();
        let refused = if self.draws_fault(FaultKind::Throttling, 120) {
            Some(429)
        } else if self.draws_fault(FaultKind::ServiceErrors, 60) {
            Some(self.random.pick(&[500, 503, 403]))
        } else if records > RECORDS_TAKEN_MAX && self.draws_fault(FaultKind::ServiceErrors, 300) {
            Some(413)
        } else {
            None
        };
        if let Some(status) = refused {
            if call.orphaned {
                return;
            }
            let wait = self.way();
            let reply = answer(status, false, Bytes::from_static(b"{}"));
            self.answered(call.node, call.life, call.consumer, call.batch, reply, wait);
            return;
        }
        self.function.next += 1;
        let invocation = self.function.next;
        let by = Some(owner(call.node, call.life));
        self.record(Happened::Started { invocation, owner: by, shares: call.shares.clone() });
        self.cue(call.node, FaultTrigger::InvocationBegun);
        let (act, takes) = self.act(&call);
        // A gateway in front may time out or fail: it responds on its own while the function runs.
        let gateway = (!call.orphaned && self.draws_fault(FaultKind::ServiceErrors, 40))
            .then(|| self.random.pick(&[500, 502, 504]))
            .map(|status| answer(status, false, Bytes::from_static(b"<html>")));
        let lost = call.orphaned || gateway.is_some() || self.draws_fault(FaultKind::LostInvocationReply, 50);
        if lost && !call.orphaned {
            let partitions = call.shares.iter().map(|share| share.partition).collect();
            self.record(Happened::AnswerLost { partitions });
            // The connection may break while the function runs, or after it.
            let wait = self.random.micros(500, takes.as_micros() as u64 + 2_000_000);
            let reply = gateway.unwrap_or_else(|| InvokeResponse::Lost("cut".to_owned()));
            self.answered(call.node, call.life, call.consumer, call.batch, reply, wait);
        }
        self.function.running.insert(invocation, RunningCall { call, answers: !lost });
        self.after(takes, EnvironmentEvent::CallEnds { invocation, act });
    }

    fn act(&mut self, call: &SimulatedCall) -> (FunctionAct, Duration) {
        let timeout = self.plan.function_timeout;
        let slow = self.draws_fault(FaultKind::SlowFunction, 150);
        let takes = if slow {
            self.random.micros(50_000, timeout.as_micros() as u64)
        } else {
            self.random.micros(1_000, 40_000)
        };
        if self.draws_fault(FaultKind::HangingFunction, 30) {
            return (FunctionAct::TimeOut, timeout);
        }
        let bad: Vec<(i32, i64)> = if self.quiet { Vec::new() } else { self.poisoned(call) };
        if !bad.is_empty() {
            let names = self.plan.partial_responses && self.random.chance(700);
            return (if names { FunctionAct::Name(bad) } else { FunctionAct::Fail }, takes);
        }
        if self.draws_fault(FaultKind::FailingFunction, 80) {
            return (FunctionAct::Fail, takes);
        }
        (FunctionAct::Succeed, takes)
    }

    fn poisoned(&mut self, call: &SimulatedCall) -> Vec<(i32, i64)> {
        let stops = self.plan.stops_at_failure();
        let poison = &mut self.function.poison;
        let mut bad = Vec::new();
        for share in &call.shares {
            for offset in &share.offsets {
                if let Some(left) = poison.get_mut(&(share.partition, *offset)).filter(|left| **left > 0) {
                    *left = left.saturating_sub(u32::from(*left < u32::MAX));
                    bad.push((share.partition, *offset));
                    if stops {
                        break;
                    }
                }
            }
        }
        bad
    }

    /// Finishes an invocation.
    pub(super) fn call_ends(&mut self, invocation: u64, act: &FunctionAct) {
        let Some(running) = self.function.running.remove(&invocation) else { return };
        let failed = if let FunctionAct::Name(failed) = act { failed.clone() } else { Vec::new() };
        let taken = matches!(act, FunctionAct::Succeed | FunctionAct::Name(_));
        let body = match act {
            FunctionAct::Name(failed) => Bytes::from(named(failed, &self.topic)),
            _ => Bytes::from_static(b"null"),
        };
        self.record(Happened::Ended { invocation, taken, failed });
        let call = running.call;
        if running.answers {
            let wait = self.way();
            let reply = answer(200, !taken, body);
            self.answered(call.node, call.life, call.consumer, call.batch, reply, wait);
        }
    }

    /// Returns the time since the schedule began.
    pub(super) fn elapsed(&self) -> Duration {
        self.now.since(Moment::from_micros(1_000_000))
    }
}

fn named(failed: &[(i32, i64)], topic: &str) -> String {
    let item = |(partition, offset): &(i32, i64)| {
        format!(r#"{{"itemIdentifier":{{"partition":"{topic}-{partition}","offset":{offset}}}}}"#)
    };
    let items: Vec<String> = failed.iter().map(item).collect();
    format!(r#"{{"batchItemFailures":[{}]}}"#, items.join(","))
}
