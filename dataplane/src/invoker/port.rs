//! Interface to the function service: sends a single Invoke and reports its result.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::answer_room::AnswerRoom;
use super::client_context::ClientContext;
use super::outcome::InvokeResponse;
use super::permit::SendPermit;

/// Maximum length of a retained response. Lambda's responses end at 6 MiB; the text of an error may come in
/// addition. <https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html>
pub const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Retained length of a response that names no records. Only its error description is needed.
pub const ERROR_BYTES_MAX: usize = 64 * 1024;

/// One attempt on the wire.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// Name or ARN with its qualifier, as configured in the mapping.
    pub function: Arc<str>,
    /// Event to send, shared with the connector without copying.
    pub payload: Bytes,
    /// Content of the `X-Amz-Client-Context` header.
    pub context: ClientContext,
    /// Memory for the retained part of the response. The rest is read and discarded.
    pub answer_room: AnswerRoom,
    /// Permit to begin immediately before the first byte, after all waits for credentials and a connection. Once
    /// its lease ends, the rest does not leave either.
    pub permit: SendPermit,
}

/// Answer to a query for a function's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FunctionFacts {
    /// The function exists.
    Known {
        /// Timeout of the function.
        timeout: Duration,
    },
    /// Lambda reports that the function does not exist.
    Missing,
    /// Lambda does not disclose the configuration: no permission, or no such call at this endpoint.
    Unknown,
    /// No answer. Earlier facts remain in force, and the query is repeated soon.
    Unanswered {
        /// True if the query was throttled: the control plane allows 15 calls a second of an account.
        throttled: bool,
    },
}

/// Sender of invocations that makes exactly one wire attempt each.
pub trait FunctionPort: Send + Sync {
    /// Sends an invocation and waits for its reply without a time limit. Dropping the future cancels the wait.
    fn invoke(&self, invocation: Invocation) -> BoxFuture<'static, InvokeResponse>;

    /// Queries the configuration of a function.
    fn facts(&self, function: Arc<str>) -> BoxFuture<'static, FunctionFacts>;
}
