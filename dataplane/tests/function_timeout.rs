//! The timeout of a function may change while it is invoked, and may be unknown at first.

mod scene;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use lighterman::invoker::facts::FactsActor;
use lighterman::invoker::outcome::InvokeResponse;
use lighterman::invoker::port::{FunctionFacts, FunctionPort, Invocation};
use lighterman::kafka::offsets::OffsetSpec;
use parking_lot::Mutex;

/// Port that returns the script's facts, and the last of them from then on.
struct TimeoutTeller {
    script: Mutex<VecDeque<FunctionFacts>>,
    asked: Mutex<Vec<String>>,
}

impl FunctionPort for TimeoutTeller {
    fn invoke(&self, _: Invocation) -> BoxFuture<'static, InvokeResponse> {
        std::future::pending().boxed()
    }

    fn facts(&self, function: Arc<str>) -> BoxFuture<'static, FunctionFacts> {
        self.asked.lock().push(function.to_string());
        let mut script = self.script.lock();
        let told = if script.len() > 1 { script.pop_front() } else { script.front().copied() };
        std::future::ready(told.unwrap_or(FunctionFacts::Unknown)).boxed()
    }
}

async fn until(what: &str, fact: impl Fn() -> bool) {
    let began = Instant::now();
    while !fact() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

const SHORT: Duration = Duration::from_secs(3);

#[test]
fn timeout_query_retried_for_every_mapping() {
    actix_rt::System::new().block_on(async {
        let throttled = FunctionFacts::Unanswered { throttled: true };
        let known = FunctionFacts::Known { timeout: SHORT };
        let script = VecDeque::from([throttled, FunctionFacts::Unanswered { throttled: false }, known]);
        let teller = Arc::new(TimeoutTeller { script: Mutex::new(script), asked: Mutex::default() });
        let desk = FactsActor::new(Arc::<TimeoutTeller>::clone(&teller));
        let heard: Arc<Mutex<Vec<(u32, FunctionFacts)>>> = Arc::default();
        let function: Arc<str> = Arc::from("f");
        let watches: Vec<_> = (0..2)
            .map(|mapping| {
                let heard = Arc::clone(&heard);
                desk.watch(&function, Arc::new(move |facts| heard.lock().push((mapping, facts))))
            })
            .collect();
        assert_eq!(watches[0].timeout().current(), Duration::from_secs(900), "while the timeout is unknown");
        until("the timeout is known", || watches.iter().all(|watch| watch.timeout().current() == SHORT))
            .await;
        assert_eq!(teller.asked.lock().len(), 3, "once for both");
        let mut told = heard.lock().clone();
        told.retain(|(_, facts)| *facts == known);
        told.sort_by_key(|(mapping, _)| *mapping);
        assert_eq!(told, [(0, known), (1, known)]);

        watches[0].doubt();
        until("a doubt triggers a query", || teller.asked.lock().len() == 4).await;
        drop(watches);
    });
}

#[test]
fn own_1_lost_invocation_waits_for_raised_timeout() {
    scene::scene(|scene| async move {
        scene.producer(1).await.write(10).await.expect("written");
        let raised = 6;
        scene.memory.raised_to.store(raised, Ordering::Relaxed);
        *scene.memory.script.lock() =
            Some(|turn| (turn == 0).then(|| InvokeResponse::Lost("cut".to_owned())));
        scene.run(OffsetSpec::Earliest);
        scene.until("it is invoked", |scene| scene.memory.invocations() > 0).await;
        let seen = Instant::now();
        scene.until("it is invoked again", |scene| scene.memory.invocations() > 1).await;
        let sooner = Duration::from_secs(raised.into()).saturating_sub(seen.elapsed());
        assert!(sooner < Duration::from_secs(1), "over a function that may run {sooner:?} longer");
        scene.until("it is delivered", |scene| scene.committed() == 10).await;
        scene.assert_each_once_in_order(10);
        scene.dataplane.drain().await;
    });
}
