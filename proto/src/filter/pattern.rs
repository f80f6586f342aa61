//! The JSON of a pattern, with the place of every part; numbers stay as they are written.

use super::error::Mistake;
use super::json::{NotJson, Scanner};

/// A value in a pattern.
#[derive(Debug)]
pub(super) struct Node {
    /// Its first byte.
    pub(super) at: usize,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    Object(Vec<(String, Node)>),
    Array(Vec<Node>),
    Text(String),
    /// A number, `true`, `false` or `null`.
    Token(String),
}

impl Node {
    pub(super) fn is_number(&self) -> bool {
        matches!(&self.kind, Kind::Token(token) if token.starts_with(|first: char| first == '-' || first.is_ascii_digit()))
    }
}

/// Reads a whole pattern.
pub(super) fn parse(pattern: &str) -> Result<Node, Mistake> {
    let mut scanner = Scanner::new(pattern.as_bytes());
    let node = value(&mut scanner)?;
    scanner.end()?;
    Ok(node)
}

impl From<NotJson> for Mistake {
    fn from(wrong: NotJson) -> Self {
        Self::new(wrong.at, format!("this is not JSON: {}", wrong.what))
    }
}

/// Recursion ends where the scanner's depth does.
fn value(scanner: &mut Scanner<'_>) -> Result<Node, Mistake> {
    let at = scanner.at();
    let kind = match scanner.peek() {
        Some(b'{') => object(scanner)?,
        Some(b'[') => array(scanner)?,
        Some(b'"') => {
            let text = scanner.string()?.to_text();
            Kind::Text(text.ok_or_else(|| Mistake::new(at, "half of a surrogate pair in a string"))?)
        }
        _ => Kind::Token(String::from_utf8_lossy(scanner.token()?).into_owned()),
    };
    Ok(Node { at, kind })
}

fn object(scanner: &mut Scanner<'_>) -> Result<Kind, Mistake> {
    let mut members: Vec<(String, Node)> = Vec::new();
    let mut more = scanner.enter(b'}')?;
    while more {
        let at = scanner.at();
        let name = scanner.name()?.to_text();
        let name = name.ok_or_else(|| Mistake::new(at, "half of a surrogate pair in a name"))?;
        if members.iter().any(|(known, _)| *known == name) {
            return Err(Mistake::new(at, format!("`{name}` stands twice in one object")));
        }
        members.push((name, value(scanner)?));
        more = scanner.more(b'}')?;
    }
    Ok(Kind::Object(members))
}

fn array(scanner: &mut Scanner<'_>) -> Result<Kind, Mistake> {
    let mut elements = Vec::new();
    let mut more = scanner.enter(b']')?;
    while more {
        elements.push(value(scanner)?);
        more = scanner.more(b']')?;
    }
    Ok(Kind::Array(elements))
}
