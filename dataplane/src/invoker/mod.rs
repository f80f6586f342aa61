//! Invocation of functions, classification of outcomes, retries and throttle control.

pub mod actor;
pub mod answer_room;
pub mod client_context;
pub mod direct;
pub mod facts;
pub mod invocation;
pub mod outcome;
pub mod patience;
pub mod permit;
pub mod port;
pub mod retry;
pub mod sdk;
pub mod throttle;

pub use client_context::{ClientContext, batch_key};
pub use outcome::InvocationOutcome;

use std::sync::Arc;

use crate::config::{InvokeClient, Settings};

/// Returns the configured port to the endpoint of the AWS configuration.
pub async fn port_from_environment(
    settings: &Settings,
) -> Result<Arc<dyn port::FunctionPort>, direct::DirectError> {
    Ok(match settings.invoke.client {
        InvokeClient::Direct => Arc::new(direct::DirectPort::from_environment(&settings.region).await?),
        InvokeClient::Sdk => Arc::new(sdk::SdkPort::from_environment(&settings.region).await),
    })
}

/// Returns the configured port to a function host on this machine.
pub async fn local_port(
    settings: &Settings,
    endpoint: &str,
) -> Result<Arc<dyn port::FunctionPort>, direct::DirectError> {
    Ok(match settings.invoke.client {
        InvokeClient::Direct => Arc::new(direct::DirectPort::local(endpoint, &settings.region).await?),
        InvokeClient::Sdk => Arc::new(sdk::SdkPort::local(endpoint, &settings.region)),
    })
}
