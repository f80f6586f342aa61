//! The AWS SDK's Lambda client as function port, against AWS or `AWS_ENDPOINT_URL_LAMBDA`. Its retries and its stalled
//! stream protection are off: a second attempt that we do not know of would be a duplicate (aws-sdk-rust#1166).

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
use bytes::Bytes;
use futures::future::BoxFuture;

use super::port::{FunctionFacts, FunctionPort, Invocation};
use super::verdict::Reply;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const FACTS_TIMEOUT: Duration = Duration::from_secs(10);

/// The SDK's client, configured for exactly one wire attempt.
#[derive(Clone)]
pub struct SdkPort {
    client: Client,
}

impl SdkPort {
    /// From the environment's credential chain, region and endpoint.
    pub async fn from_environment(region: &str) -> Self {
        let region = aws_sdk_lambda::config::Region::new(region.to_owned());
        let shared = aws_config::defaults(BehaviorVersion::latest()).region(region).load().await;
        Self::from_sdk(&shared)
    }

    /// With what the SDK's configuration says.
    pub fn from_sdk(shared: &aws_config::SdkConfig) -> Self {
        let config = aws_sdk_lambda::config::Builder::from(shared)
            .retry_config(RetryConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).build())
            .build();
        Self { client: Client::from_conf(config) }
    }

    /// Against `endpoint` with throw-away credentials: a local function host that checks none.
    pub fn local(endpoint: &str, region: &str) -> Self {
        let credentials = aws_credential_types::Credentials::new("local", "local", None, None, "local");
        let config = aws_sdk_lambda::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(aws_sdk_lambda::config::Region::new(region.to_owned()))
            .credentials_provider(credentials)
            .endpoint_url(endpoint)
            .retry_config(RetryConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).build())
            .build();
        Self { client: Client::from_conf(config) }
    }
}

impl FunctionPort for SdkPort {
    fn invoke(&self, invocation: Invocation) -> BoxFuture<'static, Reply> {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(invocation.read_timeout)
            .build();
        let send = self
            .client
            .invoke()
            .function_name(&*invocation.function)
            .client_context(invocation.context.base64())
            .payload(Blob::from_maybe_shared(invocation.payload))
            .customize()
            .config_override(aws_sdk_lambda::config::Builder::default().timeout_config(timeouts))
            .send();
        Box::pin(async move { reply_of(send.await) })
    }

    fn facts(&self, function: Arc<str>) -> BoxFuture<'static, FunctionFacts> {
        let ask = self.client.get_function_configuration().function_name(&*function).send();
        Box::pin(async move {
            match tokio::time::timeout(FACTS_TIMEOUT, ask).await {
                Ok(Ok(answer)) => answer
                    .timeout()
                    .and_then(|seconds| u64::try_from(seconds).ok())
                    .map_or(FunctionFacts::Untold, |seconds| FunctionFacts::Known {
                        timeout: Duration::from_secs(seconds),
                    }),
                Ok(Err(SdkError::ServiceError(error)))
                    if matches!(error.err(), GetFunctionConfigurationError::ResourceNotFoundException(_)) =>
                {
                    FunctionFacts::Missing
                }
                Ok(Err(_)) | Err(_) => FunctionFacts::Untold,
            }
        })
    }
}

fn reply_of(sent: Result<InvokeOutput, SdkError<InvokeError, HttpResponse>>) -> Reply {
    match sent {
        Ok(output) => Reply::Answer {
            status: u16::try_from(output.status_code()).unwrap_or(200),
            function_error: output.function_error().map(ToOwned::to_owned),
            error_type: None,
            retry_after: None,
            executed_version: output.executed_version().map(ToOwned::to_owned),
            request_id: aws_types::request_id::RequestId::request_id(&output).map(ToOwned::to_owned),
            body: output.payload.map(|blob| Bytes::from(blob.into_inner())).unwrap_or_default(),
        },
        Err(SdkError::ConstructionFailure(failure)) => Reply::NotSent(format!("{failure:?}")),
        Err(SdkError::DispatchFailure(failure)) => {
            let text = failure.as_connector_error().map_or_else(|| format!("{failure:?}"), describe);
            // Only a connection that never stood proves that nothing was sent.
            let never_connected = failure.as_connector_error().is_some_and(|error| {
                error.is_user()
                    || error.connection_metadata().is_none() && describe(error).contains("connect")
            });
            if never_connected || failure.as_connector_error().is_none() {
                Reply::NotSent(text)
            } else {
                Reply::Lost(text)
            }
        }
        Err(SdkError::TimeoutError(_)) => Reply::Lost("no reply within the function's timeout".to_owned()),
        Err(SdkError::ResponseError(error)) => answer_of(error.raw()),
        Err(SdkError::ServiceError(error)) => answer_of(error.raw()),
        Err(other) => Reply::Lost(other.to_string()),
    }
}

fn answer_of(raw: &HttpResponse) -> Reply {
    let header = |name: &str| raw.headers().get(name).map(ToOwned::to_owned);
    Reply::Answer {
        status: raw.status().as_u16(),
        function_error: header("x-amz-function-error"),
        error_type: header("x-amzn-errortype"),
        retry_after: header("retry-after").and_then(|seconds| seconds.parse().ok()),
        executed_version: header("x-amz-executed-version"),
        request_id: header("x-amzn-requestid"),
        body: raw.body().bytes().map(Bytes::copy_from_slice).unwrap_or_default(),
    }
}

fn describe(error: &aws_smithy_runtime_api::client::result::ConnectorError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
