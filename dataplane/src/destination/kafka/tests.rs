use bytes::Bytes;
use proptest::prelude::*;

use super::*;

fn message(number: usize, bytes: usize) -> TopicMessage {
    TopicMessage { key: Some(Bytes::from(number.to_string())), value: Bytes::from(vec![0; bytes]) }
}

proptest! {
    #[test]
    fn requests_keep_order_and_size_limit(
        sizes in proptest::collection::vec(0usize..2_000_000, 0..40)
    ) {
        let messages: Vec<_> = sizes.iter().enumerate().map(|(n, bytes)| message(n, *bytes)).collect();
        let requests = requests_of(messages.clone());
        for request in &requests {
            let bytes: usize = request.iter().map(|message| message.bytes() + RECORD_OVERHEAD_BYTES).sum();
            prop_assert!(request.len() == 1 || bytes <= REQUEST_BYTES_MAX, "{bytes}");
        }
        prop_assert_eq!(requests.concat(), messages);
    }
}

#[test]
fn unsent_messages_are_merged_under_one_error() {
    let to: Arc<str> = "kafka://dlq".into();
    let too_large = |n| UnsentMessages {
        messages: vec![message(n, 1)],
        error: DeliveryError::TooLarge { to: Arc::clone(&to), bytes: n, why: String::new() },
    };
    let down = |n| UnsentMessages {
        messages: vec![message(n, 1)],
        error: DeliveryError::Unreachable { to: Arc::clone(&to), why: String::new() },
    };
    assert!(rest_of("dlq".into(), Vec::new()).is_ok());
    let keys = |undelivered: &UndeliveredMessage| match &undelivered.rest {
        FailureMessage::Topic { messages, .. } => messages.iter().map(|m| m.key.clone()).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let both = rest_of("dlq".into(), vec![too_large(1), down(2), too_large(3)]).expect_err("left");
    assert!(matches!(both.error, DeliveryError::Unreachable { .. }), "{}", both.error);
    assert_eq!(keys(&both).len(), 3);
    let only = rest_of("dlq".into(), vec![too_large(1), too_large(3)]).expect_err("left");
    assert!(is_too_large(&only.error) && keys(&only).len() == 2);
}

#[tokio::test]
async fn denied_address_is_not_dialled() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("address");
    let bootstrap = vec![BrokerAddress::new("127.0.0.1", address.port())];
    let port = TopicDestinations::new(bootstrap, Arc::new(Egress::default()));
    let back = port.deliver("dlq".into(), vec![message(1, 1)]).await.expect_err("denied");
    assert!(matches!(back.error, DeliveryError::Egress { .. }), "{}", back.error);
    assert!(futures::poll!(Box::pin(listener.accept())).is_pending(), "no connection was opened");
}
