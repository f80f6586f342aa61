//! Store of one node: the ordered commands in redb. A write returns only after it is durable.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::panic::{RefUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::{Database, Durability, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};
use thiserror::Error;

use super::registry::{Registry, RegistryCommand};

const COMMANDS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("commands");
/// Maximum length of the log. A longer one is replaced by its snapshot when the store is opened.
const COMMANDS_MAX: u64 = 10_000;

/// Function that opens the store's file as a database.
type StoreOpener = Box<dyn Fn(&Path) -> Result<Database, redb::DatabaseError> + Send + RefUnwindSafe>;

/// Error of the store.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The data folder cannot be used.
    #[error("data_dir {path} cannot be used: {source}")]
    Folder {
        /// Path of the folder.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// Another process has the store open.
    #[error(
        "data_dir {0} is in use by another lighterman process: stop it, or give this one another data_dir"
    )]
    InUse(PathBuf),
    /// The file's content does not match its checksums.
    #[error(
        "the store in {0} is damaged: its content does not match its checksums. Restore the file from a backup, or move it away to begin with an empty store"
    )]
    Damaged(PathBuf),
    /// The database is broken or full.
    #[error("the store in {path} failed: {source}. Free disk space, or restore the file from a backup")]
    Database {
        /// Path of the database.
        path: PathBuf,
        /// Error of the database.
        source: Box<redb::Error>,
    },
    /// The database was closed after a failure, and the file has been replaced since.
    #[error("the store in {0} is not the one that this process had written: restart it")]
    Replaced(PathBuf),
    /// This version cannot read a stored command.
    #[error("command {number} of the store in {path} cannot be read by this version: {source}")]
    Unreadable {
        /// Path of the store.
        path: PathBuf,
        /// Number of the command.
        number: u64,
        /// Parse error of the command.
        source: serde_json::Error,
    },
}

/// Open store.
pub struct Store {
    folder: PathBuf,
    path: PathBuf,
    opening: StoreOpener,
    /// Database, closed after a failure: redb accepts no write after one, even if there is space again. The next
    /// write reopens it.
    database: Option<Database>,
    next: u64,
}

impl Store {
    /// Opens the store in `folder` and folds its commands into a registry.
    pub fn open(folder: &Path) -> Result<(Self, Registry), StoreError> {
        Self::open_by(Box::new(|path| Database::create(path)), folder)
    }

    fn open_by(opening: StoreOpener, folder: &Path) -> Result<(Self, Registry), StoreError> {
        let path = folder.join("lighterman.redb");
        let mut store = Self { folder: folder.to_owned(), path, opening, database: None, next: 0 };
        store.database = Some(store.open_database()?);
        let registry = store.load()?;
        Ok((store, registry))
    }

    /// Makes a command durable.
    pub fn append(&mut self, command: &RegistryCommand) -> Result<(), StoreError> {
        let bytes = self.encode(command)?;
        let next = self.next;
        self.write(|table| {
            table.insert(next, bytes.as_slice())?;
            Ok(())
        })?;
        self.next += 1;
        Ok(())
    }

    fn open_database(&self) -> Result<Database, StoreError> {
        let unusable = |source| StoreError::Folder { path: self.folder.clone(), source };
        fs::create_dir_all(&self.folder).map_err(unusable)?;
        let failed = |error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => StoreError::InUse(self.folder.clone()),
            other => self.failed(other.into()),
        };
        // Verify all checksums: a cleanly closed file is opened without checking them. A damaged file makes redb
        // panic where it trusts its own data.
        let (opening, path) = (&self.opening, self.path.as_path());
        let checked = catch_unwind(|| {
            if fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
                create(opening, path)?;
            }
            let mut database = opening(path)?;
            Ok(database.check_integrity()?.then_some(database))
        });
        let damaged = || StoreError::Damaged(self.folder.clone());
        let database = checked.map_err(|_| damaged())?.map_err(failed)?.ok_or_else(damaged)?;
        // The file holds API secrets.
        fs::set_permissions(&self.path, fs::Permissions::from_mode(0o600)).map_err(unusable)?;
        Ok(database)
    }

    /// Reopens a database that was closed after a failure, if it still has this process's commands.
    fn reopen(&mut self) -> Result<(), StoreError> {
        let database = self.open_database()?;
        let last = last_number(&database).map_err(|error| self.failed(error))?;
        // The failed write may have reached the disk although it was rejected. The next write replaces it.
        let known = last.map_or(0, |last| last + 1);
        if known != self.next && known != self.next + 1 {
            return Err(StoreError::Replaced(self.folder.clone()));
        }
        self.database = Some(database);
        Ok(())
    }

    fn load(&mut self) -> Result<Registry, StoreError> {
        let mut registry = Registry::default();
        let mut commands = 0;
        self.write(|_| Ok(()))?;
        let database = self.database.as_ref().ok_or_else(|| self.failed(redb::Error::PreviousIo))?;
        for (number, bytes) in read_all(database).map_err(|error| self.failed(error))? {
            let command: RegistryCommand = serde_json::from_slice(&bytes)
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

    fn encode(&self, command: &RegistryCommand) -> Result<Vec<u8>, StoreError> {
        let number = self.next;
        serde_json::to_vec(command).map_err(|source| StoreError::Unreadable {
            path: self.path.clone(),
            number,
            source,
        })
    }

    fn write(
        &mut self,
        change: impl FnOnce(&mut redb::Table<'_, u64, &'static [u8]>) -> Result<(), redb::Error>,
    ) -> Result<(), StoreError> {
        if self.database.is_none() {
            self.reopen()?;
        }
        let Some(database) = &self.database else { return Err(self.failed(redb::Error::PreviousIo)) };
        let written = || -> Result<(), redb::Error> {
            let mut transaction = database.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            // With one-phase commit, a damaged commit looks like a torn one: an acknowledged write would be lost
            // silently.
            transaction.set_two_phase_commit(true);
            change(&mut transaction.open_table(COMMANDS)?)?;
            transaction.commit()?;
            Ok(())
        };
        written().map_err(|error| {
            self.database = None;
            self.failed(error)
        })
    }

    fn failed(&self, source: redb::Error) -> StoreError {
        StoreError::Database { path: self.path.clone(), source: Box::new(source) }
    }
}

/// Creates the database under a temporary name and renames it when complete. redb cannot open a file whose creation
/// was killed or ran out of space.
fn create(opening: &StoreOpener, path: &Path) -> Result<(), redb::DatabaseError> {
    let failed = |error: io::Error| redb::DatabaseError::Storage(error.into());
    let unfinished = path.with_extension("unfinished");
    if unfinished.exists() {
        fs::remove_file(&unfinished).map_err(failed)?;
    }
    drop(opening(&unfinished)?);
    fs::rename(&unfinished, path).map_err(failed)?;
    let folder = path.parent().unwrap_or(path);
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}

fn read_all(database: &Database) -> Result<Vec<(u64, Vec<u8>)>, redb::Error> {
    let table = database.begin_read()?.open_table(COMMANDS)?;
    let mut all = Vec::with_capacity(usize::try_from(table.len()?).unwrap_or_default().min(1 << 20));
    for entry in table.iter()? {
        let (number, bytes) = entry?;
        all.push((number.value(), bytes.value().to_vec()));
    }
    Ok(all)
}

fn last_number(database: &Database) -> Result<Option<u64>, redb::Error> {
    let table = match database.begin_read()?.open_table(COMMANDS) {
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        table => table?,
    };
    Ok(table.last()?.map(|(number, _)| number.value()))
}

#[cfg(test)]
mod full_disk_tests;

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> RegistryCommand {
        RegistryCommand::PutKey { id: format!("K{number}"), secret: format!("s{number}") }
    }

    #[test]
    fn acknowledged_commands_survive_reopening_and_compaction() {
        let folder = tempfile::tempdir().expect("folder");
        let before = {
            let (mut store, mut registry) = Store::open(folder.path()).expect("opens");
            for number in 0..20 {
                store.append(&key(number % 3)).expect("durable");
                registry.apply(&key(number % 3));
            }
            store.compact(&registry).expect("compacts");
            store.append(&RegistryCommand::RemoveKey { id: "K1".into() }).expect("durable");
            registry.apply(&RegistryCommand::RemoveKey { id: "K1".into() });
            registry
        };
        let (_, after) = Store::open(folder.path()).expect("opens again");
        assert_eq!(after, before);
        assert_eq!(after.key_ids(), ["K0", "K2"]);
    }

    #[test]
    fn failed_store_recovers_without_rejected_write() {
        let folder = tempfile::tempdir().expect("folder");
        let (mut store, _) = Store::open(folder.path()).expect("opens");
        store.append(&key(0)).expect("durable");
        // The failed write reached the disk unacknowledged.
        store.write(|table| Ok(table.insert(1, b"refused".as_slice()).map(drop)?)).expect("written");
        store.database = None;
        store.append(&key(1)).expect("it is opened again");
        store.database = None;
        store.append(&key(2)).expect("and again");
        drop(store);
        let (_, after) = Store::open(folder.path()).expect("opens");
        assert_eq!(after.key_ids(), ["K0", "K1", "K2"]);
    }

    #[test]
    fn replaced_store_is_rejected_after_failure() {
        let folder = tempfile::tempdir().expect("folder");
        let (mut store, _) = Store::open(folder.path()).expect("opens");
        for number in 0..3 {
            store.append(&key(number)).expect("durable");
        }
        store.database = None;
        fs::remove_file(folder.path().join("lighterman.redb")).expect("removed");
        assert!(matches!(store.append(&key(3)), Err(StoreError::Replaced(_))));
        assert!(matches!(store.append(&key(3)), Err(StoreError::Replaced(_))), "it stays refused");
    }

    #[test]
    fn store_is_private_to_one_process() {
        let folder = tempfile::tempdir().expect("folder");
        let (_store, _) = Store::open(folder.path()).expect("opens");
        let mode = fs::metadata(folder.path().join("lighterman.redb")).expect("file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(matches!(Store::open(folder.path()), Err(StoreError::InUse(_))));
    }
}
