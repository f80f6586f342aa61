//! Filters of `FilterCriteria`, which select the records that reach the function.
//!
//! The language is AWS's (<https://docs.aws.amazon.com/lambda/latest/dg/invocation-eventfiltering.html>), with the
//! semantics of its `event-ruler` where the documentation is silent. AWS filters on `value` only; here `key`,
//! `headers`, `topic`, `partition` and `timestamp` (milliseconds since 1970) are available as well. Filters are
//! OR-ed; fields are AND-ed; the elements of a list, and the objects of `$or`, are OR-ed.
//!
//! | Element of a list | Matches |
//! |---|---|
//! | `"a"`, `""` | exactly that string |
//! | `300`, `true`, `null` | a number, literal or null of the same spelling: 300 is not 300.0 |
//! | `{"equals-ignore-case": "a"}` | that string, ignoring case |
//! | `{"prefix": "a"}`, `{"suffix": "a"}` | strings with that start or end; "a" may be `{"equals-ignore-case": "a"}` |
//! | `{"numeric": [">", 10, "<=", 20]}` | numbers in the range, compared exactly: `=`, `<`, `<=`, `>`, `>=` |
//! | `{"exists": true}` | a present field that is not an object; `false`: any other |
//! | `{"anything-but": …}` | any other present value; strings, numbers, `prefix`, `suffix`, `equals-ignore-case` |
//!
//! **Data.** `value` (and `key`) is matched by a pattern of its own format: a list `{"value": ["a"]}` matches
//! plain text, an object `{"value": {"f": ["a"]}}` matches JSON. A record whose data has another format, or is not
//! UTF-8, **passes** that part: data that cannot be evaluated is delivered, not dropped. Text that is not a
//! complete JSON value is plain text, and so is text nested more than 127 deep. A JSON string or number alone is
//! both: text to a list, JSON without fields to an object. A list of `exists` and `null` only applies to every
//! format. A null value has no fields; it matches `null` and `{"exists": false}`.
//!
//! **Lists in a record** match if one of their elements does. An object pattern must be matched by a single
//! element; an empty list counts as an absent field. **Duplicate names** in an object count as the last one.
//! **Headers** are matched by name; any of several values may match, as text. A text that spells a number, `true`,
//! `false` or `null` also matches as that. A null value is null.
//!
//! A record is walked once for all filters, in place, without allocation, in time linear in its size.

mod compile;
mod data;
mod decimal;
mod error;
mod json;
mod level;
mod operators;
mod pattern;
mod specials;
mod text;
mod walk;

pub use data::DataFormat;
pub use error::PatternError;

use decimal::DecimalDigits;
use error::PatternMistake;
use level::{ConditionAnswers, LevelField, PatternLevel};
use operators::ScalarValue;
use text::JsonText;

use crate::records::{Header, Record};
use crate::units::TimestampMs;

/// Maximum number of filters of a mapping: AWS's limit after a raised quota (the default is 5). All filters are
/// evaluated in one walk, so more of them cost nothing.
pub const FILTERS_MAX: usize = 10;
/// Maximum number of characters of a pattern, as in AWS's model.
pub const PATTERN_CHARACTERS_MAX: usize = 4096;

/// Compiled filters of a mapping. Without any, every record passes.
#[derive(Clone, Debug, Default)]
pub struct FilterSet {
    record: PatternLevel,
    fingerprint: u32,
}

/// Fields of a record that a filter can refer to.
#[derive(Clone, Copy, Debug)]
pub struct FilterSubject<'a, H> {
    /// Topic name.
    pub topic: &'a str,
    /// Partition index.
    pub partition: i32,
    /// Record timestamp.
    pub timestamp: TimestampMs,
    /// Key; `None` is null.
    pub key: Option<&'a [u8]>,
    /// Value; `None` is null.
    pub value: Option<&'a [u8]>,
    /// Headers, duplicates included.
    pub headers: H,
}

/// Result of filtering a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterVerdict {
    /// Delivered, because there are no filters.
    Unfiltered,
    /// Delivered, because this filter is the first that matches (index from 0).
    Matched(usize),
    /// Not delivered.
    Refused,
}

impl FilterVerdict {
    /// Returns true if the record is delivered.
    pub fn passes(self) -> bool {
        self != Self::Refused
    }
}

impl FilterSet {
    /// Compiles patterns; returns the first mistake with its position.
    pub fn compile<P: AsRef<str>>(patterns: &[P]) -> Result<Self, PatternError> {
        if patterns.len() > FILTERS_MAX {
            let text = format!("more than {FILTERS_MAX} filters; join alternatives with $or");
            return Err(PatternMistake::new(0, text).of_filter(FILTERS_MAX));
        }
        let mut record = PatternLevel::default();
        for (filter, text) in patterns.iter().enumerate() {
            let formula = read(text.as_ref(), &mut record)
                .map_err(|mistake: PatternMistake| mistake.of_filter(filter))?;
            record.objects.push(formula);
        }
        Ok(Self { record, fingerprint: fingerprint(patterns) })
    }

    /// Returns a fingerprint that identifies the patterns, the same on every node; 0 without patterns.
    pub fn fingerprint(&self) -> u32 {
        self.fingerprint
    }

    /// Returns true if there are no filters.
    pub fn is_empty(&self) -> bool {
        self.record.objects.is_empty()
    }

    /// Returns the number of filters.
    pub fn len(&self) -> usize {
        self.record.objects.len()
    }

    /// Returns true if a record of `partition` of `topic` is delivered.
    #[inline]
    pub fn passes(&self, topic: &str, partition: i32, record: &Record<'_>) -> bool {
        let Record { offset: _, timestamp, timestamp_type: _, key, value, headers } = *record;
        self.is_empty()
            || self.verdict(FilterSubject { topic, partition, timestamp, key, value, headers }).passes()
    }

    /// Filters a record and returns the filter that matched.
    pub fn verdict<'a>(&self, subject: FilterSubject<'a, impl Iterator<Item = Header<'a>>>) -> FilterVerdict {
        let FilterSubject { topic, partition, timestamp, key, value, headers } = subject;
        if self.is_empty() {
            return FilterVerdict::Unfiltered;
        }
        // Unevaluated conditions count as true. Formulas have no negation, so one that is false already can never
        // become true.
        let mut answers = ConditionAnswers::YES;
        self.answer("topic", &mut answers, |field, answers| {
            field.judge(answers, ScalarValue::text(JsonText::plain(topic.as_bytes())));
        });
        for (name, number) in [("partition", i64::from(partition)), ("timestamp", timestamp.0)] {
            self.answer(name, &mut answers, |field, answers| {
                field.judge(answers, ScalarValue::token(DecimalDigits::of(number).as_bytes()));
            });
        }
        self.answer("headers", &mut answers, |field, answers| judge_headers(field, headers, answers));
        for (name, bytes) in [("key", key), ("value", value)] {
            // Parts are read in order of size, and only while a filter can still match.
            if self.first_that_holds(&answers).is_none() {
                return FilterVerdict::Refused;
            }
            self.answer(name, &mut answers, |field, answers| {
                data::answer(bytes, field, &self.record, answers);
            });
        }
        self.first_that_holds(&answers).map_or(FilterVerdict::Refused, FilterVerdict::Matched)
    }

    fn answer(
        &self,
        name: &str,
        answers: &mut ConditionAnswers,
        judge: impl FnOnce(&LevelField, &mut ConditionAnswers),
    ) {
        if let Some(field) = self.record.field(name.as_bytes()) {
            judge(field, answers);
        }
    }

    fn first_that_holds(&self, answers: &ConditionAnswers) -> Option<usize> {
        self.record.objects.iter().position(|formula| formula.holds(answers))
    }
}

/// Evaluates a header field. Any of the values of a name may match.
fn judge_headers<'a>(
    field: &LevelField,
    headers: impl Iterator<Item = Header<'a>>,
    answers: &mut ConditionAnswers,
) {
    let Some(inside) = &field.inside else { return };
    let (mut found, mut seen) = (inside.level.absent, ConditionAnswers::default());
    for header in headers {
        let Some(field) = inside.level.field(header.name) else { continue };
        let scalar = header.value.map_or(ScalarValue::token(b"null"), ScalarValue::plain);
        for (condition, list) in &field.lists {
            let before = seen.get(*condition) && found.get(*condition);
            found.set(*condition, before || list.matches(scalar));
            seen.set(*condition, true);
        }
    }
    inside.answer(answers, &found);
}

/// FNV-1a over the patterns, each with a terminating zero byte.
fn fingerprint<P: AsRef<str>>(patterns: &[P]) -> u32 {
    const BASIS: u32 = 0x811c_9dc5;
    const PRIME: u32 = 0x0100_0193;
    let bytes = patterns.iter().flat_map(|pattern| pattern.as_ref().bytes().chain([0]));
    let hash = bytes.fold(BASIS, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(PRIME));
    if patterns.is_empty() { 0 } else { hash.max(1) }
}

fn read(text: &str, record: &mut PatternLevel) -> Result<level::ConditionFormula, PatternMistake> {
    let characters = text.chars().count();
    if characters > PATTERN_CHARACTERS_MAX {
        let text = format!("{characters} characters; {PATTERN_CHARACTERS_MAX} are allowed");
        return Err(PatternMistake::new(0, text));
    }
    compile::pattern(record, &pattern::parse(text)?)
}
