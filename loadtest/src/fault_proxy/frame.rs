//! Kafka frames as the proxy reads and writes them.

use std::io;

use anyhow::{Context, Result, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, RequestHeader, RequestKind, ResponseHeader, ResponseKind};
use kafka_protocol::protocol::{Decodable, Encodable};
use lighterman_proto::units::FRAME_BYTES_MAX;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Header fields that identify a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestIdentity {
    pub api: ApiKey,
    pub version: i16,
    pub correlation: i32,
}

/// Reads the next frame including its length; `None` at the end of the stream.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Bytes>> {
    let length = match stream.read_i32().await {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let bytes = usize::try_from(length).ok().filter(|bytes| *bytes <= FRAME_BYTES_MAX);
    let bytes =
        bytes.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("length {length}")))?;
    let mut frame = BytesMut::with_capacity(bytes + 4);
    frame.put_i32(length);
    while frame.len() < bytes + 4 {
        let missing = bytes + 4 - frame.len();
        if stream.read_buf(&mut (&mut frame).limit(missing)).await? == 0 {
            return Ok(None);
        }
    }
    Ok(Some(frame.freeze()))
}

/// Parses the header of a request frame.
pub(super) fn asked(frame: &Bytes) -> Result<RequestIdentity> {
    ensure!(frame.len() >= 12, "a request of {} bytes", frame.len());
    let key = i16::from_be_bytes([frame[4], frame[5]]);
    Ok(RequestIdentity {
        api: ApiKey::try_from(key).ok().with_context(|| format!("API key {key}"))?,
        version: i16::from_be_bytes([frame[6], frame[7]]),
        correlation: i32::from_be_bytes([frame[8], frame[9], frame[10], frame[11]]),
    })
}

/// Decodes a response frame.
pub(super) fn open(asked: RequestIdentity, frame: &Bytes) -> Result<ResponseKind> {
    let mut body = frame.slice(4..);
    ResponseHeader::decode(&mut body, asked.api.response_header_version(asked.version))?;
    ResponseKind::decode(asked.api, &mut body, asked.version)
}

/// Decodes a request frame.
pub(super) fn open_request(asked: RequestIdentity, frame: &Bytes) -> Result<RequestKind> {
    let mut body = frame.slice(4..);
    RequestHeader::decode(&mut body, asked.api.request_header_version(asked.version))?;
    RequestKind::decode(asked.api, &mut body, asked.version)
}

/// Returns the identity under which a response with `code` is encoded. An unsupported version is rejected in the
/// layout that every client can read (KIP-511).
pub(super) fn refused_in(asked: RequestIdentity, code: i16) -> RequestIdentity {
    let version = if asked.api == ApiKey::ApiVersions && code == 35 { 0 } else { asked.version };
    RequestIdentity { version, ..asked }
}

/// Encodes a response frame.
pub(super) fn close(asked: RequestIdentity, reply: &ResponseKind) -> Result<Bytes> {
    let mut frame = BytesMut::new();
    frame.put_i32(0);
    let header = ResponseHeader::default().with_correlation_id(asked.correlation);
    header.encode(&mut frame, asked.api.response_header_version(asked.version))?;
    reply.encode(&mut frame, asked.version)?;
    let length = frame.len() as i32 - 4;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    Ok(frame.freeze())
}
