//! Connections of the fake Lambda: each request is one invocation, handled as the script says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::io::{AsyncRead, AsyncWrite};

use super::reply::{function_in, plain, ran, refuse, report_of};
use super::{InvocationAction, InvocationEvent, LambdaState};
use crate::fault_proxy::FaultRandom;

#[derive(Deserialize)]
pub(super) struct KafkaEvent<'e> {
    #[serde(borrow)]
    pub(super) records: BTreeMap<String, Vec<KafkaRecord<'e>>>,
}

#[derive(Deserialize)]
pub(super) struct KafkaRecord<'e> {
    pub(super) partition: i32,
    pub(super) offset: i64,
    /// Raw JSON of the value: base64 in quotes. Decoded only while a stopwatch runs.
    #[serde(borrow)]
    pub(super) value: Option<&'e RawValue>,
}

/// Service error that closes a connection.
#[derive(Debug)]
pub(super) struct ConnectionCut;

impl std::fmt::Display for ConnectionCut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("connection cut on purpose")
    }
}

impl std::error::Error for ConnectionCut {}

pub(super) async fn serve_connection<S>(shared: Arc<LambdaState>, caller: u32, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| serve(Arc::clone(&shared), caller, request));
    // A service error is the intended way to close a connection.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn serve(
    shared: Arc<LambdaState>,
    caller: u32,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, ConnectionCut> {
    if request.uri().path().ends_with("/configuration") {
        let seconds = shared.timeout_seconds.load(Ordering::Relaxed);
        let body = format!(r#"{{"FunctionName":"f","Timeout":{seconds}}}"#);
        return Ok(Response::new(Full::from(body)));
    }
    let function = function_in(request.uri().path()).to_owned();
    let body = request.into_body().collect().await.map_err(|_| ConnectionCut)?.to_bytes();
    let arrived = Instant::now();
    let Ok(event) = serde_json::from_slice::<KafkaEvent<'_>>(&body) else {
        return Ok(plain(400, r#"{"message":"not a Kafka event"}"#));
    };
    let id = shared.next.fetch_add(1, Ordering::Relaxed);
    let script = Arc::clone(&shared.script.lock());
    let (failed, names) = shared.poisoned_in(&event);
    let failing = if names { InvocationAction::Report } else { InvocationAction::FunctionError };
    let act = match script(id) {
        InvocationAction::Succeed(_) if !failed.is_empty() => failing,
        act => act,
    };
    let (act, failed) = if act == InvocationAction::ReportSome {
        (InvocationAction::Report, some_of(id, &event))
    } else {
        (act, failed)
    };
    if !act.runs() {
        // The function never ran, so there is no event to record.
        return refuse(act);
    }
    if act.succeeds() {
        shared.note(&event, body.len(), arrived);
    }
    let topic =
        event.records.keys().next().and_then(|key| key.rsplit_once('-')).map(|(topic, _)| topic.to_owned());
    let report =
        (act == InvocationAction::Report).then(|| report_of(topic.as_deref().unwrap_or_default(), &failed));
    let mut offsets: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
    for record in event.records.into_values().flatten() {
        offsets.entry(record.partition).or_default().push(record.offset);
    }
    // As at AWS, a caller that disconnects does not stop the function.
    let run = tokio::spawn(async move {
        shared.happened(&function, caller, InvocationEvent::Start { id, offsets });
        if let InvocationAction::Succeed(wait) = act
            && !wait.is_zero()
        {
            tokio::time::sleep(wait).await;
        }
        let failed = if act == InvocationAction::Report { failed } else { BTreeSet::new() };
        shared.happened(&function, caller, InvocationEvent::End { id, act, failed });
    });
    run.await.map_err(|_| ConnectionCut)?;
    match act {
        InvocationAction::CutAfter => Err(ConnectionCut),
        InvocationAction::Hang => std::future::pending().await,
        InvocationAction::FunctionError => {
            let mut response = ran(id, r#"{"errorType":"Boom","errorMessage":"on purpose"}"#);
            response
                .headers_mut()
                .insert("x-amz-function-error", http::HeaderValue::from_static("Unhandled"));
            Ok(response)
        }
        _ => Ok(ran(id, report.unwrap_or_else(|| "null".to_owned()))),
    }
}

fn some_of(id: u64, event: &KafkaEvent<'_>) -> BTreeSet<(i32, i64)> {
    let places = event.records.values().flatten().map(|record| (record.partition, record.offset));
    places.filter(|(_, offset)| FaultRandom(id ^ *offset as u64).below(4) == 0).collect()
}
