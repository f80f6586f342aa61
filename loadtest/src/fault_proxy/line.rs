//! One client's connection to one broker: requests one way, replies the other, and what becomes of them.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::fault::Fault;
use super::frame::{self, Asked};
use super::refusal::Refuser;
use super::{Shared, lie, reply};

/// Requests that wait for their reply: a client that pipelines more is cut.
const PIPELINED_MAX: usize = 1_000;

type Exchange = (Asked, Option<Fault>);
type Waiting = Arc<Mutex<VecDeque<Exchange>>>;

/// What becomes of the line after a reply.
#[derive(PartialEq, Eq)]
enum Then {
    GoOn,
    Cut,
    HalfClose,
}

/// Carries frames until one side has enough.
pub(super) async fn carry(client: TcpStream, broker: TcpStream, shared: Weak<Shared>) -> Result<()> {
    client.set_nodelay(true)?;
    broker.set_nodelay(true)?;
    let address = broker.peer_addr()?;
    let ((from_client, to_client), (from_broker, to_broker)) = (split(client), split(broker));
    let waiting = Waiting::default();
    let (refuse, refusals) = mpsc::channel(PIPELINED_MAX);
    let waiting_too = Arc::clone(&waiting);
    let replies = Replies { shared: shared.clone(), waiting: waiting_too, to_client, behind: None, refusals };
    tokio::select! {
        ended = requests(from_client, (to_broker, address), shared, waiting, refuse) => ended,
        ended = replies.run(from_broker) => ended,
    }
}

async fn requests(
    mut from: ReadHalf<TcpStream>,
    (mut to, broker): (WriteHalf<TcpStream>, SocketAddr),
    shared: Weak<Shared>,
    waiting: Waiting,
    refuse: mpsc::Sender<Bytes>,
) -> Result<()> {
    let mut refuser = Refuser::default();
    while let Some(request) = frame::read(&mut from).await? {
        let asked = frame::asked(&request)?;
        refuser.note(asked, &request)?;
        let (fault, mut calm) = {
            let shared = shared.upgrade().context("stopped")?;
            (shared.faults.decide(asked.api), shared.calm.subscribe())
        };
        match fault {
            Some(Fault::CutRequest) => return Ok(()),
            Some(Fault::ServeLate(wait)) => {
                tokio::spawn(serve_late(broker, request, wait));
                return Ok(());
            }
            Some(Fault::HoldRequest) => drop(calm.changed().await),
            Some(Fault::Refuse(code)) => {
                refuse.send(refuser.refusal(asked, &request, code)?).await?;
                continue;
            }
            _ => {}
        }
        {
            let mut waiting = waiting.lock();
            ensure!(waiting.len() < PIPELINED_MAX, "too much is pipelined");
            waiting.push_back((asked, fault));
        }
        to.write_all(&request).await?;
    }
    Ok(())
}

/// What a network can do to a request whose sender is gone.
async fn serve_late(broker: SocketAddr, request: Bytes, wait: Duration) -> Result<()> {
    tokio::time::sleep(wait).await;
    let mut line = TcpStream::connect(broker).await?;
    line.write_all(&request).await?;
    frame::read(&mut line).await?;
    Ok(())
}

struct Replies {
    shared: Weak<Shared>,
    waiting: Waiting,
    to_client: WriteHalf<TcpStream>,
    /// A reply that lets the next one go first.
    behind: Option<(Bytes, Duration)>,
    /// What the proxy answers by itself.
    refusals: mpsc::Receiver<Bytes>,
}

impl Replies {
    async fn run(mut self, mut from: ReadHalf<TcpStream>) -> Result<()> {
        loop {
            let mut reading = std::pin::pin!(frame::read(&mut from));
            let next = loop {
                let wait = self.behind.as_ref().map(|(_, wait)| *wait);
                tokio::select! {
                    next = &mut reading => break next?,
                    Some(refusal) = self.refusals.recv() => self.write(&refusal).await?,
                    // Nobody pipelines behind what is held: it goes alone.
                    () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {
                        if let Some((held, _)) = self.behind.take() {
                            self.write(&held).await?;
                        }
                    }
                }
            };
            let Some(frame) = next else { return Ok(()) };
            let (asked, fault) = self.exchange(&frame)?;
            match self.pass(asked, fault, frame).await? {
                Then::GoOn => {}
                Then::Cut => return Ok(()),
                Then::HalfClose => {
                    self.to_client.shutdown().await?;
                    return std::future::pending().await;
                }
            }
        }
    }

    fn exchange(&self, frame: &Bytes) -> Result<Exchange> {
        ensure!(frame.len() >= 8, "a reply of {} bytes", frame.len());
        let correlation = i32::from_be_bytes([frame[4], frame[5], frame[6], frame[7]]);
        let mut waiting = self.waiting.lock();
        let at = waiting.iter().position(|(asked, _)| asked.correlation == correlation);
        waiting.remove(at.context("an answer to nothing")?).context("just found")
    }

    async fn pass(&mut self, asked: Asked, fault: Option<Fault>, frame: Bytes) -> Result<Then> {
        let shared = self.shared.upgrade().context("stopped")?;
        let frame = rewritten(&shared, asked, fault, frame).await?;
        let mut calm = shared.calm.subscribe();
        calm.mark_unchanged();
        let jitter = |most: Duration| Duration::from_millis(shared.faults.below(most.as_millis() as u64));
        let jitter = if let Some(Fault::Jitter(most)) = fault { jitter(most) } else { Duration::ZERO };
        drop(shared);
        match fault {
            Some(Fault::Cut | Fault::CutRequest) => return Ok(Then::Cut),
            Some(Fault::HalfClose) => return Ok(Then::HalfClose),
            Some(Fault::Truncate) => {
                self.write(&frame[..frame.len() / 2]).await?;
                return Ok(Then::Cut);
            }
            Some(Fault::Stall) => {
                self.write(&frame[..frame.len() / 2]).await?;
                let _ = calm.changed().await;
                return Ok(Then::Cut);
            }
            Some(Fault::Reorder(wait)) if self.behind.is_none() => {
                self.behind = Some((frame, wait));
                return Ok(Then::GoOn);
            }
            Some(Fault::Delay(wait)) => tokio::time::sleep(wait).await,
            Some(Fault::Jitter(_)) => tokio::time::sleep(jitter).await,
            Some(Fault::Hold) => drop(calm.changed().await),
            _ => {}
        }
        match fault {
            Some(Fault::Drip { bytes, pause }) => {
                for some in frame.chunks(bytes.max(1)) {
                    self.write(some).await?;
                    tokio::time::sleep(pause).await;
                }
            }
            Some(Fault::Duplicate) => self.write(&[&frame[..], &frame[..]].concat()).await?,
            _ => self.write(&frame).await?,
        }
        if let Some((held, _)) = self.behind.take() {
            self.write(&held).await?;
        }
        Ok(Then::GoOn)
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.to_client.write_all(bytes).await
    }
}

/// The frame that leaves: untouched, unless it names addresses or the fault changes what it says.
async fn rewritten(shared: &Arc<Shared>, asked: Asked, fault: Option<Fault>, frame: Bytes) -> Result<Bytes> {
    let ours = shared.rewritten(asked, &frame).await?;
    let opened = |ours: Option<_>| ours.map_or_else(|| frame::open(asked, &frame), Ok);
    match fault {
        Some(Fault::Hostile(how)) => Ok(reply::hostile(asked, how, &shared.faults)),
        Some(Fault::WrongCorrelation) => {
            let mut other = BytesMut::from(&frame[..]);
            other[7] ^= 0x55;
            Ok(other.freeze())
        }
        Some(Fault::Code(code)) => {
            let mut reply = opened(ours)?;
            reply::set_code(&mut reply, code);
            frame::close(frame::refused_in(asked, code), &reply)
        }
        Some(Fault::Lie(how)) => {
            let mut reply = opened(ours)?;
            lie::tell(&mut reply, how);
            lie::describe(&mut reply, how);
            frame::close(asked, &reply)
        }
        Some(Fault::Throttle(wait)) => {
            let mut reply = opened(ours)?;
            reply::set_throttle(&mut reply, wait.as_millis() as i32);
            frame::close(asked, &reply)
        }
        Some(Fault::CorruptRecords) => {
            let mut reply = opened(ours)?;
            reply::corrupt_records(&mut reply, &shared.faults);
            frame::close(asked, &reply)
        }
        _ => match ours {
            Some(reply) => frame::close(asked, &reply),
            None => Ok(frame),
        },
    }
}
