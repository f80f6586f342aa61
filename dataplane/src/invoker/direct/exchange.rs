//! A single wire attempt. A request is sent on a second connection only if provably no byte of it has left on the
//! first.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use thiserror::Error;

use super::connections::{ConnectionPool, PooledConnection};
use super::gate::UnsentProof;
use super::{ERROR_TYPE, FUNCTION_ERROR};
use crate::error::error_chain;
use crate::invoker::answer_room::{AnswerBuffer, AnswerRoom};
use crate::invoker::outcome;
use crate::invoker::permit::SendPermit;
use crate::invoker::port::ANSWER_BYTES_MAX;

/// Reason for the absence of a response.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(in crate::invoker) enum WireError {
    /// No byte of the request has left.
    #[error("{0}")]
    NotSent(String),
    /// The request did not leave as a whole, because its permit was refused.
    #[error("the consumer group's lease ran out before the invocation was sent")]
    Withheld,
    /// Part of the request has left, so its outcome is unknown.
    #[error("{0}")]
    Lost(String),
}

/// Response with the retained part of its body.
#[derive(Debug)]
pub(in crate::invoker) struct WireAnswer {
    pub(in crate::invoker) status: u16,
    pub(in crate::invoker) headers: HeaderMap,
    pub(in crate::invoker) body: Bytes,
}

enum ExchangeRefusal {
    /// The connection was stale. The request may be sent on another one.
    Stale(String),
    Final(WireError),
}

/// Permit and response memory of an exchange.
#[derive(Clone, Copy)]
pub(in crate::invoker) struct ExchangeTerms<'t> {
    /// Permit: [`SendPermit::begin`] precedes the first byte, and the lease must hold until the last.
    pub(in crate::invoker) permit: &'t SendPermit,
    /// Memory for the retained part of the response.
    pub(in crate::invoker) answer_room: &'t AnswerRoom,
}

/// Sends the request that `request` builds. Sends it a second time if a previously used connection took no byte of
/// it.
pub(in crate::invoker) async fn exchange(
    connections: &ConnectionPool,
    terms: ExchangeTerms<'_>,
    request: impl Fn() -> Result<Request<Full<Bytes>>, http::Error>,
) -> Result<WireAnswer, WireError> {
    let not_sent = |error: &(dyn std::error::Error + 'static)| WireError::NotSent(error_chain(error));
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
        Err(error) => Err(refused(&connection, &error_chain(error.error()))),
    }
}

/// Classifies a failed send. Only the gate knows how much has left: hyper hands a request back for other reasons,
/// too.
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
    /// The body exceeds the longest that is read.
    TooLong,
    /// The connection broke, for this reason.
    BrokenOff(String),
}

/// Reads a response body. Retains bytes up to the limit of `room` and reads up to [`ANSWER_BYTES_MAX`]. A longer
/// body is still a valid response, because the function has ended, but its connection is not reused.
async fn keep(mut body: Incoming, room: &AnswerRoom) -> KeptBody {
    let (mut kept, mut read) = (AnswerBuffer::new(room, body.size_hint().exact()), 0);
    while let Some(frame) = body.frame().await {
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => {
                let why = format!("the answer broke off: {}", error_chain(&error));
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

/// Parses `Keep-Alive: timeout=5`: the time for which the server keeps an idle connection open.
fn kept_open(headers: &HeaderMap) -> Option<Duration> {
    let said = headers.get("keep-alive")?.to_str().ok()?;
    let seconds = said.split(',').find_map(|part| part.trim().strip_prefix("timeout="))?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}
