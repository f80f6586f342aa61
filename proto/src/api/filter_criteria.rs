//! `FilterCriteria`: the request member, its constraints, and the stored and compiled filters.
//!
//! Model: `lambda/2015-03-31/service-2.json` of botocore; the rejection of a pattern: recorded from AWS. The
//! filter language is that of [`crate::filter`].

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::constraints::RequestViolations;
use super::error::ApiError;
use crate::filter::{FILTERS_MAX, FilterSet, PATTERN_CHARACTERS_MAX, PatternError};

/// AWS's complete message for an unusable pattern.
const INVALID_PATTERN: &str = "Invalid filter pattern definition.";

/// `FilterCriteria` of a create or update request. Without filters it removes the existing ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
pub struct FilterRequest {
    /// At most [`FILTERS_MAX`] filters; a record that matches any of them is delivered.
    pub filters: Option<Vec<FilterEntry>>,
}

/// Entry of `Filters`. A misspelt member is rejected, because ignoring it would deliver every record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
pub struct FilterEntry {
    /// Pattern as JSON text.
    pub pattern: Option<String>,
}

/// Filters of a mapping: the patterns as given, and their compiled form.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct FilterCriteria {
    patterns: Vec<String>,
    compiled: Arc<FilterSet>,
}

impl FilterRequest {
    /// Checks the model's constraints.
    pub(super) fn check_model(&self, found: &mut RequestViolations) {
        for (index, filter) in self.filters.iter().flatten().enumerate() {
            let at = format!("filterCriteria.filters.{}.member.pattern", index + 1);
            if let Some(pattern) = &filter.pattern {
                found.length(pattern, &at, 0, PATTERN_CHARACTERS_MAX);
            }
        }
    }

    /// Compiles the requested filters.
    pub fn criteria(self) -> Result<FilterCriteria, ApiError> {
        let filters = self.filters.unwrap_or_default();
        if filters.len() > FILTERS_MAX {
            return Err(ApiError::invalid(format!(
                "FilterCriteria has {} filters, at most {FILTERS_MAX} are allowed: join alternatives in one pattern with $or.",
                filters.len()
            )));
        }
        let pattern = |(index, filter): (usize, FilterEntry)| {
            let missing =
                || ApiError::invalid(format!("{INVALID_PATTERN} Filter {} has no Pattern.", index + 1));
            filter.pattern.ok_or_else(missing)
        };
        let patterns = filters.into_iter().enumerate().map(pattern).collect::<Result<Vec<_>, _>>()?;
        FilterCriteria::new(patterns)
            .map_err(|wrong| ApiError::invalid(format!("{INVALID_PATTERN} See {wrong}.")))
    }
}

impl FilterCriteria {
    /// Compiles `patterns`; without any, every record passes.
    pub fn new(patterns: Vec<String>) -> Result<Self, PatternError> {
        let compiled = Arc::new(FilterSet::compile(&patterns)?);
        Ok(Self { patterns, compiled })
    }

    /// Returns the patterns as given.
    pub fn patterns(&self) -> &[String] {
        &self.patterns
    }

    /// Returns the compiled filters.
    pub fn compiled(&self) -> &Arc<FilterSet> {
        &self.compiled
    }

    /// Adds the `FilterCriteria` member if there are any filters.
    pub(super) fn show(&self, shown: &mut Map<String, Value>) {
        if !self.patterns.is_empty() {
            let filters: Vec<Value> =
                self.patterns.iter().map(|pattern| json!({ "Pattern": pattern })).collect();
            shown.insert("FilterCriteria".to_owned(), json!({ "Filters": filters }));
        }
    }
}

impl PartialEq for FilterCriteria {
    fn eq(&self, other: &Self) -> bool {
        self.patterns == other.patterns
    }
}

impl Eq for FilterCriteria {}

impl TryFrom<Vec<String>> for FilterCriteria {
    type Error = PatternError;

    fn try_from(patterns: Vec<String>) -> Result<Self, PatternError> {
        Self::new(patterns)
    }
}

impl From<FilterCriteria> for Vec<String> {
    fn from(criteria: FilterCriteria) -> Self {
        criteria.patterns
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::test_requests::{self, update};
    use crate::api::{ErrorKind, Mapping, MappingState};

    fn create(criteria: Value) -> Result<Mapping, ApiError> {
        test_requests::create(json!({ "FilterCriteria": criteria }))
    }

    fn one(pattern: &str) -> Value {
        json!({ "Filters": [{ "Pattern": pattern }] })
    }

    fn shown(mapping: &Mapping) -> Value {
        mapping.shown(MappingState::Enabled, 1.0, "OK")["FilterCriteria"].clone()
    }

    #[test]
    fn patterns_are_shown_byte_for_byte() {
        let given = one("{ \"value\":\n {\"pr\\u0069ce\": [ 3.0e2 , \"\\u00e9é\" ]}  }");
        let mapping = create(given.clone()).expect("valid");
        assert_eq!(shown(&mapping), given);
        let stored = serde_json::to_string(&mapping).expect("stored");
        let read: Mapping = serde_json::from_str(&stored).expect("read back");
        assert_eq!((&read, shown(&read)), (&mapping, given));
        assert_eq!(read.filters.compiled().len(), 1, "and compiled");
        let older = stored.replace(r#""filters":"#, r#""unknown":"#);
        assert_eq!(
            serde_json::from_str::<Mapping>(&older).expect("older").filters,
            FilterCriteria::default()
        );
    }

    #[test]
    fn update_replaces_filters_and_empty_update_clears() {
        let first = one(r#"{"value":["a"]}"#);
        let mapping = create(first.clone()).expect("valid");
        let other = update(&mapping, json!({ "BatchSize": 5 })).expect("valid");
        assert_eq!(shown(&other), first, "not named, not changed");
        let second =
            json!({ "Filters": [{ "Pattern": "{\"key\":[\"b\"]}" }, { "Pattern": "{\"topic\":[\"c\"]}" }] });
        let replaced = update(&mapping, json!({ "FilterCriteria": second })).expect("valid");
        assert_eq!(shown(&replaced), second);
        for nothing in [json!({}), json!({ "Filters": [] })] {
            let cleared = update(&mapping, json!({ "FilterCriteria": nothing })).expect("valid");
            assert!(cleared.filters.compiled().is_empty() && shown(&cleared).is_null());
            assert!(shown(&create(nothing).expect("valid")).is_null(), "absent, as recorded");
        }
    }

    #[test]
    fn rejection_has_aws_text_and_position() {
        use ErrorKind::{InvalidParameterValue, Serialization, Validation};
        let mapping = create(json!({})).expect("valid");
        let long = format!(r#"{{"value":["{}"]}}"#, "x".repeat(4_096));
        let cases = [
            (
                one("null"),
                InvalidParameterValue,
                "Invalid filter pattern definition. See filter 1, pattern (byte 0): ",
            ),
            (
                one("simple string"),
                InvalidParameterValue,
                "Invalid filter pattern definition. See filter 1, pattern",
            ),
            (
                one(r#"{"value":{"a":[{"prefx":"x"}]}}"#),
                InvalidParameterValue,
                "Invalid filter pattern definition. See filter 1, value.a[0].prefx (byte 15): no operator `prefx`: there are ",
            ),
            (
                json!({ "Filters": [{}] }),
                InvalidParameterValue,
                "Invalid filter pattern definition. Filter 1 has no",
            ),
            (
                json!({ "Filters": vec![json!({ "Pattern": "{\"value\":[1]}" }); 11] }),
                InvalidParameterValue,
                "FilterCriteria has 11 filters, at most 10 are allowed",
            ),
            (
                one(&long),
                Validation,
                &format!(
                    "1 validation error detected: Value '{long}' at 'filterCriteria.filters.1.member.pattern' failed to \
                     satisfy constraint: Member must have length less than or equal to 4096"
                ),
            ),
        ];
        for (criteria, kind, message) in cases {
            let on_create = create(criteria.clone()).expect_err("refused");
            assert!(on_create.kind == kind && on_create.message.starts_with(message), "{on_create}");
            let on_update = update(&mapping, json!({ "FilterCriteria": criteria })).expect_err("refused");
            assert_eq!(on_update, on_create);
        }
        let misspelt = create(json!({ "Filter": [{ "Pattern": "{}" }] })).expect_err("refused");
        assert_eq!(misspelt.kind, Serialization);
        assert!(misspelt.message.contains("unknown field `Filter`, expected `Filters`"), "{misspelt}");
    }
}
