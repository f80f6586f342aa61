//! A client's connection to one broker through the proxy: requests in one direction, responses in the other, and
//! the faults applied to them.

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

use super::fault::ExchangeFault;
use super::frame::{self, RequestIdentity};
use super::refusal::RefusalBuilder;
use super::{ProxyState, reply, wrong_answer};

/// Maximum number of requests waiting for a response. A client that pipelines more is disconnected.
const PIPELINED_MAX: usize = 1_000;

type PendingExchange = (RequestIdentity, Option<ExchangeFault>);
type WaitingExchanges = Arc<Mutex<VecDeque<PendingExchange>>>;

/// State of the connection after a response.
#[derive(PartialEq, Eq)]
enum AfterReply {
    GoOn,
    Cut,
    HalfClose,
}

/// Forwards frames until one side closes the connection.
pub(super) async fn carry(client: TcpStream, broker: TcpStream, shared: Weak<ProxyState>) -> Result<()> {
    client.set_nodelay(true)?;
    broker.set_nodelay(true)?;
    let address = broker.peer_addr()?;
    let ((from_client, to_client), (from_broker, to_broker)) = (split(client), split(broker));
    let waiting = WaitingExchanges::default();
    let (refuse, refusals) = mpsc::channel(PIPELINED_MAX);
    let waiting_too = Arc::clone(&waiting);
    let replies =
        ReplyReader { shared: shared.clone(), waiting: waiting_too, to_client, behind: None, refusals };
    tokio::select! {
        ended = requests(from_client, (to_broker, address), shared, waiting, refuse) => ended,
        ended = replies.run(from_broker) => ended,
    }
}

async fn requests(
    mut from: ReadHalf<TcpStream>,
    (mut to, broker): (WriteHalf<TcpStream>, SocketAddr),
    shared: Weak<ProxyState>,
    waiting: WaitingExchanges,
    refuse: mpsc::Sender<Bytes>,
) -> Result<()> {
    let mut refuser = RefusalBuilder::default();
    while let Some(request) = frame::read(&mut from).await? {
        let asked = frame::asked(&request)?;
        refuser.note(asked, &request)?;
        let (fault, mut calm) = {
            let shared = shared.upgrade().context("stopped")?;
            (shared.faults.decide(asked.api), shared.calm.subscribe())
        };
        match fault {
            Some(ExchangeFault::CutRequest) => return Ok(()),
            Some(ExchangeFault::ServeLate(wait)) => {
                tokio::spawn(serve_late(broker, request, wait));
                return Ok(());
            }
            Some(ExchangeFault::HoldRequest) => drop(calm.changed().await),
            Some(ExchangeFault::Refuse(code)) => {
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

/// Sends a request late, as a network may do for a sender that is gone.
async fn serve_late(broker: SocketAddr, request: Bytes, wait: Duration) -> Result<()> {
    tokio::time::sleep(wait).await;
    let mut line = TcpStream::connect(broker).await?;
    line.write_all(&request).await?;
    frame::read(&mut line).await?;
    Ok(())
}

struct ReplyReader {
    shared: Weak<ProxyState>,
    waiting: WaitingExchanges,
    to_client: WriteHalf<TcpStream>,
    /// Response that lets the next one overtake it, with the longest wait.
    behind: Option<(Bytes, Duration)>,
    /// Responses created by the proxy itself.
    refusals: mpsc::Receiver<Bytes>,
}

impl ReplyReader {
    async fn run(mut self, mut from: ReadHalf<TcpStream>) -> Result<()> {
        loop {
            let mut reading = std::pin::pin!(frame::read(&mut from));
            let next = loop {
                let wait = self.behind.as_ref().map(|(_, wait)| *wait);
                tokio::select! {
                    next = &mut reading => break next?,
                    Some(refusal) = self.refusals.recv() => self.write(&refusal).await?,
                    // No further request is pipelined after the held response, so it is sent alone.
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
                AfterReply::GoOn => {}
                AfterReply::Cut => return Ok(()),
                AfterReply::HalfClose => {
                    self.to_client.shutdown().await?;
                    return std::future::pending().await;
                }
            }
        }
    }

    fn exchange(&self, frame: &Bytes) -> Result<PendingExchange> {
        ensure!(frame.len() >= 8, "a reply of {} bytes", frame.len());
        let correlation = i32::from_be_bytes([frame[4], frame[5], frame[6], frame[7]]);
        let mut waiting = self.waiting.lock();
        let at = waiting.iter().position(|(asked, _)| asked.correlation == correlation);
        waiting.remove(at.context("an answer to nothing")?).context("just found")
    }

    async fn pass(
        &mut self,
        asked: RequestIdentity,
        fault: Option<ExchangeFault>,
        frame: Bytes,
    ) -> Result<AfterReply> {
        let shared = self.shared.upgrade().context("stopped")?;
        let frame = rewritten(&shared, asked, fault, frame).await?;
        let mut calm = shared.calm.subscribe();
        calm.mark_unchanged();
        let jitter = |most: Duration| Duration::from_millis(shared.faults.below(most.as_millis() as u64));
        let jitter =
            if let Some(ExchangeFault::Jitter(most)) = fault { jitter(most) } else { Duration::ZERO };
        drop(shared);
        match fault {
            Some(ExchangeFault::Cut | ExchangeFault::CutRequest) => return Ok(AfterReply::Cut),
            Some(ExchangeFault::HalfClose) => return Ok(AfterReply::HalfClose),
            Some(ExchangeFault::Truncate) => {
                self.write(&frame[..frame.len() / 2]).await?;
                return Ok(AfterReply::Cut);
            }
            Some(ExchangeFault::Stall) => {
                self.write(&frame[..frame.len() / 2]).await?;
                let _ = calm.changed().await;
                return Ok(AfterReply::Cut);
            }
            Some(ExchangeFault::Reorder(wait)) if self.behind.is_none() => {
                self.behind = Some((frame, wait));
                return Ok(AfterReply::GoOn);
            }
            Some(ExchangeFault::Delay(wait)) => tokio::time::sleep(wait).await,
            Some(ExchangeFault::Jitter(_)) => tokio::time::sleep(jitter).await,
            Some(ExchangeFault::Hold) => drop(calm.changed().await),
            _ => {}
        }
        match fault {
            Some(ExchangeFault::Drip { bytes, pause }) => {
                for some in frame.chunks(bytes.max(1)) {
                    self.write(some).await?;
                    tokio::time::sleep(pause).await;
                }
            }
            Some(ExchangeFault::Duplicate) => self.write(&[&frame[..], &frame[..]].concat()).await?,
            _ => self.write(&frame).await?,
        }
        if let Some((held, _)) = self.behind.take() {
            self.write(&held).await?;
        }
        Ok(AfterReply::GoOn)
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.to_client.write_all(bytes).await
    }
}

/// Returns the frame to send: unchanged, unless it names addresses or the fault alters its content.
async fn rewritten(
    shared: &Arc<ProxyState>,
    asked: RequestIdentity,
    fault: Option<ExchangeFault>,
    frame: Bytes,
) -> Result<Bytes> {
    let ours = shared.rewritten(asked, &frame).await?;
    let opened = |ours: Option<_>| ours.map_or_else(|| frame::open(asked, &frame), Ok);
    match fault {
        Some(ExchangeFault::Hostile(how)) => Ok(reply::hostile(asked, how, &shared.faults)),
        Some(ExchangeFault::WrongCorrelation) => {
            let mut other = BytesMut::from(&frame[..]);
            other[7] ^= 0x55;
            Ok(other.freeze())
        }
        Some(ExchangeFault::Code(code)) => {
            let mut reply = opened(ours)?;
            reply::set_code(&mut reply, code);
            frame::close(frame::refused_in(asked, code), &reply)
        }
        Some(ExchangeFault::Lie(how)) => {
            let mut reply = opened(ours)?;
            wrong_answer::tell(&mut reply, how);
            wrong_answer::describe(&mut reply, how);
            frame::close(asked, &reply)
        }
        Some(ExchangeFault::Throttle(wait)) => {
            let mut reply = opened(ours)?;
            reply::set_throttle(&mut reply, wait.as_millis() as i32);
            frame::close(asked, &reply)
        }
        Some(ExchangeFault::CorruptRecords) => {
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
