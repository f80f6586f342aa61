//! Invoke over hyper with a signer of its own, at a fifth of the SDK's cost for a small batch. Each invocation in
//! flight has one keep-alive connection and makes one wire attempt. The SDK's client remains the reference and can
//! be selected by a setting.

pub(super) mod connections;
mod credentials;
pub(super) mod endpoint;
pub(super) mod exchange;
mod gate;
mod idle;
pub mod signer;

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_config::{BehaviorVersion, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use bytes::Bytes;
use chrono::{Datelike, Timelike};
use futures::future::BoxFuture;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use http_body_util::Full;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use thiserror::Error;

use self::connections::ConnectionPool;
use self::credentials::KeptCredentials;
pub use self::endpoint::EndpointError;
use self::endpoint::EndpointUrl;
use self::exchange::{ExchangeTerms, WireAnswer, WireError, exchange};
use self::signer::{RequestSigner, SigningIdentity, UnsignedRequest};
use super::outcome::InvokeResponse;
use super::port::{FunctionFacts, FunctionPort, Invocation};
use super::sdk::SdkPort;
use crate::error::error_chain;

/// Characters that a path segment keeps. The rest is percent-encoded, as in the SDK.
pub(super) const LABEL: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const CONTENT: &str = "application/octet-stream";
const AGENT: &str = concat!("lighterman/", env!("CARGO_PKG_VERSION"));
const CLIENT_CONTEXT: HeaderName = HeaderName::from_static("x-amz-client-context");
const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");
const FUNCTION_ERROR: HeaderName = HeaderName::from_static("x-amz-function-error");
const SECURITY_TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");

/// Error on creation of a [`DirectPort`].
#[derive(Debug, Error)]
pub enum DirectError {
    /// The Lambda endpoint cannot be resolved.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// TLS cannot be set up.
    #[error("TLS to the Lambda endpoint cannot be set up: {0}")]
    Tls(#[from] io::Error),
    /// No credentials provider is configured.
    #[error("no AWS credentials provider is configured: set AWS_ACCESS_KEY_ID, AWS_PROFILE or a role")]
    NoCredentials,
}

/// Function port over hyper. Cheap to clone.
#[derive(Clone)]
pub struct DirectPort {
    wire: Arc<DirectState>,
    sdk: SdkPort,
}

struct DirectState {
    authority: String,
    base_path: String,
    connections: ConnectionPool,
    credentials: KeptCredentials,
    signer: RequestSigner,
}

impl DirectPort {
    /// Creates a port with the credential chain, region and endpoint of the environment, as the SDK resolves them.
    pub async fn from_environment(region: &str) -> Result<Self, DirectError> {
        let region = aws_config::Region::new(region.to_owned());
        let shared = aws_config::defaults(BehaviorVersion::latest()).region(region).load().await;
        Self::from_sdk(&shared).await
    }

    /// Creates a port to `endpoint` with dummy credentials, for a local function host that does not check them.
    pub async fn local(endpoint: &str, region: &str) -> Result<Self, DirectError> {
        let credentials = Credentials::new("local", "local", None, None, "local");
        let shared = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(aws_config::Region::new(region.to_owned()))
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .endpoint_url(endpoint)
            .build();
        Self::from_sdk(&shared).await
    }

    /// Creates a port from the SDK's configuration.
    pub async fn from_sdk(shared: &SdkConfig) -> Result<Self, DirectError> {
        let endpoint = EndpointUrl::resolve(shared).await?;
        let provider = shared.credentials_provider().ok_or(DirectError::NoCredentials)?;
        let region = shared.region().map_or("us-east-1", |region| region.as_ref());
        let wire = DirectState {
            authority: endpoint.authority.clone(),
            base_path: endpoint.base_path.clone(),
            connections: ConnectionPool::new(endpoint)?,
            credentials: KeptCredentials::new(provider),
            signer: RequestSigner::new(region),
        };
        Ok(Self { wire: Arc::new(wire), sdk: SdkPort::from_sdk(shared) })
    }
}

impl FunctionPort for DirectPort {
    fn invoke(&self, invocation: Invocation) -> BoxFuture<'static, InvokeResponse> {
        let wire = Arc::clone(&self.wire);
        Box::pin(async move {
            let credentials = match wire.credentials.lasting(SystemTime::now()) {
                Some(lasting) => lasting,
                None => match wire.credentials.get().await {
                    Ok(fresh) => fresh,
                    Err(error) => {
                        return InvokeResponse::NotSent(format!(
                            "no AWS credentials: {}",
                            error_chain(&error)
                        ));
                    }
                },
            };
            let request = || wire.request(&invocation, &credentials, SystemTime::now());
            let terms = ExchangeTerms { permit: &invocation.permit, answer_room: &invocation.answer_room };
            exchange(&wire.connections, terms, request).await.into()
        })
    }

    fn facts(&self, function: Arc<str>) -> BoxFuture<'static, FunctionFacts> {
        self.sdk.facts(function)
    }
}

impl DirectState {
    fn path_of(&self, function: &str) -> String {
        let mut path = String::with_capacity(self.base_path.len() + 64 + function.len());
        path.push_str(&self.base_path);
        path.push_str("/2015-03-31/functions/");
        path.extend(utf8_percent_encode(function, LABEL));
        path.push_str("/invocations");
        path
    }

    fn request(
        &self,
        invocation: &Invocation,
        credentials: &Credentials,
        now: SystemTime,
    ) -> Result<Request<Full<Bytes>>, http::Error> {
        let path = self.path_of(&invocation.function);
        let context = invocation.context.base64();
        let stamp = stamp(now);
        let token = credentials.session_token();
        let named = [
            ("content-type", CONTENT),
            ("host", &self.authority),
            ("x-amz-client-context", &context),
            ("x-amz-date", &stamp),
            ("x-amz-security-token", token.unwrap_or_default()),
        ];
        let headers = &named[..named.len() - usize::from(token.is_none())];
        let signatory = SigningIdentity {
            access_key_id: credentials.access_key_id(),
            secret_access_key: credentials.secret_access_key(),
        };
        let signable = UnsignedRequest {
            method: "POST",
            path: &path,
            headers,
            body: &invocation.payload,
            stamp: &stamp,
        };
        let authorization = self.signer.authorization(&signatory, &signable);
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(path.as_str())
            .header(HOST, self.authority.as_str())
            .header(CONTENT_TYPE, HeaderValue::from_static(CONTENT))
            .header(USER_AGENT, HeaderValue::from_static(AGENT))
            .header(CLIENT_CONTEXT, context)
            .header(DATE, stamp)
            .header(AUTHORIZATION, authorization);
        if let Some(token) = token {
            request = request.header(SECURITY_TOKEN, token);
        }
        request.body(Full::new(invocation.payload.clone()))
    }
}

impl From<Result<WireAnswer, WireError>> for InvokeResponse {
    fn from(answered: Result<WireAnswer, WireError>) -> Self {
        match answered {
            Ok(WireAnswer { status, headers, body }) => answer_of(status, &headers, body),
            Err(WireError::NotSent(why)) => Self::NotSent(why),
            Err(WireError::Withheld) => Self::Withheld,
            Err(WireError::Lost(why)) => Self::Lost(why),
        }
    }
}

fn answer_of(status: u16, headers: &HeaderMap, body: Bytes) -> InvokeResponse {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    InvokeResponse::Answer {
        status,
        function_error: header(FUNCTION_ERROR.as_str()).map(ToOwned::to_owned),
        error_type: header(ERROR_TYPE.as_str()).map(ToOwned::to_owned),
        retry_after: header("retry-after").and_then(|seconds| seconds.parse().ok()),
        executed_version: header("x-amz-executed-version").map(ToOwned::to_owned),
        request_id: header("x-amzn-requestid").map(ToOwned::to_owned),
        body,
    }
}

/// Formats `YYYYMMDDTHHMMSSZ`.
fn stamp(now: SystemTime) -> String {
    let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let at = chrono::DateTime::from_timestamp(since_epoch.as_secs() as i64, 0).unwrap_or_default();
    let mut text = String::with_capacity(16);
    push_pair(&mut text, at.year().unsigned_abs() / 100);
    for part in [at.year().unsigned_abs(), at.month(), at.day()] {
        push_pair(&mut text, part);
    }
    text.push('T');
    for part in [at.hour(), at.minute(), at.second()] {
        push_pair(&mut text, part);
    }
    text.push('Z');
    text
}

/// Appends the last two digits of `number`.
fn push_pair(text: &mut String, number: u32) {
    for digit in [number / 10 % 10, number % 10] {
        text.push(char::from_digit(digit, 10).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests;
