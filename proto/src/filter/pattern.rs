//! JSON tree of a pattern, with the byte position of every node. Numbers keep their spelling.

use super::error::PatternMistake;
use super::json::{JsonScanner, NotJson};

/// Value in a pattern.
#[derive(Debug)]
pub(super) struct PatternNode {
    /// Position of its first byte.
    pub(super) at: usize,
    pub(super) kind: PatternKind,
}

#[derive(Debug)]
pub(super) enum PatternKind {
    Object(Vec<(String, PatternNode)>),
    Array(Vec<PatternNode>),
    Text(String),
    /// A number, `true`, `false` or `null`.
    Token(String),
}

impl PatternNode {
    pub(super) fn is_number(&self) -> bool {
        matches!(&self.kind, PatternKind::Token(token) if token.starts_with(|first: char| first == '-' || first.is_ascii_digit()))
    }
}

/// Parses a whole pattern.
pub(super) fn parse(pattern: &str) -> Result<PatternNode, PatternMistake> {
    let mut scanner = JsonScanner::new(pattern.as_bytes());
    let node = value(&mut scanner)?;
    scanner.end()?;
    Ok(node)
}

impl From<NotJson> for PatternMistake {
    fn from(wrong: NotJson) -> Self {
        Self::new(wrong.at, format!("this is not JSON: {}", wrong.what))
    }
}

/// The scanner's depth limit bounds the recursion.
fn value(scanner: &mut JsonScanner<'_>) -> Result<PatternNode, PatternMistake> {
    let at = scanner.at();
    let kind = match scanner.peek() {
        Some(b'{') => object(scanner)?,
        Some(b'[') => array(scanner)?,
        Some(b'"') => {
            let text = scanner.string()?.to_text();
            PatternKind::Text(
                text.ok_or_else(|| PatternMistake::new(at, "half of a surrogate pair in a string"))?,
            )
        }
        _ => PatternKind::Token(String::from_utf8_lossy(scanner.token()?).into_owned()),
    };
    Ok(PatternNode { at, kind })
}

fn object(scanner: &mut JsonScanner<'_>) -> Result<PatternKind, PatternMistake> {
    let mut members: Vec<(String, PatternNode)> = Vec::new();
    let mut more = scanner.enter(b'}')?;
    while more {
        let at = scanner.at();
        let name = scanner.name()?.to_text();
        let name = name.ok_or_else(|| PatternMistake::new(at, "half of a surrogate pair in a name"))?;
        if members.iter().any(|(known, _)| *known == name) {
            return Err(PatternMistake::new(at, format!("`{name}` stands twice in one object")));
        }
        members.push((name, value(scanner)?));
        more = scanner.more(b'}')?;
    }
    Ok(PatternKind::Object(members))
}

fn array(scanner: &mut JsonScanner<'_>) -> Result<PatternKind, PatternMistake> {
    let mut elements = Vec::new();
    let mut more = scanner.enter(b']')?;
    while more {
        elements.push(value(scanner)?);
        more = scanner.more(b']')?;
    }
    Ok(PatternKind::Array(elements))
}
