//! Environment variables with the prefix `LIGHTERMAN_`: keys, misspelt keys, and variables of other programs.
//!
//! Kubernetes injects `{SERVICE}_SERVICE_HOST`, `{SERVICE}_PORT=tcp://…` and similar variables into every pod of a
//! namespace with a Service
//! (<https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables>). Docker's links do the
//! same. A Service named `lighterman`, or `lighterman-…`, gives them this prefix.

use super::keys::{ConfigKey, KEYS};

/// Prefix of the environment variables that set keys.
pub const ENVIRONMENT_PREFIX: &str = "LIGHTERMAN_";
/// Variables with the prefix that are not keys, but read by the command line.
const COMMAND_LINE_VARIABLES: [&str; 1] = ["LIGHTERMAN_CONFIG"];
/// Maximum edit distance at which a name counts as a misspelt key.
const NEAR_MISS_LETTERS_MAX: usize = 2;
/// Minimum length of a name for that distance; shorter names may differ in one letter only.
const SHORT_NAME_LETTERS: usize = 5;

/// Meaning of a variable with the prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum VariableMeaning {
    /// Sets this key.
    Key(&'static ConfigKey),
    /// Read by the command line.
    CommandLine,
    /// Misspelt key, most likely this variable.
    NearMiss(String),
    /// Variable of another program.
    Foreign,
}

/// Returns the variable that sets `path`.
pub fn environment_variable(path: &str) -> String {
    format!("{ENVIRONMENT_PREFIX}{}", path.replace('.', "_").to_ascii_uppercase())
}

/// Returns the meaning of `name`; `None` if it lacks the prefix.
pub(super) fn meaning_of(name: &str) -> Option<VariableMeaning> {
    let rest = name.strip_prefix(ENVIRONMENT_PREFIX)?;
    if let Some(key) = KEYS.iter().find(|key| environment_variable(key.path) == name) {
        return Some(VariableMeaning::Key(key));
    }
    if COMMAND_LINE_VARIABLES.contains(&name) {
        return Some(VariableMeaning::CommandLine);
    }
    if is_service_variable(rest) {
        return Some(VariableMeaning::Foreign);
    }
    Some(near_miss(rest).map_or(VariableMeaning::Foreign, VariableMeaning::NearMiss))
}

/// Returns true for the forms in which Kubernetes and Docker pass a service's address. `rest` is the name after the
/// prefix.
fn is_service_variable(rest: &str) -> bool {
    let words: Vec<&str> = rest.split('_').collect();
    let ends_as_port = |words: &[&str]| {
        matches!(
            words,
            ["PORT"]
                | ["PORT", _, "TCP" | "UDP" | "SCTP"]
                | ["PORT", _, "TCP" | "UDP" | "SCTP", "PROTO" | "PORT" | "ADDR"]
        )
    };
    (0..words.len()).any(|at| {
        let tail = &words[at..];
        matches!(tail, ["SERVICE", "HOST"] | ["SERVICE", "PORT", ..]) || ends_as_port(tail)
    })
}

/// Returns the variable that `rest`, a name after the prefix, misspells: few letters differ, or the table is missing.
fn near_miss(rest: &str) -> Option<String> {
    let of_key = |key: &ConfigKey| {
        let table_left_out =
            key.path.split_once('.').is_some_and(|(_, inside)| inside.to_ascii_uppercase() == rest);
        let name = environment_variable(key.path);
        (if table_left_out { 0 } else { distance(&name, rest) }, name)
    };
    let of_command_line = |name: &&str| (distance(name, rest), (*name).to_owned());
    let known = KEYS.iter().map(of_key).chain(COMMAND_LINE_VARIABLES.iter().map(of_command_line));
    let letters_max = if rest.len() < SHORT_NAME_LETTERS { 1 } else { NEAR_MISS_LETTERS_MAX };
    let nearest = known.min_by_key(|(distance, _)| *distance);
    nearest.filter(|(distance, _)| *distance <= letters_max).map(|(_, name)| name)
}

/// Returns the edit distance between `rest` and the variable `name` without its prefix.
fn distance(name: &str, rest: &str) -> usize {
    strsim::osa_distance(&name[ENVIRONMENT_PREFIX.len()..], rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_that_kubernetes_injects_are_foreign() {
        for name in [
            "SERVICE_HOST",
            "SERVICE_PORT",
            "SERVICE_PORT_API",
            "PORT",
            "PORT_9010_TCP",
            "PORT_9010_TCP_ADDR",
            "PORT_9010_TCP_PORT",
            "PORT_9010_TCP_PROTO",
            "KAFKA_SERVICE_HOST",
            "NODE_PORT",
            "METRICS_LISTEN_PORT_9011_UDP_ADDR",
            "GRAFANA_DASHBOARD_TITLE",
        ] {
            let meaning = meaning_of(&format!("{ENVIRONMENT_PREFIX}{name}"));
            assert_eq!(meaning, Some(VariableMeaning::Foreign), "{name}");
        }
        assert_eq!(meaning_of("PATH"), None);
    }

    #[test]
    fn misspelt_key_is_never_foreign() {
        for key in KEYS {
            let name = environment_variable(key.path);
            assert_eq!(meaning_of(&name), Some(VariableMeaning::Key(key)), "{name}");
            for at in ENVIRONMENT_PREFIX.len()..name.len() {
                let mut missing = name.clone();
                missing.remove(at);
                let mut swapped: Vec<char> = name.chars().collect();
                swapped.swap(at, (at + 1).min(name.len() - 1));
                let swapped: String = swapped.into_iter().collect();
                for wrong in [missing, swapped].into_iter().filter(|wrong| *wrong != name) {
                    let meaning = meaning_of(&wrong);
                    assert!(matches!(meaning, Some(VariableMeaning::NearMiss(_))), "{wrong}: {meaning:?}");
                }
            }
        }
        let near = |name: &str| meaning_of(&format!("{ENVIRONMENT_PREFIX}{name}"));
        for (wrong, right) in [
            ("KAFKA_SESION_TIMEOUT", "LIGHTERMAN_KAFKA_SESSION_TIMEOUT"),
            ("KAFKA__SESSION_TIMEOUT", "LIGHTERMAN_KAFKA_SESSION_TIMEOUT"),
            ("SESSION_TIMEOUT", "LIGHTERMAN_KAFKA_SESSION_TIMEOUT"),
            ("CONFG", "LIGHTERMAN_CONFIG"),
            ("MEMORYBUDGET", "LIGHTERMAN_MEMORY_BUDGET"),
        ] {
            assert_eq!(near(wrong), Some(VariableMeaning::NearMiss(right.to_owned())));
        }
    }
}
