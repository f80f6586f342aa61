//! A function that keeps rejecting invocations is invoked less and less often, and receives everything once it
//! accepts them.

mod scene;

use std::time::Duration;

use bytes::Bytes;
use lighterman::invoker::outcome::InvokeResponse;
use lighterman::kafka::offsets::OffsetSpec;

use self::scene::scene;

const WATCHED: Duration = Duration::from_secs(6);
/// Waits that double from 200 ms with full jitter permit about seven invocations in that time; constant ones permit
/// sixty.
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
fn lim_1_liv_1_rejected_batch_backs_off_and_is_delivered() {
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
