//! Path and query parameters of requests, checked against the model.

use super::constraints::RequestViolations;
use super::error::{ApiError, ErrorKind};

/// Maximum entries of a page, whatever size is requested.
/// <https://docs.aws.amazon.com/lambda/latest/api/API_ListEventSourceMappings.html>
pub const PAGE_ENTRIES_MAX: usize = 100;
const UUID_CHARACTERS: usize = 36;
const MAX_ITEMS: i64 = 10_000;

/// Checks the model's constraint of `UUID`.
pub fn check_uuid_length(text: &str) -> Result<(), ApiError> {
    let mut found = RequestViolations::default();
    found.length(text, "uUID", UUID_CHARACTERS, UUID_CHARACTERS);
    found.into_result()
}

/// Returns the page size for the query parameter `MaxItems`.
pub fn page_size(text: &str) -> Result<usize, ApiError> {
    let asked: i64 = text
        .parse()
        .map_err(|_| ApiError::new(ErrorKind::Serialization, format!("MaxItems `{text}` is no integer.")))?;
    let mut found = RequestViolations::default();
    found.range(Some(asked), "maxItems", 1, MAX_ITEMS);
    found.into_result()?;
    Ok(usize::try_from(asked).unwrap_or(PAGE_ENTRIES_MAX).min(PAGE_ENTRIES_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_parameters_are_checked_against_model() {
        assert_eq!(page_size("1").expect("allowed"), 1);
        assert_eq!(page_size("10000").expect("allowed"), PAGE_ENTRIES_MAX);
        for (text, tells) in [
            (
                "0",
                "Value '0' at 'maxItems' failed to satisfy constraint: Member must have value greater than or equal to 1",
            ),
            (
                "10001",
                "Value '10001' at 'maxItems' failed to satisfy constraint: Member must have value less than or equal to 10000",
            ),
        ] {
            let error = page_size(text).expect_err(text);
            assert_eq!(error.kind, ErrorKind::Validation);
            assert!(error.message.ends_with(tells), "{error}");
        }
        for text in ["", "ten", "99999999999999999999"] {
            assert_eq!(page_size(text).expect_err(text).kind, ErrorKind::Serialization);
        }
        check_uuid_length("01234567-89ab-cdef-0123-456789abcdef").expect("36");
        let short = check_uuid_length("short").expect_err("5");
        let text = "1 validation error detected: Value 'short' at 'uUID' failed to satisfy constraint: \
                    Member must have length greater than or equal to 36";
        assert_eq!((short.kind, short.message.as_str()), (ErrorKind::Validation, text));
    }
}
