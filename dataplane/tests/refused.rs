//! A function that is refused again and again is asked less and less often, and gets everything once it is not.

mod scene;

use std::time::Duration;

use bytes::Bytes;
use lighterman::invoker::outcome::InvokeResponse;
use lighterman::kafka::offsets::OffsetSpec;

use self::scene::scene;

const WATCHED: Duration = Duration::from_secs(6);
/// Waits that are doubled from 200 ms on, with full jitter, leave room for about seven in that time; those that are not, for sixty.
const INVOCATIONS_MAX: u32 = 20;

fn refusal(status: u16) -> InvokeResponse {
    InvokeResponse::Answer {
        status,
        function_error: None,
        error_type: Some("TooManyRequestsException".to_owned()),
        retry_after: None,
        executed_version: None,
        request_id: None,
        body: Bytes::from_static(b"{}"),
    }
}

#[test]
fn lim_1_liv_1_a_batch_that_is_refused_again_and_again_is_tried_at_doubled_waits_and_delivered_in_the_end() {
    for script in [|_| Some(refusal(429)), |_| Some(refusal(503))] {
        scene(|scene| async move {
            scene.producer(1).await.write(10).await.expect("written");
            *scene.memory.script.lock() = Some(script);
            scene.run(OffsetSpec::Earliest);
            scene.until("it is invoked", |scene| scene.memory.invocations() > 0).await;
            tokio::time::sleep(WATCHED).await;
            let invoked = scene.memory.invocations();
            assert!(invoked <= INVOCATIONS_MAX, "{invoked} invocations within {WATCHED:?}");
            *scene.memory.script.lock() = None;
            scene.until("it is delivered", |scene| scene.committed() == 10).await;
            scene.assert_each_once_in_order(10);
            scene.dataplane.drain().await;
        });
    }
}
