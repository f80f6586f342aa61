//! Signing client of the node's API, for the command line.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use thiserror::Error;

use crate::error::error_chain;

const REPLY_BYTES_MAX: usize = 16 * 1024 * 1024;
const DEADLINE: Duration = Duration::from_secs(30);

/// Failure of an API call.
#[derive(Debug, Error)]
pub enum ClientError {
    /// No node responds.
    #[error(
        "no Lighterman node answers at {endpoint}: {what}. Start one with `lighterman run`, or give --listen"
    )]
    Unreachable {
        /// Endpoint that was called.
        endpoint: String,
        /// Error text.
        what: String,
    },
    /// The node rejected the request.
    #[error("{status} {name}: {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Exception name.
        name: String,
        /// Message of the exception.
        message: String,
    },
    /// The call could not be signed.
    #[error("the request cannot be signed: {0}")]
    Signing(String),
}

/// Client of one node.
pub struct ApiClient {
    endpoint: String,
    region: String,
    credentials: Credentials,
}

impl ApiClient {
    /// Creates a client of the node at `endpoint` (`http://host:port`).
    pub fn new(endpoint: String, region: String, access_key_id: &str, secret: &str) -> Self {
        let credentials = Credentials::new(access_key_id, secret, None, None, "lighterman");
        Self { endpoint, region, credentials }
    }

    /// Calls `path`. An empty response body is returned as `null`.
    pub async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, ClientError> {
        let unreachable = |what: String| ClientError::Unreachable { endpoint: self.endpoint.clone(), what };
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = self.signed(method, path, &body)?;
        let client = Client::builder(TokioExecutor::new()).build_http::<Full<bytes::Bytes>>();
        let called = async {
            let response = client.request(request).await.map_err(|error| error_chain(&error))?;
            let status = response.status().as_u16();
            let name = response.headers().get("x-amzn-errortype").and_then(|name| name.to_str().ok());
            let name = name.unwrap_or_default().to_owned();
            let bytes = Limited::new(response.into_body(), REPLY_BYTES_MAX).collect().await;
            let bytes = bytes.map_err(|error| error.to_string())?.to_bytes();
            Ok::<_, String>((status, name, serde_json::from_slice::<Value>(&bytes).unwrap_or(Value::Null)))
        };
        let (status, name, reply) = tokio::time::timeout(DEADLINE, called)
            .await
            .map_err(|_| unreachable("no answer within 30 s".to_owned()))?
            .map_err(unreachable)?;
        if (200..300).contains(&status) {
            return Ok(reply);
        }
        let message = reply.get("message").or_else(|| reply.get("Message")).and_then(Value::as_str);
        Err(ClientError::Refused { status, name, message: message.unwrap_or_default().to_owned() })
    }

    fn signed(
        &self,
        method: &str,
        path: &str,
        body: &str,
    ) -> Result<http::Request<Full<bytes::Bytes>>, ClientError> {
        let failed = |error: &dyn std::fmt::Display| ClientError::Signing(error.to_string());
        let url = format!("{}{path}", self.endpoint);
        let host = self.endpoint.trim_start_matches("http://").to_owned();
        let identity = self.credentials.clone().into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name("lambda")
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build()
            .map_err(|error| failed(&error))?
            .into();
        let headers = [("host", host.as_str()), ("content-type", "application/json")];
        let signable =
            SignableRequest::new(method, &url, headers.into_iter(), SignableBody::Bytes(body.as_bytes()))
                .map_err(|error| failed(&error))?;
        let (instructions, _) = sign(signable, &params).map_err(|error| failed(&error))?.into_parts();
        let mut request = http::Request::builder().method(method).uri(&url);
        for (name, value) in headers.into_iter().chain(instructions.headers()) {
            request = request.header(name, value);
        }
        request.body(Full::new(bytes::Bytes::from(body.to_owned()))).map_err(|error| failed(&error))
    }
}
