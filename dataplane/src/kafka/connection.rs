//! Connection to one broker: framing, correlation, version negotiation, deadlines.
//!
//! A connection carries one exchange at a time. After an error, a late response could not be matched to a request,
//! so the connection is dropped and dialled again (H6, H7).

use std::collections::BTreeMap;
use std::io;
use std::thread::{self, ThreadId};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, ApiVersionsResponse, RequestHeader, ResponseHeader,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes, VersionRange};
use lighterman_proto::units::FRAME_BYTES_MAX;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use super::error::KafkaError;
use super::schema;
use super::transport::{BrokerAddress, BrokerConnector, ByteTransport};

/// Returns the range of versions of one API that the client supports. A connection picks the highest version that
/// the broker supports too (KIP-896).
pub const fn versions(min: i16, max: i16) -> VersionRange {
    VersionRange { min, max }
}

const UNSUPPORTED_VERSION: i16 = 35;
const WRITE_BUFFER_KEEP_MAX: usize = 64 * 1024;
const LENGTH_BYTES: usize = 4;
/// Limit on the frame of a response without records. Only Fetch returns records. Other responses cover one topic and
/// one group and are far shorter, and no budget accounts for them.
const FRAME_BYTES_MAX_WITHOUT_RECORDS: usize = 16 * 1024 * 1024;
/// Limit of the first read. Commit and heartbeat responses are shorter; for a fetch response, this many bytes are
/// copied once more.
const FIRST_READ_BYTES_MAX: usize = 512;
/// Deadline of a dial. A reachable host answers within it, including name resolution and two lost SYNs. The
/// negotiation after it may take longer.
const DIAL_DEADLINE: Duration = Duration::from_secs(4);

/// Connection with negotiated API versions.
pub struct BrokerConnection {
    address: BrokerAddress,
    dialing_thread: ThreadId,
    stream: Box<dyn ByteTransport>,
    inbound: BytesMut,
    outbound: BytesMut,
    client_id: StrBytes,
    correlation: i32,
    offered: BTreeMap<i16, VersionRange>,
    poisoned: bool,
}

/// Request that was sent and awaits its response, with the parameters needed to decode that response.
#[must_use = "a request that was sent has a reply on its way"]
pub struct PendingReply {
    api: ApiKey,
    version: i16,
    correlation: i32,
}

/// Response whose first bytes have arrived, with its length.
#[must_use = "the rest of the reply is on its way"]
pub struct ArrivingReply {
    pending: PendingReply,
    length: usize,
}

impl ArrivingReply {
    /// Returns the length of the response, in bytes.
    pub fn bytes(&self) -> usize {
        self.length
    }
}

impl BrokerConnection {
    /// Dials the broker and negotiates API versions, both within `deadline`.
    pub async fn open(
        connector: &dyn BrokerConnector,
        address: &BrokerAddress,
        client_id: &str,
        deadline: Duration,
    ) -> Result<Self, KafkaError> {
        let expired = || KafkaError::Connect {
            address: address.clone(),
            source: io::Error::new(io::ErrorKind::TimedOut, "no connection in time"),
        };
        timeout(deadline, async {
            let dialled = timeout(DIAL_DEADLINE, connector.connect(address)).await;
            let stream = dialled.map_err(|_| expired())??;
            let mut connection = Self {
                address: address.clone(),
                dialing_thread: thread::current().id(),
                stream,
                inbound: BytesMut::new(),
                outbound: BytesMut::new(),
                client_id: StrBytes::from_string(client_id.to_owned()),
                correlation: 0,
                offered: BTreeMap::new(),
                poisoned: false,
            };
            connection.negotiate(deadline).await?;
            Ok(connection)
        })
        .await
        .map_err(|_| expired())?
    }

    /// Returns the address of the broker.
    pub fn address(&self) -> &BrokerAddress {
        &self.address
    }

    /// True on the thread that dialled the connection, where a response wakes no other thread.
    pub fn is_on_dialing_thread(&self) -> bool {
        self.dialing_thread == thread::current().id()
    }

    /// True after an error: the connection must be dropped and dialled again.
    pub fn is_spoiled(&self) -> bool {
        self.poisoned
    }

    /// Returns the highest version of `api` that both sides support, or the error that names both ranges.
    pub fn pick(&self, api: ApiKey, ours: VersionRange) -> Result<i16, KafkaError> {
        let theirs = self.offered.get(&(api as i16)).copied();
        let shared = theirs.map(|range| range.intersect(&ours)).filter(|shared| !shared.is_empty());
        shared.map(|range| range.max).ok_or_else(|| KafkaError::Version {
            address: self.address.clone(),
            api,
            theirs: theirs.map_or_else(|| "nothing".to_owned(), |range| range.to_string()),
            ours: ours.to_string(),
        })
    }

    /// Sends a request in the highest version of `ours` that the broker supports, and awaits the response. Sending
    /// and receiving each have `deadline`. `build` gets the version that was picked: fields that a version lacks
    /// must stay at their defaults.
    pub async fn call<R: Request>(
        &mut self,
        ours: VersionRange,
        deadline: Duration,
        build: impl FnOnce(i16) -> R,
    ) -> Result<(R::Response, i16), KafkaError> {
        let version = self.pick(api_of::<R>(), ours)?;
        let pending = self.send(&build(version), version, deadline).await?;
        let body = self.receive::<R>(pending, deadline).await?;
        Ok((body, version))
    }

    /// Sends a request; [`BrokerConnection::receive`] reads its response.
    pub async fn send<R: Request>(
        &mut self,
        request: &R,
        version: i16,
        deadline: Duration,
    ) -> Result<PendingReply, KafkaError> {
        let api = api_of::<R>();
        self.correlation = self.correlation.wrapping_add(1);
        let correlation = self.correlation;
        self.encode(request, version, correlation)?;
        let address = self.address.clone();
        self.poisoned = true;
        match timeout(deadline, self.stream.write_all(&self.outbound)).await {
            Err(_) => Err(KafkaError::Timeout { address, api, after: deadline }),
            Ok(Err(source)) => Err(KafkaError::Closed { address, api, source }),
            Ok(Ok(())) => Ok(PendingReply { api, version, correlation }),
        }
    }

    /// Reads the response of `pending`. Its records are slices of the received frame.
    pub async fn receive<R: Request>(
        &mut self,
        pending: PendingReply,
        deadline: Duration,
    ) -> Result<R::Response, KafkaError> {
        let mut frame = self.receive_frame(&pending, deadline).await?;
        let body = self.decode::<R::Response>(&pending, &mut frame)?;
        self.poisoned = false;
        Ok(body)
    }

    /// Waits for the response of `pending` without allocating memory for its body. The caller reserves memory and
    /// continues with [`BrokerConnection::receive_rest`]. Until then the body stays in the socket, and the broker's
    /// side of the connection is full.
    pub async fn await_reply(
        &mut self,
        pending: PendingReply,
        deadline: Duration,
    ) -> Result<ArrivingReply, KafkaError> {
        let api = pending.api;
        let read = timeout(deadline, self.read_length(frame_bytes_max(api))).await;
        let length = self.came(api, deadline, read)?;
        Ok(ArrivingReply { pending, length })
    }

    /// Reads the rest of a response. Its records are slices of the received frame.
    pub async fn receive_rest<R: Request>(
        &mut self,
        arriving: ArrivingReply,
        deadline: Duration,
    ) -> Result<R::Response, KafkaError> {
        let ArrivingReply { pending, length } = arriving;
        let read = timeout(deadline, self.read_rest(length)).await;
        let mut frame = self.came(pending.api, deadline, read)?;
        let body = self.decode::<R::Response>(&pending, &mut frame)?;
        self.poisoned = false;
        Ok(body)
    }

    async fn receive_frame(
        &mut self,
        pending: &PendingReply,
        deadline: Duration,
    ) -> Result<Bytes, KafkaError> {
        let api = pending.api;
        let read = timeout(deadline, async {
            let length = self.read_length(frame_bytes_max(api)).await?;
            self.read_rest(length).await
        });
        let read = read.await;
        self.came(api, deadline, read)
    }

    fn came<T>(
        &self,
        api: ApiKey,
        after: Duration,
        read: Result<io::Result<T>, Elapsed>,
    ) -> Result<T, KafkaError> {
        let address = self.address.clone();
        match read {
            Err(_) => Err(KafkaError::Timeout { address, api, after }),
            Ok(Err(source)) if source.kind() == io::ErrorKind::InvalidData => {
                Err(KafkaError::Frame { address, what: source.to_string() })
            }
            Ok(Err(source)) => Err(KafkaError::Closed { address, api, source }),
            Ok(Ok(came)) => Ok(came),
        }
    }

    /// Reads the length of a frame. Only one exchange is in flight, so no byte of another frame can follow this one.
    /// The first read can therefore ask for more than the length, and a short response arrives whole.
    async fn read_length(&mut self, bytes_max: usize) -> io::Result<usize> {
        self.inbound.clear();
        self.inbound.reserve(FIRST_READ_BYTES_MAX);
        self.read_until(LENGTH_BYTES, FIRST_READ_BYTES_MAX).await?;
        let length = self.inbound.get_i32();
        usize::try_from(length).ok().filter(|n| (4..=bytes_max).contains(n)).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("frame length {length} is not within 4..={bytes_max}"),
            )
        })
    }

    async fn read_rest(&mut self, length: usize) -> io::Result<Bytes> {
        self.inbound.reserve(length.saturating_sub(self.inbound.len()));
        self.read_until(length, length).await?;
        let frame = self.inbound.split_to(length).freeze();
        if self.inbound.is_empty() {
            return Ok(frame);
        }
        let what = format!("{} bytes behind the answer to the only request", self.inbound.len());
        Err(io::Error::new(io::ErrorKind::InvalidData, what))
    }

    /// Reads until at least `enough` bytes are buffered, and at most `bytes_max`.
    async fn read_until(&mut self, enough: usize, bytes_max: usize) -> io::Result<()> {
        while self.inbound.len() < enough {
            let room = bytes_max - self.inbound.len();
            if self.stream.read_buf(&mut (&mut self.inbound).limit(room)).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    fn decode<B: Decodable + HeaderVersion>(
        &self,
        pending: &PendingReply,
        frame: &mut Bytes,
    ) -> Result<B, KafkaError> {
        let unreadable =
            |what: String| KafkaError::Decode { address: self.address.clone(), api: pending.api, what };
        let header_version = B::header_version(pending.version);
        schema::check_header(header_version, frame).map_err(unreadable)?;
        let header =
            ResponseHeader::decode(frame, header_version).map_err(|error| unreadable(error.to_string()))?;
        if header.correlation_id != pending.correlation {
            return Err(unreadable(format!(
                "it answers request {}, not {}",
                header.correlation_id, pending.correlation
            )));
        }
        schema::check(pending.api, pending.version, frame).map_err(unreadable)?;
        let body = B::decode(frame, pending.version).map_err(|error| unreadable(error.to_string()))?;
        if frame.has_remaining() {
            return Err(unreadable(format!("{} bytes are left over", frame.remaining())));
        }
        Ok(body)
    }

    fn encode<R: Request>(&mut self, request: &R, version: i16, correlation: i32) -> Result<(), KafkaError> {
        let api = api_of::<R>();
        let address = &self.address;
        let unwritable = |error: anyhow::Error| KafkaError::Decode {
            address: address.clone(),
            api,
            what: format!("our own request in version {version} cannot be written: {error}"),
        };
        if self.outbound.capacity() > WRITE_BUFFER_KEEP_MAX {
            self.outbound = BytesMut::new();
        }
        self.outbound.clear();
        self.outbound.put_i32(0);
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(correlation)
            .with_client_id(Some(self.client_id.clone()));
        header.encode(&mut self.outbound, R::header_version(version)).map_err(unwritable)?;
        request.encode(&mut self.outbound, version).map_err(unwritable)?;
        let length = self.outbound.len() as i32 - 4;
        self.outbound[..4].copy_from_slice(&length.to_be_bytes());
        Ok(())
    }

    /// Negotiates API versions. A broker that does not support the client's ApiVersions version responds in version
    /// 0 with error 35; the request is then repeated in version 0 (KIP-511).
    async fn negotiate(&mut self, deadline: Duration) -> Result<(), KafkaError> {
        let flexible = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str("lighterman"))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        let mut answer = self.ask_versions(&flexible, 3, deadline).await?;
        if answer.error_code == UNSUPPORTED_VERSION {
            answer = self.ask_versions(&ApiVersionsRequest::default(), 0, deadline).await?;
        }
        // An error response lists no versions. A connection kept after it would treat the broker as one that
        // supports nothing.
        if let Some(code) = ResponseError::try_from_code(answer.error_code) {
            return Err(KafkaError::broker(ApiKey::ApiVersions, self.address.to_string(), code));
        }
        self.offered = answer
            .api_keys
            .iter()
            .map(|api| (api.api_key, versions(api.min_version, api.max_version)))
            .collect();
        Ok(())
    }

    async fn ask_versions(
        &mut self,
        request: &ApiVersionsRequest,
        version: i16,
        deadline: Duration,
    ) -> Result<ApiVersionsResponse, KafkaError> {
        let pending = self.send(request, version, deadline).await?;
        let frame = self.receive_frame(&pending, deadline).await?;
        let error_code = frame.get(4..6).map_or(0, |code| i16::from_be_bytes([code[0], code[1]]));
        let version = if error_code == UNSUPPORTED_VERSION { 0 } else { pending.version };
        let body = self.decode(&PendingReply { version, ..pending }, &mut frame.clone())?;
        self.poisoned = false;
        Ok(body)
    }
}

/// Resets the connection after an error. After a normal close, the kernel would try for minutes to deliver the
/// abandoned request, and a broker would serve it after newer ones (H6).
impl Drop for BrokerConnection {
    fn drop(&mut self) {
        if self.poisoned {
            self.stream.reset_on_close();
        }
    }
}

fn frame_bytes_max(api: ApiKey) -> usize {
    if api == ApiKey::Fetch { FRAME_BYTES_MAX } else { FRAME_BYTES_MAX_WITHOUT_RECORDS }
}

fn api_of<R: Request>() -> ApiKey {
    ApiKey::try_from(R::KEY).expect("kafka-protocol knows its own keys")
}
