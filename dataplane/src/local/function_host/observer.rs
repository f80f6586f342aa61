//! Observers of hosted functions: starts, output and errors.

use std::fmt;

use serde::Deserialize;
use uuid::Uuid;

/// Maximum bytes of an error that are read and shown.
pub(super) const ERROR_BYTES_MAX: usize = 64 * 1024;
const STACK_LINES_MAX: usize = 30;
const MESSAGE_CHARACTERS_MAX: usize = 2_000;

/// Observer of hosted functions. It is called in order on the host's thread, so a slow call blocks every function.
pub trait FunctionObserver: Send + Sync {
    /// Called when an instance is ready for its first invocation.
    fn initialized(&self, function: &str);

    /// Called when an instance ends, or reports an error, before it is ready.
    fn initialization_failed(&self, function: &str, error: &HostedFunctionError);

    /// Called for each line of an instance's standard output and error, without its line end. `request` is the
    /// current invocation. A line over 8 KiB comes in pieces of 8 KiB.
    fn printed(&self, function: &str, request: Option<Uuid>, line: &str);

    /// Called when an invocation ends with an error, either the function's own or one of its process.
    fn failed(&self, function: &str, request: Uuid, error: &HostedFunctionError);
}

/// Observer that logs through `tracing`.
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

/// Error as Lambda's runtimes report it: `errorType`, `errorMessage`, `stackTrace`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostedFunctionError {
    /// Error type, `Unknown` if the runtime names none.
    pub error_type: String,
    /// Error message, at most 2,000 characters.
    pub message: String,
    /// Stack trace, at most 30 lines.
    pub stack_trace: Vec<String>,
}

/// Error body of the runtimes. Node names the trace `trace`, Python `stackTrace`; entries of Python include line
/// ends.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReportedError {
    error_type: Option<String>,
    error_message: Option<String>,
    #[serde(default, alias = "trace")]
    stack_trace: Vec<String>,
}

impl HostedFunctionError {
    /// Returns an error of the host itself.
    pub(super) fn new(error_type: &str, message: impl Into<String>) -> Self {
        Self { error_type: error_type.into(), message: message.into(), stack_trace: Vec::new() }
    }

    /// Parses a runtime's error body. A body of another shape becomes the message.
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

    /// Removes the request id from the message. It differs for each attempt and is shown separately.
    pub(super) fn without(mut self, request: Uuid) -> Self {
        if let Some(plain) = self.message.strip_prefix(&format!("RequestId: {request} Error: ")) {
            self.message = plain.to_owned();
        }
        self
    }

    /// Returns type and message in one line.
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
    fn unparsed_error_becomes_the_message() {
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
    fn timeout_error_is_equal_across_attempts() {
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
    fn long_error_is_truncated() {
        let frames = vec!["at f\n".repeat(100); 100];
        let body =
            serde_json::json!({ "errorType": "E", "errorMessage": "m".repeat(5_000), "stackTrace": frames });
        let error = HostedFunctionError::parse(body.to_string().as_bytes());
        assert_eq!((error.message.len(), error.stack_trace.len()), (MESSAGE_CHARACTERS_MAX, STACK_LINES_MAX));
        let long = HostedFunctionError::parse(&vec![b'x'; ERROR_BYTES_MAX + 1]);
        assert_eq!((long.error_type.as_str(), long.message.len()), ("Unknown", MESSAGE_CHARACTERS_MAX));
    }
}
