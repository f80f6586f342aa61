//! The conditions of all patterns on one level of objects, merged by field, so that a record is walked once whatever the
//! patterns look like.

use super::error::PatternMistake;
use super::operators::{MatcherList, ScalarValue};

/// Conditions on one level, of all filters together.
pub(super) const CONDITIONS_MAX: usize = 512;

/// The answers to a level's conditions.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ConditionAnswers([u64; CONDITIONS_MAX / 64]);

impl ConditionAnswers {
    /// Every answer is yes.
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

/// What must hold of a level's answers. Nothing in it negates: a yes more never turns a yes into a no.
#[derive(Clone, Debug)]
pub(super) enum ConditionFormula {
    /// This condition.
    Condition(u16),
    /// All of them.
    All(Vec<ConditionFormula>),
    /// `$or`.
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

/// One level of objects.
#[derive(Clone, Debug, Default)]
pub(super) struct PatternLevel {
    /// By length and name.
    fields: Vec<LevelField>,
    conditions: u16,
    /// The answers for an object that has none of the fields.
    pub(super) absent: ConditionAnswers,
    /// One for each object of the patterns that was merged in here.
    pub(super) objects: Vec<ConditionFormula>,
}

/// One field of a level.
#[derive(Clone, Debug)]
pub(super) struct LevelField {
    pub(super) name: Box<str>,
    /// Lists that its value must fit, each with its condition.
    pub(super) lists: Vec<(u16, MatcherList)>,
    /// Objects that its value must fit.
    pub(super) inside: Option<ObjectCondition>,
}

/// What a field's value must be when it is an object.
#[derive(Clone, Debug, Default)]
pub(super) struct ObjectCondition {
    pub(super) level: Box<PatternLevel>,
    /// For each of `level.objects` its condition out here.
    pub(super) conditions: Vec<u16>,
}

/// Below this many fields, trying all is faster than searching.
const TRY_ALL: usize = 8;

impl PatternLevel {
    /// The field of that name.
    #[inline]
    pub(super) fn field(&self, name: &[u8]) -> Option<&LevelField> {
        if self.fields.len() <= TRY_ALL {
            // Most names differ in length or first byte: that is cheaper than a call to compare them.
            let same = |field: &&LevelField| {
                let known = field.name.as_bytes();
                known.len() == name.len() && known.first() == name.first() && known == name
            };
            return self.fields.iter().find(same);
        }
        let wanted = (name.len(), name);
        let order = |field: &LevelField| (field.name.len(), field.name.as_bytes()).cmp(&wanted);
        self.fields.binary_search_by(order).ok().map(|found| &self.fields[found])
    }

    pub(super) fn fields(&self) -> &[LevelField] {
        &self.fields
    }

    /// The field of that name, made if there is none.
    pub(super) fn field_mut(&mut self, name: &str) -> &mut LevelField {
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

    /// A new condition, and its answer when there is no such field.
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
    /// Takes over what the answers `found` in an object say of it.
    #[inline]
    pub(super) fn answer(&self, answers: &mut ConditionAnswers, found: &ConditionAnswers) {
        for (formula, condition) in self.level.objects.iter().zip(&self.conditions) {
            answers.set(*condition, formula.holds(found));
        }
    }
}

impl LevelField {
    /// Answers the lists for a value that is a leaf.
    #[inline]
    pub(super) fn judge(&self, answers: &mut ConditionAnswers, scalar: ScalarValue<'_>) {
        for (condition, list) in &self.lists {
            answers.set(*condition, list.matches(scalar));
        }
    }

    /// Takes over the answers that an absent field, or one that is no leaf, gives to its lists.
    pub(super) fn lists_absent(&self, level: &PatternLevel, answers: &mut ConditionAnswers) {
        for (condition, _) in &self.lists {
            answers.set(*condition, level.absent.get(*condition));
        }
    }

    /// Takes over the answers that an absent field, or one that is no object, gives to its objects.
    pub(super) fn objects_absent(&self, level: &PatternLevel, answers: &mut ConditionAnswers) {
        for condition in self.inside.iter().flat_map(|inside| &inside.conditions) {
            answers.set(*condition, level.absent.get(*condition));
        }
    }
}
