//! Property test of several members against one coordinator, with lost and late responses, drains of any length,
//! crashes, leaves and coordinator moves. At no instant may two members start invocations on one partition. After the
//! faults end, each partition has one owner.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::kafka::group::effects::GroupEvent;
use crate::local::broker::kip848_coordinator::{ConsumerCoordinator, HeartbeatResponse, ReceivedHeartbeat};

const SESSION: Duration = Duration::from_secs(45);
const REBALANCE: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(250);

struct ModelRandom(u64);

impl ModelRandom {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        ((mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB) >> 33) % below
    }

    fn once_in(&mut self, n: u64) -> bool {
        self.roll(n) == 0
    }

    fn wait(&mut self, most_ms: u64) -> Duration {
        Duration::from_millis(self.roll(most_ms) + 1)
    }
}

enum ModelMessage {
    Found,
    Request(ReceivedHeartbeat, Option<u64>),
    Reply(u64, Result<HeartbeatResponse, ResponseError>),
    Silence(u64),
    Drained(i32),
    Quiet,
}

struct ModelNode {
    core: Kip848Member,
    /// Partitions on which it may start invocations while its lease holds.
    runs: BTreeSet<i32>,
    lease: Moment,
    gone: bool,
    /// End of an outage during which none of its heartbeats arrive.
    cut_until: Moment,
}

struct GroupModel {
    now: Moment,
    dice: ModelRandom,
    faults: bool,
    coordinator: ConsumerCoordinator,
    nodes: Vec<ModelNode>,
    mail: BTreeMap<(Moment, u64), (usize, ModelMessage)>,
    posted: u64,
}

impl GroupModel {
    fn new(seed: u64, nodes: usize, partitions: i32) -> Self {
        let mut dice = ModelRandom(seed);
        let lenient = dice.once_in(2);
        let coordinator = ConsumerCoordinator::new(partitions, SESSION, lenient);
        let mut world = Self {
            now: at(100),
            dice,
            faults: true,
            coordinator,
            nodes: Vec::new(),
            mail: BTreeMap::new(),
            posted: 0,
        };
        for _ in 0..nodes {
            world.start();
        }
        world
    }

    fn start(&mut self) {
        let timing = MemberTiming::new(Duration::from_secs(10), REBALANCE);
        let core = Kip848Member::new(timing, format!("m{}", self.nodes.len()), self.now);
        let (lease, cut_until) = (Moment::default(), Moment::default());
        self.nodes.push(ModelNode { core, runs: BTreeSet::new(), lease, gone: false, cut_until });
    }

    fn post(&mut self, wait: Duration, node: usize, mail: ModelMessage) {
        self.posted += 1;
        self.mail.insert((self.now + wait, self.posted), (node, mail));
    }

    fn carry_out(&mut self, index: usize, effects: Vec<GroupEffect>) {
        for effect in effects {
            match effect {
                GroupEffect::FindCoordinator => {
                    let wait = self.dice.wait(300);
                    self.post(wait, index, ModelMessage::Found);
                }
                GroupEffect::Beat(beat) => self.send(index, beat),
                GroupEffect::Leave { member } => self.say_goodbye(index, member),
                GroupEffect::ExtendLease(until) => self.nodes[index].lease = until,
                GroupEffect::EndLease => self.nodes[index].lease = Moment::default(),
                GroupEffect::Notify(GroupEvent::Assigned { added, .. }) => {
                    self.nodes[index].runs.extend(added);
                }
                GroupEffect::Notify(GroupEvent::Revoke { partitions }) => {
                    for partition in partitions {
                        let most = if self.faults && self.dice.once_in(3) { 120_000 } else { 4_000 };
                        let wait = self.dice.wait(most);
                        self.post(wait, index, ModelMessage::Drained(partition));
                    }
                }
                GroupEffect::Notify(GroupEvent::Lost { partitions, .. }) => {
                    self.nodes[index].runs.retain(|partition| !partitions.contains(partition));
                    let wait = self.dice.wait(20_000);
                    self.post(wait, index, ModelMessage::Quiet);
                }
                _ => {}
            }
        }
    }

    fn send(&mut self, index: usize, beat: Kip848Heartbeat) {
        let said = ReceivedHeartbeat {
            member: beat.member,
            epoch: beat.epoch,
            everything: beat.everything,
            rebalance_timeout: beat.rebalance_timeout,
            owned: beat.owned.map(|share| share.partitions),
        };
        let lost = self.faults && self.dice.once_in(12);
        let silent = Duration::from_secs(3);
        if self.now < self.nodes[index].cut_until || lost && self.dice.once_in(2) {
            self.post(silent, index, ModelMessage::Silence(beat.seq));
            return;
        }
        let most = if self.faults && self.dice.once_in(10) { 2_500 } else { 50 };
        let wait = self.dice.wait(most);
        if lost {
            self.post(wait, index, ModelMessage::Request(said, None));
            self.post(silent, index, ModelMessage::Silence(beat.seq));
        } else {
            self.post(wait, index, ModelMessage::Request(said, Some(beat.seq)));
        }
    }

    fn say_goodbye(&mut self, index: usize, member: String) {
        let said = ReceivedHeartbeat {
            member,
            epoch: -1,
            everything: false,
            rebalance_timeout: REBALANCE,
            owned: None,
        };
        if !(self.faults && self.dice.once_in(6)) {
            self.post(Duration::from_millis(1), index, ModelMessage::Request(said, None));
        }
    }

    fn deliver(&mut self, index: usize, mail: ModelMessage) {
        let (now, roll) = (self.now, self.dice.roll(1 << 30));
        if let ModelMessage::Request(said, seq) = mail {
            let answer = if self.faults && self.dice.once_in(40) {
                Err(ResponseError::NotCoordinator)
            } else {
                self.coordinator.heartbeat(now, &said)
            };
            if let Some(seq) = seq {
                let wait = self.dice.wait(50);
                self.post(wait, index, ModelMessage::Reply(seq, answer));
            }
            return;
        }
        let node = &mut self.nodes[index];
        if node.gone {
            return;
        }
        let effects = match mail {
            ModelMessage::Found => {
                let session = SessionBounds { shortest: SESSION, longest: SESSION };
                node.core.coordinator_found(now, Ok(Some(session)), roll)
            }
            ModelMessage::Reply(seq, answer) => {
                let answer = answer.map_err(RequestError::Code).map(|answered| Kip848Response {
                    member: String::new(),
                    epoch: answered.epoch,
                    heartbeat_interval: Duration::from_secs(5),
                    assignment: answered
                        .assignment
                        .map(|partitions| vec![TopicPartitions { topic: topic(), partitions }]),
                });
                node.core.heartbeat_answered(now, seq, answer, roll)
            }
            ModelMessage::Silence(seq) => {
                node.core.heartbeat_answered(now, seq, Err(RequestError::Transport("cut".into())), roll)
            }
            ModelMessage::Drained(partition) => {
                // A drain of a partition that was lost meanwhile releases nothing.
                if node.core.kept().contains(&partition)
                    || !node.core.session.partitions.all().contains(&partition)
                {
                    return;
                }
                node.runs.remove(&partition);
                node.core.released(now, &[partition])
            }
            ModelMessage::Quiet => {
                node.core.all_invocations_ended();
                Vec::new()
            }
            ModelMessage::Request(..) => return,
        };
        self.carry_out(index, effects);
    }

    fn step(&mut self) {
        self.now = self.now + STEP;
        let due: Vec<_> = self.mail.range(..=(self.now, u64::MAX)).map(|(at, _)| *at).collect();
        for at in due {
            if let Some((index, mail)) = self.mail.remove(&at) {
                self.deliver(index, mail);
            }
        }
        self.coordinator.tick(self.now);
        for index in 0..self.nodes.len() {
            let node = &mut self.nodes[index];
            if node.gone {
                continue;
            }
            let effects = node.core.tick(self.now);
            self.carry_out(index, effects);
        }
        self.check();
    }

    fn check(&self) {
        let mut owners: BTreeMap<i32, usize> = BTreeMap::new();
        for (index, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.lease > self.now) {
            for partition in &node.runs {
                if let Some(other) = owners.insert(*partition, index) {
                    panic!("{other} and {index} both run partition {partition} at {:?}", self.now);
                }
            }
        }
    }

    fn trouble(&mut self) {
        let index = self.dice.roll(self.nodes.len() as u64) as usize;
        match self.dice.roll(60) {
            0 => self.nodes[index].gone = true,
            1 if !self.nodes[index].gone => self.leave(index),
            2 if self.nodes.len() < 7 => self.start(),
            3 => self.coordinator.fail_over(self.now),
            4 => self.nodes[index].cut_until = self.now + self.dice.wait(70_000),
            _ => {}
        }
    }

    /// Lets a node leave, with all its partitions drained.
    fn leave(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.gone = true;
        node.runs.clear();
        let effects = node.core.leave();
        self.carry_out(index, effects);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn own_1_each_partition_has_one_owner_despite_faults(
        seed in any::<u64>(),
        nodes in 1usize..4,
        partitions in 1i32..7,
    ) {
        let mut world = GroupModel::new(seed, nodes, partitions);
        for _ in 0..1_200 {
            world.step();
            world.trouble();
        }
        world.faults = false;
        if world.nodes.iter().all(|node| node.gone) {
            world.start();
        }
        for _ in 0..1_600 {
            world.step();
        }
        let mut owned: Vec<i32> = world
            .nodes
            .iter()
            .filter(|node| !node.gone)
            .flat_map(|node| node.runs.iter().copied())
            .collect();
        owned.sort_unstable();
        prop_assert_eq!(owned, (0..partitions).collect::<Vec<_>>());
    }
}
