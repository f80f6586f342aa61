//! `FilterCriteria`: which records reach the function.
//!
//! The language is AWS's (<https://docs.aws.amazon.com/lambda/latest/dg/invocation-eventfiltering.html>), judged as its
//! `event-ruler` does where the documentation is silent. AWS looks at `value` only; here `key`, `headers`, `topic`,
//! `partition` and `timestamp` (milliseconds since 1970) can be asked for as well. Filters are OR-ed; fields are AND-ed; the
//! parts of a list, and the objects of `$or`, are OR-ed.
//!
//! | Part of a list | Matches |
//! |---|---|
//! | `"a"`, `""` | that string, exactly |
//! | `300`, `true`, `null` | a number, literal or null written just so: 300 is not 300.0 |
//! | `{"equals-ignore-case": "a"}` | that string in any case |
//! | `{"prefix": "a"}`, `{"suffix": "a"}` | strings that begin or end so; `{"equals-ignore-case": "a"}` for "a" |
//! | `{"numeric": [">", 10, "<=", 20]}` | numbers in the range, compared exactly: `=`, `<`, `<=`, `>`, `>=` |
//! | `{"exists": true}` | a field that is there and no object; `false`: one that is not |
//! | `{"anything-but": …}` | a field that is there and is none of these strings or numbers, or `prefix`, `suffix`, `equals-ignore-case` |
//!
//! **Data.** `value` (and `key`) is judged by a pattern of its own format: a list `{"value": ["a"]}` judges plain text, an
//! object `{"value": {"f": ["a"]}}` judges JSON. A record whose data has another format, or is not UTF-8, **passes** that
//! part: what cannot be judged is delivered, not dropped. Text that is not whole JSON is plain, text nested more than 127
//! deep too. A JSON string or number alone is both: text to a list, JSON without fields to an object. A list that asks for
//! `exists` and `null` only judges every format. A null value has no fields; it matches `null` and `{"exists": false}`.
//!
//! **Lists in a record** match when one of their elements does; an object pattern must be met by one element as a whole; an
//! empty list is no field. **Names** that stand twice count as the last. **Headers** are matched by name; any of several
//! values may match, as text, and a text that spells a number, `true`, `false` or `null` is that too; null is null.
//!
//! A record is walked once for all filters, in place, without an allocation, in time linear in its size.

mod compile;
mod data;
mod decimal;
mod error;
mod json;
mod level;
mod operators;
mod pattern;
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

/// Filters of a mapping: AWS's limit after a raised quota (5 before). More cost nothing, because all are walked at once.
pub const FILTERS_MAX: usize = 10;
/// Characters of a pattern, as in AWS's model.
pub const PATTERN_CHARACTERS_MAX: usize = 4096;

/// The filters of a mapping, ready to judge. Without any, every record passes.
#[derive(Clone, Debug, Default)]
pub struct FilterSet {
    record: PatternLevel,
    fingerprint: u32,
}

/// What a filter can ask about.
#[derive(Clone, Copy, Debug)]
pub struct FilterSubject<'a, H> {
    /// Topic.
    pub topic: &'a str,
    /// Partition.
    pub partition: i32,
    /// The record's time.
    pub timestamp: TimestampMs,
    /// Key; `None` is null.
    pub key: Option<&'a [u8]>,
    /// Value; `None` is null.
    pub value: Option<&'a [u8]>,
    /// Headers, duplicates kept.
    pub headers: H,
}

/// What becomes of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterVerdict {
    /// Delivered: there are no filters.
    Unfiltered,
    /// Delivered: this filter, from 0, is the first that matches.
    Matched(usize),
    /// Not delivered.
    Refused,
}

impl FilterVerdict {
    /// True when the record is delivered.
    pub fn passes(self) -> bool {
        self != Self::Refused
    }
}

impl FilterSet {
    /// Compiles patterns; the first mistake is told with its place.
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

    /// Tells other patterns apart, on every node alike; 0 without any.
    pub fn fingerprint(&self) -> u32 {
        self.fingerprint
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.record.objects.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.record.objects.len()
    }

    /// Whether a record of `partition` of `topic` is delivered.
    #[inline]
    pub fn passes(&self, topic: &str, partition: i32, record: &Record<'_>) -> bool {
        let Record { offset: _, timestamp, timestamp_type: _, key, value, headers } = *record;
        self.is_empty()
            || self.verdict(FilterSubject { topic, partition, timestamp, key, value, headers }).passes()
    }

    /// The same, and by which filter.
    pub fn verdict<'a>(&self, subject: FilterSubject<'a, impl Iterator<Item = Header<'a>>>) -> FilterVerdict {
        let FilterSubject { topic, partition, timestamp, key, value, headers } = subject;
        if self.is_empty() {
            return FilterVerdict::Unfiltered;
        }
        // What is not known yet counts as yes: a formula that does not hold now never will, because nothing negates.
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
            // The larger the part, the later it is read, and only while something can still match.
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

/// Any of the values of a name may match.
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

/// FNV-1a over the patterns, each with its end.
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
