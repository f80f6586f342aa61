//! A connection's socket, watched where bytes leave it. Here the lease is looked at, with nothing left to wait for; here it is
//! known whether a byte of a request has left; and here a server that closes early is still heard out.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::invoker::permit::SendPermit;

/// Proof that no byte of a request has left, and why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The lease ran out, or the permission was taken back.
    NoLease,
    /// The server has closed the connection, or said something, while it was idle.
    Stale,
    /// The connection broke.
    Broken(String),
}

#[derive(Debug, Default)]
enum GateState {
    /// No request: TLS may speak.
    #[default]
    Idle,
    /// The first byte of a request has not left.
    Armed {
        permit: SendPermit,
        used: bool,
    },
    /// Some of it has.
    Sending,
    /// The server takes no more of it; what it said meanwhile is read.
    Deaf,
    Refused(Refusal),
}

/// What whoever sends a request shares with its socket.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: Mutex<GateState>,
}

impl Gate {
    /// A request comes next. `used`: the connection has carried one before.
    pub(super) fn arm(&self, permit: &SendPermit, used: bool) {
        *self.state.lock() = GateState::Armed { permit: permit.clone(), used };
    }

    /// The answer has been read. False when the connection carries no other request.
    pub(super) fn rest(&self) -> bool {
        let before = std::mem::take(&mut *self.state.lock());
        matches!(before, GateState::Sending)
    }

    /// Why nothing of the request has left, if that is so; from now on nothing of it will.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        let mut state = self.state.lock();
        if matches!(*state, GateState::Armed { .. }) {
            *state =
                GateState::Refused(Refusal::Broken("the connection ended before a byte left".to_owned()));
        }
        if let GateState::Refused(refusal) = &*state { Some(refusal.clone()) } else { None }
    }
}

/// The socket. It stands below TLS: what it takes is with the kernel, and what it refuses is not.
pub(super) struct GatedStream {
    tcp: TcpStream,
    gate: Arc<Gate>,
}

impl GatedStream {
    pub(super) fn new(tcp: TcpStream) -> Self {
        Self { tcp, gate: Arc::default() }
    }

    pub(super) fn gate(&self) -> Arc<Gate> {
        Arc::clone(&self.gate)
    }

    fn poll_gated(
        &mut self,
        bytes: usize,
        mut write: impl FnMut(Pin<&mut TcpStream>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let mut state = self.gate.state.lock();
        match &*state {
            GateState::Idle => write(Pin::new(&mut self.tcp)),
            GateState::Armed { permit, used } => {
                let (next, polled) = first_bytes(&mut self.tcp, permit, *used, &mut write);
                if let Some(next) = next {
                    *state = next;
                }
                polled
            }
            GateState::Sending => match write(Pin::new(&mut self.tcp)) {
                Poll::Ready(Err(error)) if is_closed_by_peer(&error) => {
                    *state = GateState::Deaf;
                    Poll::Ready(Ok(bytes))
                }
                polled => polled,
            },
            GateState::Deaf => Poll::Ready(Ok(bytes)),
            GateState::Refused(_) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }
}

/// The moment that counts (H1): between the look at the lease and the kernel there is nothing.
fn first_bytes(
    tcp: &mut TcpStream,
    permit: &SendPermit,
    used: bool,
    write: &mut impl FnMut(Pin<&mut TcpStream>) -> Poll<io::Result<usize>>,
) -> (Option<GateState>, Poll<io::Result<usize>>) {
    let refuse = |refusal, error| (Some(GateState::Refused(refusal)), Poll::Ready(Err(error)));
    if used && has_word(tcp) {
        return refuse(Refusal::Stale, io::ErrorKind::BrokenPipe.into());
    }
    if permit.begin().is_err() {
        return refuse(Refusal::NoLease, io::ErrorKind::PermissionDenied.into());
    }
    let polled = write(Pin::new(tcp));
    if matches!(polled, Poll::Ready(Ok(_))) {
        return (Some(GateState::Sending), polled);
    }
    permit.did_not_send();
    match polled {
        Poll::Ready(Err(error)) => refuse(Refusal::Broken(error.to_string()), error),
        polled => (None, polled),
    }
}

/// Whether the server has closed or spoken: on an idle connection both mean that it carries nothing more. The reactor may not
/// have said so yet, so the kernel is asked.
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
        self.get_mut().poll_gated(bytes.len(), |tcp| tcp.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes = slices.iter().map(|slice| slice.len()).sum();
        self.get_mut().poll_gated(bytes, |tcp| tcp.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_shutdown(cx)
    }
}
