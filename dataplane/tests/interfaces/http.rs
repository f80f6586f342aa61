//! HTTP requests as a client sends them, signed or not, and responses as it receives them.

use std::fmt;
use std::net::SocketAddr;
use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

pub(crate) const REGION: &str = "eu-west-1";
pub(crate) const KEY: (&str, &str) = ("LMANTEST", "a secret");
/// Headers whose values depend on the time, or on the length of a time.
const OMITTED: [&str; 2] = ["content-length", "date"];

pub(crate) struct HttpRequest<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) body: &'a str,
    /// Secret of the signature; `None` leaves the request unsigned.
    pub(crate) secret: Option<&'a str>,
}

impl<'a> HttpRequest<'a> {
    pub(crate) fn signed(method: &'a str, path: &'a str, body: &'a str) -> Self {
        Self { method, path, body, secret: Some(KEY.1) }
    }

    pub(crate) fn unsigned(method: &'a str, path: &'a str) -> Self {
        Self { method, path, body: "", secret: None }
    }

    fn headers(&self, address: SocketAddr) -> Vec<(String, String)> {
        let host = address.to_string();
        let plain = [("host", host.as_str()), ("content-type", "application/json")];
        let mut headers = plain.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let Some(secret) = self.secret else { return headers };
        let identity = Credentials::new(KEY.0, secret, None, None, "test").into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(REGION)
            .name("lambda")
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build()
            .expect("complete")
            .into();
        let (url, body) = (format!("http://{host}{}", self.path), SignableBody::Bytes(self.body.as_bytes()));
        let signable = SignableRequest::new(self.method, &url, plain.into_iter(), body).expect("valid");
        let (instructions, _) = sign(signable, &params).expect("signed").into_parts();
        headers.extend(instructions.headers().map(|(name, value)| (name.to_owned(), value.to_owned())));
        headers
    }
}

pub(crate) struct HttpResponse {
    status: u16,
    /// Sorted by name.
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl fmt::Display for HttpResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.status)?;
        for (name, value) in self.headers.iter().filter(|(name, _)| !OMITTED.contains(&name.as_str())) {
            let is_id = name == "x-amzn-requestid" && uuid::Uuid::try_parse(value).is_ok();
            writeln!(f, "{name}: {}", if is_id { "<request id>" } else { value })?;
        }
        writeln!(f, "{}", self.body)
    }
}

pub(crate) async fn exchange(address: SocketAddr, request: &HttpRequest<'_>) -> HttpResponse {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let uri = format!("http://{address}{}", request.path);
    let mut sent = http::Request::builder().method(request.method).uri(uri);
    for (name, value) in request.headers(address) {
        sent = sent.header(name, value);
    }
    let sent = sent.body(Full::from(request.body.to_owned())).expect("valid");
    let response = client.request(sent).await.expect("answered");
    let status = response.status().as_u16();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let headers = response.headers().iter();
    let mut headers: Vec<_> =
        headers.map(|(name, value)| (name.to_string(), text(value.as_bytes()))).collect();
    headers.sort();
    let body = response.into_body().collect().await.expect("read").to_bytes();
    HttpResponse { status, headers, body: text(&body) }
}
