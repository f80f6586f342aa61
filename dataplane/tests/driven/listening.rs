//! `lighterman run` as a process with a listening API.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};

pub(crate) const REGION: &str = "eu-west-1";
const LISTENS_MAX: Duration = Duration::from_secs(120);

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

/// Starts a node over `data` that invokes functions at `lambda` and uses `key` for its API and for Lambda. Returns
/// the process and the API's address.
pub(crate) async fn listening_node(data: &Path, lambda: &str, key: (&str, &str)) -> (Child, SocketAddr) {
    let (listen, metrics) = (free_address(), free_address());
    let mut node = Command::new(Path::new(env!("CARGO_BIN_EXE_lighterman")))
        .arg("run")
        .env_clear()
        .env("LIGHTERMAN_LISTEN", listen.to_string())
        .env("LIGHTERMAN_METRICS_LISTEN", metrics.to_string())
        .env("LIGHTERMAN_DATA_DIR", data)
        .env("LIGHTERMAN_REGION", REGION)
        .env("LIGHTERMAN_ROOT_ACCESS_KEY_ID", key.0)
        .env("LIGHTERMAN_ROOT_SECRET_ACCESS_KEY", key.1)
        .env("AWS_ENDPOINT_URL_LAMBDA", lambda)
        .env("AWS_ACCESS_KEY_ID", key.0)
        .env("AWS_SECRET_ACCESS_KEY", key.1)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("the node starts");
    let listens = async {
        while TcpStream::connect(listen).is_err() {
            assert!(node.try_wait().expect("status").is_none(), "the node ended");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(LISTENS_MAX, listens).await.expect("its API listens");
    (node, listen)
}
