//! HTTPS of the fake Lambda: TLS 1.3 only, as a client meets it at AWS, with a certificate of its own for every run.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::cipher_suite::{
    TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{HandshakeKind, ServerConfig};
use tempfile::NamedTempFile;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Address in the certificate.
const HOST: &str = "127.0.0.1";

/// TLS connections of an endpoint since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandshakeCount {
    /// Handshakes that ended with TLS 1.3, resumed ones included.
    pub completed: u64,
    /// Those that resumed an earlier session.
    pub resumed: u64,
    /// Connections that did not speak TLS 1.3, or did not trust the certificate.
    pub refused: u64,
}

/// Certificate, settings and counts of an HTTPS endpoint.
pub(super) struct EndpointTls {
    acceptor: TlsAcceptor,
    trust: NamedTempFile,
    completed: AtomicU64,
    resumed: AtomicU64,
    refused: AtomicU64,
}

impl EndpointTls {
    /// Makes a key and its self-signed certificate, and writes the latter as PEM to a temporary file.
    pub(super) fn create() -> Result<Self> {
        let made = rcgen::generate_simple_self_signed([HOST.to_owned()]).context("no certificate")?;
        let mut trust = tempfile::Builder::new().prefix("loadtest-ca-").suffix(".pem").tempfile()?;
        trust.write_all(made.cert.pem().as_bytes())?;
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())?;
        config.ignore_client_order = true;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let (completed, resumed, refused) = Default::default();
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), trust, completed, resumed, refused })
    }

    /// Returns the PEM file of the only root that vouches for the endpoint.
    pub(super) fn trust_file(&self) -> &Path {
        self.trust.path()
    }

    /// Returns the counts.
    pub(super) fn handshakes(&self) -> HandshakeCount {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        HandshakeCount {
            completed: of(&self.completed),
            resumed: of(&self.resumed),
            refused: of(&self.refused),
        }
    }

    /// Completes the handshake of a connection.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let accepted = self.acceptor.accept(stream).await;
        match &accepted {
            Ok(stream) => {
                self.completed.fetch_add(1, Ordering::Relaxed);
                let is_resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
                self.resumed.fetch_add(u64::from(is_resumed), Ordering::Relaxed);
            }
            // Any other error is of the socket: a client that ends may leave in the middle.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                self.refused.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => {}
        }
        accepted
    }
}

/// The server selects the cipher, the cheapest first, so that contenders that prefer others are measured alike.
fn provider() -> CryptoProvider {
    let cipher_suites =
        vec![TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256];
    CryptoProvider { cipher_suites, ..default_provider() }
}
