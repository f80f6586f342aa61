//! Function names as callers give them, and their ARNs.

use super::constraints::RequestViolations;
use super::error::ApiError;
use super::mapping::AccountScope;

/// Pattern of `NamespacedFunctionName` in the model.
const NAME_PATTERN: &str = "(arn:(aws[a-zA-Z-]*)?:lambda:)?((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\\d{1}:)?(\\d{12}:)?\
     (function:)?([a-zA-Z0-9-_\\.]+)(:(\\$LATEST(\\.PUBLISHED)?|[a-zA-Z0-9-_]+))?";

/// Expands a name, partial ARN or ARN to a full ARN, and keeps partition and qualifier. Shapes:
/// `NamespacedFunctionName` of the model.
pub(super) fn function_arn(given: &str, account: AccountScope<'_>) -> Result<String, ApiError> {
    let parts: Vec<&str> = given.split(':').collect();
    let (partition, region, owner, name) = match &parts[..] {
        ["arn", partition, "lambda", region, owner, "function", name @ ..] => {
            (*partition, *region, *owner, name)
        }
        [owner, "function", name @ ..] => ("aws", account.region, *owner, name),
        ["function", name @ ..] if !name.is_empty() => ("aws", account.region, account.id, name),
        name => ("aws", account.region, account.id, name),
    };
    let lower = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let known = (3..=16).contains(&partition.len()) && partition.starts_with("aws") && lower(partition);
    let somewhere = (1..=32).contains(&region.len()) && lower(region);
    let owned = owner.len() == 12 && owner.bytes().all(|byte| byte.is_ascii_digit());
    if !known || !somewhere || !owned || !is_name(name) {
        let mut found = RequestViolations::default();
        found.pattern(given, "functionName", NAME_PATTERN, false);
        return Err(found.into_error());
    }
    Ok(format!("arn:{partition}:lambda:{region}:{owner}:function:{}", name.join(":")))
}

/// Returns true for a name of at most 64 characters, optionally with a version or alias.
fn is_name(parts: &[&str]) -> bool {
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    let fits = |text: &str, most: usize| (1..=most).contains(&text.len()) && plain(text);
    match parts {
        [name] => fits(name, 64),
        [name, qualifier] => fits(name, 64) && fits(qualifier.strip_prefix('$').unwrap_or(qualifier), 128),
        _ => false,
    }
}
