//! One wire attempt. A request goes out on a second connection only when it is proven that no byte of it has left on the first.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use thiserror::Error;

use super::connections::{ConnectionPool, PooledConnection};
use super::gate::UnsentProof;
use super::{ERROR_TYPE, FUNCTION_ERROR, causes};
use crate::invoker::answer_room::{AnswerBuffer, AnswerRoom};
use crate::invoker::outcome;
use crate::invoker::permit::SendPermit;
use crate::invoker::port::ANSWER_BYTES_MAX;

/// Why there is no answer.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(in crate::invoker) enum WireError {
    /// No byte of the request has left.
    #[error("{0}")]
    NotSent(String),
    /// Nor has the whole of it here: it was not allowed to.
    #[error("the consumer group's lease ran out before the invocation was sent")]
    Withheld,
    /// Some of it has, and nobody will tell what became of it.
    #[error("{0}")]
    Lost(String),
}

/// An answer, with what was kept of its body.
#[derive(Debug)]
pub(in crate::invoker) struct WireAnswer {
    pub(in crate::invoker) status: u16,
    pub(in crate::invoker) headers: HeaderMap,
    pub(in crate::invoker) body: Bytes,
}

enum ExchangeRefusal {
    /// The connection is to blame: another may carry the request.
    Stale(String),
    Final(WireError),
}

/// What an exchange needs beside its request.
#[derive(Clone, Copy)]
pub(in crate::invoker) struct ExchangeTerms<'t> {
    /// To be begun before the first byte, and to hold up to the last.
    pub(in crate::invoker) permit: &'t SendPermit,
    /// What of the answer is kept.
    pub(in crate::invoker) answer_room: &'t AnswerRoom,
}

/// Sends what `request` makes: once, or once more where a connection that had been idle took nothing of it.
pub(in crate::invoker) async fn exchange(
    connections: &ConnectionPool,
    terms: ExchangeTerms<'_>,
    request: impl Fn() -> Result<Request<Full<Bytes>>, http::Error>,
) -> Result<WireAnswer, WireError> {
    let not_sent = |error: &(dyn std::error::Error + 'static)| WireError::NotSent(causes(error));
    let connection = connections.take().await.map_err(|error| not_sent(&error))?;
    let first = request().map_err(|error| not_sent(&error))?;
    match send(connections, connection, terms, first).await {
        Ok(answer) => return Ok(answer),
        Err(ExchangeRefusal::Final(error)) => return Err(error),
        Err(ExchangeRefusal::Stale(_)) => {}
    }
    let fresh = connections.open().await.map_err(|error| not_sent(&error))?;
    let again = request().map_err(|error| not_sent(&error))?;
    send(connections, fresh, terms, again).await.map_err(|refused| match refused {
        ExchangeRefusal::Stale(why) => WireError::NotSent(why),
        ExchangeRefusal::Final(error) => error,
    })
}

async fn send(
    connections: &ConnectionPool,
    mut connection: PooledConnection,
    terms: ExchangeTerms<'_>,
    request: Request<Full<Bytes>>,
) -> Result<WireAnswer, ExchangeRefusal> {
    let (gate, used) = (Arc::clone(&connection.gate), connection.used);
    let request = request.map(|body| gate.arm(terms.permit, used, body));
    match connection.sender.try_send_request(request).await {
        Ok(response) => {
            read(connections, connection, response, terms.answer_room).await.map_err(ExchangeRefusal::Final)
        }
        Err(error) => Err(refused(&connection, &causes(error.error()))),
    }
}

/// The gate alone says how much has left: hyper hands a request back for other reasons, too.
fn refused(connection: &PooledConnection, why: &str) -> ExchangeRefusal {
    match connection.gate.refusal() {
        Some(UnsentProof::NoLease) => ExchangeRefusal::Final(WireError::Withheld),
        Some(UnsentProof::Stale) => ExchangeRefusal::Stale("the server closed the connection".to_owned()),
        Some(UnsentProof::Broken(broken)) if connection.used => ExchangeRefusal::Stale(broken),
        Some(UnsentProof::Broken(broken)) => {
            ExchangeRefusal::Final(WireError::NotSent(format!("{broken}: {why}")))
        }
        None => ExchangeRefusal::Final(WireError::Lost(why.to_owned())),
    }
}

async fn read(
    connections: &ConnectionPool,
    connection: PooledConnection,
    response: Response<Incoming>,
    room: &AnswerRoom,
) -> Result<WireAnswer, WireError> {
    let (head, body) = response.into_parts();
    let (status, headers) = (head.status.as_u16(), head.headers);
    let kept = keep(body, room).await;
    match kept.end {
        BodyEnd::Whole => connections.give_back(connection, kept_open(&headers)),
        BodyEnd::BrokenOff(why) if !is_told_by_head(status, &headers) => return Err(WireError::Lost(why)),
        BodyEnd::TooLong | BodyEnd::BrokenOff(_) => {}
    }
    Ok(WireAnswer { status, headers, body: kept.bytes })
}

fn is_told_by_head(status: u16, headers: &HeaderMap) -> bool {
    let (failed, named) = (headers.contains_key(FUNCTION_ERROR), headers.contains_key(ERROR_TYPE));
    outcome::is_told_by_head(status, failed, named)
}

struct KeptBody {
    bytes: Bytes,
    end: BodyEnd,
}

enum BodyEnd {
    Whole,
    /// It goes on behind the longest that is read.
    TooLong,
    /// The connection broke, and this is how.
    BrokenOff(String),
}

/// Keeps up to the limit, and reads up to the longest that there is: what goes on behind it is an answer all the same, for the
/// function has ended, but nothing more is heard over that connection.
async fn keep(mut body: Incoming, room: &AnswerRoom) -> KeptBody {
    let (mut kept, mut read) = (AnswerBuffer::new(room, body.size_hint().exact()), 0);
    while let Some(frame) = body.frame().await {
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => {
                let why = format!("the answer broke off: {}", causes(&error));
                return KeptBody { bytes: kept.finish(), end: BodyEnd::BrokenOff(why) };
            }
        };
        let Ok(data) = frame.into_data() else { continue };
        kept.extend(&data).await;
        read += data.len();
        if read > ANSWER_BYTES_MAX {
            return KeptBody { bytes: kept.finish(), end: BodyEnd::TooLong };
        }
    }
    KeptBody { bytes: kept.finish(), end: BodyEnd::Whole }
}

/// `Keep-Alive: timeout=5`: how long the server keeps the connection when nothing is said on it.
fn kept_open(headers: &HeaderMap) -> Option<Duration> {
    let said = headers.get("keep-alive")?.to_str().ok()?;
    let seconds = said.split(',').find_map(|part| part.trim().strip_prefix("timeout="))?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}
