//! Fuzz subject: the parser of partial batch responses on arbitrary bytes. Nothing panics, and the result
//! satisfies the parser's contract.

use lighterman_proto::response::failed_items;

const ITEMS_MAX: usize = 8;

/// Parses `bytes` as a function's response. Returns the number of items, so that callers can check that some
/// inputs are valid.
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
