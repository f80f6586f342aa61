//! Gate on a connection's socket, where bytes leave the process. The lease is checked here, with nothing left to
//! wait for. The gate records how much of a request has left: none, some or all. It also lets the response of a
//! server that closes early still be read.

use std::convert::Infallible;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use crate::invoker::permit::SendPermit;
use crate::runtime::clock;

/// Interval of lease checks while the peer accepts no bytes.
const LOOK_STALLED: Duration = Duration::from_millis(100);

/// Proof that a request has not left as a whole, and the reason. Except with [`UnsentProof::NoLease`], no byte of
/// it has left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum UnsentProof {
    /// The lease ended before or during the request, or the permit was revoked.
    NoLease,
    /// The server closed the connection or sent bytes while it was idle.
    Stale,
    /// The connection broke.
    Broken(String),
}

#[derive(Debug, Default)]
enum GateState {
    /// No request is in progress. TLS may write.
    #[default]
    Idle,
    /// No byte of the request has left.
    Armed {
        request: PassingRequest,
        used: bool,
    },
    /// Part of the request has left. Further writes are the rest of it.
    Sending(PassingRequest),
    /// The kernel has accepted the whole request.
    Sent,
    /// The server accepts no more of the request. Writes are discarded, and its response is read.
    Deaf,
    Refused(UnsentProof),
}

/// Request that the kernel has not accepted as a whole.
#[derive(Debug)]
struct PassingRequest {
    permit: SendPermit,
    /// True once the body is exhausted. The kernel has the whole request after the next complete flush.
    is_taken: bool,
}

/// State shared between the sender of a request and its socket.
#[derive(Debug, Default)]
pub(super) struct SendGate {
    state: Mutex<GateState>,
}

impl SendGate {
    /// Announces the next request and returns its gated body. `used` is true if the connection has carried a
    /// request before.
    pub(super) fn arm(self: &Arc<Self>, permit: &SendPermit, used: bool, body: Full<Bytes>) -> GatedBody {
        let request = PassingRequest { permit: permit.clone(), is_taken: body.is_end_stream() };
        *self.state.lock() = GateState::Armed { request, used };
        GatedBody { body, gate: Arc::clone(self) }
    }

    /// Ends the request once its response has been read. Returns false if the connection must not be reused: the
    /// rest of a request that was answered early is never written.
    pub(super) fn rest(&self) -> bool {
        let mut state = self.state.lock();
        let is_sent = matches!(*state, GateState::Sent);
        *state = if is_sent {
            GateState::Idle
        } else {
            GateState::Refused(UnsentProof::Broken(
                "the server answered before it had the request".to_owned(),
            ))
        };
        is_sent
    }

    /// Returns the reason why the request has not left as a whole, if that is proven. From then on no byte of it
    /// can leave.
    pub(super) fn refusal(&self) -> Option<UnsentProof> {
        let mut state = self.state.lock();
        if matches!(*state, GateState::Armed { .. }) {
            *state =
                GateState::Refused(UnsentProof::Broken("the connection ended before a byte left".to_owned()));
        }
        if let GateState::Refused(refusal) = &*state { Some(refusal.clone()) } else { None }
    }

    fn body_is_taken(&self) {
        if let GateState::Armed { request, .. } | GateState::Sending(request) = &mut *self.state.lock() {
            request.is_taken = true;
        }
    }

    /// Records that the kernel has accepted all written bytes.
    fn is_flushed(&self) {
        let mut state = self.state.lock();
        if matches!(&*state, GateState::Sending(request) if request.is_taken) {
            *state = GateState::Sent;
        }
    }
}

/// Request body that notifies the gate when its last byte is taken. That byte is then in a buffer of HTTP or TLS.
/// Both flush the socket only once their buffers are empty, so the next flush proves that the kernel has the whole
/// request.
pub(super) struct GatedBody {
    body: Full<Bytes>,
    gate: Arc<SendGate>,
}

impl Body for GatedBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        if this.body.is_end_stream() {
            this.gate.body_is_taken();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Socket below TLS. The kernel has every byte that it accepts, and no byte that it rejects.
pub(super) struct GatedStream {
    tcp: TcpStream,
    gate: Arc<SendGate>,
    /// Wakes the writer while the peer accepts no bytes.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl GatedStream {
    pub(super) fn new(tcp: TcpStream) -> Self {
        Self { tcp, gate: Arc::default(), stalled: None }
    }

    pub(super) fn gate(&self) -> Arc<SendGate> {
        Arc::clone(&self.gate)
    }

    fn poll_gated(
        &mut self,
        cx: &mut Context<'_>,
        bytes: usize,
        mut write: impl FnMut(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let mut state = self.gate.state.lock();
        match &*state {
            GateState::Idle => write(Pin::new(&mut self.tcp), cx),
            GateState::Armed { request, used } => {
                let permit = request.permit.clone();
                let (refusal, polled) = first_bytes(&mut self.tcp, &permit, *used, |tcp| write(tcp, cx));
                if let Some(refusal) = refusal {
                    *state = GateState::Refused(refusal);
                } else if polled.is_ready()
                    && let GateState::Armed { request, .. } = std::mem::take(&mut *state)
                {
                    *state = GateState::Sending(request);
                }
                polled
            }
            GateState::Sending(request) if !request.permit.is_good(clock::now()) => {
                request.permit.did_not_send();
                *state = GateState::Refused(UnsentProof::NoLease);
                // Reset on close (SO_LINGER 0): unsent bytes are discarded, and the peer does not wait for more.
                let _ = SockRef::from(&self.tcp).set_linger(Some(Duration::ZERO));
                Poll::Ready(Err(io::ErrorKind::PermissionDenied.into()))
            }
            GateState::Sending(_) | GateState::Sent => match write(Pin::new(&mut self.tcp), cx) {
                Poll::Ready(Err(error)) if is_closed_by_peer(&error) => {
                    *state = GateState::Deaf;
                    Poll::Ready(Ok(bytes))
                }
                Poll::Pending => {
                    wake_after(&mut self.stalled, LOOK_STALLED, cx);
                    Poll::Pending
                }
                polled @ Poll::Ready(_) => polled,
            },
            GateState::Deaf => Poll::Ready(Ok(bytes)),
            GateState::Refused(_) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }
}

/// Polls a sleep of at most `delay`, so that its end wakes the task.
fn wake_after(sleep: &mut Option<Pin<Box<Sleep>>>, delay: Duration, cx: &mut Context<'_>) {
    let sleep = sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(delay)));
    while sleep.as_mut().poll(cx).is_ready() {
        sleep.as_mut().reset(Instant::now() + delay);
    }
}

/// Checks the permit and writes the first bytes. Nothing comes between the lease check and the kernel (H1).
fn first_bytes(
    tcp: &mut TcpStream,
    permit: &SendPermit,
    used: bool,
    write: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<usize>>,
) -> (Option<UnsentProof>, Poll<io::Result<usize>>) {
    let refuse = |refusal, error| (Some(refusal), Poll::Ready(Err(error)));
    if used && has_word(tcp) {
        return refuse(UnsentProof::Stale, io::ErrorKind::BrokenPipe.into());
    }
    if permit.begin().is_err() {
        return refuse(UnsentProof::NoLease, io::ErrorKind::PermissionDenied.into());
    }
    let polled = write(Pin::new(tcp));
    if matches!(polled, Poll::Ready(Ok(_))) {
        return (None, polled);
    }
    permit.did_not_send();
    match polled {
        Poll::Ready(Err(error)) => refuse(UnsentProof::Broken(error.to_string()), error),
        polled => (None, polled),
    }
}

/// Returns true if the server has closed the connection or sent bytes. On an idle connection both mean that it
/// carries no more requests. The reactor may not have seen it yet, so the kernel is asked.
fn has_word(tcp: &TcpStream) -> bool {
    let peeked = SockRef::from(tcp).peek(&mut [MaybeUninit::uninit()]);
    !matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

fn is_closed_by_peer(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

impl AsyncRead for GatedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_read(cx, buffer)
    }
}

impl AsyncWrite for GatedStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_gated(cx, bytes.len(), |tcp, cx| tcp.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes = slices.iter().map(|slice| slice.len()).sum();
        self.get_mut().poll_gated(cx, bytes, |tcp, cx| tcp.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.tcp).poll_flush(cx))?;
        this.stalled = None;
        this.gate.is_flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_shutdown(cx)
    }
}
