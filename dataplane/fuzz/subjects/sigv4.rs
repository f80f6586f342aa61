//! Fuzz subject: a path, a query, a header, a body, an Authorization header and a date of arbitrary bytes. A
//! request signed by AWS's own signer is accepted, any change to it is rejected, and no header that was made
//! without the secret is accepted.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use lighterman::control::sigv4::{RequestAuthenticator, SigV4, SignedRequest};
use lighterman_proto::api::{ApiError, ErrorKind};
use percent_encoding::percent_decode_str;

const NOW: i64 = 1_800_000_000;
const REGION: &str = "eu-west-1";
const SECRET: &str = "secret";

struct Request<'b> {
    path: &'b str,
    query: &'b str,
    headers: BTreeMap<String, String>,
    body: &'b [u8],
}

/// Reads path, query, header, Authorization and date, separated by zero bytes, then the body. Returns 1 if the
/// request can be signed.
pub(crate) fn run(bytes: &[u8]) -> usize {
    let mut parts = bytes.splitn(6, |byte| *byte == 0);
    let mut text = || str::from_utf8(parts.next().unwrap_or_default()).unwrap_or_default();
    let (path, query, header, authorization, date) = (text(), text(), text(), text(), text());
    let body = parts.next().unwrap_or_default();
    let headers = BTreeMap::from([
        ("host".to_owned(), "localhost:9010".to_owned()),
        ("x-header".to_owned(), header.to_owned()),
    ]);
    let request = Request { path, query, headers, body };
    forged(&request, authorization, date);
    let Some(signed) = signed(&request).filter(|_| can_be_sent(&request)) else { return 0 };
    let accepted =
        check(&signed, NOW).unwrap_or_else(|error| panic!("{path:?} {query:?} {header:?}: {error:?}"));
    assert_eq!(accepted, "AKID");
    changed(&signed);
    forged(&signed, authorization, date);
    1
}

/// Returns true if the request can be sent as signed. API paths have no empty segments and no dot segments, which
/// signers remove. A plus in a query is ambiguous, and AWS's signer replaces invalid UTF-8. Headers have no line
/// ends.
fn can_be_sent(request: &Request<'_>) -> bool {
    let segments = request.path.strip_prefix('/').is_some_and(|path| {
        path.split('/').all(|segment| !segment.is_empty() && !matches!(segment, "." | ".."))
    });
    let text = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    let header = request.headers["x-header"].bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    let query = !request.query.contains('+') && percent_decode_str(request.query).decode_utf8().is_ok();
    segments && text(request.path) && !request.path.contains('?') && text(request.query) && query && header
}

fn signed<'b>(request: &Request<'b>) -> Option<Request<'b>> {
    let identity = Credentials::new("AKID", SECRET, None, None, "fuzz").into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(REGION)
        .name("lambda")
        .time(SystemTime::UNIX_EPOCH + Duration::from_secs(NOW as u64))
        .settings(SigningSettings::default())
        .build()
        .ok()?
        .into();
    let url = format!("http://localhost:9010{}?{}", request.path, request.query);
    let headers = request.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let signable = SignableRequest::new("POST", &url, headers, SignableBody::Bytes(request.body)).ok()?;
    let (instructions, _) = sign(signable, &params).ok()?.into_parts();
    let mut headers = request.headers.clone();
    headers.extend(instructions.headers().map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())));
    Some(Request { path: request.path, query: request.query, headers, body: request.body })
}

fn check(request: &Request<'_>, now: i64) -> Result<String, ApiError> {
    let Request { path, query, headers, body } = request;
    let secret_of = |id: &str| (id == "AKID").then(|| SECRET.to_owned());
    let signed = SignedRequest { method: "POST", path, query, headers, body };
    SigV4 { region: REGION.to_owned() }
        .authenticate(&signed, now, &secret_of)
        .map(|caller| caller.access_key_id)
}

fn refused(request: &Request<'_>, now: i64, what: &str) {
    let error = check(request, now).expect_err(what);
    let kinds = [
        ErrorKind::InvalidSignature,
        ErrorKind::IncompleteSignature,
        ErrorKind::UnrecognizedClient,
        ErrorKind::MissingAuthenticationToken,
    ];
    assert!(kinds.contains(&error.kind), "{what}: {error:?}");
    assert!(!error.message.is_empty());
}

fn changed(signed: &Request<'_>) {
    let Request { path, query, headers, body } = signed;
    let (longer_path, longer_query) = (format!("{path}x"), format!("{query}&x=1"));
    let longer_body = [body, &b"x"[..]].concat();
    let with = |name: &str, value: &str| {
        let mut headers = headers.clone();
        headers.insert(name.to_owned(), value.to_owned());
        headers
    };
    let header = format!("{}x", headers["x-header"]);
    refused(&Request { path: &longer_path, query, headers: headers.clone(), body }, NOW, "another path");
    refused(&Request { path, query: &longer_query, headers: headers.clone(), body }, NOW, "another query");
    refused(&Request { path, query, headers: headers.clone(), body: &longer_body }, NOW, "another body");
    refused(&Request { path, query, headers: with("x-header", &header), body }, NOW, "another header");
    refused(&Request { path, query, headers: with("host", "elsewhere"), body }, NOW, "another host");
    refused(signed, NOW + 301, "too late");
    refused(signed, NOW - 301, "too early");
}

/// Checks that a request without knowledge of the secret is rejected, whatever its header contains.
fn forged(request: &Request<'_>, authorization: &str, date: &str) {
    let Request { path, query, headers, body } = request;
    let own = headers.get("authorization").is_some_and(|own| signature(own) == signature(authorization));
    if own {
        return;
    }
    for date in [date, "20270115T080000Z"] {
        let mut headers = headers.clone();
        headers.insert("authorization".to_owned(), authorization.to_owned());
        headers.insert("x-amz-date".to_owned(), date.to_owned());
        refused(&Request { path, query, headers, body }, NOW, "not made with the secret");
    }
}

fn signature(authorization: &str) -> Option<&str> {
    authorization.split("Signature=").nth(1)?.get(..64)
}
