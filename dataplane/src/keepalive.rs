//! Sockets that stand still for minutes while a function runs. NAT gateways, load balancers and interface endpoints forget a
//! flow that is idle for 350 s, and its answer never comes.
//! <https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html>

use std::io;
use std::time::Duration;

use rustix::net::sockopt::{set_tcp_keepcnt, set_tcp_user_timeout};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Idle time before the first probe.
pub const TIME: Duration = Duration::from_secs(45);
/// Time between two probes.
pub const INTERVAL: Duration = Duration::from_secs(15);
/// Probes without an answer that end the connection.
pub const RETRIES: u32 = 3;
/// Bytes and probes that nobody acknowledges for this long end the connection: just before the last probe would.
pub const USER_TIMEOUT: Duration = Duration::from_secs(85);

/// Keeps `stream` alive while nothing is said on it, and ends it when its peer is gone without a word.
pub fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    let probes = TcpKeepalive::new().with_time(TIME).with_interval(INTERVAL);
    SockRef::from(stream).set_tcp_keepalive(&probes)?;
    set_tcp_keepcnt(stream, RETRIES)?;
    Ok(set_tcp_user_timeout(stream, USER_TIMEOUT.as_millis() as u32)?)
}
