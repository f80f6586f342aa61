//! The SDK's HTTP client, replaced by the wire of the direct port: sockets that stay alive while a function runs, one attempt,
//! and the lease looked at before the first byte. What the SDK does before (serialising, credentials, signing) it goes on doing.

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

use crate::invoker::direct::connections::Connections;
use crate::invoker::direct::endpoint::Endpoint;
use crate::invoker::direct::exchange::{Terms, WireAnswer, WireError, exchange};
use crate::invoker::permit::SendPermit;
use crate::invoker::port::ANSWER_BYTES_MAX;

/// Puts what an invocation is sent under beside its request, where the connector finds it.
#[derive(Clone, Debug)]
pub(super) struct InvocationTerms {
    pub(super) permit: SendPermit,
    pub(super) answer_bytes_max: usize,
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

/// Client and connector in one; clones share connections.
#[derive(Clone, Default)]
pub(super) struct WireClient {
    /// Those to the endpoint that was asked for last: a client of one service has one.
    connections: Arc<Mutex<Option<(String, Arc<Connections>)>>>,
}

impl WireClient {
    fn connections(&self, origin: &str) -> Result<Arc<Connections>, BoxError> {
        let mut kept = self.connections.lock();
        if let Some((_, connections)) = kept.as_ref().filter(|(of, _)| of == origin) {
            return Ok(Arc::clone(connections));
        }
        let connections = Arc::new(Connections::new(Endpoint::parse(origin)?)?);
        *kept = Some((origin.to_owned(), Arc::clone(&connections)));
        Ok(connections)
    }

    async fn send(self, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
        let set = request.extension::<InvocationTerms>().cloned();
        let request = Sendable::of(request).await.map_err(ConnectorError::user)?;
        let connections = self.connections(&request.origin).map_err(ConnectorError::user)?;
        let terms = Terms {
            permit: set.as_ref().map(|set| &set.permit),
            answer_bytes_max: set.as_ref().map_or(ANSWER_BYTES_MAX, |set| set.answer_bytes_max),
        };
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

/// A signed request as it can be made as often as it takes.
struct Sendable {
    origin: String,
    head: http::request::Parts,
    body: Bytes,
}

impl Sendable {
    async fn of(request: HttpRequest) -> Result<Self, BoxError> {
        let (mut head, body) = request.try_into_http1x()?.into_parts();
        // A payload is one piece in memory: nothing is copied.
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
