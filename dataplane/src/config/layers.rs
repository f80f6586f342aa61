//! Layers of configuration, as text: file, environment and flags. Each value keeps its source.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::keys::{self, ConfigKey};
use super::variables::{VariableMeaning, meaning_of};

/// Source of a value, in ascending precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ValueSource {
    /// Not set.
    Default,
    /// Configuration file.
    File,
    /// Environment variable.
    Environment,
    /// Command-line flag.
    Flag,
}

impl fmt::Display for ValueSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::File => "file",
            Self::Environment => "environment",
            Self::Flag => "flag",
        })
    }
}

/// Configuration error. Values of secret keys never appear in it.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// File is missing or cannot be read.
    #[error("the configuration file {path} cannot be read: {source}")]
    Unreadable {
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        source: std::io::Error,
    },
    /// File is not TOML. The line itself is not shown, as it may hold a secret.
    #[error("the configuration file {path} is not TOML, line {line}: {message}")]
    Syntax {
        /// Path of the file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// Message of the parser.
        message: String,
    },
    /// Unknown key in the file.
    #[error("unknown key `{key}` in {path}. Did you mean `{nearest}`?")]
    UnknownKey {
        /// Path of the file.
        path: PathBuf,
        /// Key as it was written.
        key: String,
        /// Known key most similar to it.
        nearest: &'static str,
    },
    /// Variable with the prefix `LIGHTERMAN_` that is almost a key.
    #[error("unknown environment variable `{variable}`. Did you mean `{nearest}`?")]
    UnknownVariable {
        /// Name of the variable.
        variable: String,
        /// Known variable most similar to it.
        nearest: String,
    },
    /// Variable that is not UTF-8.
    #[error("environment variable `{0}` is not UTF-8")]
    NotText(String),
    /// Invalid value.
    #[error("`{key}` (from {origin}) is wrong: {why}")]
    Value {
        /// Path of the key.
        key: &'static str,
        /// Source of the value.
        origin: ValueSource,
        /// Reason, with an example of a valid value.
        why: String,
    },
}

/// Values as text, by key.
#[derive(Default)]
pub(super) struct ConfigLayers {
    values: BTreeMap<&'static str, (ValueSource, String)>,
    foreign: Vec<String>,
}

impl ConfigLayers {
    pub(super) fn get(&self, path: &'static str) -> (ValueSource, &str) {
        match self.values.get(path) {
            Some((source, text)) => (*source, text),
            None => (ValueSource::Default, keys::by_path(path).map_or("", |key| key.default)),
        }
    }

    /// Returns the source of each key that is set.
    pub(super) fn origins(&self) -> BTreeMap<&'static str, ValueSource> {
        self.values.iter().map(|(path, (source, _))| (*path, *source)).collect()
    }

    /// Returns the names of variables with the prefix `LIGHTERMAN_` that other programs set, in order.
    pub(super) fn foreign_variables(&self) -> &[String] {
        &self.foreign
    }

    fn set(&mut self, source: ValueSource, key: &'static ConfigKey, text: String) {
        self.values.insert(key.path, (source, text));
    }

    pub(super) fn add_file(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| ConfigError::Syntax {
            path: path.into(),
            line: error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1),
            message: error.message().into(),
        })?;
        self.add_table(path, "", table)
    }

    fn add_table(&mut self, file: &Path, prefix: &str, table: toml::Table) -> Result<(), ConfigError> {
        for (name, value) in table {
            let path = format!("{prefix}{name}");
            let known = keys::by_path(&path);
            match (value, known) {
                (value, Some(key)) => {
                    let text = as_text(value).ok_or_else(|| ConfigError::Value {
                        key: key.path,
                        origin: ValueSource::File,
                        why: "it takes a string, a number, or a list of strings".into(),
                    })?;
                    self.set(ValueSource::File, key, text);
                }
                (toml::Value::Table(inner), None) if is_table(&path) => {
                    self.add_table(file, &format!("{path}."), inner)?;
                }
                (_, None) => {
                    let nearest = keys::nearest_path(&path);
                    return Err(ConfigError::UnknownKey { path: file.into(), key: path, nearest });
                }
            }
        }
        Ok(())
    }

    pub(super) fn add_environment(
        &mut self,
        variables: impl IntoIterator<Item = (std::ffi::OsString, std::ffi::OsString)>,
    ) -> Result<(), ConfigError> {
        for (name, value) in variables {
            let Some(name) = name.to_str() else { continue };
            match meaning_of(name) {
                None | Some(VariableMeaning::CommandLine) => {}
                Some(VariableMeaning::Key(key)) => {
                    let text = value.into_string().map_err(|_| ConfigError::NotText(name.into()))?;
                    self.set(ValueSource::Environment, key, text);
                }
                Some(VariableMeaning::NearMiss(nearest)) => {
                    return Err(ConfigError::UnknownVariable { variable: name.into(), nearest });
                }
                Some(VariableMeaning::Foreign) => self.foreign.push(name.into()),
            }
        }
        self.foreign.sort_unstable();
        Ok(())
    }

    pub(super) fn add_flags(&mut self, flags: &[(&'static str, String)]) {
        for (path, text) in flags {
            if let Some(key) = keys::by_path(path) {
                self.set(ValueSource::Flag, key, text.clone());
            }
        }
    }
}

fn is_table(path: &str) -> bool {
    keys::KEYS.iter().any(|key| key.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

fn as_text(value: toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Array(items) => {
            let items: Option<Vec<_>> =
                items.into_iter().map(|item| item.as_str().map(str::to_owned)).collect();
            items.map(|items| items.join(","))
        }
        _ => None,
    }
}
