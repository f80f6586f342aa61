//! A lease that ends while something is waited for: nothing leaves.

use super::*;
use crate::invoker::facts::FunctionTimeout;
use crate::invoker::invoke::{InvokedFunction, reply_within};
use crate::invoker::patience::ReplyWait;

/// Credentials that take longer than the lease holds.
#[derive(Debug)]
struct Slow {
    takes: Duration,
    lease: OwnershipLease,
}

impl aws_credential_types::provider::ProvideCredentials for Slow {
    fn provide_credentials<'a>(&'a self) -> aws_credential_types::provider::future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let (takes, lease) = (self.takes, self.lease.clone());
        aws_credential_types::provider::future::ProvideCredentials::new(async move {
            tokio::time::sleep(takes).await;
            lease.end();
            Ok(Credentials::new("AKID", "secret", None, None, "slow"))
        })
    }
}

fn slow(url: &str, takes: Duration, lease: &OwnershipLease) -> SdkConfig {
    let provider = Slow { takes, lease: lease.clone() };
    shared(url).to_builder().credentials_provider(SharedCredentialsProvider::new(provider)).build()
}

#[tokio::test]
async fn own_1_a_lease_that_ends_while_credentials_are_waited_for_lets_no_request_out() {
    let server = Server::start(&[Then::Answer(FINE)]).await;
    for of_sdk in [false, true] {
        let ours = lease(MINUTE);
        let config = slow(&server.url, Duration::from_millis(50), &ours);
        let direct = DirectPort::from_sdk(&config).await.expect("a port");
        let port: &dyn FunctionPort = if of_sdk { &direct.sdk } else { &direct };
        let asked = invocation_under(ours, Bytes::from_static(b"{}"));
        let permit = asked.permit.clone();
        assert_eq!(port.invoke(asked).await, Reply::Withheld, "of the SDK: {of_sdk}");
        assert!(permit.sent_at().is_none() && server.heard().is_empty());
    }
}

/// As the invoker waits.
async fn waited(port: &dyn FunctionPort, asked: Invocation) -> Reply {
    let permit = asked.permit.clone();
    let function = InvokedFunction {
        name: Arc::from(FUNCTION),
        timeout: FunctionTimeout::new(MINUTE, clock::now()),
        doubt: Arc::new(|| ()),
    };
    let mut wait = ReplyWait::new(clock::now());
    reply_within(port.invoke(asked), &mut wait, &permit, &function).await
}

#[tokio::test]
async fn own_1_waiting_for_credentials_or_a_connection_ends_with_the_lease() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = silent.local_addr().expect("address");
    let never = Duration::from_secs(3600);
    let configs = [
        slow(&format!("http://{address}"), never, &OwnershipLease::default()),
        shared(&format!("https://{address}")),
    ];
    for config in configs {
        let direct = DirectPort::from_sdk(&config).await.expect("a port");
        for port in [&direct as &dyn FunctionPort, &direct.sdk] {
            let asked = invocation_under(lease(Duration::from_millis(150)), Bytes::from_static(b"{}"));
            assert_eq!(waited(port, asked).await, Reply::Withheld);
        }
    }
}
