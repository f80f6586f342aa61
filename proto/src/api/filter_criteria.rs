//! `FilterCriteria`: the request's member, its constraints, and what is kept of it.
//!
//! Model: `lambda/2015-03-31/service-2.json` of botocore; the refusal of a pattern: recorded from AWS. The language is that of
//! [`crate::filter`].

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::constraints::RequestViolations;
use super::error::ApiError;
use crate::filter::{FILTERS_MAX, FilterSet, PATTERN_CHARACTERS_MAX, PatternError};

/// What AWS says of a pattern it cannot use, and no more than that.
const INVALID_PATTERN: &str = "Invalid filter pattern definition.";

/// `FilterCriteria` of a create or update request. Without filters it removes those that there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
pub struct FilterRequest {
    /// At most [`FILTERS_MAX`]; a record that one of them matches is delivered.
    pub filters: Option<Vec<FilterEntry>>,
}

/// One of `Filters`. A member that is misspelt is refused: to leave it out would deliver everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
pub struct FilterEntry {
    /// JSON text.
    pub pattern: Option<String>,
}

/// The filters of a mapping: the patterns as their owner wrote them, and what they were compiled to, once.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct FilterCriteria {
    patterns: Vec<String>,
    compiled: Arc<FilterSet>,
}

impl FilterRequest {
    /// The model's constraints.
    pub(super) fn check_model(&self, found: &mut RequestViolations) {
        for (index, filter) in self.filters.iter().flatten().enumerate() {
            let at = format!("filterCriteria.filters.{}.member.pattern", index + 1);
            if let Some(pattern) = &filter.pattern {
                found.length(pattern, &at, 0, PATTERN_CHARACTERS_MAX);
            }
        }
    }

    /// The filters that the request asks for.
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

    /// The patterns, as they were given.
    pub fn patterns(&self) -> &[String] {
        &self.patterns
    }

    /// What judges records.
    pub fn compiled(&self) -> &Arc<FilterSet> {
        &self.compiled
    }

    /// Adds the member that shows them, if there are any.
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
    fn patterns_are_kept_and_shown_byte_for_byte() {
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
    fn an_update_replaces_and_an_empty_one_clears() {
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
    fn refusals_are_aws_s_and_say_where() {
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
