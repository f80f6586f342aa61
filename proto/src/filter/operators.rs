//! What a list in a pattern may hold, and how each part of it judges one value.

use std::cmp::Ordering;

use super::decimal;
use super::error::Mistake;
use super::json::Scanner;
use super::pattern::{Kind, Node};
use super::text::{Folded, Text};

/// One value of a record that is neither object nor array.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scalar<'a> {
    /// What string operators see.
    pub(super) text: Option<Text<'a>>,
    /// A number, `true`, `false` or `null` as it is written: what everything else sees.
    pub(super) token: Option<&'a [u8]>,
}

impl<'a> Scalar<'a> {
    pub(super) fn text(text: Text<'a>) -> Self {
        Self { text: Some(text), token: None }
    }

    pub(super) fn token(token: &'a [u8]) -> Self {
        Self { text: None, token: Some(token) }
    }

    /// Plain text, which may spell a number: both kinds of operators find what they look for.
    pub(super) fn plain(raw: &'a [u8]) -> Self {
        let mut scanner = Scanner::new(raw);
        let token = scanner.token().and_then(|token| scanner.end().map(|()| token)).ok();
        Self { text: Some(Text::plain(raw)), token }
    }

    fn number(self) -> Option<&'a [u8]> {
        self.token.filter(|token| token.first().is_some_and(|first| *first == b'-' || first.is_ascii_digit()))
    }
}

/// A list of a pattern: one of its parts must match.
#[derive(Clone, Debug)]
pub(super) struct List(Vec<Matcher>);

#[derive(Clone, Debug)]
enum Matcher {
    Text(Box<str>),
    Token(Box<str>),
    Folded(Folded),
    Prefix(Box<str>),
    PrefixFolded(Folded),
    Suffix(Box<str>),
    SuffixFolded(Folded),
    Numeric(Vec<Bound>),
    Exists(bool),
    AnythingBut(Vec<Matcher>),
}

/// `> 10`: the orderings of a number to the bound that are right.
#[derive(Clone, Debug)]
struct Bound {
    right: &'static [Ordering],
    number: Box<str>,
}

impl List {
    #[inline]
    pub(super) fn matches(&self, scalar: Scalar<'_>) -> bool {
        self.0.iter().any(|matcher| matcher.matches(scalar))
    }

    /// Where there is no such field, or it is no leaf.
    pub(super) fn matches_absent(&self) -> bool {
        self.0.iter().any(|matcher| matches!(matcher, Matcher::Exists(false)))
    }

    /// A key or value that is null: not there, and null.
    pub(super) fn matches_null(&self) -> bool {
        self.matches_absent() || self.0.iter().any(Matcher::is_null)
    }

    /// A key or value that is there, whatever it holds.
    pub(super) fn matches_present(&self) -> bool {
        self.0.iter().any(|matcher| matches!(matcher, Matcher::Exists(true)))
    }

    /// True when it asks for being there or null only, which any format can answer.
    pub(super) fn asks_presence_only(&self) -> bool {
        self.0.iter().all(|matcher| matches!(matcher, Matcher::Exists(_)) || matcher.is_null())
    }
}

impl Matcher {
    fn is_null(&self) -> bool {
        matches!(self, Self::Token(token) if &**token == "null")
    }

    fn matches(&self, scalar: Scalar<'_>) -> bool {
        let text = |judge: &dyn Fn(Text<'_>) -> bool| scalar.text.is_some_and(judge);
        match self {
            Self::Text(wanted) => scalar.text.is_some_and(|text| text.equals(wanted)),
            Self::Token(wanted) => scalar.token.is_some_and(|token| token == wanted.as_bytes()),
            Self::Folded(wanted) => text(&|text| text.equals_folded(wanted)),
            Self::Prefix(wanted) => text(&|text| text.starts_with(wanted)),
            Self::PrefixFolded(wanted) => text(&|text| text.starts_with_folded(wanted)),
            Self::Suffix(wanted) => text(&|text| text.ends_with(wanted)),
            Self::SuffixFolded(wanted) => text(&|text| text.ends_with_folded(wanted)),
            Self::Numeric(bounds) => scalar.number().is_some_and(|number| {
                let holds =
                    |bound: &Bound| bound.right.contains(&decimal::compare(number, bound.number.as_bytes()));
                bounds.iter().all(holds)
            }),
            Self::Exists(wanted) => *wanted,
            Self::AnythingBut(refused) => !refused.iter().any(|matcher| matcher.matches(scalar)),
        }
    }
}

/// Reads a list: literals and operators, one of which must match.
pub(super) fn list(elements: &[Node], at: usize) -> Result<List, Mistake> {
    if elements.is_empty() {
        return Err(Mistake::new(at, "an empty list matches nothing"));
    }
    let one = |(index, node)| element(node).map_err(|mistake| mistake.inside(format!("[{index}]")));
    elements.iter().enumerate().map(one).collect::<Result<_, _>>().map(List)
}

fn element(node: &Node) -> Result<Matcher, Mistake> {
    match &node.kind {
        Kind::Text(text) => Ok(Matcher::Text(text.as_str().into())),
        Kind::Token(token) => Ok(Matcher::Token(token.as_str().into())),
        Kind::Array(_) => Err(Mistake::new(node.at, "a list within a list")),
        Kind::Object(members) => match &members[..] {
            [(name, operand)] => {
                operator(name, operand, node.at).map_err(|mistake| mistake.inside(name.clone()))
            }
            _ => Err(Mistake::new(node.at, format!("an operator is an object with one member: {OPERATORS}"))),
        },
    }
}

const OPERATORS: &str = "anything-but, equals-ignore-case, exists, numeric, prefix, suffix";

fn operator(name: &str, operand: &Node, at: usize) -> Result<Matcher, Mistake> {
    match name {
        "exists" => match &operand.kind {
            Kind::Token(token) if token == "true" => Ok(Matcher::Exists(true)),
            Kind::Token(token) if token == "false" => Ok(Matcher::Exists(false)),
            _ => Err(Mistake::new(operand.at, "exists takes true or false")),
        },
        "equals-ignore-case" => Ok(Matcher::Folded(Folded::new(text(name, operand)?))),
        "prefix" | "suffix" => affix(name, operand),
        "numeric" => numeric(operand).map(Matcher::Numeric),
        "anything-but" => anything_but(operand).map(Matcher::AnythingBut),
        unknown => Err(Mistake::new(at, format!("no operator `{unknown}`: there are {OPERATORS}"))),
    }
}

fn text<'a>(name: &str, operand: &'a Node) -> Result<&'a str, Mistake> {
    match &operand.kind {
        Kind::Text(text) => Ok(text),
        Kind::Object(_) | Kind::Array(_) | Kind::Token(_) => {
            Err(Mistake::new(operand.at, format!("{name} takes a string")))
        }
    }
}

/// `"prefix": "a"` or `"prefix": {"equals-ignore-case": "a"}`.
fn affix(name: &str, operand: &Node) -> Result<Matcher, Mistake> {
    if let Kind::Object(members) = &operand.kind {
        let [(inner, operand)] = &members[..] else {
            return Err(Mistake::new(operand.at, format!("{name} takes a string")));
        };
        if inner != "equals-ignore-case" {
            return Err(Mistake::new(operand.at, format!("{name} takes a string, or equals-ignore-case")));
        }
        let folded = Folded::new(text(inner, operand)?);
        return Ok(if name == "prefix" {
            Matcher::PrefixFolded(folded)
        } else {
            Matcher::SuffixFolded(folded)
        });
    }
    let text = text(name, operand)?.into();
    Ok(if name == "prefix" { Matcher::Prefix(text) } else { Matcher::Suffix(text) })
}

/// `["=", 5]`, `[">", 1]`, `[">=", 1, "<", 9]`: as `EventBridge` has it, the lower bound first.
fn numeric(operand: &Node) -> Result<Vec<Bound>, Mistake> {
    let Kind::Array(parts) = &operand.kind else {
        return Err(Mistake::new(operand.at, "numeric takes a list: [\">\", 0, \"<=\", 5]"));
    };
    let mut bounds = Vec::new();
    for pair in parts.chunks(2) {
        let [sign, number] = pair else {
            return Err(Mistake::new(operand.at, "numeric takes pairs of a sign and a number"));
        };
        bounds.push(bound(sign, number)?);
    }
    match &bounds[..] {
        [_] => {}
        [(">" | ">=", low), ("<" | "<=", high)] => {
            if decimal::compare(low.number.as_bytes(), high.number.as_bytes()) != Ordering::Less {
                return Err(Mistake::new(operand.at, "the lower bound must be below the upper one"));
            }
        }
        [_, _] => return Err(Mistake::new(operand.at, "two bounds are > or >= and then < or <=")),
        _ => return Err(Mistake::new(operand.at, "numeric takes one or two pairs of a sign and a number")),
    }
    Ok(bounds.into_iter().map(|(_, bound)| bound).collect())
}

fn bound<'n>(sign: &'n Node, number: &Node) -> Result<(&'n str, Bound), Mistake> {
    let Kind::Text(symbol) = &sign.kind else {
        return Err(Mistake::new(sign.at, "expected one of =, <, <=, >, >= as a string"));
    };
    let right: &'static [Ordering] = match symbol.as_str() {
        "=" => &[Ordering::Equal],
        "<" => &[Ordering::Less],
        "<=" => &[Ordering::Less, Ordering::Equal],
        ">" => &[Ordering::Greater],
        ">=" => &[Ordering::Greater, Ordering::Equal],
        other => return Err(Mistake::new(sign.at, format!("`{other}` is none of =, <, <=, >, >="))),
    };
    match &number.kind {
        Kind::Token(token) if number.is_number() => {
            Ok((symbol, Bound { right, number: token.as_str().into() }))
        }
        _ => Err(Mistake::new(number.at, "expected a number")),
    }
}

/// Strings or numbers, one or a list; or `prefix`, `suffix`, `equals-ignore-case` of strings, one or a list.
/// Numbers are compared as numbers here, as `EventBridge` does.
fn anything_but(operand: &Node) -> Result<Vec<Matcher>, Mistake> {
    if let Kind::Object(members) = &operand.kind {
        let [(name, inner)] = &members[..] else {
            return Err(Mistake::new(operand.at, "anything-but takes one operator"));
        };
        if !matches!(&**name, "prefix" | "suffix" | "equals-ignore-case") {
            let text = format!("anything-but takes prefix, suffix or equals-ignore-case, not `{name}`");
            return Err(Mistake::new(operand.at, text));
        }
        let each = |node: &Node| {
            if matches!(&node.kind, Kind::Text(text) if text.is_empty()) && name != "equals-ignore-case" {
                return Err(Mistake::new(node.at, format!("an empty {name} refuses every string")));
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
    let numbers = one_or_list(operand).first().is_some_and(Node::is_number);
    let each = |node: &Node| match &node.kind {
        Kind::Text(text) if !numbers => Ok(Matcher::Text(text.as_str().into())),
        Kind::Token(token) if numbers && node.is_number() => {
            Ok(Matcher::Numeric(vec![Bound { right: &[Ordering::Equal], number: token.as_str().into() }]))
        }
        _ => Err(Mistake::new(node.at, "anything-but takes strings or numbers, not both and nothing else")),
    };
    one_or_list(operand).iter().map(each).collect::<Result<Vec<_>, _>>().and_then(|all| filled(all, operand))
}

fn one_or_list(node: &Node) -> &[Node] {
    match &node.kind {
        Kind::Array(elements) => elements,
        Kind::Object(_) | Kind::Text(_) | Kind::Token(_) => std::slice::from_ref(node),
    }
}

fn filled(matchers: Vec<Matcher>, node: &Node) -> Result<Vec<Matcher>, Mistake> {
    if matchers.is_empty() {
        Err(Mistake::new(node.at, "an empty list refuses nothing"))
    } else {
        Ok(matchers)
    }
}
