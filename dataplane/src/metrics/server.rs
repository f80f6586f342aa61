//! HTTP server of `/metrics`, `/healthz` and `/readyz`. It has its own thread, so that it responds while the others
//! are busy.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::recorder::MetricsHandle;
use crate::metrics::open_files::open_files;

/// Limit of connections, enough for scrapers, probes and manual requests.
const CONNECTIONS_MAX: usize = 64;
/// Interval at which series of removed mappings are deleted and open files are counted, even without scrapes.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);
/// Time after which a connection without a request is closed.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Readiness check of the node. `Err` is the reason that it is not ready.
pub type ReadinessCheck = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Failure to serve metrics.
#[derive(Debug, Error)]
pub enum MetricsServerError {
    /// Thread or runtime could not be started.
    #[error("the metrics thread cannot start: {0}")]
    Thread(io::Error),
    /// A recorder is already installed.
    #[error("this process already has a metrics recorder")]
    Installed,
}

/// Running metrics server. Dropping it stops the server.
#[derive(Debug)]
pub struct MetricsServer {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl MetricsServer {
    /// Serves the output of `handle` on `listener`.
    pub fn start(
        listener: std::net::TcpListener,
        handle: MetricsHandle,
        readiness: ReadinessCheck,
    ) -> Result<Self, MetricsServerError> {
        let (stop, stopped) = oneshot::channel();
        let (started, start) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("metrics".into())
            .spawn(move || run(listener, &started, serve_until(handle, readiness, stopped)))
            .map_err(MetricsServerError::Thread)?;
        let died = || MetricsServerError::Thread(io::Error::other("it ended while starting"));
        let address = start.recv().map_err(|_| died())??;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    /// Returns the address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

type ServerStart = mpsc::Sender<Result<SocketAddr, MetricsServerError>>;

fn run<F: Future<Output = ()>>(
    listener: std::net::TcpListener,
    started: &ServerStart,
    serve: impl FnOnce(TcpListener) -> F,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = started.send(Err(MetricsServerError::Thread(error)));
            return;
        }
    };
    runtime.block_on(async {
        let served = || {
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok((TcpListener::from_std(listener)?, address))
        };
        match served() {
            Ok((listener, address)) => {
                let _ = started.send(Ok(address));
                serve(listener).await;
            }
            Err(error) => {
                let _ = started.send(Err(MetricsServerError::Thread(error)));
            }
        }
    });
}

fn serve_until(
    handle: MetricsHandle,
    readiness: ReadinessCheck,
    stopped: oneshot::Receiver<()>,
) -> impl FnOnce(TcpListener) -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
    move |listener| {
        Box::pin(async move {
            tokio::select! {
                () = accept(listener, handle.clone(), readiness) => {}
                () = upkeep(handle) => {}
                _ = stopped => {}
            }
        })
    }
}

async fn upkeep(handle: MetricsHandle) {
    loop {
        if let Some(files) = open_files() {
            metrics::gauge!(super::OPEN_FILES).set(files as f64);
        }
        handle.sweep();
        tokio::time::sleep(UPKEEP_EVERY).await;
    }
}

async fn accept(listener: TcpListener, handle: MetricsHandle, readiness: ReadinessCheck) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() >= CONNECTIONS_MAX {
            connections.join_next().await;
        }
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (handle, readiness) = (handle.clone(), Arc::clone(&readiness));
        connections.spawn(async move {
            let service = hyper::service::service_fn(move |request| {
                let reply = answer(&request, &handle, &readiness);
                async move { Ok::<_, Infallible>(reply) }
            });
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn answer(
    request: &Request<Incoming>,
    handle: &MetricsHandle,
    readiness: &ReadinessCheck,
) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".into());
    }
    match request.uri().path() {
        "/metrics" => text(StatusCode::OK, handle.render()),
        "/healthz" => text(StatusCode::OK, "ok\n".into()),
        "/readyz" => match readiness() {
            Ok(()) => text(StatusCode::OK, "ok\n".into()),
            Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        },
        _ => text(StatusCode::NOT_FOUND, "/metrics, /healthz and /readyz are here\n".into()),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut reply = Response::new(Full::new(Bytes::from(body)));
    *reply.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    reply.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    reply
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = std::net::TcpStream::connect(address).expect("connect");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").expect("send");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answer");
        answer
    }

    #[test]
    fn pages_respond_and_readiness_gives_its_reason() {
        let recorder = crate::metrics::SeriesRecorder::default();
        metrics::with_local_recorder(&recorder, || metrics::gauge!(crate::metrics::CONSUMERS).set(2.0));
        let readiness: ReadinessCheck = Arc::new(|| Err("control log not applied".into()));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("listens");
        let server = MetricsServer::start(listener, recorder.handle(), readiness).expect("server");
        let address = server.address();
        assert!(get(address, "/metrics").contains("lighterman_consumers 2"));
        assert!(get(address, "/healthz").starts_with("HTTP/1.1 200"));
        let ready = get(address, "/readyz");
        assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("control log not applied"), "{ready}");
        assert!(get(address, "/").starts_with("HTTP/1.1 404"));
        drop(server);
        assert!(std::net::TcpStream::connect(address).is_err());
    }
}
