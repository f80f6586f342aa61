//! Server side of Signature Version 4:
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>. Implemented on
//! RustCrypto's HMAC and tested against aws-sigv4's signer. The one crate that verifies signatures
//! (scratchstack-aws-signature) brings a Tower stack and its own HTTP version for what is a page of code here.

use std::collections::BTreeMap;
use std::fmt::Write;

use hmac::{Hmac, KeyInit, Mac};
use lighterman_proto::api::{ApiError, ErrorKind};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::hex::push_hex;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const SERVICE: &str = "lambda";
const TERMINATOR: &str = "aws4_request";
const DATE_BYTES: usize = "YYYYMMDD".len();
/// Maximum clock skew of the caller, in seconds: AWS's five minutes.
const SKEW_SECONDS_MAX: i64 = 300;

/// Signed request as received.
pub struct SignedRequest<'r> {
    /// HTTP method.
    pub method: &'r str,
    /// Path, percent-encoded as sent.
    pub path: &'r str,
    /// Query, percent-encoded as sent.
    pub query: &'r str,
    /// Headers, names in lower case; repeated ones joined by commas.
    pub headers: &'r BTreeMap<String, String>,
    /// Request body.
    pub body: &'r [u8],
}

/// Identity of the signer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerIdentity {
    /// Access key id.
    pub access_key_id: String,
}

/// Authenticator of requests. Other kinds of caller identity are other implementations.
pub trait RequestAuthenticator: Send + Sync {
    /// Returns the signer of `request` at `now` (seconds since the epoch). `secret_of` looks up keys.
    fn authenticate(
        &self,
        request: &SignedRequest<'_>,
        now: i64,
        secret_of: &dyn Fn(&str) -> Option<String>,
    ) -> Result<CallerIdentity, ApiError>;
}

/// Signature Version 4 authenticator of one region.
pub struct SigV4 {
    /// Region that requests must be signed for.
    pub region: String,
}

struct AuthorizationHeader<'h> {
    access_key_id: &'h str,
    date: &'h str,
    region: &'h str,
    service: &'h str,
    signed_headers: &'h str,
    signature: &'h str,
}

fn refused(kind: ErrorKind, message: impl Into<String>) -> ApiError {
    ApiError::new(kind, message)
}

fn mismatch() -> ApiError {
    refused(
        ErrorKind::InvalidSignature,
        "The request signature we calculated does not match the signature you provided. \
         Check your AWS Secret Access Key and signing method. Consult the service documentation for details.",
    )
}

impl RequestAuthenticator for SigV4 {
    fn authenticate(
        &self,
        request: &SignedRequest<'_>,
        now: i64,
        secret_of: &dyn Fn(&str) -> Option<String>,
    ) -> Result<CallerIdentity, ApiError> {
        let header = request.headers.get("authorization");
        let header = header
            .ok_or_else(|| refused(ErrorKind::MissingAuthenticationToken, "Missing Authentication Token"))?;
        let stamp = request.headers.get("x-amz-date");
        let authorization = parse(header, stamp.is_some())?;
        let stamp = stamp.map_or("", String::as_str);
        self.check_scope(&authorization)?;
        check_time(stamp, authorization.date, now)?;
        let secret = secret_of(authorization.access_key_id).ok_or_else(|| {
            refused(ErrorKind::UnrecognizedClient, "The security token included in the request is invalid.")
        })?;
        let body_hash = hex(&Sha256::digest(request.body));
        if request.headers.get("x-amz-content-sha256").is_some_and(|sent| *sent != body_hash) {
            return Err(mismatch());
        }
        let canonical =
            canonical_request(request, authorization.signed_headers, &body_hash).ok_or_else(mismatch)?;
        let scope =
            format!("{}/{}/{}/{TERMINATOR}", authorization.date, authorization.region, authorization.service);
        let to_sign =
            format!("{ALGORITHM}\n{stamp}\n{scope}\n{}", hex(&Sha256::digest(canonical.as_bytes())));
        let expected = hex(&hmac(&signing_key(&secret, &authorization), to_sign.as_bytes()));
        if bool::from(expected.as_bytes().ct_eq(authorization.signature.as_bytes())) {
            Ok(CallerIdentity { access_key_id: authorization.access_key_id.to_owned() })
        } else {
            Err(mismatch())
        }
    }
}

impl SigV4 {
    fn check_scope(&self, authorization: &AuthorizationHeader<'_>) -> Result<(), ApiError> {
        if authorization.region != self.region {
            return Err(refused(
                ErrorKind::InvalidSignature,
                format!("Credential should be scoped to a valid region: {}.", self.region),
            ));
        }
        if authorization.service != SERVICE {
            let text = format!("Credential should be scoped to correct service: '{SERVICE}'.");
            return Err(refused(ErrorKind::InvalidSignature, text));
        }
        let names = || authorization.signed_headers.split(';');
        if !names().any(|name| name == "host") || !names().any(|name| name == "x-amz-date") {
            return Err(refused(ErrorKind::InvalidSignature, "'Host' and 'X-Amz-Date' must be signed."));
        }
        Ok(())
    }
}

/// Parses an Authorization header. Errors never repeat its text, which may be another service's secret.
fn parse(header: &str, has_date: bool) -> Result<AuthorizationHeader<'_>, ApiError> {
    let incomplete = |text: String| refused(ErrorKind::IncompleteSignature, text);
    let (scheme, fields) = header.split_once(' ').unwrap_or((header, ""));
    if scheme != ALGORITHM && scheme.starts_with("AWS4-") {
        return Err(incomplete(format!("Unsupported AWS 'algorithm': {ALGORITHM} is supported.")));
    }
    let mut found = [("Credential", None), ("Signature", None), ("SignedHeaders", None)];
    for field in fields.split(',').map(str::trim).filter(|_| scheme == ALGORITHM) {
        let pair = field.split_once('=');
        let slot = pair.and_then(|(name, _)| found.iter_mut().find(|(known, _)| *known == name));
        let (Some((_, value)), Some((name, slot))) = (pair, slot) else {
            return Err(incomplete(
                "Authorization header has a part that is none of 'Credential', 'Signature' and 'SignedHeaders', each \
                 with its value behind an equal-sign. A request has one Authorization header."
                    .to_owned(),
            ));
        };
        if slot.replace(value).is_some() {
            return Err(incomplete(format!("Authorization header has more than one '{name}' parameter.")));
        }
    }
    let [(_, Some(credential)), (_, Some(signature)), (_, Some(signed_headers))] = found else {
        return Err(incomplete(what_lacks(&found, has_date)));
    };
    if !has_date {
        return Err(incomplete(what_lacks(&found, has_date)));
    }
    let elements: Vec<&str> = credential.split('/').collect();
    let [access_key_id, date, region, service, term] = elements[..] else {
        return Err(incomplete(
            "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term."
                .to_owned(),
        ));
    };
    if term != TERMINATOR {
        let text = format!("Credential should be scoped with a valid terminator: '{TERMINATOR}'.");
        return Err(refused(ErrorKind::InvalidSignature, text));
    }
    Ok(AuthorizationHeader { access_key_id, date, region, service, signed_headers, signature })
}

/// Returns AWS's error sentences, one for each missing part.
fn what_lacks(found: &[(&str, Option<&str>)], has_date: bool) -> String {
    let parts = found.iter().filter(|(_, value)| value.is_none());
    let mut sentences: Vec<String> =
        parts.map(|(name, _)| format!("Authorization header requires '{name}' parameter.")).collect();
    if !has_date {
        sentences.push("Authorization header requires existence of a 'X-Amz-Date' header.".to_owned());
    }
    sentences.join(" ")
}

fn check_time(stamp: &str, date: &str, now: i64) -> Result<(), ApiError> {
    let signed = seconds_of(stamp).ok_or_else(|| {
        refused(
            ErrorKind::IncompleteSignature,
            "Date must be in ISO-8601 'basic format', like 20261123T210000Z.",
        )
    })?;
    if stamp.get(..DATE_BYTES) != Some(date) {
        let text =
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP.";
        return Err(refused(ErrorKind::InvalidSignature, text));
    }
    if signed < now - SKEW_SECONDS_MAX {
        return Err(refused(
            ErrorKind::InvalidSignature,
            format!("Signature expired: {stamp} is earlier than allowed."),
        ));
    }
    if signed > now + SKEW_SECONDS_MAX {
        let text = format!("Signature not yet current: {stamp} is still later than allowed.");
        return Err(refused(ErrorKind::InvalidSignature, text));
    }
    Ok(())
}

/// Converts `YYYYMMDDTHHMMSSZ` to seconds since the epoch.
fn seconds_of(stamp: &str) -> Option<i64> {
    Some(chrono::NaiveDateTime::parse_from_str(stamp, "%Y%m%dT%H%M%SZ").ok()?.and_utc().timestamp())
}

fn canonical_request(request: &SignedRequest<'_>, signed_headers: &str, body_hash: &str) -> Option<String> {
    let mut canonical =
        format!("{}\n{}\n{}\n", request.method, encode(request.path, true), canonical_query(request.query));
    for name in signed_headers.split(';') {
        let value = request.headers.get(name)?;
        let collapsed = value.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        let _ = writeln!(canonical, "{name}:{collapsed}");
    }
    let _ = write!(canonical, "\n{signed_headers}\n{body_hash}");
    Some(canonical)
}

fn canonical_query(query: &str) -> String {
    let mut pairs: Vec<(String, String)> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (recode(name), recode(value))
        })
        .collect();
    pairs.sort();
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

fn recode(text: &str) -> String {
    encode_bytes(&percent_encoding::percent_decode_str(text).collect::<Vec<u8>>(), false)
}

fn encode(text: &str, keep_slash: bool) -> String {
    encode_bytes(text.as_bytes(), keep_slash)
}

fn encode_bytes(bytes: &[u8], keep_slash: bool) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let plain = byte.is_ascii_alphanumeric() || b"-._~".contains(byte) || (keep_slash && *byte == b'/');
        if plain {
            text.push(char::from(*byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
        text
    })
}

fn signing_key(secret: &str, authorization: &AuthorizationHeader<'_>) -> Vec<u8> {
    let date = hmac(format!("AWS4{secret}").as_bytes(), authorization.date.as_bytes());
    let region = hmac(&date, authorization.region.as_bytes());
    let service = hmac(&region, authorization.service.as_bytes());
    hmac(&service, TERMINATOR.as_bytes())
}

fn hmac(key: &[u8], data: &[u8]) -> Vec<u8> {
    // HMAC accepts keys of any length, so this cannot fail.
    Hmac::<Sha256>::new_from_slice(key)
        .map(|mac| mac.chain_update(data).finalize().into_bytes().to_vec())
        .unwrap_or_default()
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    push_hex(&mut text, bytes);
    text
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use aws_credential_types::Credentials;
    use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
    use aws_sigv4::sign::v4;

    use super::*;

    const NOW: i64 = 1_800_000_000;
    const PATH: &str = "/2017-03-31/tags/arn%3Aaws%3Alambda%3Ax%3A1%3Aevent-source-mapping%3Au";
    const QUERY: &str = "tagKeys=b%20c&tagKeys=a&z";
    const BODY: &[u8] = br#"{"a":1}"#;

    /// Signs with AWS's own signer.
    fn signed(path: &str, query: &str, body: &[u8]) -> BTreeMap<String, String> {
        let identity = Credentials::new("AKID", "secret", None, None, "test").into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region("eu-west-1")
            .name("lambda")
            .time(SystemTime::UNIX_EPOCH + Duration::from_secs(NOW as u64))
            .settings(SigningSettings::default())
            .build()
            .expect("params")
            .into();
        let url = format!("http://localhost:9010{path}?{query}");
        let headers = [("host", "localhost:9010"), ("content-type", "application/json")];
        let request = SignableRequest::new("POST", &url, headers.into_iter(), SignableBody::Bytes(body))
            .expect("request");
        let (instructions, _) = sign(request, &params).expect("signs").into_parts();
        let mut all: BTreeMap<String, String> =
            headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        all.extend(instructions.headers().map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())));
        all
    }

    fn check(
        headers: &BTreeMap<String, String>,
        path: &str,
        query: &str,
        body: &[u8],
        now: i64,
    ) -> Result<CallerIdentity, ErrorKind> {
        let request = SignedRequest { method: "POST", path, query, headers, body };
        let secret_of = |id: &str| (id == "AKID").then(|| "secret".to_owned());
        let verifier = SigV4 { region: "eu-west-1".to_owned() };
        verifier.authenticate(&request, now, &secret_of).map_err(|error| error.kind)
    }

    #[test]
    fn aws_signed_request_is_accepted() {
        let headers = signed(PATH, QUERY, BODY);
        assert_eq!(
            check(&headers, PATH, QUERY, BODY, NOW),
            Ok(CallerIdentity { access_key_id: "AKID".into() })
        );
        assert!(check(&headers, PATH, "z=&tagKeys=a&tagKeys=b%20c", BODY, NOW + 299).is_ok());
    }

    #[test]
    fn any_changed_part_is_rejected() {
        let headers = signed(PATH, QUERY, BODY);
        let invalid = Err(ErrorKind::InvalidSignature);
        assert_eq!(check(&headers, "/2017-03-31/tags/other", QUERY, BODY, NOW), invalid);
        assert_eq!(check(&headers, PATH, "tagKeys=a", BODY, NOW), invalid);
        assert_eq!(check(&headers, PATH, QUERY, b"{}", NOW), invalid);
        assert_eq!(check(&headers, PATH, QUERY, BODY, NOW + 301), invalid, "expired");
        assert_eq!(check(&headers, PATH, QUERY, BODY, NOW - 301), invalid, "from the future");
        for (name, value) in
            [("host", "evil:1"), ("content-type", "text/plain"), ("x-amz-date", "20270115T080001Z")]
        {
            let mut changed = headers.clone();
            changed.insert(name.to_owned(), value.to_owned());
            assert_eq!(check(&changed, PATH, QUERY, BODY, NOW), invalid, "{name}");
        }
        for (from, to) in [
            ("eu-west-1", "us-east-1"),
            ("/lambda/", "/sqs/"),
            ("host;", ""),
            ("Signature=", "Signature=0"),
            ("aws4_request", "aws5_request"),
            ("/20270115/", "//"),
            ("/20270115/", "/20270114/"),
        ] {
            let mut changed = headers.clone();
            let authorization = headers["authorization"].replacen(from, to, 1);
            changed.insert("authorization".to_owned(), authorization);
            assert_eq!(check(&changed, PATH, QUERY, BODY, NOW), invalid, "{from} → {to}");
        }
    }

    #[test]
    fn unsigned_and_unknown_callers_get_distinct_errors() {
        let mut headers = signed(PATH, QUERY, BODY);
        let authorization = headers["authorization"].replacen("AKID", "AKIX", 1);
        headers.insert("authorization".to_owned(), authorization);
        assert_eq!(check(&headers, PATH, QUERY, BODY, NOW), Err(ErrorKind::UnrecognizedClient));
        headers.remove("authorization");
        assert_eq!(check(&headers, PATH, QUERY, BODY, NOW), Err(ErrorKind::MissingAuthenticationToken));
    }

    /// Recorded messages: <https://docs.aws.amazon.com/IAM/latest/UserGuide/signature-v4-troubleshooting.html> and
    /// public reports.
    #[test]
    fn invalid_authorization_is_incomplete_and_never_repeated() {
        let headers = signed(PATH, QUERY, BODY);
        let good = &headers["authorization"];
        let without = |name: &str| {
            let (scheme, fields) = good.split_once(' ').expect("scheme");
            let kept: Vec<&str> = fields.split(", ").filter(|field| !field.starts_with(name)).collect();
            format!("{scheme} {}", kept.join(", "))
        };
        let requires = |name: &str| format!("Authorization header requires '{name}' parameter.");
        let all = ["Credential", "Signature", "SignedHeaders"].map(requires).join(" ");
        let cases = [
            ("Bearer secret".to_owned(), all.clone()),
            ("Basic c2VjcmV0".to_owned(), all.clone()),
            ("secret".to_owned(), all.clone()),
            (String::new(), all),
            (without("Credential"), requires("Credential")),
            (without("Signature"), requires("Signature")),
            (without("SignedHeaders"), requires("SignedHeaders")),
            (good.replacen("HMAC-SHA256", "ECDSA-P256-SHA256", 1), "Unsupported AWS 'algorithm'".to_owned()),
            (good.replacen("/lambda/", "/", 1), "Credential must have exactly 5 slash-delimited".to_owned()),
            (
                good.replacen("/lambda/", "/x/lambda/", 1),
                "Credential must have exactly 5 slash-delimited".to_owned(),
            ),
            (ALGORITHM.to_owned(), "Authorization header has a part".to_owned()),
            (format!("{good}, secret"), "Authorization header has a part".to_owned()),
            // Two headers arrive joined by a comma, even if one of them is valid.
            (format!("{good},{good}"), "Authorization header has a part".to_owned()),
            (format!("{good},Basic secret"), "Authorization header has a part".to_owned()),
            (format!("Basic secret,{good}"), requires("Credential")),
            (format!("{good}, Signature=secret"), "more than one 'Signature'".to_owned()),
        ];
        for (authorization, tells) in cases {
            let mut changed = headers.clone();
            changed.insert("authorization".to_owned(), authorization.clone());
            let error = refusal(&changed);
            assert_eq!(
                (error.kind, error.kind.status()),
                (ErrorKind::IncompleteSignature, 400),
                "{authorization}"
            );
            assert!(error.message.contains(&tells), "{authorization}: {error}");
            assert!(!error.message.contains("secret") && !error.message.contains("AKID"), "{error}");
        }
        let mut changed = headers.clone();
        changed.insert("x-amz-date".to_owned(), "today".to_owned());
        assert!(refusal(&changed).message.starts_with("Date must be in ISO-8601"));
        changed.remove("x-amz-date");
        let text = "Authorization header requires existence of a 'X-Amz-Date' header.";
        assert_eq!(refusal(&changed).message, text);
    }

    fn refusal(headers: &BTreeMap<String, String>) -> ApiError {
        let request = SignedRequest { method: "POST", path: PATH, query: QUERY, headers, body: BODY };
        let secret_of = |id: &str| (id == "AKID").then(|| "secret".to_owned());
        let verifier = SigV4 { region: "eu-west-1".to_owned() };
        verifier.authenticate(&request, NOW, &secret_of).expect_err("refused")
    }
}
