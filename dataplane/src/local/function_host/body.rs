//! Bounded reading of request bodies.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;

/// Lambda's limit for a response, as its runtimes quote it: 6 MiB and 100 bytes.
pub(super) const RESPONSE_BYTES_MAX: usize = 6_291_556;
/// Maximum bytes read of a body that is too large. Reading on lets its sender receive the error response instead of a
/// broken connection.
const DISCARD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Request body that was read.
pub(super) enum RequestBody {
    /// Complete body.
    Whole(Bytes),
    /// Body over the limit, with the number of bytes seen.
    TooLarge(usize),
}

/// Reads a body of at most `limit` bytes into memory. Fails if the sender disconnects.
pub(super) async fn read(mut body: Incoming, limit: usize) -> Result<RequestBody, hyper::Error> {
    let announced = usize::try_from(hyper::body::Body::size_hint(&body).lower()).unwrap_or(usize::MAX);
    let mut whole = BytesMut::with_capacity(announced.min(limit));
    let mut seen = 0;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        seen += data.len();
        if seen <= limit {
            whole.extend_from_slice(&data);
        } else {
            whole.clear();
        }
        if seen > DISCARD_BYTES_MAX {
            break;
        }
    }
    Ok(if seen <= limit { RequestBody::Whole(whole.freeze()) } else { RequestBody::TooLarge(seen) })
}
