//! Elements of a pattern's lists, and how each is evaluated on one value.

use std::cmp::Ordering;

use super::decimal;
use super::error::PatternMistake;
use super::json::JsonScanner;
use super::pattern::{PatternKind, PatternNode};
use super::text::{FoldedText, JsonText};

/// Scalar value of a record: neither object nor array.
#[derive(Clone, Copy, Debug)]
pub(super) struct ScalarValue<'a> {
    /// Text for string operators.
    pub(super) text: Option<JsonText<'a>>,
    /// Spelling of a number, `true`, `false` or `null`, for all other operators.
    pub(super) token: Option<&'a [u8]>,
}

impl<'a> ScalarValue<'a> {
    pub(super) fn text(text: JsonText<'a>) -> Self {
        Self { text: Some(text), token: None }
    }

    pub(super) fn token(token: &'a [u8]) -> Self {
        Self { text: None, token: Some(token) }
    }

    /// Creates the scalar of plain text. If the text spells a number, operators on text and on numbers both apply.
    pub(super) fn plain(raw: &'a [u8]) -> Self {
        let mut scanner = JsonScanner::new(raw);
        let token = scanner.token().and_then(|token| scanner.end().map(|()| token)).ok();
        Self { text: Some(JsonText::plain(raw)), token }
    }

    fn number(self) -> Option<&'a [u8]> {
        self.token.filter(|token| token.first().is_some_and(|first| *first == b'-' || first.is_ascii_digit()))
    }
}

/// List of a pattern, of which one element must match.
#[derive(Clone, Debug)]
pub(super) struct MatcherList(Vec<ValueMatcher>);

#[derive(Clone, Debug)]
enum ValueMatcher {
    Text(Box<str>),
    Token(Box<str>),
    Folded(FoldedText),
    Prefix(Box<str>),
    PrefixFolded(FoldedText),
    Suffix(Box<str>),
    SuffixFolded(FoldedText),
    Numeric(Vec<NumberBound>),
    Exists(bool),
    AnythingBut(Vec<ValueMatcher>),
}

/// One comparison such as `> 10`; `right` are the accepted orderings of a number to the bound.
#[derive(Clone, Debug)]
struct NumberBound {
    right: &'static [Ordering],
    number: Box<str>,
    /// The same number in [`decimal::fixed`]'s units.
    fixed: Option<i64>,
}

impl NumberBound {
    fn new(right: &'static [Ordering], number: &str) -> Self {
        Self { right, number: number.into(), fixed: decimal::fixed(number.as_bytes()) }
    }

    /// Returns true if `number`, whose fixed-point value is `fixed`, is within the bound.
    #[inline]
    fn holds(&self, number: &[u8], fixed: Option<i64>) -> bool {
        let order = match (fixed, self.fixed) {
            (Some(ours), Some(bound)) => ours.cmp(&bound),
            _ => decimal::compare(number, self.number.as_bytes()),
        };
        self.right.contains(&order)
    }
}

impl MatcherList {
    #[inline]
    pub(super) fn matches(&self, scalar: ScalarValue<'_>) -> bool {
        self.0.iter().any(|matcher| matcher.matches(scalar))
    }

    /// Returns true if the list matches an absent field, or a value that is not a scalar.
    pub(super) fn matches_absent(&self) -> bool {
        self.0.iter().any(|matcher| matches!(matcher, ValueMatcher::Exists(false)))
    }

    /// Returns true if the list matches a null key or value, which counts as absent and as null.
    pub(super) fn matches_null(&self) -> bool {
        self.matches_absent() || self.0.iter().any(ValueMatcher::is_null)
    }

    /// Returns true if the list matches any key or value that is present.
    pub(super) fn matches_present(&self) -> bool {
        self.0.iter().any(|matcher| matches!(matcher, ValueMatcher::Exists(true)))
    }

    /// Returns true if the list tests for presence or null only, which any format can answer.
    pub(super) fn asks_presence_only(&self) -> bool {
        self.0.iter().all(|matcher| matches!(matcher, ValueMatcher::Exists(_)) || matcher.is_null())
    }
}

impl ValueMatcher {
    fn is_null(&self) -> bool {
        matches!(self, Self::Token(token) if &**token == "null")
    }

    fn matches(&self, scalar: ScalarValue<'_>) -> bool {
        let text = |judge: &dyn Fn(JsonText<'_>) -> bool| scalar.text.is_some_and(judge);
        match self {
            Self::Text(wanted) => scalar.text.is_some_and(|text| text.equals(wanted)),
            Self::Token(wanted) => scalar.token.is_some_and(|token| token == wanted.as_bytes()),
            Self::Folded(wanted) => text(&|text| text.equals_folded(wanted)),
            Self::Prefix(wanted) => text(&|text| text.starts_with(wanted)),
            Self::PrefixFolded(wanted) => text(&|text| text.starts_with_folded(wanted)),
            Self::Suffix(wanted) => text(&|text| text.ends_with(wanted)),
            Self::SuffixFolded(wanted) => text(&|text| text.ends_with_folded(wanted)),
            Self::Numeric(bounds) => scalar.number().is_some_and(|number| {
                let fixed = decimal::fixed(number);
                bounds.iter().all(|bound| bound.holds(number, fixed))
            }),
            Self::Exists(wanted) => *wanted,
            Self::AnythingBut(refused) => !refused.iter().any(|matcher| matcher.matches(scalar)),
        }
    }
}

/// Parses a list of literals and operators, one of which must match.
pub(super) fn list(elements: &[PatternNode], at: usize) -> Result<MatcherList, PatternMistake> {
    if elements.is_empty() {
        return Err(PatternMistake::new(at, "an empty list matches nothing"));
    }
    let one = |(index, node)| element(node).map_err(|mistake| mistake.inside(format!("[{index}]")));
    elements.iter().enumerate().map(one).collect::<Result<_, _>>().map(MatcherList)
}

fn element(node: &PatternNode) -> Result<ValueMatcher, PatternMistake> {
    match &node.kind {
        PatternKind::Text(text) => Ok(ValueMatcher::Text(text.as_str().into())),
        PatternKind::Token(token) => Ok(ValueMatcher::Token(token.as_str().into())),
        PatternKind::Array(_) => Err(PatternMistake::new(node.at, "a list within a list")),
        PatternKind::Object(members) => match &members[..] {
            [(name, operand)] => {
                operator(name, operand, node.at).map_err(|mistake| mistake.inside(name.clone()))
            }
            _ => Err(PatternMistake::new(
                node.at,
                format!("an operator is an object with one member: {OPERATORS}"),
            )),
        },
    }
}

const OPERATORS: &str = "anything-but, equals-ignore-case, exists, numeric, prefix, suffix";

fn operator(name: &str, operand: &PatternNode, at: usize) -> Result<ValueMatcher, PatternMistake> {
    match name {
        "exists" => match &operand.kind {
            PatternKind::Token(token) if token == "true" => Ok(ValueMatcher::Exists(true)),
            PatternKind::Token(token) if token == "false" => Ok(ValueMatcher::Exists(false)),
            _ => Err(PatternMistake::new(operand.at, "exists takes true or false")),
        },
        "equals-ignore-case" => Ok(ValueMatcher::Folded(FoldedText::new(text(name, operand)?))),
        "prefix" | "suffix" => affix(name, operand),
        "numeric" => numeric(operand).map(ValueMatcher::Numeric),
        "anything-but" => anything_but(operand).map(ValueMatcher::AnythingBut),
        unknown => Err(PatternMistake::new(at, format!("no operator `{unknown}`: there are {OPERATORS}"))),
    }
}

fn text<'a>(name: &str, operand: &'a PatternNode) -> Result<&'a str, PatternMistake> {
    match &operand.kind {
        PatternKind::Text(text) => Ok(text),
        PatternKind::Object(_) | PatternKind::Array(_) | PatternKind::Token(_) => {
            Err(PatternMistake::new(operand.at, format!("{name} takes a string")))
        }
    }
}

/// Parses `"prefix": "a"` or `"prefix": {"equals-ignore-case": "a"}`.
fn affix(name: &str, operand: &PatternNode) -> Result<ValueMatcher, PatternMistake> {
    if let PatternKind::Object(members) = &operand.kind {
        let [(inner, operand)] = &members[..] else {
            return Err(PatternMistake::new(operand.at, format!("{name} takes a string")));
        };
        if inner != "equals-ignore-case" {
            return Err(PatternMistake::new(
                operand.at,
                format!("{name} takes a string, or equals-ignore-case"),
            ));
        }
        let folded = FoldedText::new(text(inner, operand)?);
        return Ok(if name == "prefix" {
            ValueMatcher::PrefixFolded(folded)
        } else {
            ValueMatcher::SuffixFolded(folded)
        });
    }
    let text = text(name, operand)?.into();
    Ok(if name == "prefix" { ValueMatcher::Prefix(text) } else { ValueMatcher::Suffix(text) })
}

/// Parses `["=", 5]`, `[">", 1]` or `[">=", 1, "<", 9]`: as in `EventBridge`, the lower bound comes first.
fn numeric(operand: &PatternNode) -> Result<Vec<NumberBound>, PatternMistake> {
    let PatternKind::Array(parts) = &operand.kind else {
        return Err(PatternMistake::new(operand.at, "numeric takes a list: [\">\", 0, \"<=\", 5]"));
    };
    let mut bounds = Vec::new();
    for pair in parts.chunks(2) {
        let [sign, number] = pair else {
            return Err(PatternMistake::new(operand.at, "numeric takes pairs of a sign and a number"));
        };
        bounds.push(bound(sign, number)?);
    }
    match &bounds[..] {
        [_] => {}
        [(">" | ">=", low), ("<" | "<=", high)] => {
            if decimal::compare(low.number.as_bytes(), high.number.as_bytes()) != Ordering::Less {
                return Err(PatternMistake::new(operand.at, "the lower bound must be below the upper one"));
            }
        }
        [_, _] => return Err(PatternMistake::new(operand.at, "two bounds are > or >= and then < or <=")),
        _ => {
            return Err(PatternMistake::new(
                operand.at,
                "numeric takes one or two pairs of a sign and a number",
            ));
        }
    }
    Ok(bounds.into_iter().map(|(_, bound)| bound).collect())
}

fn bound<'n>(sign: &'n PatternNode, number: &PatternNode) -> Result<(&'n str, NumberBound), PatternMistake> {
    let PatternKind::Text(symbol) = &sign.kind else {
        return Err(PatternMistake::new(sign.at, "expected one of =, <, <=, >, >= as a string"));
    };
    let right: &'static [Ordering] = match symbol.as_str() {
        "=" => &[Ordering::Equal],
        "<" => &[Ordering::Less],
        "<=" => &[Ordering::Less, Ordering::Equal],
        ">" => &[Ordering::Greater],
        ">=" => &[Ordering::Greater, Ordering::Equal],
        other => return Err(PatternMistake::new(sign.at, format!("`{other}` is none of =, <, <=, >, >="))),
    };
    match &number.kind {
        PatternKind::Token(token) if number.is_number() => Ok((symbol, NumberBound::new(right, token))),
        _ => Err(PatternMistake::new(number.at, "expected a number")),
    }
}

/// Parses the operand of `anything-but`: strings or numbers, one or a list; or `prefix`, `suffix` or
/// `equals-ignore-case` of strings, one or a list. Numbers are compared by value here, as in `EventBridge`.
fn anything_but(operand: &PatternNode) -> Result<Vec<ValueMatcher>, PatternMistake> {
    if let PatternKind::Object(members) = &operand.kind {
        let [(name, inner)] = &members[..] else {
            return Err(PatternMistake::new(operand.at, "anything-but takes one operator"));
        };
        if !matches!(&**name, "prefix" | "suffix" | "equals-ignore-case") {
            let text = format!("anything-but takes prefix, suffix or equals-ignore-case, not `{name}`");
            return Err(PatternMistake::new(operand.at, text));
        }
        let each = |node: &PatternNode| {
            if matches!(&node.kind, PatternKind::Text(text) if text.is_empty())
                && name != "equals-ignore-case"
            {
                return Err(PatternMistake::new(node.at, format!("an empty {name} refuses every string")));
            }
            text(name, node)?;
            operator(name, node, node.at)
        };
        return one_or_list(inner)
            .iter()
            .map(each)
            .collect::<Result<Vec<_>, _>>()
            .and_then(|all| filled(all, inner));
    }
    let numbers = one_or_list(operand).first().is_some_and(PatternNode::is_number);
    let each = |node: &PatternNode| match &node.kind {
        PatternKind::Text(text) if !numbers => Ok(ValueMatcher::Text(text.as_str().into())),
        PatternKind::Token(token) if numbers && node.is_number() => {
            Ok(ValueMatcher::Numeric(vec![NumberBound::new(&[Ordering::Equal], token)]))
        }
        _ => Err(PatternMistake::new(
            node.at,
            "anything-but takes strings or numbers, not both and nothing else",
        )),
    };
    one_or_list(operand).iter().map(each).collect::<Result<Vec<_>, _>>().and_then(|all| filled(all, operand))
}

fn one_or_list(node: &PatternNode) -> &[PatternNode] {
    match &node.kind {
        PatternKind::Array(elements) => elements,
        PatternKind::Object(_) | PatternKind::Text(_) | PatternKind::Token(_) => std::slice::from_ref(node),
    }
}

fn filled(matchers: Vec<ValueMatcher>, node: &PatternNode) -> Result<Vec<ValueMatcher>, PatternMistake> {
    if matchers.is_empty() {
        Err(PatternMistake::new(node.at, "an empty list refuses nothing"))
    } else {
        Ok(matchers)
    }
}
