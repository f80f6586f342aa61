//! Evaluation of a key or value in any format, after AWS's table of message and pattern formats.
//! <https://docs.aws.amazon.com/lambda/latest/dg/with-kafka-filtering.html>

use super::json::{JsonScanner, NotJson};
use super::level::{ConditionAnswers, LevelField, PatternLevel};
use super::operators::{MatcherList, ScalarValue};
use super::text::JsonText;
use super::walk;

/// Format of a key's or value's bytes, as a filter sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataFormat {
    /// Null: a tombstone, or no key.
    Null,
    /// Not UTF-8; every pattern that refers to its contents passes.
    Binary,
    /// Text that is not JSON; patterns for JSON pass.
    Plain,
    /// A single JSON string, number, `true`, `false` or `null`: text to a list, JSON without fields to an object.
    Scalar,
    /// A JSON object or list; patterns for plain text pass.
    Json,
}

impl DataFormat {
    /// Returns a label for logs and output.
    pub fn label(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Binary => "not UTF-8",
            Self::Plain => "text",
            Self::Scalar => "JSON scalar",
            Self::Json => "JSON",
        }
    }

    /// Detects the format of `bytes`.
    pub fn of(bytes: Option<&[u8]>) -> Self {
        let nothing = LevelField { name: "".into(), lists: Vec::new(), inside: Some(Default::default()) };
        answer(bytes, &nothing, &PatternLevel::default(), &mut ConditionAnswers::default())
    }
}

/// Evaluates the patterns' conditions on `bytes`, the data of `field`. Conditions on a format that cannot be
/// evaluated are true, so that the record is not dropped for them.
pub(super) fn answer(
    bytes: Option<&[u8]>,
    field: &LevelField,
    outer: &PatternLevel,
    answers: &mut ConditionAnswers,
) -> DataFormat {
    let Some(bytes) = bytes else {
        lists(field, answers, MatcherList::matches_null);
        field.objects_absent(outer, answers);
        return DataFormat::Null;
    };
    // Most data is ASCII, and that is known faster.
    if !bytes.is_ascii() && str::from_utf8(bytes).is_err() {
        lists(field, answers, passes_unread);
        objects_pass(field, answers);
        return DataFormat::Binary;
    }
    match JsonScanner::new(bytes).peek() {
        Some(b'{' | b'[') => {
            if walk::whole(bytes, field, outer, answers).is_ok() {
                lists(field, answers, passes_unread);
                return DataFormat::Json;
            }
        }
        _ => {
            if let Ok(scalar) = scalar(bytes) {
                lists(field, answers, |list| list.matches(scalar));
                field.objects_absent(outer, answers);
                return DataFormat::Scalar;
            }
        }
    }
    let text = ScalarValue::text(JsonText::plain(bytes));
    lists(field, answers, |list| list.matches(text));
    objects_pass(field, answers);
    DataFormat::Plain
}

/// Reads a scalar. A JSON string is its unescaped text; any other text is taken literally, and also as a number,
/// true, false or null.
fn scalar(bytes: &[u8]) -> Result<ScalarValue<'_>, NotJson> {
    let mut scanner = JsonScanner::new(bytes);
    let scalar = if scanner.peek() == Some(b'"') {
        ScalarValue::text(scanner.string()?)
    } else {
        ScalarValue { text: Some(JsonText::plain(bytes)), token: Some(scanner.token()?) }
    };
    scanner.end().map(|()| scalar)
}

/// Returns the result of a list on data that it cannot evaluate. Only a test for presence can be false.
fn passes_unread(list: &MatcherList) -> bool {
    !list.asks_presence_only() || list.matches_present()
}

fn lists(field: &LevelField, answers: &mut ConditionAnswers, judge: impl Fn(&MatcherList) -> bool) {
    for (condition, list) in &field.lists {
        answers.set(*condition, judge(list));
    }
}

fn objects_pass(field: &LevelField, answers: &mut ConditionAnswers) {
    for condition in field.inside.iter().flat_map(|inside| &inside.conditions) {
        answers.set(*condition, true);
    }
}
