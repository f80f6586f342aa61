//! Reading bodies with a bound.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;

/// Lambda's limit for a response, as its runtimes quote it: 6 MiB and 100 bytes.
pub(super) const RESPONSE_BYTES_MAX: usize = 6_291_556;
/// How far a body that is too large is read on, so that its sender hears our answer instead of a broken connection.
const DISCARD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A body that was read.
pub(super) enum RequestBody {
    /// All of it.
    Whole(Bytes),
    /// Larger than the limit; how many bytes were seen.
    TooLarge(usize),
}

/// Reads at most `limit` bytes into memory. An error means that the sender went away.
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
