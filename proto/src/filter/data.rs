//! A key or value in whatever format it comes: AWS's table of message and pattern formats.
//! <https://docs.aws.amazon.com/lambda/latest/dg/with-kafka-filtering.html>

use super::json::{NotJson, Scanner};
use super::level::{Answers, Field, Level};
use super::operators::{List, Scalar};
use super::text::Text;
use super::walk;

/// What the bytes of a key or value are to a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Null: a tombstone, or no key.
    Null,
    /// Not UTF-8: passes every pattern that looks into it.
    Binary,
    /// Text that is no JSON: patterns that look into JSON pass.
    Plain,
    /// One JSON string, number, `true`, `false` or `null`: text to a list, JSON without fields to an object.
    Scalar,
    /// A JSON object or list: patterns for plain text pass.
    Json,
}

impl Format {
    /// As people read it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Binary => "not UTF-8",
            Self::Plain => "text",
            Self::Scalar => "JSON scalar",
            Self::Json => "JSON",
        }
    }

    /// The format of `bytes`.
    pub fn of(bytes: Option<&[u8]>) -> Self {
        let nothing = Field { name: "".into(), lists: Vec::new(), inside: Some(Default::default()) };
        answer(bytes, &nothing, &Level::default(), &mut Answers::default())
    }
}

/// Answers what the patterns ask of `bytes`, the data of `field`; nothing is dropped for a format that cannot be judged.
pub(super) fn answer(bytes: Option<&[u8]>, field: &Field, outer: &Level, answers: &mut Answers) -> Format {
    let Some(bytes) = bytes else {
        lists(field, answers, List::matches_null);
        field.objects_absent(outer, answers);
        return Format::Null;
    };
    if str::from_utf8(bytes).is_err() {
        lists(field, answers, passes_unread);
        objects_pass(field, answers);
        return Format::Binary;
    }
    match Scanner::new(bytes).peek() {
        Some(b'{' | b'[') => {
            if walk::whole(bytes, field, outer, answers).is_ok() {
                lists(field, answers, passes_unread);
                return Format::Json;
            }
        }
        _ => {
            if let Ok(scalar) = scalar(bytes) {
                lists(field, answers, |list| list.matches(scalar));
                field.objects_absent(outer, answers);
                return Format::Scalar;
            }
        }
    }
    let text = Scalar::text(Text::plain(bytes));
    lists(field, answers, |list| list.matches(text));
    objects_pass(field, answers);
    Format::Plain
}

/// A JSON string is the text it writes; anything else is the text as it stands, and a number, true, false or null.
fn scalar(bytes: &[u8]) -> Result<Scalar<'_>, NotJson> {
    let mut scanner = Scanner::new(bytes);
    let scalar = if scanner.peek() == Some(b'"') {
        Scalar::text(scanner.string()?)
    } else {
        Scalar { text: Some(Text::plain(bytes)), token: Some(scanner.token()?) }
    };
    scanner.end().map(|()| scalar)
}

/// A list and data that it cannot look into: only a question about being there has an answer.
fn passes_unread(list: &List) -> bool {
    !list.asks_presence_only() || list.matches_present()
}

fn lists(field: &Field, answers: &mut Answers, judge: impl Fn(&List) -> bool) {
    for (condition, list) in &field.lists {
        answers.set(*condition, judge(list));
    }
}

fn objects_pass(field: &Field, answers: &mut Answers) {
    for condition in field.inside.iter().flat_map(|inside| &inside.conditions) {
        answers.set(*condition, true);
    }
}
