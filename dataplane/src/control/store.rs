//! The store of one node: the ordered commands in redb. A write is answered only after it is durable.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use redb::{Database, Durability, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};
use thiserror::Error;

use super::registry::{Command, Registry};

const COMMANDS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("commands");
/// A log longer than this is rewritten as its snapshot when the store is opened.
const COMMANDS_MAX: u64 = 10_000;

/// What is wrong with the store.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The folder cannot be used.
    #[error("data_dir {path} cannot be used: {source}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Another process has it.
    #[error(
        "data_dir {0} is in use by another lighterman process: stop it, or give this one another data_dir"
    )]
    InUse(PathBuf),
    /// The database is broken or full.
    #[error("the store in {path} failed: {source}. Free disk space, or restore the file from a backup")]
    Database {
        /// Which.
        path: PathBuf,
        /// What it said.
        source: Box<redb::Error>,
    },
    /// A command that this version cannot read.
    #[error("command {number} of the store in {path} cannot be read by this version: {source}")]
    Unreadable {
        /// Which store.
        path: PathBuf,
        /// Which command.
        number: u64,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// The open store.
pub struct Store {
    path: PathBuf,
    database: Database,
    next: u64,
}

impl Store {
    /// Opens the store in `folder` and folds its commands.
    pub fn open(folder: &Path) -> Result<(Self, Registry), StoreError> {
        let unusable = |source| StoreError::Folder { path: folder.to_owned(), source };
        fs::create_dir_all(folder).map_err(unusable)?;
        let path = folder.join("lighterman.redb");
        let database = Database::create(&path).map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => StoreError::InUse(folder.to_owned()),
            other => StoreError::Database { path: path.clone(), source: Box::new(other.into()) },
        })?;
        // API secrets are in it.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(unusable)?;
        let mut store = Self { path, database, next: 0 };
        let registry = store.load()?;
        Ok((store, registry))
    }

    /// Makes a command durable.
    pub fn append(&mut self, command: &Command) -> Result<(), StoreError> {
        let bytes = self.encode(command)?;
        let next = self.next;
        self.write(|table| {
            table.insert(next, bytes.as_slice())?;
            Ok(())
        })?;
        self.next += 1;
        Ok(())
    }

    fn load(&mut self) -> Result<Registry, StoreError> {
        let mut registry = Registry::default();
        let mut commands = 0;
        self.write(|_| Ok(()))?;
        for (number, bytes) in self.read_all().map_err(|error| self.failed(error))? {
            let command: Command = serde_json::from_slice(&bytes)
                .map_err(|source| StoreError::Unreadable { path: self.path.clone(), number, source })?;
            registry.apply(&command);
            self.next = number + 1;
            commands += 1;
        }
        if commands > COMMANDS_MAX {
            self.compact(&registry)?;
        }
        Ok(registry)
    }

    fn compact(&mut self, registry: &Registry) -> Result<(), StoreError> {
        let snapshot: Vec<Vec<u8>> =
            registry.snapshot().iter().map(|command| self.encode(command)).collect::<Result<_, _>>()?;
        let first = self.next;
        self.write(|table| {
            table.retain(|_, _| false)?;
            for (number, bytes) in (first..).zip(&snapshot) {
                table.insert(number, bytes.as_slice())?;
            }
            Ok(())
        })?;
        self.next += snapshot.len() as u64;
        Ok(())
    }

    fn encode(&self, command: &Command) -> Result<Vec<u8>, StoreError> {
        let number = self.next;
        serde_json::to_vec(command).map_err(|source| StoreError::Unreadable {
            path: self.path.clone(),
            number,
            source,
        })
    }

    fn read_all(&self) -> Result<Vec<(u64, Vec<u8>)>, redb::Error> {
        let table = self.database.begin_read()?.open_table(COMMANDS)?;
        let mut all = Vec::with_capacity(usize::try_from(table.len()?).unwrap_or_default().min(1 << 20));
        for entry in table.iter()? {
            let (number, bytes) = entry?;
            all.push((number.value(), bytes.value().to_vec()));
        }
        Ok(all)
    }

    fn write(
        &self,
        change: impl FnOnce(&mut redb::Table<'_, u64, &'static [u8]>) -> Result<(), redb::Error>,
    ) -> Result<(), StoreError> {
        let written = || -> Result<(), redb::Error> {
            let mut transaction = self.database.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            change(&mut transaction.open_table(COMMANDS)?)?;
            transaction.commit()?;
            Ok(())
        };
        written().map_err(|error| self.failed(error))
    }

    fn failed(&self, source: redb::Error) -> StoreError {
        StoreError::Database { path: self.path.clone(), source: Box::new(source) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> Command {
        Command::PutKey { id: format!("K{number}"), secret: format!("s{number}") }
    }

    #[test]
    fn what_was_acknowledged_is_there_after_reopening_and_compaction() {
        let folder = tempfile::tempdir().expect("folder");
        let before = {
            let (mut store, mut registry) = Store::open(folder.path()).expect("opens");
            for number in 0..20 {
                store.append(&key(number % 3)).expect("durable");
                registry.apply(&key(number % 3));
            }
            store.compact(&registry).expect("compacts");
            store.append(&Command::RemoveKey { id: "K1".into() }).expect("durable");
            registry.apply(&Command::RemoveKey { id: "K1".into() });
            registry
        };
        let (_, after) = Store::open(folder.path()).expect("opens again");
        assert_eq!(after, before);
        assert_eq!(after.key_ids(), ["K0", "K2"]);
    }

    #[test]
    fn only_its_owner_reads_it_and_one_process_has_it() {
        let folder = tempfile::tempdir().expect("folder");
        let (_store, _) = Store::open(folder.path()).expect("opens");
        let mode = fs::metadata(folder.path().join("lighterman.redb")).expect("file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(matches!(Store::open(folder.path()), Err(StoreError::InUse(_))));
    }
}
