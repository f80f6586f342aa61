//! Single walk over a JSON text that skips the fields that no pattern refers to.
//!
//! A duplicate name counts as its last occurrence, as in `serde_json` and Jackson. A list of a record matches if
//! any of its elements does, nested lists included. An object pattern must be matched by a single element.

use super::json::{JsonScanner, NotJson};
use super::level::{ConditionAnswers, LevelField, PatternLevel};
use super::operators::ScalarValue;
use super::text::JsonText;

/// Evaluates the conditions of `field` on the object or list that is all of `text`, which is UTF-8. `answers`
/// receives the results, one for each condition of the field on the level `outer`.
pub(super) fn whole(
    text: &[u8],
    field: &LevelField,
    outer: &PatternLevel,
    answers: &mut ConditionAnswers,
) -> Result<(), NotJson> {
    let mut walk = RecordWalk { scanner: JsonScanner::new(text) };
    walk.value(field, outer, answers)?;
    walk.scanner.end()
}

struct RecordWalk<'a> {
    scanner: JsonScanner<'a>,
}

/// Kinds of elements seen in a list so far.
#[derive(Default)]
struct SeenElements {
    scalar: bool,
    object: bool,
}

impl<'a> RecordWalk<'a> {
    /// Evaluates one object and returns the results of its level's conditions.
    fn object(&mut self, level: &PatternLevel) -> Result<ConditionAnswers, NotJson> {
        let mut answers = level.absent;
        let mut more = self.scanner.enter(b'}')?;
        while more {
            let name = self.scanner.name()?;
            match field(level, name) {
                None => self.scanner.skip()?,
                Some(field) => self.value(field, level, &mut answers)?,
            }
            more = self.scanner.more(b'}')?;
        }
        Ok(answers)
    }

    /// Evaluates a field's value, and overwrites the results of an earlier field of the same name.
    fn value(
        &mut self,
        field: &LevelField,
        level: &PatternLevel,
        answers: &mut ConditionAnswers,
    ) -> Result<(), NotJson> {
        match self.scanner.peek() {
            Some(b'{') => {
                field.lists_absent(level, answers);
                match &field.inside {
                    None => self.scanner.skip()?,
                    Some(inside) => {
                        let found = self.object(&inside.level)?;
                        inside.answer(answers, &found);
                    }
                }
            }
            Some(b'[') => self.list(field, level, answers)?,
            _ => {
                let scalar = self.scalar()?;
                field.judge(answers, scalar);
                field.objects_absent(level, answers);
            }
        }
        Ok(())
    }

    fn list(
        &mut self,
        field: &LevelField,
        level: &PatternLevel,
        answers: &mut ConditionAnswers,
    ) -> Result<(), NotJson> {
        for (condition, _) in &field.lists {
            answers.set(*condition, false);
        }
        for condition in field.inside.iter().flat_map(|inside| &inside.conditions) {
            answers.set(*condition, false);
        }
        let mut seen = SeenElements::default();
        self.elements(field, answers, &mut seen)?;
        if !seen.scalar {
            field.lists_absent(level, answers);
        }
        if !seen.object {
            field.objects_absent(level, answers);
        }
        Ok(())
    }

    /// The scanner's depth limit bounds the recursion.
    fn elements(
        &mut self,
        field: &LevelField,
        answers: &mut ConditionAnswers,
        seen: &mut SeenElements,
    ) -> Result<(), NotJson> {
        let mut more = self.scanner.enter(b']')?;
        while more {
            match (self.scanner.peek(), &field.inside) {
                (Some(b'['), _) => self.elements(field, answers, seen)?,
                (Some(b'{'), None) => self.scanner.skip()?,
                (Some(b'{'), Some(inside)) => {
                    seen.object = true;
                    let found = self.object(&inside.level)?;
                    for (formula, condition) in inside.level.objects.iter().zip(&inside.conditions) {
                        answers.set(*condition, answers.get(*condition) || formula.holds(&found));
                    }
                }
                _ => {
                    seen.scalar = true;
                    let scalar = self.scalar()?;
                    for (condition, list) in &field.lists {
                        answers.set(*condition, answers.get(*condition) || list.matches(scalar));
                    }
                }
            }
            more = self.scanner.more(b']')?;
        }
        Ok(())
    }

    fn scalar(&mut self) -> Result<ScalarValue<'a>, NotJson> {
        if self.scanner.peek() == Some(b'"') {
            return self.scanner.string().map(ScalarValue::text);
        }
        self.scanner.token().map(ScalarValue::token)
    }
}

fn field<'l>(level: &'l PatternLevel, name: JsonText<'_>) -> Option<&'l LevelField> {
    if name.escaped {
        return level.fields().iter().find(|field| name.equals(&field.name));
    }
    level.field(name.raw)
}
