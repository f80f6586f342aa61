//! The seam to the function: whoever can send one Invoke and say what came back.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::answer_room::AnswerRoom;
use super::client_context::ClientContext;
use super::outcome::InvokeResponse;
use super::permit::SendPermit;

/// Lambda's answers end at 6 MiB; an error's text may come on top.
/// <https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html>
pub const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Of an answer that names no records only what a failure says of itself is wanted.
pub const ERROR_BYTES_MAX: usize = 64 * 1024;

/// One attempt on the wire.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// Name or ARN, with its qualifier, as the mapping has it.
    pub function: Arc<str>,
    /// The event; shared with the connector, not copied.
    pub payload: Bytes,
    /// What it says of itself.
    pub context: ClientContext,
    /// What of its answer is kept; the rest of it is read and forgotten.
    pub answer_room: AnswerRoom,
    /// To be begun immediately before the request's first byte: whoever waits, for credentials or a connection, waits before.
    /// Without its lease the rest does not leave either.
    pub permit: SendPermit,
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
    /// Lambda does not tell: no permission, no such call at this endpoint.
    Unknown,
    /// It has not answered: what was known before still stands, and it is asked again soon.
    Unanswered {
        /// It was asked too often: its control plane takes 15 calls a second of an account.
        throttled: bool,
    },
}

/// Sends invocations: exactly one wire attempt each.
pub trait FunctionPort: Send + Sync {
    /// Sends one and waits for its reply, however long that takes. Dropped, it gives up.
    fn invoke(&self, invocation: Invocation) -> BoxFuture<'static, InvokeResponse>;

    /// Asks for a function's configuration.
    fn facts(&self, function: Arc<str>) -> BoxFuture<'static, FunctionFacts>;
}
