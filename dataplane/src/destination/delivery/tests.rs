use std::collections::VecDeque;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::*;
use crate::destination::message::TopicMessage;
use crate::destination::retry::{DROP_TRIES, MessageForm};

const FAST: RetryPolicy = RetryPolicy { base: Duration::from_micros(50), cap: Duration::from_micros(100) };

/// Port that returns the scripted errors, then accepts everything.
#[derive(Default)]
struct ScriptedSender {
    script: Mutex<VecDeque<DeliveryError>>,
    arrived: Mutex<Vec<FailureMessage>>,
}

impl DestinationPort for ScriptedSender {
    fn deliver(
        &self,
        mut failure_message: FailureMessage,
    ) -> BoxFuture<'static, Result<(), Box<UndeliveredMessage>>> {
        let answer = match self.script.lock().pop_front() {
            Some(error) => {
                // One topic message arrives per attempt, unless they are too large.
                if let FailureMessage::Topic { topic, messages } = &mut failure_message
                    && !matches!(error, DeliveryError::TooLarge { .. })
                {
                    let one = FailureMessage::Topic {
                        topic: Arc::clone(topic),
                        messages: vec![messages.remove(0)],
                    };
                    self.arrived.lock().push(one);
                }
                Err(Box::new(UndeliveredMessage { error, rest: failure_message }))
            }
            None => {
                self.arrived.lock().push(failure_message);
                Ok(())
            }
        };
        std::future::ready(answer).boxed()
    }
}

fn down() -> DeliveryError {
    DeliveryError::Unreachable { to: "kafka://dlq".into(), why: "refused".into() }
}

fn too_large() -> DeliveryError {
    DeliveryError::TooLarge { to: "kafka://dlq".into(), bytes: 9, why: String::new() }
}

fn failure_message(values: &[&'static str]) -> FailureMessage {
    let messages = values.iter().map(|v| TopicMessage { key: None, value: Bytes::from_static(v.as_bytes()) });
    FailureMessage::Topic { topic: "dlq".into(), messages: messages.collect() }
}

fn values(failure_messages: &[FailureMessage]) -> Vec<String> {
    let mut values = Vec::new();
    for failure_message in failure_messages {
        let FailureMessage::Topic { messages, .. } = failure_message else { panic!("{failure_message:?}") };
        values.extend(messages.iter().map(|m| String::from_utf8_lossy(&m.value).into_owned()));
    }
    values
}

async fn run(
    script: Vec<DeliveryError>,
    failure_messages: Vec<FailureMessage>,
    on_failure: OnFailure,
) -> (DeliveryResult, Vec<String>, Arc<DeliveryWatch>) {
    let port = Arc::new(ScriptedSender { script: Mutex::new(script.into()), ..ScriptedSender::default() });
    let watch = Arc::new(DeliveryWatch::new("m", &[]));
    let (to, seen) = (Arc::<ScriptedSender>::clone(&port), Arc::<DeliveryWatch>::clone(&watch));
    let delivery = deliver(to, failure_messages, FAST, on_failure, MessageForm::Whole, seen).await;
    let arrived = values(&port.arrived.lock());
    (delivery, arrived, watch)
}

#[tokio::test]
async fn alo_1_messages_arrive_in_order_after_outage() {
    let failure_messages = vec![failure_message(&["a"]), failure_message(&["b"])];
    let (delivery, arrived, watch) = run(Vec::new(), failure_messages.clone(), OnFailure::Hold).await;
    assert!(delivery.is_complete() && arrived == ["a", "b"] && watch.failing().is_none());
    let mut long = vec![failure_message(&["a", "b", "c", "d"])];
    long.extend(failure_messages);
    let (delivery, arrived, watch) = run(vec![down(); 3], long, OnFailure::Hold).await;
    assert!(delivery.is_complete() && watch.failing().is_none());
    assert_eq!(arrived, ["a", "b", "c", "d", "a", "b"], "delivered messages are not resent");
}

#[tokio::test]
async fn oversized_message_returns_without_blocking_others() {
    for on_failure in [OnFailure::Hold, OnFailure::Drop { tries: DROP_TRIES }] {
        let (delivery, arrived, _) = run(
            vec![too_large()],
            vec![failure_message(&["large"]), failure_message(&["small"])],
            on_failure,
        )
        .await;
        assert_eq!(arrived, ["small"]);
        assert_eq!(
            delivery.too_large,
            [UndeliveredMessage { error: too_large(), rest: failure_message(&["large"]) }]
        );
        assert!(delivery.dropped.is_empty());
    }
}

#[tokio::test]
async fn messages_returned_after_configured_attempts() {
    let failure_messages = vec![failure_message(&["a", "b", "c", "d"]), failure_message(&["e"])];
    let drop = OnFailure::Drop { tries: DROP_TRIES };
    let (delivery, arrived, watch) = run(vec![down(); 3], failure_messages, drop).await;
    assert_eq!(arrived, ["a", "b", "c", "e"]);
    assert_eq!(delivery.dropped, [UndeliveredMessage { error: down(), rest: failure_message(&["d"]) }]);
    assert!(delivery.too_large.is_empty() && watch.failing().is_none());
}

#[tokio::test]
async fn dropped_delivery_stops_and_shows_last_failure() {
    let port = Arc::new(ScriptedSender::default());
    *port.script.lock() = std::iter::repeat_n(too_slow(), 1000).collect();
    let watch = Arc::new(DeliveryWatch::new("m", &[]));
    let slow = RetryPolicy { base: Duration::from_secs(3600), cap: Duration::from_secs(3600) };
    let (to, seen) = (Arc::<ScriptedSender>::clone(&port), Arc::<DeliveryWatch>::clone(&watch));
    let task = tokio::spawn(deliver(to, vec![queue()], slow, OnFailure::Hold, MessageForm::Smallest, seen));
    while watch.failing().is_none() {
        tokio::task::yield_now().await;
    }
    task.abort();
    assert!(task.await.expect_err("aborted").is_cancelled());
    let failing = watch.failing().expect("shown");
    assert!(failing.tries >= 1 && failing.next_at.is_some() && failing.error == too_slow());
    assert_eq!(Arc::strong_count(&port), 1, "no delivery continues");
}

fn too_slow() -> DeliveryError {
    DeliveryError::Throttled { to: "arn".into(), why: "slower".into() }
}

fn queue() -> FailureMessage {
    match "arn:aws:sqs:eu-west-1:123456789012:q".parse() {
        Ok(lighterman_proto::api::FailureDestination::Queue(queue)) => {
            FailureMessage::Queue { queue, body: "{}".into() }
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn failures_are_counted_but_log_limited() {
    let recorder = names::SeriesRecorder::default();
    let handle = recorder.handle();
    let watch =
        metrics::with_local_recorder(&recorder, || DeliveryWatch::new("m", &[Label::new("mapping", "m")]));
    for tries in 1..=250 {
        watch.failed(FailedTry { error: down(), tries, next_at: None });
    }
    let text = handle.render();
    assert!(text.contains("lighterman_destination_errors_total{mapping=\"m\"} 250"), "{text}");
    assert_eq!(watch.lines.pass(clock::now()), None, "one line so far, the next in a minute");
}
