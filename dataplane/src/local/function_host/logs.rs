//! What a function prints: to our log, bounded, and the last 4 KiB for callers who ask.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use tokio::io::{AsyncRead, AsyncReadExt};

/// What `X-Amz-Log-Type: Tail` shows, in bytes.
const TAIL_BYTES_MAX: usize = 4096;

/// The end of what one instance printed.
#[derive(Clone, Debug, Default)]
pub(super) struct Tail(Rc<RefCell<VecDeque<u8>>>);

impl Tail {
    pub(super) fn push(&self, bytes: &[u8]) {
        let mut tail = self.0.borrow_mut();
        tail.extend(&bytes[bytes.len().saturating_sub(TAIL_BYTES_MAX)..]);
        let surplus = tail.len().saturating_sub(TAIL_BYTES_MAX);
        tail.drain(..surplus);
    }

    pub(super) fn clear(&self) {
        self.0.borrow_mut().clear();
    }

    pub(super) fn base64(&self) -> String {
        aws_smithy_types::base64::encode(self.0.borrow_mut().make_contiguous())
    }
}

/// Copies what the process prints until it closes the pipe; reading never stops, so the process never blocks on it.
pub(super) async fn follow(function: String, mut pipe: impl AsyncRead + Unpin, tail: Tail) {
    let mut chunk = vec![0; 4096];
    while let Ok(read) = pipe.read(&mut chunk).await {
        if read == 0 {
            return;
        }
        tail.push(&chunk[..read]);
        let text = String::from_utf8_lossy(&chunk[..read]);
        tracing::info!(target: "lighterman::function", function, text = text.trim_end(), "function prints");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_keeps_the_last_bytes() {
        let tail = Tail::default();
        tail.push(&[b'a'; 5000]);
        tail.push(b"end");
        let text = aws_smithy_types::base64::decode(tail.base64()).expect("base64");
        assert_eq!(text.len(), TAIL_BYTES_MAX);
        assert!(text.ends_with(b"aend"));
    }
}
