//! An abandoned request does not reach its broker later (H6).

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::{ApiKey, ApiVersionsResponse, HeartbeatRequest, ResponseHeader};
use kafka_protocol::protocol::Encodable;
use lighterman::egress::Egress;
use lighterman::kafka::connection::{BrokerConnection, versions};
use lighterman::kafka::error::KafkaError;
use lighterman::kafka::transport::{BrokerAddress, PlainTcp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Accepts a connection and answers its ApiVersions request with support for heartbeats.
async fn negotiated(listener: &TcpListener) -> TcpStream {
    let (mut stream, _) = listener.accept().await.expect("dialled");
    let length = stream.read_u32().await.expect("a frame");
    stream.read_exact(&mut vec![0; length as usize]).await.expect("all of it");
    let heartbeat = ApiVersion::default().with_api_key(ApiKey::Heartbeat as i16).with_max_version(4);
    let reply = ApiVersionsResponse::default().with_api_keys(vec![heartbeat]);
    let mut frame = BytesMut::new();
    frame.put_u32(0);
    ResponseHeader::default().with_correlation_id(1).encode(&mut frame, 0).expect("encodes");
    reply.encode(&mut frame, 3).expect("encodes");
    let length = frame.len() as u32 - 4;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    stream.write_all(&frame).await.expect("heard");
    stream
}

#[tokio::test]
async fn com_1_abandoned_request_is_reset_not_delivered_late() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = BrokerAddress::new("127.0.0.1", listener.local_addr().expect("bound").port());
    let deadline = Duration::from_secs(10);
    let connector = PlainTcp::new(Arc::new(Egress::laptop()));
    let opened = async {
        tokio::join!(BrokerConnection::open(&connector, &address, "test", deadline), negotiated(&listener))
    };
    let (connection, mut broker) = tokio::time::timeout(deadline, opened).await.expect("both complete");
    let mut connection = connection.expect("versions agreed");
    let given_up =
        connection.call(versions(0, 4), Duration::from_millis(20), |_| HeartbeatRequest::default()).await;
    assert!(matches!(&given_up, Err(error @ KafkaError::Timeout { .. }) if error.may_still_apply()));
    drop(connection);
    let ended = tokio::time::timeout(deadline, broker.read_to_end(&mut Vec::new())).await.expect("it ends");
    let kind = ended.expect_err("a regular close delivers buffered bytes").kind();
    assert_eq!(kind, std::io::ErrorKind::ConnectionReset);
}
