//! From a pattern's JSON to conditions.

use super::error::Mistake;
use super::level::{Field, Formula, Level};
use super::operators;
use super::pattern::{Kind, Node};

/// What an object of a pattern stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The record itself.
    Record,
    /// A JSON object in its key or value.
    Data,
    /// Its headers, by name.
    Headers,
}

const FIELDS: &str = "value, key, headers, topic, partition, timestamp";
const OR: &str = "$or";

/// Merges one pattern into `record`; what must hold of its answers.
pub(super) fn pattern(record: &mut Level, pattern: &Node) -> Result<Formula, Mistake> {
    let Kind::Object(members) = &pattern.kind else {
        return Err(Mistake::new(
            pattern.at,
            "a pattern is a JSON object: {\"value\": {\"field\": [\"wanted\"]}}",
        ));
    };
    object(record, members, pattern.at, Place::Record)
}

fn object(
    level: &mut Level,
    members: &[(String, Node)],
    at: usize,
    place: Place,
) -> Result<Formula, Mistake> {
    if members.is_empty() {
        return Err(Mistake::new(at, "an empty object says nothing about a record"));
    }
    let each = |(name, node): &(String, Node)| {
        let formula = if name == OR { or(level, node, place) } else { member(level, name, node, place) };
        formula.map_err(|mistake| mistake.inside(name.clone()))
    };
    let mut all = members.iter().map(each).collect::<Result<Vec<_>, _>>()?;
    Ok(if all.len() == 1 { all.swap_remove(0) } else { Formula::All(all) })
}

fn or(level: &mut Level, node: &Node, place: Place) -> Result<Formula, Mistake> {
    let Kind::Array(alternatives) = &node.kind else {
        return Err(Mistake::new(node.at, "$or takes a list of objects"));
    };
    if alternatives.len() < 2 {
        return Err(Mistake::new(node.at, "$or takes two objects at least"));
    }
    let each = |(index, node): (usize, &Node)| {
        let formula = match &node.kind {
            Kind::Object(members) => object(level, members, node.at, place),
            _ => Err(Mistake::new(node.at, "$or takes a list of objects")),
        };
        formula.map_err(|mistake| mistake.inside(format!("[{index}]")))
    };
    alternatives.iter().enumerate().map(each).collect::<Result<_, _>>().map(Formula::Any)
}

fn member(level: &mut Level, name: &str, node: &Node, place: Place) -> Result<Formula, Mistake> {
    match (place, name) {
        (Place::Data, _) | (Place::Record, "value" | "key") => match &node.kind {
            Kind::Array(elements) => leaf(level, name, elements, node.at),
            Kind::Object(members) => nested(level, name, members, node.at, Place::Data),
            _ => Err(Mistake::new(node.at, "expected a list of what it may be, in [], or an object")),
        },
        (Place::Record, "headers") => match &node.kind {
            Kind::Object(members) => nested(level, name, members, node.at, Place::Headers),
            _ => Err(Mistake::new(node.at, "expected an object of header names")),
        },
        (Place::Headers, _) | (Place::Record, "topic" | "partition" | "timestamp") => match &node.kind {
            Kind::Array(elements) => leaf(level, name, elements, node.at),
            _ => Err(Mistake::new(node.at, "expected a list of what it may be, in []")),
        },
        (Place::Record, _) => {
            Err(Mistake::new(node.at, format!("a Kafka record has no such field: there are {FIELDS}")))
        }
    }
}

fn leaf(level: &mut Level, name: &str, elements: &[Node], at: usize) -> Result<Formula, Mistake> {
    let list = operators::list(elements, at)?;
    let condition = level.condition(at, list.matches_absent())?;
    level.field_mut(name).lists.push((condition, list));
    Ok(Formula::Condition(condition))
}

fn nested(
    level: &mut Level,
    name: &str,
    members: &[(String, Node)],
    at: usize,
    place: Place,
) -> Result<Formula, Mistake> {
    let Field { inside, .. } = level.field_mut(name);
    let inner = &mut inside.get_or_insert_default().level;
    let formula = object(inner, members, at, place)?;
    let absent = formula.holds(&inner.absent);
    inner.objects.push(formula);
    let condition = level.condition(at, absent)?;
    level.field_mut(name).inside.get_or_insert_default().conditions.push(condition);
    Ok(Formula::Condition(condition))
}
