//! Ports of `lighterman dev`: the usual ones, or free ones if they are taken.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};

use anyhow::Context;

use crate::app::node::{NodeListeners, listen_at};
use crate::cli::print_line;
use crate::config::{Settings, ValueSource};

/// Binds the listeners of the control API and of metrics. A configured address that is taken is an error. A default
/// one is replaced by a free port, with a message.
pub(super) fn listen(settings: &Settings) -> anyhow::Result<NodeListeners> {
    Ok(NodeListeners {
        api: bind(settings, "listen", settings.listen, "the control API")?,
        metrics: bind(settings, "metrics_listen", settings.metrics_listen, "metrics")?,
    })
}

fn bind(
    settings: &Settings,
    key: &'static str,
    wanted: SocketAddr,
    user: &str,
) -> anyhow::Result<TcpListener> {
    if settings.origin_of(key) != ValueSource::Default {
        return listen_at(wanted, key, user);
    }
    match TcpListener::bind(wanted) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            let listener = TcpListener::bind(SocketAddr::new(wanted.ip(), 0))
                .with_context(|| format!("{user} finds no free port"))?;
            tell_moved(user, wanted, listener.local_addr()?);
            Ok(listener)
        }
        bound => bound.with_context(|| format!("{user} cannot listen on {wanted}")),
    }
}

/// Prints that `user` listens on another port than the usual one.
pub(super) fn tell_moved(user: &str, wanted: SocketAddr, got: SocketAddr) {
    print_line(&format!("port {} is taken; {user} uses {}", wanted.port(), got.port()));
}
