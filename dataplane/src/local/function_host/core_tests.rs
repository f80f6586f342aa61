use proptest::prelude::*;

use super::*;

fn at(ms: u64) -> Moment {
    Moment::from_micros(ms * 1000)
}

fn core(max: u32) -> HostCore {
    HostCore::new(Duration::from_secs(3), max)
}

fn request(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

#[test]
fn instance_is_reused_after_its_response() {
    let mut core = core(2);
    assert_eq!(core.step(at(0), HostEvent::Invoked(request(1))), [HostEffect::Start(0)]);
    assert_eq!(core.step(at(5), HostEvent::Polled(0)), [HostEffect::Deliver(0, request(1), at(3005))]);
    assert!(core.is_working_on(0, request(1)));
    assert_eq!(core.step(at(6), HostEvent::Answered(0, request(1))), []);
    assert_eq!(
        core.step(at(6), HostEvent::Invoked(request(2))),
        [],
        "waits for the instance that is about to poll"
    );
    assert_eq!(core.step(at(7), HostEvent::Polled(0)), [HostEffect::Deliver(0, request(2), at(3007))]);
}

#[test]
fn provisioned_instance_serves_first_invocation() {
    let mut core = core(2);
    assert_eq!(core.step(at(0), HostEvent::Provisioned), [HostEffect::Start(0)]);
    assert_eq!(core.step(at(1), HostEvent::Provisioned), []);
    assert_eq!(core.step(at(2), HostEvent::Invoked(request(1))), []);
    assert_eq!(core.step(at(5), HostEvent::Polled(0)), [HostEffect::Deliver(0, request(1), at(3005))]);
}

#[test]
fn invocation_over_concurrency_limit_is_throttled() {
    let mut core = core(1);
    core.step(at(0), HostEvent::Invoked(request(1)));
    assert_eq!(core.step(at(0), HostEvent::Invoked(request(2))), [HostEffect::Throttle(request(2))]);
    core.step(at(1), HostEvent::Polled(0));
    assert_eq!(core.step(at(1), HostEvent::Invoked(request(3))), [HostEffect::Throttle(request(3))]);
    core.step(at(2), HostEvent::Answered(0, request(1)));
    assert_eq!(core.step(at(2), HostEvent::Invoked(request(4))), []);
}

#[test]
fn timed_out_invocation_fails_and_kills_instance() {
    let mut core = core(1);
    core.step(at(0), HostEvent::Invoked(request(1)));
    core.step(at(0), HostEvent::Polled(0));
    assert_eq!(core.next_wake(), Some(at(3000)));
    assert_eq!(core.step(at(2999), HostEvent::Tick), []);
    let timed_out = HostFailure::TimedOut(Duration::from_secs(3));
    assert_eq!(
        core.step(at(3000), HostEvent::Tick),
        [HostEffect::Kill(0), HostEffect::Fail(request(1), timed_out)]
    );
    assert_eq!(core.step(at(3001), HostEvent::Exited(0, "signal: 9".into())), [], "already forgotten");
    assert_eq!(core.step(at(3001), HostEvent::Answered(0, request(1))), []);
}

#[test]
fn failed_start_fails_invocation_and_backs_off() {
    let mut core = core(1);
    let mut pause = 0;
    let mut now = 0;
    for n in 1..12 {
        let effects = core.step(at(now), HostEvent::Invoked(request(n)));
        let instance = if effects.is_empty() {
            let wake = core.next_wake().expect("a restart is due");
            assert!(wake > at(now));
            assert_eq!(wake.since(at(now)).as_millis(), pause);
            now = wake.as_micros() / 1000;
            core.step(wake, HostEvent::Tick)
        } else {
            effects
        };
        let [HostEffect::Start(instance)] = instance[..] else { panic!("{instance:?}") };
        let told = core.step(at(now), HostEvent::Exited(instance, "exit status 1".into()));
        assert_eq!(told, [HostEffect::Fail(request(n), HostFailure::NotStarted("exit status 1".into()))]);
        pause = if pause == 0 { 100 } else { (pause * 2).min(10_000) };
    }
}

proptest! {
    #[test]
    fn every_invocation_ends_once_within_concurrency_limit(
        steps in prop::collection::vec((0u8..5, 0u64..8, 0u64..2000), 1..200),
        max in 1u32..5,
    ) {
        let mut core = core(max);
        let (mut now, mut n) = (0, 0u128);
        let mut open = std::collections::BTreeSet::new();
        let mut busy: BTreeMap<InstanceId, Uuid> = BTreeMap::new();
        for (kind, instance, pause) in steps {
            now += pause;
            let event = match kind {
                0 | 1 => {
                    n += 1;
                    open.insert(request(n));
                    HostEvent::Invoked(request(n))
                }
                2 => HostEvent::Polled(instance),
                3 => match busy.remove(&instance) {
                    Some(done) => {
                        prop_assert_eq!(core.is_working_on(instance, done), true);
                        open.remove(&done);
                        HostEvent::Answered(instance, done)
                    }
                    None => HostEvent::Tick,
                },
                _ => HostEvent::Exited(instance, "gone".into()),
            };
            for effect in core.step(at(now), event) {
                match effect {
                    HostEffect::Deliver(instance, request, _) => {
                        prop_assert!(open.contains(&request));
                        prop_assert!(busy.insert(instance, request).is_none(), "one at a time");
                    }
                    HostEffect::Fail(request, _) | HostEffect::Throttle(request) => {
                        busy.retain(|_, running| *running != request);
                        prop_assert!(open.remove(&request), "resolved twice");
                    }
                    HostEffect::Start(_) | HostEffect::Kill(_) => {}
                }
            }
            prop_assert!(open.len() <= max as usize);
            prop_assert!(core.instances.len() <= max as usize);
            prop_assert!(open.is_empty() || core.next_wake().is_some(), "never stuck");
        }
    }
}
