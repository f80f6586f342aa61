//! Lambda's Invoke API, `GetFunction` and `GetFunctionConfiguration`.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use hyper::body::Incoming;
use lighterman_proto::units::PAYLOAD_BYTES_MAX;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use uuid::Uuid;

use super::answer::{HostOutcome, HostReply, bytes_reply, exception, json_reply, throttled};
use super::body::{self, RequestBody};
use super::host::{HostedFunction, HostedFunctions};
use super::logs::InstanceOutput;
use super::process::MEMORY_MB;

/// Delay before the tail is read. A pipe does not mark the end of an invocation, so its last lines need time to
/// arrive.
const TAIL_SETTLE: Duration = Duration::from_millis(20);

/// Lambda's limit for `X-Amz-Client-Context`, in bytes of base64.
const CLIENT_CONTEXT_BYTES_MAX: usize = 3583;

/// Answers one request of the Invoke API.
pub(super) async fn handle(functions: Rc<HostedFunctions>, request: Request<Incoming>) -> HostReply {
    let path = request.uri().path().to_owned();
    let rest = path.strip_prefix("/2015-03-31/functions/").unwrap_or_default().trim_end_matches('/');
    let (encoded, action) = rest.split_once('/').unwrap_or((rest, ""));
    let reference = percent_decode_str(encoded).decode_utf8_lossy().into_owned();
    let (name, mut qualifier) = name_and_qualifier(&reference);
    if let Some(asked) = request.uri().query().and_then(query_qualifier) {
        qualifier = Some(asked);
    }
    let get = request.method() == Method::GET;
    if name.is_empty() || !matches!((get, action), (true, "" | "configuration") | (false, "invocations")) {
        return exception(StatusCode::NOT_FOUND, "UnknownOperationException", "no such operation here");
    }
    let Some(function) = functions.by_name.get(name) else {
        return not_found(&functions, name, qualifier.as_deref());
    };
    match action {
        "invocations" => invoke(function, request).await,
        "configuration" => json_reply(StatusCode::OK, &configuration(function)),
        _ => json_reply(StatusCode::OK, &json!({ "Configuration": configuration(function), "Tags": {} })),
    }
}

/// Splits `name`, `name:qualifier`, `account:function:name`, or an ARN of either, into name and qualifier.
fn name_and_qualifier(reference: &str) -> (&str, Option<String>) {
    let after = reference.split_once("function:").map_or(reference, |(_, name)| name);
    match after.split_once(':') {
        Some((name, qualifier)) => (name, Some(qualifier.to_owned())),
        None => (after, None),
    }
}

fn query_qualifier(query: &str) -> Option<String> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix("Qualifier="))?;
    Some(percent_decode_str(value).decode_utf8_lossy().into_owned())
}

fn not_found(functions: &HostedFunctions, name: &str, qualifier: Option<&str>) -> HostReply {
    let (region, account) = (&functions.region, &functions.account_id);
    let qualifier = qualifier.unwrap_or("$LATEST");
    let text = format!("Function not found: arn:aws:lambda:{region}:{account}:function:{name}:{qualifier}");
    exception(StatusCode::NOT_FOUND, "ResourceNotFoundException", &text)
}

fn configuration(function: &HostedFunction) -> Value {
    json!({
        "FunctionName": function.spec.name,
        "FunctionArn": function.arn,
        "Runtime": function.spec.command.runtime,
        "Role": format!("arn:aws:iam::{}:role/local", function.account_id),
        "Handler": function.spec.command.handler,
        "CodeSize": 0,
        "Description": "",
        "Timeout": function.spec.timeout.as_secs().max(1),
        "MemorySize": MEMORY_MB.parse::<u32>().unwrap_or(512),
        "LastModified": "1970-01-01T00:00:00.000+0000",
        "Version": "$LATEST",
        "PackageType": "Zip",
        "Architectures": [if cfg!(target_arch = "aarch64") { "arm64" } else { "x86_64" }],
        "State": "Active",
        "LastUpdateStatus": "Successful",
    })
}

async fn invoke(function: &Rc<HostedFunction>, request: Request<Incoming>) -> HostReply {
    let header = |name| header_text(request.headers(), name);
    let kind = header("x-amz-invocation-type").unwrap_or_else(|| "RequestResponse".into());
    let client_context = match header("x-amz-client-context").map(|text| decoded_context(&text)).transpose() {
        Ok(context) => context,
        Err(why) => return exception(StatusCode::BAD_REQUEST, "InvalidRequestContentException", why),
    };
    let wants_tail = header("x-amz-log-type").is_some_and(|value| value == "Tail");
    let payload = match body::read(request.into_body(), PAYLOAD_BYTES_MAX).await {
        Ok(RequestBody::Whole(payload)) => payload,
        Ok(RequestBody::TooLarge(seen)) => {
            let text = format!(
                "{seen} byte payload is too large for the RequestResponse invocation type (limit {PAYLOAD_BYTES_MAX} bytes)"
            );
            return exception(StatusCode::PAYLOAD_TOO_LARGE, "RequestTooLargeException", &text);
        }
        Err(_) => {
            return exception(
                StatusCode::BAD_REQUEST,
                "InvalidRequestContentException",
                "the body ended early",
            );
        }
    };
    // As at AWS, the function gets the payload unchanged, except that an empty body becomes an empty object.
    let payload = if payload.is_empty() { Bytes::from_static(b"{}") } else { payload };
    if serde_json::from_slice::<serde::de::IgnoredAny>(&payload).is_err() {
        let text = "Could not parse request body into json";
        return exception(StatusCode::BAD_REQUEST, "InvalidRequestContentException", text);
    }
    match kind.as_str() {
        "DryRun" => empty(StatusCode::NO_CONTENT),
        "Event" => {
            drop(function.invoke(Uuid::new_v4(), payload, client_context));
            empty(StatusCode::ACCEPTED)
        }
        _ => wait(function, payload, client_context, wants_tail).await,
    }
}

async fn wait(
    function: &Rc<HostedFunction>,
    payload: Bytes,
    client_context: Option<String>,
    wants_tail: bool,
) -> HostReply {
    let request = Uuid::new_v4();
    let Ok((outcome, output)) = function.invoke(request, payload, client_context).await else {
        return exception(
            StatusCode::SERVICE_UNAVAILABLE,
            "ServiceException",
            "the function host is stopping",
        );
    };
    let mut reply = match outcome {
        HostOutcome::Throttled => return throttled(),
        HostOutcome::Success(bytes) => bytes_reply(StatusCode::OK, bytes),
        HostOutcome::Error(bytes) => {
            let mut reply = bytes_reply(StatusCode::OK, bytes);
            reply.headers_mut().insert("x-amz-function-error", HeaderValue::from_static("Unhandled"));
            reply
        }
    };
    let headers = reply.headers_mut();
    headers.insert("x-amz-executed-version", HeaderValue::from_static("$LATEST"));
    if let Ok(request) = HeaderValue::try_from(request.to_string()) {
        headers.insert("x-amzn-requestid", request);
    }
    if wants_tail {
        tokio::time::sleep(TAIL_SETTLE).await;
        let printed = output.as_ref().map(InstanceOutput::tail_base64).unwrap_or_default();
        if let Ok(printed) = HeaderValue::try_from(printed) {
            headers.insert("x-amz-log-result", printed);
        }
    }
    reply
}

/// Decodes the client context, which a function gets as plain JSON.
fn decoded_context(text: &str) -> Result<String, &'static str> {
    if text.len() > CLIENT_CONTEXT_BYTES_MAX {
        return Err("Client context must be at most 3583 bytes of Base64-encoded data.");
    }
    let bytes = aws_smithy_types::base64::decode(text).ok();
    let json = bytes.filter(|bytes| serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok());
    let json = json.and_then(|bytes| String::from_utf8(bytes).ok());
    json.ok_or("Client context must be a valid Base64-encoded JSON object.")
}

fn empty(status: StatusCode) -> HostReply {
    bytes_reply(status, Bytes::new())
}

fn header_text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn function_references_split_into_name_and_qualifier() {
        let arn = "arn:aws:lambda:us-east-1:000000000000:function:fn";
        for (reference, name, qualifier) in [
            ("fn", "fn", None),
            ("fn:live", "fn", Some("live")),
            ("000000000000:function:fn", "fn", None),
            (arn, "fn", None),
            (&format!("{arn}:$LATEST"), "fn", Some("$LATEST")),
        ] {
            assert_eq!(name_and_qualifier(reference), (name, qualifier.map(str::to_owned)), "{reference}");
        }
        assert_eq!(query_qualifier("a=b&Qualifier=%24LATEST").as_deref(), Some("$LATEST"));
    }
}
