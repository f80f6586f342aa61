//! Compiler of a pattern's JSON tree to conditions.

use super::error::PatternMistake;
use super::level::{ConditionFormula, LevelField, PatternLevel};
use super::operators;
use super::pattern::{PatternKind, PatternNode};

/// Part of a record that an object of a pattern describes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PatternPlace {
    /// The record itself.
    Record,
    /// A JSON object in the record's key or value.
    Data,
    /// The record's headers, by name.
    Headers,
}

const FIELDS: &str = "value, key, headers, topic, partition, timestamp";
const OR: &str = "$or";

/// Merges one pattern into `record`, and returns the formula over its conditions.
pub(super) fn pattern(
    record: &mut PatternLevel,
    pattern: &PatternNode,
) -> Result<ConditionFormula, PatternMistake> {
    let PatternKind::Object(members) = &pattern.kind else {
        return Err(PatternMistake::new(
            pattern.at,
            "a pattern is a JSON object: {\"value\": {\"field\": [\"wanted\"]}}",
        ));
    };
    object(record, members, pattern.at, PatternPlace::Record)
}

fn object(
    level: &mut PatternLevel,
    members: &[(String, PatternNode)],
    at: usize,
    place: PatternPlace,
) -> Result<ConditionFormula, PatternMistake> {
    if members.is_empty() {
        return Err(PatternMistake::new(at, "an empty object says nothing about a record"));
    }
    let each = |(name, node): &(String, PatternNode)| {
        let formula = if name == OR { or(level, node, place) } else { member(level, name, node, place) };
        formula.map_err(|mistake| mistake.inside(name.clone()))
    };
    let mut all = members.iter().map(each).collect::<Result<Vec<_>, _>>()?;
    Ok(if all.len() == 1 { all.swap_remove(0) } else { ConditionFormula::All(all) })
}

fn or(
    level: &mut PatternLevel,
    node: &PatternNode,
    place: PatternPlace,
) -> Result<ConditionFormula, PatternMistake> {
    let PatternKind::Array(alternatives) = &node.kind else {
        return Err(PatternMistake::new(node.at, "$or takes a list of objects"));
    };
    if alternatives.len() < 2 {
        return Err(PatternMistake::new(node.at, "$or takes two objects at least"));
    }
    let each = |(index, node): (usize, &PatternNode)| {
        let formula = match &node.kind {
            PatternKind::Object(members) => object(level, members, node.at, place),
            _ => Err(PatternMistake::new(node.at, "$or takes a list of objects")),
        };
        formula.map_err(|mistake| mistake.inside(format!("[{index}]")))
    };
    alternatives.iter().enumerate().map(each).collect::<Result<_, _>>().map(ConditionFormula::Any)
}

fn member(
    level: &mut PatternLevel,
    name: &str,
    node: &PatternNode,
    place: PatternPlace,
) -> Result<ConditionFormula, PatternMistake> {
    match (place, name) {
        (PatternPlace::Data, _) | (PatternPlace::Record, "value" | "key") => match &node.kind {
            PatternKind::Array(elements) => leaf(level, name, elements, node.at),
            PatternKind::Object(members) => nested(level, name, members, node.at, PatternPlace::Data),
            _ => Err(PatternMistake::new(node.at, "expected a list of what it may be, in [], or an object")),
        },
        (PatternPlace::Record, "headers") => match &node.kind {
            PatternKind::Object(members) => nested(level, name, members, node.at, PatternPlace::Headers),
            _ => Err(PatternMistake::new(node.at, "expected an object of header names")),
        },
        (PatternPlace::Headers, _) | (PatternPlace::Record, "topic" | "partition" | "timestamp") => {
            match &node.kind {
                PatternKind::Array(elements) => leaf(level, name, elements, node.at),
                _ => Err(PatternMistake::new(node.at, "expected a list of what it may be, in []")),
            }
        }
        (PatternPlace::Record, _) => {
            Err(PatternMistake::new(node.at, format!("a Kafka record has no such field: there are {FIELDS}")))
        }
    }
}

fn leaf(
    level: &mut PatternLevel,
    name: &str,
    elements: &[PatternNode],
    at: usize,
) -> Result<ConditionFormula, PatternMistake> {
    let list = operators::list(elements, at)?;
    let condition = level.condition(at, list.matches_absent())?;
    level.field_mut(name).lists.push((condition, list));
    Ok(ConditionFormula::Condition(condition))
}

fn nested(
    level: &mut PatternLevel,
    name: &str,
    members: &[(String, PatternNode)],
    at: usize,
    place: PatternPlace,
) -> Result<ConditionFormula, PatternMistake> {
    let LevelField { inside, .. } = level.field_mut(name);
    let inner = &mut inside.get_or_insert_default().level;
    let formula = object(inner, members, at, place)?;
    let absent = formula.holds(&inner.absent);
    inner.objects.push(formula);
    let condition = level.condition(at, absent)?;
    level.field_mut(name).inside.get_or_insert_default().conditions.push(condition);
    Ok(ConditionFormula::Condition(condition))
}
