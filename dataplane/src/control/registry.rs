//! Registry of mappings and keys: a deterministic fold over ordered commands. Commands carry times and ids, so a
//! replay, here or on another node, ends in the same state.

use std::collections::BTreeMap;

use lighterman_proto::api::{ApiError, ErrorKind, Mapping, MappingState};
use lighterman_proto::ids::MappingId;
use serde::{Deserialize, Serialize};

/// Registry command. Stored as JSON; variants are added, never changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum RegistryCommand {
    /// Creates or replaces a mapping, with its state.
    Put {
        /// The mapping.
        mapping: Box<Mapping>,
        /// Its state.
        state: MappingState,
        /// Seconds since the epoch.
        at: f64,
    },
    /// Changes a mapping's state.
    Move {
        /// Mapping id.
        id: MappingId,
        /// Its state.
        state: MappingState,
        /// Seconds since the epoch.
        at: f64,
    },
    /// Replaces a mapping's tags.
    Tag {
        /// Mapping id.
        id: MappingId,
        /// Complete new set of tags.
        tags: BTreeMap<String, String>,
    },
    /// Removes a mapping.
    Remove {
        /// Mapping id.
        id: MappingId,
    },
    /// Adds a key pair.
    PutKey {
        /// Access key id.
        id: String,
        /// Secret access key.
        secret: String,
    },
    /// Revokes a key pair.
    RemoveKey {
        /// Access key id.
        id: String,
    },
}

/// Mapping and its state.
#[derive(Clone, Debug, PartialEq)]
pub struct RegisteredMapping {
    /// The mapping.
    pub mapping: Mapping,
    /// Its state.
    pub state: MappingState,
    /// Time of the last change, in seconds since the epoch.
    pub last_modified: f64,
}

/// Registered mappings and keys.
#[derive(Clone, Default, PartialEq)]
pub struct Registry {
    mappings: BTreeMap<MappingId, RegisteredMapping>,
    keys: BTreeMap<String, String>,
}

impl Registry {
    /// Applies `command`. A command that names an unknown entry changes nothing.
    pub fn apply(&mut self, command: &RegistryCommand) {
        match command {
            RegistryCommand::Put { mapping, state, at } => {
                let entry =
                    RegisteredMapping { mapping: (**mapping).clone(), state: *state, last_modified: *at };
                self.mappings.insert(mapping.id, entry);
            }
            RegistryCommand::Move { id, state, at } => {
                if let Some(entry) = self.mappings.get_mut(id) {
                    entry.state = *state;
                    entry.last_modified = *at;
                }
            }
            RegistryCommand::Tag { id, tags } => {
                if let Some(entry) = self.mappings.get_mut(id) {
                    entry.mapping.tags.clone_from(tags);
                }
            }
            RegistryCommand::Remove { id } => {
                self.mappings.remove(id);
            }
            RegistryCommand::PutKey { id, secret } => {
                self.keys.insert(id.clone(), secret.clone());
            }
            RegistryCommand::RemoveKey { id } => {
                self.keys.remove(id);
            }
        }
    }

    /// Returns the shortest list of commands that yields this state.
    pub fn snapshot(&self) -> Vec<RegistryCommand> {
        let put = |entry: &RegisteredMapping| RegistryCommand::Put {
            mapping: Box::new(entry.mapping.clone()),
            state: entry.state,
            at: entry.last_modified,
        };
        self.mappings.values().map(put).chain(self.put_keys()).collect()
    }

    /// Returns the commands that add all key pairs.
    fn put_keys(&self) -> Vec<RegistryCommand> {
        mutant!("snapshot-without-keys", self.keys.iter().map(put_key).collect(), Vec::new())
    }

    /// Returns a mapping, or AWS's not-found error.
    pub fn get(&self, id: MappingId) -> Result<&RegisteredMapping, ApiError> {
        self.mappings.get(&id).ok_or_else(ApiError::not_found)
    }

    /// Returns all mappings, ordered by UUID.
    pub fn mappings(&self) -> impl Iterator<Item = &RegisteredMapping> {
        self.mappings.values()
    }

    /// Returns the secret of a key pair.
    pub fn secret(&self, access_key_id: &str) -> Option<&str> {
        self.keys.get(access_key_id).map(String::as_str)
    }

    /// Returns the ids of all key pairs.
    pub fn key_ids(&self) -> Vec<String> {
        self.keys.keys().cloned().collect()
    }

    /// Validates a creation and returns its command.
    pub fn create(&self, mapping: Mapping, at: f64) -> Result<RegistryCommand, ApiError> {
        if let Some(existing) = self.mappings.values().find(|entry| mapping.conflicts_with(&entry.mapping)) {
            let text = mapping.conflict_text(existing.mapping.id);
            return Err(ApiError::new(ErrorKind::ResourceConflict, text));
        }
        if let Some(taken) = self.mappings.values().find(|entry| entry.mapping.group == mapping.group) {
            return Err(ApiError::new(ErrorKind::ResourceConflict, mapping.group_taken_text(&taken.mapping)));
        }
        Ok(RegistryCommand::Put { mapping: Box::new(mapping), state: MappingState::Creating, at })
    }

    /// Validates an update to `mapping` and returns its command.
    pub fn update(&self, mapping: Mapping, at: f64) -> Result<RegistryCommand, ApiError> {
        let entry = self.settled(mapping.id)?;
        let others = self.mappings.values().filter(|entry| entry.mapping.id != mapping.id);
        if let Some(existing) = others.into_iter().find(|entry| mapping.conflicts_with(&entry.mapping)) {
            let text = mapping.conflict_text(existing.mapping.id);
            return Err(ApiError::new(ErrorKind::ResourceConflict, text));
        }
        let state = match (entry.mapping.enabled, mapping.enabled) {
            (true, false) => MappingState::Disabling,
            (false, true) => MappingState::Enabling,
            (true, true) | (false, false) => MappingState::Updating,
        };
        Ok(RegistryCommand::Put { mapping: Box::new(mapping), state, at })
    }

    /// Validates new tags and returns their command. Tags that change a running mapping's behaviour are an update,
    /// with its states. All others are accepted at any time.
    pub fn tag(
        &self,
        id: MappingId,
        tags: BTreeMap<String, String>,
        at: f64,
    ) -> Result<RegistryCommand, ApiError> {
        let mapping = &self.get(id)?.mapping;
        if !mapping.enabled || !mapping.is_changed_by(&tags) {
            return Ok(RegistryCommand::Tag { id, tags });
        }
        // AWS's API model has no other conflict error for tags.
        self.settled(id).map_err(|error| ApiError::new(ErrorKind::ResourceConflict, error.message))?;
        let mapping = Box::new(Mapping { tags, ..mapping.clone() });
        Ok(RegistryCommand::Put { mapping, state: MappingState::Updating, at })
    }

    /// Validates a deletion and returns its command.
    pub fn delete(&self, id: MappingId, at: f64) -> Result<RegistryCommand, ApiError> {
        self.settled(id)?;
        Ok(RegistryCommand::Move { id, state: MappingState::Deleting, at })
    }

    fn settled(&self, id: MappingId) -> Result<&RegisteredMapping, ApiError> {
        let entry = self.get(id)?;
        if entry.state.is_settled() {
            return Ok(entry);
        }
        let text = format!("Cannot change the event source mapping {id} while it is {:?}.", entry.state);
        Err(ApiError::new(ErrorKind::ResourceInUse, text))
    }
}

fn put_key((id, secret): (&String, &String)) -> RegistryCommand {
    RegistryCommand::PutKey { id: id.clone(), secret: secret.clone() }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Do not print secrets.
        f.debug_struct("Registry").field("mappings", &self.mappings).field("keys", &self.key_ids()).finish()
    }
}

#[cfg(test)]
mod tests {
    use lighterman_proto::api::{AccountScope, CreateRequest};
    use proptest::prelude::*;

    use super::*;

    const ACCOUNT: AccountScope<'static> = AccountScope { region: "eu-west-1", id: "000000000000" };

    fn mapping(number: u128, topic: &str) -> Mapping {
        let request: CreateRequest = serde_json::from_value(serde_json::json!({
            "FunctionName": "f", "Topics": [topic],
            "SelfManagedEventSource": {"Endpoints": {"KAFKA_BOOTSTRAP_SERVERS": ["k:1"]}},
            "SourceAccessConfigurations": [
                {"Type": "VPC_SUBNET", "URI": "subnet:s"}, {"Type": "VPC_SECURITY_GROUP", "URI": "security_group:g"}
            ],
        }))
        .expect("request");
        Mapping::create(request, MappingId(uuid::Uuid::from_u128(number)), ACCOUNT, 0.0).expect("valid")
    }

    #[test]
    fn mapping_states_follow_aws() {
        let mut registry = Registry::default();
        let one = mapping(1, "orders");
        registry.apply(&registry.create(one.clone(), 1.0).expect("new"));
        assert_eq!(registry.get(one.id).expect("there").state, MappingState::Creating);
        let kind = |result: Result<RegistryCommand, ApiError>| result.expect_err("refused").kind;
        assert_eq!(kind(registry.update(one.clone(), 2.0)), ErrorKind::ResourceInUse);
        assert_eq!(kind(registry.delete(one.id, 2.0)), ErrorKind::ResourceInUse);
        assert_eq!(kind(registry.create(mapping(2, "orders"), 2.0)), ErrorKind::ResourceConflict);
        registry.apply(&RegistryCommand::Move { id: one.id, state: MappingState::Enabled, at: 3.0 });
        let off = Mapping { enabled: false, ..one.clone() };
        registry.apply(&registry.update(off, 4.0).expect("settled"));
        assert_eq!(registry.get(one.id).expect("there").state, MappingState::Disabling);
        registry.apply(&RegistryCommand::Move { id: one.id, state: MappingState::Disabled, at: 5.0 });
        registry.apply(&registry.delete(one.id, 6.0).expect("settled"));
        registry.apply(&RegistryCommand::Remove { id: one.id });
        assert_eq!(
            registry.get(one.id).expect_err("gone").message,
            "The resource you requested does not exist."
        );
    }

    #[test]
    fn behaviour_tags_update_a_running_mapping() {
        let mut registry = Registry::default();
        let one = mapping(1, "orders");
        registry.apply(&registry.create(one.clone(), 1.0).expect("new"));
        let tags = |tag: &str, value: &str| BTreeMap::from([(tag.to_owned(), value.to_owned())]);
        let (plain, ours) = (tags("team", "a"), tags("lighterman:partial-batch-response", "named"));
        let tag =
            |registry: &Registry, tags: &BTreeMap<String, String>| registry.tag(one.id, tags.clone(), 2.0);
        assert!(matches!(tag(&registry, &plain), Ok(RegistryCommand::Tag { .. })), "at any time");
        assert_eq!(tag(&registry, &ours).expect_err("being created").kind, ErrorKind::ResourceConflict);
        registry.apply(&RegistryCommand::Move { id: one.id, state: MappingState::Enabled, at: 3.0 });
        registry.apply(&tag(&registry, &ours).expect("settled"));
        let entry = registry.get(one.id).expect("there");
        assert_eq!((entry.state, &entry.mapping.tags), (MappingState::Updating, &ours));
        assert!(matches!(tag(&registry, &ours), Ok(RegistryCommand::Tag { .. })), "nothing changes");
        let off = Mapping { enabled: false, ..one.clone() };
        registry.apply(&RegistryCommand::Put {
            mapping: Box::new(off),
            state: MappingState::Disabled,
            at: 4.0,
        });
        assert!(matches!(tag(&registry, &ours), Ok(RegistryCommand::Tag { .. })), "nothing runs");
    }

    proptest! {
        /// A replay of the log, and of its snapshot, ends in the same state.
        #[test]
        fn replay_ends_in_same_state(steps in prop::collection::vec((0u8..6, 1u128..5), 0..60)) {
            let (mut registry, mut log) = (Registry::default(), Vec::new());
            for (kind, number) in steps {
                let id = MappingId(uuid::Uuid::from_u128(number));
                let command = match kind {
                    0 => registry.create(mapping(number, &format!("topic-{number}")), 1.0).ok(),
                    1 => Some(RegistryCommand::Move { id, state: MappingState::Enabled, at: 2.0 }),
                    2 => registry.delete(id, 3.0).ok(),
                    3 => Some(RegistryCommand::Remove { id }),
                    4 => Some(RegistryCommand::Tag { id, tags: BTreeMap::from([("a".into(), number.to_string())]) }),
                    _ => Some(RegistryCommand::PutKey { id: format!("K{number}"), secret: "s".into() }),
                };
                if let Some(command) = command {
                    registry.apply(&command);
                    log.push(command);
                }
            }
            let json = serde_json::to_string(&log).expect("JSON");
            let read: Vec<RegistryCommand> = serde_json::from_str(&json).expect("JSON");
            for commands in [read, registry.snapshot()] {
                let mut again = Registry::default();
                for command in &commands {
                    again.apply(command);
                }
                prop_assert_eq!(&again, &registry);
            }
        }
    }
}
