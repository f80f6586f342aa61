//! The seam to the function: whoever can send one Invoke and say what came back.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::context::ClientContext;
use super::verdict::Reply;

/// One attempt on the wire.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// Name or ARN, with its qualifier, as the mapping has it.
    pub function: Arc<str>,
    /// The event; shared with the connector, not copied.
    pub payload: Bytes,
    /// What it says of itself.
    pub context: ClientContext,
    /// How long to wait for the reply.
    pub read_timeout: Duration,
}

/// What we need to know of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FunctionFacts {
    /// It exists and may run this long.
    Known {
        /// Its timeout.
        timeout: Duration,
    },
    /// Lambda says that it does not exist.
    Missing,
    /// Lambda does not tell: no permission, no such call at this endpoint, no answer.
    Untold,
}

/// Sends invocations: exactly one wire attempt each.
pub trait FunctionPort: Send + Sync {
    /// Sends one and waits for its reply.
    fn invoke(&self, invocation: Invocation) -> BoxFuture<'static, Reply>;

    /// Asks for a function's configuration.
    fn facts(&self, function: Arc<str>) -> BoxFuture<'static, FunctionFacts>;
}
