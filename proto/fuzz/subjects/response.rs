//! The reader of partial batch responses, on any bytes: no panic, and what it returns is what it promises.

use lighterman_proto::response::failed_items;

const ITEMS_MAX: usize = 8;

/// Reads `bytes` as the answer of a function; returns the number of items, for callers that want to know that something was read.
pub(crate) fn run(bytes: &[u8]) -> usize {
    match failed_items(bytes, "orders-eu", ITEMS_MAX) {
        Ok(items) => {
            assert!(items.len() <= ITEMS_MAX);
            assert!(items.is_sorted() && items.windows(2).all(|pair| pair[0] != pair[1]));
            assert!(items.iter().all(|item| item.partition >= 0 && item.offset.0 >= 0));
            items.len()
        }
        Err(error) => {
            assert!(error.to_string().len() < 2048, "errors stay short");
            0
        }
    }
}
