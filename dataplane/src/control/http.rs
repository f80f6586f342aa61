//! HTTP server of the control API: signatures, routes, bodies, and errors in AWS's format.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::http::StatusCode;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use lighterman_proto::api::{
    ApiError, ErrorKind, PAGE_ENTRIES_MAX, check_tag_resource, check_uuid_length, page_size,
    required_tag_keys, required_tags,
};
use lighterman_proto::ids::MappingId;
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::controller::Controller;
use super::filter_test::TrialRequest;
use super::sigv4::{RequestAuthenticator, SignedRequest};
use crate::runtime::clock;

const BODY_BYTES_MAX: usize = 1024 * 1024;
const CONNECTIONS_MAX: usize = 1024;
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
const MAPPINGS: &str = "/2015-03-31/event-source-mappings";
const TAGS: &str = "/2017-03-31/tags/";
const OURS: &str = "/lighterman/v1/";

/// Context of the API's routes.
#[derive(Clone)]
pub struct ApiContext {
    /// Controller that executes requests.
    pub controller: Controller,
    /// Authenticator of callers.
    pub authenticator: Arc<dyn RequestAuthenticator>,
    /// Name of this node.
    pub node: String,
}

/// Running API server.
pub struct ApiServer {
    address: SocketAddr,
    handle: ServerHandle,
}

impl ApiServer {
    /// Serves on `listener`. Call it inside an actix system.
    pub fn start(api: ApiContext, listener: TcpListener) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let server = HttpServer::new(move || {
            App::new().app_data(web::Data::new(api.clone())).default_service(web::to(handle))
        })
        .workers(1)
        .max_connections(CONNECTIONS_MAX)
        .client_request_timeout(HEADER_TIMEOUT)
        .disable_signals()
        .listen(listener)?
        .run();
        let handle = server.handle();
        actix_rt::spawn(server);
        Ok(Self { address, handle })
    }

    /// Returns the address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops the server after completing the requests under way.
    pub async fn stop(self) {
        self.handle.stop(true).await;
    }
}

struct ApiResponse {
    status: u16,
    body: Option<Value>,
}

impl ApiResponse {
    fn ok(body: Value) -> Self {
        Self { status: 200, body: Some(body) }
    }

    fn accepted(body: Value) -> Self {
        Self { status: 202, body: Some(body) }
    }
}

async fn handle(api: web::Data<ApiContext>, request: HttpRequest, payload: web::Payload) -> HttpResponse {
    let answered = match read(&request, payload).await {
        Ok(body) => match authenticate(&api, &request, &body) {
            Ok(()) => route(&api, &request, &body).await,
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    };
    let mut response = match &answered {
        Ok(answer) => HttpResponse::build(StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK)),
        Err(error) => {
            let status =
                StatusCode::from_u16(error.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let mut response = HttpResponse::build(status);
            response.insert_header(("x-amzn-ErrorType", error.kind.name()));
            response
        }
    };
    response.insert_header(("x-amzn-RequestId", uuid::Uuid::new_v4().to_string()));
    match answered {
        Ok(ApiResponse { body: Some(body), .. }) => response.json(body),
        Ok(ApiResponse { body: None, .. }) => response.finish(),
        Err(error) => response.json(error.body()),
    }
}

/// Reads the whole body, bounded in size and time. Actix's own error for a large body does not have AWS's format.
async fn read(request: &HttpRequest, payload: web::Payload) -> Result<web::Bytes, ApiError> {
    let too_large = || {
        let text = format!("Request must be smaller than {BODY_BYTES_MAX} bytes.");
        ApiError::new(ErrorKind::RequestTooLarge, text)
    };
    let declared =
        request.headers().get("content-length").and_then(|length| length.to_str().ok()?.parse().ok());
    if declared.is_some_and(|length: u64| length > BODY_BYTES_MAX as u64) {
        return Err(too_large());
    }
    match tokio::time::timeout(BODY_TIMEOUT, payload.to_bytes_limited(BODY_BYTES_MAX)).await {
        Ok(Ok(Ok(body))) => Ok(body),
        Ok(Ok(Err(_))) => {
            Err(ApiError::new(ErrorKind::Serialization, "The body could not be read to its end."))
        }
        Ok(Err(_)) => Err(too_large()),
        Err(_) => Err(ApiError::new(ErrorKind::RequestTimeout, "The body did not arrive in time.")),
    }
}

fn authenticate(api: &ApiContext, request: &HttpRequest, body: &[u8]) -> Result<(), ApiError> {
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in request.headers() {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        let join = |known: &mut String| {
            known.push(',');
            known.push_str(&value);
        };
        headers.entry(name.as_str().to_owned()).and_modify(join).or_insert_with(|| value.clone());
    }
    let signed = SignedRequest {
        method: request.method().as_str(),
        path: request.uri().path(),
        query: request.uri().query().unwrap_or_default(),
        headers: &headers,
        body,
    };
    let secret_of = |id: &str| api.controller.secret(id);
    api.authenticator.authenticate(&signed, clock::wall_ms().0 / 1000, &secret_of).map(|_| ())
}

async fn route(api: &ApiContext, request: &HttpRequest, body: &[u8]) -> Result<ApiResponse, ApiError> {
    let path = request.uri().path();
    let query = pairs(request.uri().query().unwrap_or_default());
    let mappings_path = path.strip_prefix(MAPPINGS);
    if let Some(rest) = mappings_path.filter(|rest| rest.is_empty() || rest.starts_with('/')) {
        return mappings(api, request.method().as_str(), rest.trim_matches('/'), &query, body).await;
    }
    if let Some(arn) = path.strip_prefix(TAGS) {
        let arn = percent_decode_str(arn).decode_utf8_lossy().into_owned();
        return tags(api, request.method().as_str(), &arn, &query, body);
    }
    if let Some(rest) = path.strip_prefix(OURS) {
        return ours(api, request.method().as_str(), rest.trim_matches('/'), body).await;
    }
    Err(unknown())
}

async fn mappings(
    api: &ApiContext,
    method: &str,
    id: &str,
    query: &[(String, String)],
    body: &[u8],
) -> Result<ApiResponse, ApiError> {
    let controller = &api.controller;
    match (method, id) {
        ("POST", "") => Ok(ApiResponse::accepted(controller.create(parse(body)?).await?)),
        ("GET", "") => list(controller, query),
        ("GET", id) => Ok(ApiResponse::ok(controller.get(mapping_id(id)?)?)),
        ("PUT", id) => Ok(ApiResponse::accepted(controller.update(mapping_id(id)?, parse(body)?).await?)),
        ("DELETE", id) => Ok(ApiResponse::accepted(controller.delete(mapping_id(id)?)?)),
        _ => Err(unknown()),
    }
}

fn list(controller: &Controller, query: &[(String, String)]) -> Result<ApiResponse, ApiError> {
    let get = |name: &str| query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let most = match get("MaxItems") {
        None => PAGE_ENTRIES_MAX,
        Some(text) => page_size(text)?,
    };
    let marker = get("Marker").map(|text| mapping_id(text).map_err(|_| ApiError::invalid("Invalid Marker.")));
    let (shown, next) = if get("EventSourceArn").is_some() {
        (Vec::new(), None)
    } else {
        controller.list(get("FunctionName"), marker.transpose()?, most)
    };
    let mut body = json!({ "EventSourceMappings": shown });
    if let Some(next) = next {
        body["NextMarker"] = json!(next);
    }
    Ok(ApiResponse::ok(body))
}

fn tags(
    api: &ApiContext,
    method: &str,
    arn: &str,
    query: &[(String, String)],
    body: &[u8],
) -> Result<ApiResponse, ApiError> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct TagsBody {
        #[serde(rename = "Tags", default)]
        tags: Option<BTreeMap<String, String>>,
    }
    let controller = &api.controller;
    check_tag_resource(arn)?;
    match method {
        "GET" => Ok(ApiResponse::ok(json!({ "Tags": controller.tags(arn)? }))),
        "POST" => {
            controller.tag(arn, required_tags(parse::<TagsBody>(body)?.tags)?)?;
            Ok(ApiResponse { status: 204, body: None })
        }
        "DELETE" => {
            let keys: Vec<String> =
                query.iter().filter(|(name, _)| name == "tagKeys").map(|(_, value)| value.clone()).collect();
            controller.untag(arn, &required_tag_keys(keys)?)?;
            Ok(ApiResponse { status: 204, body: None })
        }
        _ => Err(unknown()),
    }
}

async fn ours(api: &ApiContext, method: &str, path: &str, body: &[u8]) -> Result<ApiResponse, ApiError> {
    let controller = &api.controller;
    let parts: Vec<&str> = path.split('/').collect();
    let enabled = |on: bool| serde_json::from_value(json!({ "Enabled": on })).map_err(|_| unknown());
    match (method, &parts[..]) {
        ("GET", ["mappings", id, "partitions"]) => {
            Ok(ApiResponse::ok(json!({ "partitions": controller.partitions(mapping_id(id)?)? })))
        }
        ("GET", ["mappings", id, "audit"]) => Ok(ApiResponse::ok(controller.audit(mapping_id(id)?).await?)),
        ("POST", ["mappings", id, "partitions", partition, "skip"]) => {
            Ok(ApiResponse::ok(controller.skip(mapping_id(id)?, partition, parse(body)?).await?))
        }
        ("POST", ["mappings", id, "pause"]) => {
            Ok(ApiResponse::accepted(controller.update(mapping_id(id)?, enabled(false)?).await?))
        }
        ("POST", ["mappings", id, "resume"]) => {
            Ok(ApiResponse::accepted(controller.update(mapping_id(id)?, enabled(true)?).await?))
        }
        ("POST", ["filters", "test"]) => Ok(ApiResponse::ok(parse::<TrialRequest>(body)?.run()?)),
        ("GET", ["nodes"]) => {
            let version = env!("CARGO_PKG_VERSION");
            Ok(ApiResponse::ok(json!({ "nodes": [{ "id": api.node, "version": version }] })))
        }
        ("GET", ["keys"]) => Ok(ApiResponse::ok(json!({ "keys": controller.key_ids() }))),
        ("POST", ["keys"]) => {
            let pair = super::new_key();
            controller.put_key(&pair.0, &pair.1)?;
            let _ = body;
            Ok(ApiResponse::ok(json!({ "AccessKeyId": pair.0, "SecretAccessKey": pair.1 })))
        }
        ("DELETE", ["keys", id]) => {
            controller.remove_key(id)?;
            Ok(ApiResponse { status: 204, body: None })
        }
        _ => Err(unknown()),
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| ApiError::new(ErrorKind::Serialization, error.to_string()))
}

fn mapping_id(text: &str) -> Result<MappingId, ApiError> {
    check_uuid_length(text)?;
    text.parse().map(MappingId).map_err(|_| ApiError::not_found())
}

fn pairs(query: &str) -> Vec<(String, String)> {
    let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        })
        .collect()
}

fn unknown() -> ApiError {
    ApiError::new(ErrorKind::UnknownOperation, "Unknown operation.")
}
