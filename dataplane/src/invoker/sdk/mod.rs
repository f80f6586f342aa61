//! Function port on the AWS SDK's Lambda client, to AWS or `AWS_ENDPOINT_URL_LAMBDA`. Its retries and stalled
//! stream protection are disabled: an unobserved second attempt would be a duplicate (aws-sdk-rust#1166).
//! Invocations use the wire of the direct port.

mod wire;

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_lambda::Client;
use aws_sdk_lambda::config::retry::RetryConfig;
use aws_sdk_lambda::config::timeout::TimeoutConfig;
use aws_sdk_lambda::config::{BehaviorVersion, StalledStreamProtectionConfig};
use aws_sdk_lambda::error::SdkError;
use aws_sdk_lambda::operation::get_function_configuration::GetFunctionConfigurationError;
use aws_sdk_lambda::operation::invoke::{InvokeError, InvokeOutput};
use aws_sdk_lambda::primitives::Blob;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::DispatchFailure;
use bytes::Bytes;
use futures::future::BoxFuture;

use self::wire::{InvocationTerms, WireClient};
use super::direct::exchange::WireError;
use super::outcome::InvokeResponse;
use super::permit::SendPermit;
use super::port::{FunctionFacts, FunctionPort, Invocation};
use crate::error::error_chain;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const FACTS_TIMEOUT: Duration = Duration::from_secs(10);

/// SDK clients configured for exactly one wire attempt.
#[derive(Clone)]
pub struct SdkPort {
    /// Client for configuration queries, with the SDK's own HTTP client.
    client: Client,
    /// Client for invocations.
    invoking: Client,
}

impl SdkPort {
    /// Creates a port with the credential chain, region and endpoint of the environment.
    pub async fn from_environment(region: &str) -> Self {
        let region = aws_sdk_lambda::config::Region::new(region.to_owned());
        let shared = aws_config::defaults(BehaviorVersion::latest()).region(region).load().await;
        Self::from_sdk(&shared)
    }

    /// Creates a port from the SDK's configuration.
    pub fn from_sdk(shared: &aws_config::SdkConfig) -> Self {
        let config = aws_sdk_lambda::config::Builder::from(shared)
            .retry_config(RetryConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).build());
        Self::with(config)
    }

    fn with(config: aws_sdk_lambda::config::Builder) -> Self {
        // The invoker decides how long to wait, and the wire has its own connect timeout.
        let invoking =
            config.clone().http_client(WireClient::default()).timeout_config(TimeoutConfig::disabled());
        Self { client: Client::from_conf(config.build()), invoking: Client::from_conf(invoking.build()) }
    }

    /// Creates a port to `endpoint` with dummy credentials, for a local function host that does not check them.
    pub fn local(endpoint: &str, region: &str) -> Self {
        let credentials = aws_credential_types::Credentials::new("local", "local", None, None, "local");
        let config = aws_sdk_lambda::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(aws_sdk_lambda::config::Region::new(region.to_owned()))
            .credentials_provider(credentials)
            .endpoint_url(endpoint)
            .retry_config(RetryConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).build());
        Self::with(config)
    }
}

impl FunctionPort for SdkPort {
    fn invoke(&self, invocation: Invocation) -> BoxFuture<'static, InvokeResponse> {
        let permit = invocation.permit.clone();
        let send = self
            .invoking
            .invoke()
            .function_name(&*invocation.function)
            .client_context(invocation.context.base64())
            .payload(Blob::from_maybe_shared(invocation.payload))
            .customize()
            .interceptor(InvocationTerms { permit: invocation.permit, answer_room: invocation.answer_room })
            .send();
        Box::pin(async move { reply_of(send.await, &permit) })
    }

    fn facts(&self, function: Arc<str>) -> BoxFuture<'static, FunctionFacts> {
        let ask = self.client.get_function_configuration().function_name(&*function).send();
        Box::pin(async move {
            match tokio::time::timeout(FACTS_TIMEOUT, ask).await {
                Ok(Ok(answer)) => answer
                    .timeout()
                    .and_then(|seconds| u64::try_from(seconds).ok())
                    .map_or(FunctionFacts::Unknown, |seconds| FunctionFacts::Known {
                        timeout: Duration::from_secs(seconds),
                    }),
                Ok(Err(SdkError::ServiceError(error))) => refused(
                    matches!(error.err(), GetFunctionConfigurationError::ResourceNotFoundException(_)),
                    error.raw(),
                ),
                Ok(Err(SdkError::ResponseError(error))) => refused(false, error.raw()),
                Ok(Err(_)) | Err(_) => FunctionFacts::Unanswered { throttled: false },
            }
        })
    }
}

/// Classifies an error response to a configuration query. Transient errors are distinguished from those that only
/// an operator can resolve: a missing permission, or an endpoint without this call.
fn refused(is_missing: bool, raw: &HttpResponse) -> FunctionFacts {
    match raw.status().as_u16() {
        _ if is_missing => FunctionFacts::Missing,
        429 => FunctionFacts::Unanswered { throttled: true },
        501 => FunctionFacts::Unknown,
        408 | 500..=599 => FunctionFacts::Unanswered { throttled: false },
        _ if raw.headers().get("x-amzn-errortype").is_some_and(|kind| kind.contains("Throttl")) => {
            FunctionFacts::Unanswered { throttled: true }
        }
        _ => FunctionFacts::Unknown,
    }
}

fn reply_of(
    sent: Result<InvokeOutput, SdkError<InvokeError, HttpResponse>>,
    permit: &SendPermit,
) -> InvokeResponse {
    match sent {
        Ok(output) => InvokeResponse::Answer {
            status: u16::try_from(output.status_code()).unwrap_or(200),
            function_error: output.function_error().map(ToOwned::to_owned),
            error_type: None,
            retry_after: None,
            executed_version: output.executed_version().map(ToOwned::to_owned),
            request_id: aws_types::request_id::RequestId::request_id(&output).map(ToOwned::to_owned),
            body: output.payload.map(|blob| Bytes::from(blob.into_inner())).unwrap_or_default(),
        },
        Err(SdkError::ConstructionFailure(failure)) => InvokeResponse::NotSent(format!("{failure:?}")),
        Err(SdkError::DispatchFailure(failure)) => undispatched(&failure, permit),
        Err(SdkError::ResponseError(error)) => answer_of(error.raw()),
        Err(SdkError::ServiceError(error)) => answer_of(error.raw()),
        Err(other) => InvokeResponse::Lost(other.to_string()),
    }
}

fn answer_of(raw: &HttpResponse) -> InvokeResponse {
    let header = |name: &str| raw.headers().get(name).map(ToOwned::to_owned);
    InvokeResponse::Answer {
        status: raw.status().as_u16(),
        function_error: header("x-amz-function-error"),
        error_type: header("x-amzn-errortype"),
        retry_after: header("retry-after").and_then(|seconds| seconds.parse().ok()),
        executed_version: header("x-amz-executed-version"),
        request_id: header("x-amzn-requestid"),
        body: raw.body().bytes().map(Bytes::copy_from_slice).unwrap_or_default(),
    }
}

/// Classifies a dispatch failure: missing credentials or an error of the wire.
fn undispatched(failure: &DispatchFailure, permit: &SendPermit) -> InvokeResponse {
    let text =
        failure.as_connector_error().map_or_else(|| format!("{failure:?}"), |error| error_chain(error));
    let source = failure.as_connector_error().and_then(std::error::Error::source);
    match source.and_then(|source| source.downcast_ref::<WireError>()) {
        Some(wire) => Err(wire.clone()).into(),
        None if permit.revoke() => InvokeResponse::NotSent(text),
        None => InvokeResponse::Lost(text),
    }
}
