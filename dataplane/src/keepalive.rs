//! TCP keepalive of sockets that stay idle for minutes while a function runs. NAT gateways, load balancers and
//! interface endpoints drop a flow that is idle for 350 s, and its response never arrives.
//! <https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html>

use std::io;
use std::time::Duration;

use rustix::net::sockopt::{set_tcp_keepcnt, set_tcp_user_timeout};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Idle time before the first probe.
pub const TIME: Duration = Duration::from_secs(45);
/// Interval between probes.
pub const INTERVAL: Duration = Duration::from_secs(15);
/// Number of unanswered probes that end the connection.
pub const RETRIES: u32 = 3;
/// Time after which unacknowledged bytes or probes end the connection, just before the last probe would.
pub const USER_TIMEOUT: Duration = Duration::from_secs(85);

/// Enables keepalive on `stream`, and ends it when its peer has disappeared silently.
pub fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    let probes = TcpKeepalive::new().with_time(TIME).with_interval(INTERVAL);
    SockRef::from(stream).set_tcp_keepalive(&probes)?;
    set_tcp_keepcnt(stream, RETRIES)?;
    Ok(set_tcp_user_timeout(stream, USER_TIMEOUT.as_millis() as u32)?)
}
