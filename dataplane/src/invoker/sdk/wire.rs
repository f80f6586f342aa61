//! HTTP client of the SDK on the wire of the direct port: sockets with keepalive, one attempt, and lease checks
//! where bytes leave. Serialisation, credentials and signing remain the SDK's.

use std::fmt;
use std::sync::Arc;

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::interceptors::context::BeforeTransmitInterceptorContextMut;
use aws_smithy_runtime_api::client::interceptors::{Intercept, dyn_dispatch_hint};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::config_bag::ConfigBag;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use parking_lot::Mutex;

use crate::invoker::answer_room::AnswerRoom;
use crate::invoker::direct::connections::ConnectionPool;
use crate::invoker::direct::endpoint::EndpointUrl;
use crate::invoker::direct::exchange::{ExchangeTerms, WireAnswer, WireError, exchange};
use crate::invoker::permit::SendPermit;

/// Interceptor that attaches the terms of an invocation to its request, where the connector finds them.
#[derive(Clone, Debug)]
pub(super) struct InvocationTerms {
    pub(super) permit: SendPermit,
    pub(super) answer_room: AnswerRoom,
}

#[dyn_dispatch_hint]
impl Intercept for InvocationTerms {
    fn name(&self) -> &'static str {
        "InvocationTerms"
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        context.request_mut().add_extension(self.clone());
        Ok(())
    }
}

/// HTTP client and connector. Clones share connections.
#[derive(Clone, Default)]
pub(super) struct WireClient {
    /// Pool of the endpoint used last. A client of one service has a single endpoint.
    connections: Arc<Mutex<Option<(String, Arc<ConnectionPool>)>>>,
}

impl WireClient {
    fn connections(&self, origin: &str) -> Result<Arc<ConnectionPool>, BoxError> {
        let mut kept = self.connections.lock();
        if let Some((_, connections)) = kept.as_ref().filter(|(of, _)| of == origin) {
            return Ok(Arc::clone(connections));
        }
        let connections = Arc::new(ConnectionPool::new(EndpointUrl::parse(origin)?)?);
        *kept = Some((origin.to_owned(), Arc::clone(&connections)));
        Ok(connections)
    }

    async fn send(self, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
        // Without the terms nothing would check the lease before the first byte.
        let set = request.extension::<InvocationTerms>().cloned().ok_or_else(|| {
            ConnectorError::user("a request without the terms of an invocation is not sent".into())
        })?;
        let request = SendableRequest::of(request).await.map_err(ConnectorError::user)?;
        let connections = self.connections(&request.origin).map_err(ConnectorError::user)?;
        let terms = ExchangeTerms { permit: &set.permit, answer_room: &set.answer_room };
        let answered = exchange(&connections, terms, || Ok(request.make())).await;
        answered.and_then(response_of).map_err(|error| ConnectorError::other(Box::new(error), None))
    }
}

impl fmt::Debug for WireClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WireClient").finish_non_exhaustive()
    }
}

impl HttpClient for WireClient {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for WireClient {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        HttpConnectorFuture::new(self.clone().send(request))
    }
}

/// Signed request that can be rebuilt for each connection.
struct SendableRequest {
    origin: String,
    head: http::request::Parts,
    body: Bytes,
}

impl SendableRequest {
    async fn of(request: HttpRequest) -> Result<Self, BoxError> {
        let (mut head, body) = request.try_into_http1x()?.into_parts();
        // A payload is contiguous in memory, so nothing is copied.
        let body = body.collect().await?.to_bytes();
        let missing = "a request without scheme and host";
        let (scheme, authority) =
            (head.uri.scheme_str().ok_or(missing)?, head.uri.authority().ok_or(missing)?.clone());
        let origin = format!("{scheme}://{authority}");
        if !head.headers.contains_key(http::header::HOST) {
            head.headers.insert(http::header::HOST, authority.as_str().parse()?);
        }
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        head.uri = path.parse()?;
        Ok(Self { origin, head, body })
    }

    fn make(&self) -> Request<Full<Bytes>> {
        Request::from_parts(self.head.clone(), Full::new(self.body.clone()))
    }
}

fn response_of(answer: WireAnswer) -> Result<HttpResponse, WireError> {
    let unread = |what: String| WireError::Lost(format!("the answer cannot be read: {what}"));
    let mut response = Response::new(SdkBody::from(answer.body));
    *response.status_mut() =
        http::StatusCode::from_u16(answer.status).map_err(|error| unread(error.to_string()))?;
    *response.headers_mut() = answer.headers;
    HttpResponse::try_from(response).map_err(|error| unread(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use aws_sdk_lambda::config::retry::RetryConfig;
    use aws_sdk_lambda::config::{BehaviorVersion, Credentials, Region};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn own_1_request_without_permit_is_not_sent() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let url = format!("http://{}", listener.local_addr().expect("address"));
        let dialled = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&dialled);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                let _ = stream.read_u8().await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnull").await;
            }
        });
        let config = aws_sdk_lambda::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-west-1"))
            .credentials_provider(Credentials::new("AKID", "secret", None, None, "test"))
            .endpoint_url(url)
            .retry_config(RetryConfig::disabled())
            .http_client(WireClient::default())
            .build();
        let sent = aws_sdk_lambda::Client::from_conf(config).invoke().function_name("f").send().await;
        let refused = format!("{:?}", sent.expect_err("a request without permit is rejected"));
        assert!(refused.contains("without the terms of an invocation"), "{refused}");
        assert_eq!(dialled.load(Ordering::Relaxed), 0);
    }
}
