//! Broker stub with prepared responses: the next one becomes readable when any request is written.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::future::BoxFuture;
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::{ApiKey, ApiVersionsResponse, ResponseHeader};
use kafka_protocol::protocol::Encodable;
use lighterman::kafka::error::KafkaError;
use lighterman::kafka::transport::{BrokerAddress, BrokerConnector, ByteTransport};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Stub that serves each connection its frames, one per request and `bytes_at_a_time` bytes per read; then the
/// connection ends.
pub(crate) struct Line {
    connections: Mutex<VecDeque<VecDeque<Bytes>>>,
    bytes_at_a_time: usize,
}

struct Stream {
    answers: VecDeque<Bytes>,
    now: Bytes,
    bytes_at_a_time: usize,
}

impl Line {
    /// Creates a stub for one connection. The first request is for versions; the response supports `api` in
    /// `version` only. `answer` is the response to the second request.
    pub(crate) fn speaking(api: ApiKey, version: i16, answer: Bytes, bytes_at_a_time: usize) -> Self {
        Self::saying([frame(1, ApiKey::ApiVersions, 3, &versions(api, version)), answer], bytes_at_a_time)
    }

    /// Creates a stub that responds with these frames, one per request.
    pub(crate) fn saying(answers: impl IntoIterator<Item = Bytes>, bytes_at_a_time: usize) -> Self {
        let connections = Mutex::new(VecDeque::from([answers.into_iter().collect()]));
        Self { connections, bytes_at_a_time: bytes_at_a_time.max(1) }
    }

    /// Serves the connections of `next` after this stub's own.
    #[allow(dead_code, reason = "most of the fuzzer's subjects make one connection")]
    pub(crate) fn then(self, next: Self) -> Self {
        let further = next.connections.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).extend(further);
        self
    }
}

fn versions(api: ApiKey, version: i16) -> Bytes {
    let range = ApiVersion::default().with_api_key(api as i16).with_min_version(version);
    let reply = ApiVersionsResponse::default().with_api_keys(vec![range.with_max_version(version)]);
    let mut body = BytesMut::new();
    reply.encode(&mut body, 3).expect("encodes");
    body.freeze()
}

/// Frames `body` as the response to request `correlation` of a connection.
pub(crate) fn frame(correlation: i32, api: ApiKey, version: i16, body: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_i32(0);
    let header = ResponseHeader::default().with_correlation_id(correlation);
    header.encode(&mut frame, api.response_header_version(version)).expect("encodes");
    frame.put_slice(body);
    let length = frame.len() as i32 - 4;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    frame.freeze()
}

impl ByteTransport for Stream {
    fn reset_on_close(&self) {}
}

impl BrokerConnector for Line {
    fn connect<'a>(
        &'a self,
        _: &'a BrokerAddress,
    ) -> BoxFuture<'a, Result<Box<dyn ByteTransport>, KafkaError>> {
        let next = self.connections.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let answers = next.unwrap_or_default();
        let stream = Stream { answers, now: Bytes::new(), bytes_at_a_time: self.bytes_at_a_time };
        Box::pin(async { Ok(Box::new(stream) as Box<dyn ByteTransport>) })
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let bytes = self.now.len().min(self.bytes_at_a_time).min(into.remaining());
        into.put_slice(&self.now[..bytes]);
        self.now.advance(bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.now = self.answers.pop_front().unwrap_or_default();
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

thread_local! {
    static RUNTIME: tokio::runtime::Runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
}

/// Runs a future on a shared runtime. Nothing here waits, because every response is prepared or missing.
#[allow(dead_code, reason = "whoever has a runtime uses that")]
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> T {
    RUNTIME.with(|runtime| runtime.block_on(work))
}
