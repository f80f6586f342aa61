//! Output of functions: lines for the observer, and the last 4 KiB for callers who ask.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt};
use uuid::Uuid;

use super::observer::FunctionObserver;

/// Maximum bytes of the log tail that `X-Amz-Log-Type: Tail` returns.
const TAIL_BYTES_MAX: usize = 4096;
/// Maximum bytes of a line; a longer line is split.
const LINE_BYTES_MAX: usize = 8 * 1024;

/// Output of one instance, with the invocation it belongs to.
#[derive(Clone, Debug, Default)]
pub(super) struct InstanceOutput(Rc<LogState>);

#[derive(Debug, Default)]
struct LogState {
    tail: RefCell<VecDeque<u8>>,
    request: Cell<Option<Uuid>>,
    has_reported: Cell<bool>,
}

impl InstanceOutput {
    /// Starts the output of `request` with an empty tail.
    pub(super) fn begin(&self, request: Uuid) {
        self.0.tail.borrow_mut().clear();
        self.0.request.set(Some(request));
    }

    /// Returns true at the first call, for the start or the init error of the instance to be reported once.
    pub(super) fn report_start(&self) -> bool {
        !self.0.has_reported.replace(true)
    }

    pub(super) fn tail_base64(&self) -> String {
        aws_smithy_types::base64::encode(self.0.tail.borrow_mut().make_contiguous())
    }

    fn push(&self, bytes: &[u8]) {
        let mut tail = self.0.tail.borrow_mut();
        tail.extend(&bytes[bytes.len().saturating_sub(TAIL_BYTES_MAX)..]);
        let surplus = tail.len().saturating_sub(TAIL_BYTES_MAX);
        tail.drain(..surplus);
    }
}

/// Copies the process's output until it closes the pipe. Reading never pauses, so the process never blocks on it.
pub(super) async fn follow(
    function: String,
    mut pipe: impl AsyncRead + Unpin,
    output: InstanceOutput,
    observer: Arc<dyn FunctionObserver>,
) {
    let mut lines = LineSplitter::default();
    let mut chunk = vec![0; 4096];
    while let Ok(read) = pipe.read(&mut chunk).await {
        if read == 0 {
            break;
        }
        output.push(&chunk[..read]);
        let request = output.0.request.get();
        lines.push(&chunk[..read], |line| observer.printed(&function, request, line));
    }
    let request = output.0.request.get();
    lines.finish(|line| observer.printed(&function, request, line));
}

/// Splits bytes into lines of at most [`LINE_BYTES_MAX`].
#[derive(Default)]
struct LineSplitter {
    pending: Vec<u8>,
}

impl LineSplitter {
    fn push(&mut self, mut bytes: &[u8], mut line: impl FnMut(&str)) {
        while !bytes.is_empty() {
            let room = LINE_BYTES_MAX - self.pending.len();
            let window = &bytes[..bytes.len().min(room)];
            let end = window.iter().position(|byte| *byte == b'\n');
            let taken = end.unwrap_or(window.len());
            self.pending.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken + usize::from(end.is_some())..];
            if end.is_some() || self.pending.len() == LINE_BYTES_MAX {
                self.emit(&mut line);
            }
        }
    }

    fn finish(mut self, mut line: impl FnMut(&str)) {
        if !self.pending.is_empty() {
            self.emit(&mut line);
        }
    }

    fn emit(&mut self, line: &mut impl FnMut(&str)) {
        let text = String::from_utf8_lossy(&self.pending);
        let text = text.trim_end_matches('\r');
        if !text.is_empty() {
            line(text);
        }
        self.pending.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_keeps_the_last_bytes() {
        let output = InstanceOutput::default();
        output.push(&[b'a'; 5000]);
        output.push(b"end");
        let text = aws_smithy_types::base64::decode(output.tail_base64()).expect("base64");
        assert_eq!(text.len(), TAIL_BYTES_MAX);
        assert!(text.ends_with(b"aend"));
    }

    #[test]
    fn lines_are_independent_of_chunks_and_bounded() {
        let text = format!("one\r\n\ntwo\n{}\nend", "x".repeat(LINE_BYTES_MAX + 10));
        for chunk in [1, 3, 4096, 100_000] {
            let (mut splitter, mut lines) = (LineSplitter::default(), Vec::new());
            for piece in text.as_bytes().chunks(chunk) {
                splitter.push(piece, |line| lines.push(line.to_owned()));
            }
            splitter.finish(|line| lines.push(line.to_owned()));
            let lengths: Vec<usize> = lines.iter().map(String::len).collect();
            assert_eq!(lengths, [3, 3, LINE_BYTES_MAX, 10, 3], "chunks of {chunk}");
        }
    }
}
