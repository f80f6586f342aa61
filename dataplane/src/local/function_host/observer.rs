//! Starts, prints and errors of hosted functions, as an observer is told them.

use std::fmt;

use serde::Deserialize;
use uuid::Uuid;

/// Of an error only so much is read and shown.
pub(super) const ERROR_BYTES_MAX: usize = 64 * 1024;
const STACK_LINES_MAX: usize = 30;
const MESSAGE_CHARACTERS_MAX: usize = 2_000;

/// Told of functions on the host's thread, in order: while it is, no function of the host gets on.
pub trait FunctionObserver: Send + Sync {
    /// An instance is ready for its first invocation.
    fn initialized(&self, function: &str);

    /// An instance ended, or reported an error, before it was ready.
    fn initialization_failed(&self, function: &str, error: &HostedFunctionError);

    /// A line that an instance printed, to standard output or error, without its end. `request` is the invocation that it worked
    /// on. A longer line comes in pieces of 8 KiB.
    fn printed(&self, function: &str, request: Option<Uuid>, line: &str);

    /// An invocation ended with an error: the function's own, or what became of its process.
    fn failed(&self, function: &str, request: Uuid, error: &HostedFunctionError);
}

/// Writes to the log of this process.
#[derive(Debug)]
pub struct LoggingObserver;

impl FunctionObserver for LoggingObserver {
    fn initialized(&self, function: &str) {
        tracing::debug!(target: "lighterman::function", function, "function is ready");
    }

    fn initialization_failed(&self, function: &str, error: &HostedFunctionError) {
        tracing::warn!(target: "lighterman::function", function, %error, "function cannot start");
    }

    fn printed(&self, function: &str, request: Option<Uuid>, line: &str) {
        let request = request.map(tracing::field::display);
        tracing::info!(target: "lighterman::function", function, request, text = line, "function prints");
    }

    fn failed(&self, function: &str, request: Uuid, error: &HostedFunctionError) {
        tracing::warn!(target: "lighterman::function", function, %request, error = %error.summary(), "function fails");
    }
}

/// An error as Lambda's runtimes report it: `errorType`, `errorMessage`, `stackTrace`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostedFunctionError {
    /// Its type, `Unknown` when the runtime names none.
    pub error_type: String,
    /// Its message, at most 2,000 characters of it.
    pub message: String,
    /// Its stack trace, at most 30 lines of it.
    pub stack_trace: Vec<String>,
}

/// The shape that runtimes send. Node names the trace `trace`, Python `stackTrace`; Python's lines end with line ends of their own.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReportedError {
    error_type: Option<String>,
    error_message: Option<String>,
    #[serde(default, alias = "trace")]
    stack_trace: Vec<String>,
}

impl HostedFunctionError {
    /// An error of the host's own.
    pub(super) fn new(error_type: &str, message: impl Into<String>) -> Self {
        Self { error_type: error_type.into(), message: message.into(), stack_trace: Vec::new() }
    }

    /// Reads what a runtime reported; a body of another shape is the message.
    pub(super) fn parse(body: &[u8]) -> Self {
        let reported: Option<ReportedError> = Some(body)
            .filter(|body| body.len() <= ERROR_BYTES_MAX)
            .and_then(|body| serde_json::from_slice(body).ok());
        let Some(reported) = reported else {
            let text = String::from_utf8_lossy(&body[..body.len().min(MESSAGE_CHARACTERS_MAX)]);
            return Self::new("Unknown", text);
        };
        let lines = reported.stack_trace.iter().flat_map(|entry| entry.lines());
        Self {
            error_type: reported.error_type.unwrap_or_else(|| "Unknown".into()),
            message: reported
                .error_message
                .unwrap_or_default()
                .chars()
                .take(MESSAGE_CHARACTERS_MAX)
                .collect(),
            stack_trace: lines.take(STACK_LINES_MAX).map(ToOwned::to_owned).collect(),
        }
    }

    /// The same without the id of the request, which is told beside it: it is another for each attempt.
    pub(super) fn without(mut self, request: Uuid) -> Self {
        if let Some(plain) = self.message.strip_prefix(&format!("RequestId: {request} Error: ")) {
            self.message = plain.to_owned();
        }
        self
    }

    /// Type and message in one line.
    pub fn summary(&self) -> String {
        format!("{}: {}", self.error_type, self.message)
    }
}

impl fmt::Display for HostedFunctionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.summary())?;
        // Node repeats type and message as the first line of its trace.
        for line in self.stack_trace.iter().filter(|line| !line.trim().is_empty() && **line != self.summary())
        {
            write!(f, "\n  {line}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_python_and_node_are_read_and_others_are_their_own_message() {
        let python = br#"{"errorMessage":"as asked","errorType":"ValueError","requestId":"","stackTrace":["  File \"app.py\", line 12, in handler\n    raise ValueError(\"as asked\")\n"]}"#;
        let error = HostedFunctionError::parse(python);
        assert_eq!(error.summary(), "ValueError: as asked");
        assert_eq!(error.stack_trace.len(), 2);
        assert!(error.to_string().ends_with("\n      raise ValueError(\"as asked\")"), "{error}");
        let node = br#"{"errorType":"Error","errorMessage":"as asked","trace":["Error: as asked","    at handler (index.mjs:3:9)"]}"#;
        assert_eq!(HostedFunctionError::parse(node).to_string().lines().count(), 2);
        assert_eq!(HostedFunctionError::parse(b"<oops>").summary(), "Unknown: <oops>");
        assert_eq!(HostedFunctionError::parse(br#"{"errorType":1}"#).error_type, "Unknown");
    }

    #[test]
    fn a_timeout_is_the_same_error_in_each_attempt() {
        let told = |number| {
            let request = Uuid::from_u128(number);
            HostedFunctionError::new(
                "Sandbox.Timedout",
                format!("RequestId: {request} Error: Task timed out"),
            )
            .without(request)
        };
        assert_eq!(told(1), told(2));
        assert_eq!(told(1).message, "Task timed out");
    }

    #[test]
    fn a_long_error_is_cut() {
        let frames = vec!["at f\n".repeat(100); 100];
        let body =
            serde_json::json!({ "errorType": "E", "errorMessage": "m".repeat(5_000), "stackTrace": frames });
        let error = HostedFunctionError::parse(body.to_string().as_bytes());
        assert_eq!((error.message.len(), error.stack_trace.len()), (MESSAGE_CHARACTERS_MAX, STACK_LINES_MAX));
        let long = HostedFunctionError::parse(&vec![b'x'; ERROR_BYTES_MAX + 1]);
        assert_eq!((long.error_type.as_str(), long.message.len()), ("Unknown", MESSAGE_CHARACTERS_MAX));
    }
}
