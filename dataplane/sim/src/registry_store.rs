//! Registry and its store: written and synced commands, and the state that a crash between the two leaves.

use std::collections::BTreeMap;

use lighterman::control::registry::{Registry, RegistryCommand};
use lighterman_proto::api::MappingState;
use lighterman_proto::ids::MappingId;

use super::environment::SimulatedEnvironment;
use crate::history::HistoryEvent as Happened;

/// Store that keeps what was synced, and perhaps the last unsynced write.
#[derive(Default)]
pub(super) struct RegistryStore {
    live: Registry,
    synced: Vec<String>,
    unsynced: Option<(String, RegistryCommand)>,
    acknowledged: Registry,
}

impl RegistryStore {
    /// Writes a command. It is synced and acknowledged with the next one.
    pub(super) fn write(&mut self, env: &mut SimulatedEnvironment) {
        self.sync();
        let number = env.random.below(3);
        let id = MappingId(uuid::Uuid::from_u128(u128::from(number)));
        let name = format!("K{number}");
        let command = match env.random.below(5) {
            0 => RegistryCommand::PutKey { id: name, secret: env.random.below(1000).to_string() },
            1 => RegistryCommand::RemoveKey { id: name },
            2 => RegistryCommand::Tag { id, tags: BTreeMap::from([("a".to_owned(), name)]) },
            3 => RegistryCommand::Move { id, state: MappingState::Enabled, at: 1.0 },
            _ => RegistryCommand::Remove { id },
        };
        if let Ok(text) = serde_json::to_string(&command) {
            self.unsynced = Some((text, command));
        }
    }

    fn sync(&mut self) {
        if let Some((text, command)) = self.unsynced.take() {
            self.synced.push(text);
            self.live.apply(&command);
            self.acknowledged.apply(&command);
        }
    }

    /// Restarts the process, which reopens its store.
    pub(super) fn crash(&mut self, env: &mut SimulatedEnvironment) {
        let written = self.unsynced.take();
        let kept = written.filter(|_| env.random.chance(500));
        let mut again = Registry::default();
        for text in &self.synced {
            if let Ok(command) = serde_json::from_str::<RegistryCommand>(text) {
                again.apply(&command);
            }
        }
        if again != self.acknowledged {
            env.record(Happened::WriteLost { what: "the registry is not what was acknowledged".to_owned() });
        }
        if let Some((text, command)) = kept {
            again.apply(&command);
            self.acknowledged.apply(&command);
            self.synced.push(text);
        }
        let mut compacted = Registry::default();
        for command in again.snapshot() {
            compacted.apply(&command);
        }
        if compacted != again {
            env.record(Happened::WriteLost { what: "the snapshot is not the registry".to_owned() });
        }
        self.live = again;
    }
}
