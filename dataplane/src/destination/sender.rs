//! Delivery of a partition's failed records to the mapping's destination.

use std::sync::Arc;

use futures::future::BoxFuture;
use lighterman_proto::api::FailureDestination;
use lighterman_proto::failure::FailureCondition;
use lighterman_proto::ids::TopicPartition;
use tokio::sync::{Mutex, Semaphore};
use uuid::Uuid;

use super::delivery::{DeliveryObserver, DeliveryResult, deliver};
use super::encode::{FailureContext, FailureEncoder};
use super::message::{DestinationPort, FailureMessage, UndeliveredMessage};
use super::raw::RawFacts;
use super::retry::{DROP_TRIES, MessageForm, OnFailure};
use crate::credit::memory_budget::{MemoryBudget, Overdraft};
use crate::invoker::retry::RetryPolicy;
use crate::messages::dead_letter::{
    AbandonedRecords, DeadLetterLoad, DeadLetterRequest, DeadLetterResult, DeadLetterSink, RawBatch,
};
use crate::runtime::clock;

/// Sink of failed records at one destination.
#[derive(Clone)]
pub struct DestinationSink {
    /// Encoder of the failure messages.
    pub sender: FailureEncoder,
    /// Destination of the messages.
    pub destination: FailureDestination,
    /// Port through which they are delivered.
    pub port: Arc<dyn DestinationPort>,
    /// Backoff between attempts.
    pub retry: RetryPolicy,
    /// Behaviour while the destination fails: hold or drop.
    pub on_failure: OnFailure,
    /// Observer of the deliveries.
    pub observer: Arc<dyn DeliveryObserver>,
    /// Memory budget that the messages are leased from.
    pub budget: MemoryBudget,
    /// Limit of the mapping's messages in memory. While the destination is down, the other partitions wait without
    /// one.
    pub permits: Arc<Semaphore>,
}

/// Number of permits in [`DestinationSink::permits`].
pub const MESSAGES_AT_ONCE: usize = 2;

impl DestinationSink {
    /// Returns AWS's behaviour to drop, or the default to hold.
    pub fn on_failure(drop: bool) -> OnFailure {
        if drop { OnFailure::Drop { tries: DROP_TRIES } } else { OnFailure::Hold }
    }

    async fn send(self, dead_letter_request: &DeadLetterRequest) -> DeadLetterResult {
        let Ok(_turn) = self.permits.acquire().await else { return DeadLetterResult::Stopped };
        match &dead_letter_request.load {
            DeadLetterLoad::Records { records, condition } => {
                self.send_records(&dead_letter_request.partition, records, *condition).await
            }
            DeadLetterLoad::Raw(batch) => self.send_raw(&dead_letter_request.partition, batch).await,
        }
    }

    async fn send_raw(&self, partition: &TopicPartition, batch: &RawBatch) -> DeadLetterResult {
        let bytes = FailureEncoder::raw_bytes_max(&self.destination, batch);
        let _lease = self.budget.lease_or_overdraft(bytes, Overdraft::Letter).await;
        let facts = RawFacts { partition, batch, at: clock::wall_ms(), random: Uuid::new_v4() };
        let failure_message = self.sender.raw_failure_message(&self.destination, &facts);
        let delivery = self.deliver(vec![failure_message], FailureEncoder::raw_form(&self.destination)).await;
        let (false, FailureDestination::Topic(topic)) = (delivery.too_large.is_empty(), &self.destination)
        else {
            return buried(&delivery);
        };
        let smaller = self.sender.raw_letter_without_bytes(topic, &facts);
        buried(&self.deliver(vec![smaller], MessageForm::Smallest).await)
    }

    async fn send_records(
        &self,
        partition: &TopicPartition,
        records: &AbandonedRecords,
        condition: FailureCondition,
    ) -> DeadLetterResult {
        let bytes = FailureEncoder::bytes_max(&self.destination, records);
        let _lease = self.budget.lease_or_overdraft(bytes, Overdraft::Letter).await;
        let facts = FailureContext {
            partition: partition.partition,
            records,
            condition,
            at: clock::wall_ms(),
            random: Uuid::new_v4(),
        };
        let Some(failure_message) = self.sender.failure_message(&self.destination, &facts) else {
            return DeadLetterResult::Acknowledged;
        };
        let delivery =
            self.deliver(vec![failure_message], FailureEncoder::form(&self.destination, records)).await;
        if delivery.too_large.is_empty() || !delivery.dropped.is_empty() {
            return buried(&delivery);
        }
        let smaller: Option<Vec<FailureMessage>> =
            delivery.too_large.iter().map(|undelivered| self.smaller(&facts, undelivered)).collect();
        match smaller {
            Some(smaller) => buried(&self.deliver(smaller, MessageForm::Smallest).await),
            None => DeadLetterResult::Dropped,
        }
    }

    fn smaller(
        &self,
        facts: &FailureContext<'_>,
        undelivered: &UndeliveredMessage,
    ) -> Option<FailureMessage> {
        let FailureMessage::Topic { topic, messages } = &undelivered.rest else { return None };
        self.sender.without_payload(topic, facts, messages)
    }

    async fn deliver(&self, failure_messages: Vec<FailureMessage>, form: MessageForm) -> DeliveryResult {
        let (port, observer) = (Arc::clone(&self.port), Arc::clone(&self.observer));
        deliver(port, failure_messages, self.retry, self.on_failure, form, observer).await
    }
}

/// Maps a delivery to its result. Only a complete one is acknowledged.
fn buried(delivery: &DeliveryResult) -> DeadLetterResult {
    if delivery.is_complete() { DeadLetterResult::Acknowledged } else { DeadLetterResult::Dropped }
}

impl DeadLetterSink for DestinationSink {
    fn send_dead_letter(
        &self,
        mut dead_letter_request: DeadLetterRequest,
    ) -> BoxFuture<'static, DeadLetterResult> {
        let wire = Arc::new(Mutex::new(()));
        let port = Arc::new(OnTheWire { port: Arc::clone(&self.port), wire: Arc::clone(&wire) });
        let me = Self { port, ..self.clone() };
        Box::pin(async move {
            let (_open, closed) = tokio::sync::oneshot::channel();
            let stop = std::mem::replace(&mut dead_letter_request.stop, closed);
            // A call on the wire is not cancelled: it may have arrived, and the next owner would send it again.
            let stopped = async {
                let _ = stop.await;
                wire.lock().await
            };
            tokio::select! {
                biased;
                buried = me.send(&dead_letter_request) => buried,
                _wire = stopped => DeadLetterResult::Stopped,
            }
        })
    }
}

/// Port that holds a lock during each call. While another holds the lock, no call is under way.
struct OnTheWire {
    port: Arc<dyn DestinationPort>,
    wire: Arc<Mutex<()>>,
}

impl DestinationPort for OnTheWire {
    fn deliver(
        &self,
        failure_message: FailureMessage,
    ) -> BoxFuture<'static, Result<(), Box<UndeliveredMessage>>> {
        let (port, wire) = (Arc::clone(&self.port), Arc::clone(&self.wire));
        Box::pin(async move {
            let _call = wire.lock().await;
            port.deliver(failure_message).await
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::time::Duration;

    use lighterman_proto::event::{EventEnvelope, EventSource};
    use lighterman_proto::failure::RecordSource;
    use lighterman_proto::ids::{MappingId, Offset, OffsetRange};
    use serde_json::Value;
    use tokio::sync::oneshot;

    use super::*;
    use crate::destination::delivery::FailedTry;
    use crate::destination::error::DeliveryError;
    use crate::partition::model_tests::{batch, cut_of};

    /// Port that returns the scripted errors, then accepts everything.
    #[derive(Default)]
    struct ScriptedPost {
        refusals: parking_lot::Mutex<VecDeque<DeliveryError>>,
        taken: parking_lot::Mutex<Vec<FailureMessage>>,
    }

    impl DestinationPort for ScriptedPost {
        fn deliver(
            &self,
            failure_message: FailureMessage,
        ) -> BoxFuture<'static, Result<(), Box<UndeliveredMessage>>> {
            let refused = self.refusals.lock().pop_front();
            let answer = match refused {
                Some(error) => Err(Box::new(UndeliveredMessage { error, rest: failure_message })),
                None => {
                    self.taken.lock().push(failure_message);
                    Ok(())
                }
            };
            Box::pin(std::future::ready(answer))
        }
    }

    struct AbsentDestination;

    impl DeliveryObserver for AbsentDestination {
        fn failed(&self, _: FailedTry) {}
        fn arrived(&self) {}
    }

    fn dead_letters(post: &Arc<ScriptedPost>, destination: &str, drop: bool) -> DestinationSink {
        let envelope = EventEnvelope::new(&EventSource::SelfManaged, "b:9092", "t");
        DestinationSink {
            sender: FailureEncoder {
                mapping: MappingId(Uuid::nil()),
                function_arn: "arn:aws:lambda:eu-west-1:000000000000:function:f".into(),
                source: RecordSource { arn: None, bootstrap_servers: "b:9092".into() },
                topic: "t".into(),
                envelope: Arc::new(envelope),
            },
            destination: destination.parse().expect("a destination"),
            port: Arc::<ScriptedPost>::clone(post),
            retry: RetryPolicy { base: Duration::from_millis(1), cap: Duration::from_millis(2) },
            on_failure: DestinationSink::on_failure(drop),
            observer: Arc::new(AbsentDestination),
            budget: MemoryBudget::new(1 << 20),
            permits: Arc::new(Semaphore::new(MESSAGES_AT_ONCE)),
        }
    }

    fn dead_letter_request() -> (DeadLetterRequest, oneshot::Sender<()>) {
        let (keep, stop) = oneshot::channel();
        let batch = cut_of(&batch(10, &[(0, 5), (1, 5)], 1, false));
        let records = AbandonedRecords { batch, attempts_used: 0, last: None };
        let load = DeadLetterLoad::Records {
            records: Box::new(records),
            condition: FailureCondition::RetryAttemptsExhausted,
        };
        (DeadLetterRequest { partition: TopicPartition::new("t", 3), load, stop }, keep)
    }

    fn unreadable() -> (DeadLetterRequest, oneshot::Sender<()>) {
        let (keep, stop) = oneshot::channel();
        let range = OffsetRange { first: Offset(40), end: Offset(140) };
        let hold = crate::partition::model_tests::hold();
        let batch = RawBatch { range, raw: "\0raw".into(), why: "CRC".into(), hold };
        (
            DeadLetterRequest {
                partition: TopicPartition::new("t", 3),
                load: DeadLetterLoad::Raw(batch),
                stop,
            },
            keep,
        )
    }

    #[tokio::test]
    async fn alo_1_raw_bytes_are_sent_where_they_fit() {
        let post = Arc::new(ScriptedPost::default());
        for destination in
            ["arn:aws:sqs:eu-west-1:000000000000:q", "arn:aws:s3:::failed-records", "kafka://failed"]
        {
            let (dead_letter_request, _keep) = unreadable();
            assert_eq!(
                dead_letters(&post, destination, false).send_dead_letter(dead_letter_request).await,
                DeadLetterResult::Acknowledged
            );
        }
        post.refusals.lock().push_back(too_large());
        let (dead_letter_request, _keep) = unreadable();
        assert_eq!(
            dead_letters(&post, "kafka://failed", false).send_dead_letter(dead_letter_request).await,
            DeadLetterResult::Acknowledged
        );
        let taken = post.taken.lock();
        let [
            FailureMessage::Queue { body: queued, .. },
            FailureMessage::Object { key, body, .. },
            FailureMessage::Topic { messages: whole, .. },
            FailureMessage::Topic { messages: facts, .. },
        ] = &taken[..]
        else {
            panic!("{taken:?}")
        };
        assert!(key.ends_with("-40-140.batch"), "{key}");
        assert_eq!((&body[..], &whole[0].value[..]), (&b"\0raw"[..], &b"\0raw"[..]));
        assert_eq!(whole[0].key.as_deref(), Some(&b"t-3:40-140"[..]));
        for text in [queued.as_bytes(), &facts[0].value] {
            let told: Value = serde_json::from_slice(text).expect("JSON");
            assert_eq!(told["requestContext"]["condition"], "BatchUnreadable");
            let of_partition = &told["KafkaBatchInfo"]["recordsInfo"]["t-3"];
            assert_eq!(of_partition["firstRecordOffset"], "40");
            assert_eq!(of_partition["lastRecordOffset"], "139");
        }
    }

    fn down() -> DeliveryError {
        DeliveryError::Failed { to: "d".into(), why: "on purpose".into() }
    }

    #[tokio::test]
    async fn alo_1_failing_destination_is_retried_until_records_arrive() {
        let post = Arc::new(ScriptedPost::default());
        post.refusals.lock().extend(std::iter::repeat_n(down(), 20));
        let (dead_letter_request, _keep) = dead_letter_request();
        let dead_letters = dead_letters(&post, "arn:aws:sqs:eu-west-1:000000000000:q", false);
        assert_eq!(dead_letters.send_dead_letter(dead_letter_request).await, DeadLetterResult::Acknowledged);
        let taken = post.taken.lock();
        let [FailureMessage::Queue { body, .. }] = &taken[..] else { panic!("{taken:?}") };
        let record: Value = serde_json::from_str(body).expect("JSON");
        let info = &record["KafkaBatchInfo"]["recordsInfo"]["t-3"];
        assert_eq!((&info["firstRecordOffset"], &info["lastRecordOffset"]), (&"10".into(), &"11".into()));
        assert_eq!(dead_letters.budget.leased(), 0, "MEM-1: the dead letter's lease is returned");
    }

    #[tokio::test]
    async fn records_are_dropped_after_failed_tries() {
        let post = Arc::new(ScriptedPost::default());
        post.refusals.lock().extend(std::iter::repeat_n(down(), 20));
        let (dead_letter_request, _keep) = dead_letter_request();
        let buried = dead_letters(&post, "arn:aws:sqs:eu-west-1:000000000000:q", true)
            .send_dead_letter(dead_letter_request)
            .await;
        assert_eq!((buried, post.taken.lock().len()), (DeadLetterResult::Dropped, 0));
    }

    #[tokio::test]
    async fn oversized_message_is_sent_without_payload() {
        let post = Arc::new(ScriptedPost::default());
        post.refusals.lock().push_back(too_large());
        let (dead_letter_request, _keep) = dead_letter_request();
        assert_eq!(
            dead_letters(&post, "kafka://failed", false).send_dead_letter(dead_letter_request).await,
            DeadLetterResult::Acknowledged
        );
        let taken = post.taken.lock();
        let [FailureMessage::Topic { messages, .. }] = &taken[..] else { panic!("{taken:?}") };
        assert_eq!(messages.len(), 2);
        for message in messages {
            let record: Value = serde_json::from_slice(&message.value).expect("JSON");
            assert_eq!(record.get("payload"), None, "{record}");
        }
    }

    fn too_large() -> DeliveryError {
        DeliveryError::TooLarge { to: "d".into(), bytes: 9, why: "limit".into() }
    }

    #[tokio::test]
    async fn alo_1_oversized_smallest_form_held_or_dropped() {
        let refusals = [
            ("arn:aws:sqs:eu-west-1:000000000000:q", 5),
            ("arn:aws:sns:eu-west-1:000000000000:n", 5),
            ("arn:aws:s3:::failed-records", 5),
            // First the whole message, then its smaller form.
            ("kafka://failed", 6),
        ];
        for (destination, refused) in refusals {
            for (make, what) in [(dead_letter_request as fn() -> _, "records"), (unreadable, "a raw batch")] {
                let post = Arc::new(ScriptedPost::default());
                post.refusals.lock().extend(std::iter::repeat_n(too_large(), refused));
                let (dead_letter_request, _keep) = make();
                let buried =
                    dead_letters(&post, destination, false).send_dead_letter(dead_letter_request).await;
                assert_eq!(buried, DeadLetterResult::Acknowledged, "{what} to {destination}");
                assert_eq!(
                    post.taken.lock().len(),
                    1,
                    "{what} to {destination}: only the accepted message is acknowledged"
                );

                post.refusals.lock().extend(std::iter::repeat_n(too_large(), refused));
                let (dead_letter_request, _keep) = make();
                let buried =
                    dead_letters(&post, destination, true).send_dead_letter(dead_letter_request).await;
                assert_eq!(buried, DeadLetterResult::Dropped, "{what} to {destination}");
                assert_eq!(
                    post.taken.lock().len(),
                    1,
                    "{what} to {destination}: no further message has arrived"
                );
            }
        }
    }

    #[tokio::test]
    async fn alo_1_unheld_record_has_no_payload_to_omit() {
        let post = Arc::new(ScriptedPost::default());
        post.refusals.lock().extend(std::iter::repeat_n(too_large(), 2));
        let (mut dead_letter_request, _keep) = dead_letter_request();
        let DeadLetterLoad::Records { records, .. } = &mut dead_letter_request.load else {
            panic!("records")
        };
        records.batch.runs[0].unheld = true;
        assert_eq!(
            dead_letters(&post, "kafka://failed", false).send_dead_letter(dead_letter_request).await,
            DeadLetterResult::Acknowledged
        );
        let taken = post.taken.lock();
        let [FailureMessage::Topic { messages, .. }] = &taken[..] else { panic!("{taken:?}") };
        assert_eq!(messages.len(), 2, "all records are sent");
    }

    #[tokio::test]
    async fn object_holds_whole_event_and_delivery_can_stop() {
        let post = Arc::new(ScriptedPost::default());
        let bucket = dead_letters(&post, "arn:aws:s3:::failed-records", false);
        let (one, _keep) = dead_letter_request();
        assert_eq!(bucket.send_dead_letter(one).await, DeadLetterResult::Acknowledged);
        {
            let taken = post.taken.lock();
            let [FailureMessage::Object { body, .. }] = &taken[..] else { panic!("{taken:?}") };
            let record: Value = serde_json::from_slice(body).expect("JSON");
            let event: Value = serde_json::from_str(record["payload"].as_str().expect("text")).expect("JSON");
            assert_eq!(event["records"]["t-3"].as_array().map(Vec::len), Some(2));
        }
        post.refusals.lock().extend(std::iter::repeat_n(down(), 1_000_000));
        let (two, keep) = dead_letter_request();
        drop(keep);
        assert_eq!(bucket.send_dead_letter(two).await, DeadLetterResult::Stopped);
    }

    /// Port whose calls complete when the test lets them.
    struct SlowDestination {
        calls: parking_lot::Mutex<VecDeque<oneshot::Receiver<Option<DeliveryError>>>>,
    }

    impl DestinationPort for SlowDestination {
        fn deliver(
            &self,
            failure_message: FailureMessage,
        ) -> BoxFuture<'static, Result<(), Box<UndeliveredMessage>>> {
            let call = self.calls.lock().pop_front().expect("no call after the stop");
            Box::pin(async move {
                match call.await.expect("an answer") {
                    Some(error) => Err(Box::new(UndeliveredMessage { error, rest: failure_message })),
                    None => Ok(()),
                }
            })
        }
    }

    #[tokio::test]
    async fn drn_1_stop_waits_for_message_on_the_wire() {
        for (answer, expected) in
            [(None, DeadLetterResult::Acknowledged), (Some(down()), DeadLetterResult::Stopped)]
        {
            let (reply, call) = oneshot::channel();
            let port = Arc::new(SlowDestination { calls: parking_lot::Mutex::new(VecDeque::from([call])) });
            let post = Arc::new(ScriptedPost::default());
            let dead_letters = DestinationSink {
                port,
                ..dead_letters(&post, "arn:aws:sqs:eu-west-1:000000000000:q", false)
            };
            let (dead_letter_request, keep) = dead_letter_request();
            let mut buried = dead_letters.send_dead_letter(dead_letter_request);
            assert!(futures::poll!(&mut buried).is_pending());
            drop(keep);
            assert!(futures::poll!(&mut buried).is_pending(), "the message may have arrived");
            reply.send(answer).expect("the call waits for its reply");
            assert_eq!(buried.await, expected);
        }
    }
}
