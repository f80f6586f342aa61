//! Conditions of all patterns on one level of objects, merged by field, so that a record is walked once for all
//! patterns.

use super::error::PatternMistake;
use super::operators::{MatcherList, ScalarValue};
use super::text::same_bytes;

/// Maximum number of conditions on one level, for all filters together.
pub(super) const CONDITIONS_MAX: usize = 512;

/// Results of a level's conditions.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ConditionAnswers([u64; CONDITIONS_MAX / 64]);

impl ConditionAnswers {
    /// All results true.
    pub(super) const YES: Self = Self([u64::MAX; CONDITIONS_MAX / 64]);

    #[inline]
    pub(super) fn get(&self, condition: u16) -> bool {
        self.0[usize::from(condition / 64)] >> (condition % 64) & 1 == 1
    }

    #[inline]
    pub(super) fn set(&mut self, condition: u16, answer: bool) {
        let word = &mut self.0[usize::from(condition / 64)];
        *word = *word & !(1 << (condition % 64)) | u64::from(answer) << (condition % 64);
    }
}

/// Boolean formula over a level's condition results. It has no negation, so it is monotone: one more true result
/// never makes it false.
#[derive(Clone, Debug)]
pub(super) enum ConditionFormula {
    /// A single condition.
    Condition(u16),
    /// Conjunction.
    All(Vec<ConditionFormula>),
    /// Disjunction (`$or`).
    Any(Vec<ConditionFormula>),
}

impl ConditionFormula {
    pub(super) fn holds(&self, answers: &ConditionAnswers) -> bool {
        match self {
            Self::Condition(condition) => answers.get(*condition),
            Self::All(parts) => parts.iter().all(|part| part.holds(answers)),
            Self::Any(parts) => parts.iter().any(|part| part.holds(answers)),
        }
    }
}

/// One level of objects in the patterns.
#[derive(Clone, Debug, Default)]
pub(super) struct PatternLevel {
    /// Fields sorted by length, then name.
    fields: Vec<LevelField>,
    /// Lengths of the fields' names, see [`length_bit`]. Most names of a record have another length.
    lengths: u64,
    conditions: u16,
    /// Results for an object that has none of the fields.
    pub(super) absent: ConditionAnswers,
    /// One formula for each pattern object that was merged into this level.
    pub(super) objects: Vec<ConditionFormula>,
}

/// One field of a level.
#[derive(Clone, Debug)]
pub(super) struct LevelField {
    pub(super) name: Box<str>,
    /// Lists that apply to the field's value, each with its condition.
    pub(super) lists: Vec<(u16, MatcherList)>,
    /// Objects that apply to the field's value.
    pub(super) inside: Option<ObjectCondition>,
}

/// Condition on a field's value that is an object.
#[derive(Clone, Debug, Default)]
pub(super) struct ObjectCondition {
    pub(super) level: Box<PatternLevel>,
    /// Condition on the outer level for each of `level.objects`.
    pub(super) conditions: Vec<u16>,
}

/// Number of fields up to which a linear search is faster than a binary search.
const TRY_ALL: usize = 8;

/// Returns a bit for the length of a name; lengths that differ by a multiple of 64 share it.
#[inline]
fn length_bit(length: usize) -> u64 {
    1 << (length % 64)
}

impl PatternLevel {
    /// Returns the field with that name.
    #[expect(clippy::inline_always, reason = "most names are refused by their length, without a call")]
    #[inline(always)]
    pub(super) fn field(&self, name: &[u8]) -> Option<&LevelField> {
        if self.lengths & length_bit(name.len()) == 0 {
            return None;
        }
        if self.fields.len() <= TRY_ALL {
            return self.fields.iter().find(|field| same_bytes(field.name.as_bytes(), name));
        }
        let wanted = (name.len(), name);
        let order = |field: &LevelField| (field.name.len(), field.name.as_bytes()).cmp(&wanted);
        self.fields.binary_search_by(order).ok().map(|found| &self.fields[found])
    }

    pub(super) fn fields(&self) -> &[LevelField] {
        &self.fields
    }

    /// Returns the field with that name, and inserts it if missing.
    pub(super) fn field_mut(&mut self, name: &str) -> &mut LevelField {
        self.lengths |= length_bit(name.len());
        let order = |field: &LevelField| (field.name.len(), &*field.name).cmp(&(name.len(), name));
        let at = match self.fields.binary_search_by(order) {
            Ok(found) => found,
            Err(at) => {
                self.fields.insert(at, LevelField { name: name.into(), lists: Vec::new(), inside: None });
                at
            }
        };
        &mut self.fields[at]
    }

    /// Adds a condition with its result for an absent field.
    pub(super) fn condition(&mut self, at: usize, absent: bool) -> Result<u16, PatternMistake> {
        let condition = self.conditions;
        if usize::from(condition) == CONDITIONS_MAX {
            let text = format!("more than {CONDITIONS_MAX} conditions on one level of all filters together");
            return Err(PatternMistake::new(at, text));
        }
        self.conditions += 1;
        self.absent.set(condition, absent);
        Ok(condition)
    }
}

impl ObjectCondition {
    /// Copies the results `found` in an object to the outer conditions.
    #[inline]
    pub(super) fn answer(&self, answers: &mut ConditionAnswers, found: &ConditionAnswers) {
        for (formula, condition) in self.level.objects.iter().zip(&self.conditions) {
            answers.set(*condition, formula.holds(found));
        }
    }
}

impl LevelField {
    /// Evaluates the lists on a scalar value.
    #[inline]
    pub(super) fn judge(&self, answers: &mut ConditionAnswers, scalar: ScalarValue<'_>) {
        for (condition, list) in &self.lists {
            answers.set(*condition, list.matches(scalar));
        }
    }

    /// Sets the lists' results to those of an absent field, also for a value that is not a scalar.
    pub(super) fn lists_absent(&self, level: &PatternLevel, answers: &mut ConditionAnswers) {
        for (condition, _) in &self.lists {
            answers.set(*condition, level.absent.get(*condition));
        }
    }

    /// Sets the objects' results to those of an absent field, also for a value that is not an object.
    pub(super) fn objects_absent(&self, level: &PatternLevel, answers: &mut ConditionAnswers) {
        for condition in self.inside.iter().flat_map(|inside| &inside.conditions) {
            answers.set(*condition, level.absent.get(*condition));
        }
    }
}
