//! Tests of the store on a full disk, with every write as the first one to fail. No acknowledged command is lost, the
//! store reports the error, and it accepts writes again when there is space. The disk is a file behind a backend that
//! counts writes.

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use redb::{Builder, DatabaseError, StorageBackend};

use super::*;

const BLOCK: u64 = 4096;
/// Larger than a page.
const SECRET_BYTES: usize = 9_000;
/// Number of commands after which the disk counts as large enough.
const APPENDS: u64 = 5;
/// Upper bound of the space that these stores need.
const ROOM_MAX: u64 = 1_000;

/// Operations that fail on a full disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FullDiskError {
    /// Every operation on the file fails, as with quotas, network file systems and copy-on-write disks.
    ForEverything,
    /// Only writes to new blocks fail, as on most file systems.
    ForNewBlocks,
}

/// Disk with limited space, and the blocks that the file has.
#[derive(Debug)]
struct LimitedDisk {
    full: FullDiskError,
    room: AtomicU64,
    blocks: Mutex<BTreeSet<u64>>,
}

impl LimitedDisk {
    fn with_room(full: FullDiskError) -> Arc<Self> {
        Arc::new(Self { full, room: AtomicU64::new(u64::MAX), blocks: Mutex::default() })
    }

    fn leave(&self, room: u64) {
        self.room.store(room, Ordering::Relaxed);
    }

    fn take(&self) -> io::Result<()> {
        let less = |room: u64| room.checked_sub(1);
        let taken = self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        taken.map(|_| ()).map_err(|_| rustix::io::Errno::NOSPC.into())
    }

    /// Takes space for an operation that needs no new block.
    fn take_for_everything(&self) -> io::Result<()> {
        if self.full == FullDiskError::ForEverything { self.take() } else { Ok(()) }
    }

    /// Returns the number of leading bytes that have space, up to the first block without.
    fn place(&self, offset: u64, bytes: usize) -> (usize, io::Result<()>) {
        if self.full == FullDiskError::ForEverything {
            let taken = self.take();
            return (if taken.is_ok() { bytes } else { bytes / 2 }, taken);
        }
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let end = offset + bytes as u64;
        for block in offset / BLOCK..end.div_ceil(BLOCK) {
            if !blocks.contains(&block) {
                if let Err(error) = self.take() {
                    return ((block * BLOCK).saturating_sub(offset) as usize, Err(error));
                }
                blocks.insert(block);
            }
        }
        (bytes, Ok(()))
    }

    fn opening(self: &Arc<Self>) -> StoreOpener {
        let disk = Arc::clone(self);
        Box::new(move |path| {
            let file = File::options().read(true).write(true).create(true).truncate(false).open(path);
            let file = file.map_err(|error| DatabaseError::Storage(error.into()))?;
            if file.metadata().is_ok_and(|file| file.len() == 0) {
                disk.blocks.lock().unwrap_or_else(PoisonError::into_inner).clear();
            }
            Builder::new().create_with_backend(OnDisk { disk: Arc::clone(&disk), file })
        })
    }
}

#[derive(Debug)]
struct OnDisk {
    disk: Arc<LimitedDisk>,
    file: File,
}

impl StorageBackend for OnDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.take_for_everything()?;
        let mut blocks = self.disk.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        blocks.split_off(&len.div_ceil(BLOCK));
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.take_for_everything()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let (room, taken) = self.disk.place(offset, data.len());
        self.file.write_all_at(&data[..room], offset)?;
        taken
    }
}

/// Keys that the store acknowledged, and those that it rejected.
#[derive(Default)]
struct StoredKeys {
    acknowledged: BTreeSet<String>,
    refused: BTreeSet<String>,
}

impl StoredKeys {
    /// Appends a key. Returns true if it was acknowledged.
    fn append(&mut self, store: &mut Store, context: &str) -> bool {
        let id = format!("K{:04}", self.acknowledged.len() + self.refused.len());
        let put = RegistryCommand::PutKey { id: id.clone(), secret: "s".repeat(SECRET_BYTES) };
        match store.append(&put) {
            Ok(()) => self.acknowledged.insert(id),
            Err(error) => {
                assert!(matches!(error, StoreError::Database { .. }), "{context}: {error}");
                let said = error.to_string();
                assert!(said.contains("Free disk space") || said.contains("No space"), "{context}: {said}");
                !self.refused.insert(id)
            }
        }
    }

    fn assert_in(&self, registry: &Registry, context: &str) {
        let ids: BTreeSet<String> = registry.key_ids().into_iter().collect();
        assert!(
            self.acknowledged.is_subset(&ids),
            "{context}: lost {:?}",
            self.acknowledged.difference(&ids)
        );
        let known: BTreeSet<String> = self.acknowledged.union(&self.refused).cloned().collect();
        assert!(ids.is_subset(&known), "{context}: nobody has asked for {:?}", ids.difference(&known));
        let whole = |id: &String| registry.secret(id).is_some_and(|secret| secret.len() == SECRET_BYTES);
        assert!(ids.iter().all(whole), "{context}");
    }
}

/// Runs a store whose disk fills up after `room`, gets space, fills up again, and is full at a restart. Returns true
/// if the disk was full at any time.
fn goes_through(full: FullDiskError, room: u64, folder: &Path) -> bool {
    let (disk, mut told) = (LimitedDisk::with_room(full), StoredKeys::default());
    let context = format!("{full:?} after {room}");
    let (mut store, _) = Store::open_by(disk.opening(), folder).expect("opens");
    for _ in 0..3 {
        assert!(told.append(&mut store, &context));
    }
    disk.leave(room);
    let was_full = (0..APPENDS).any(|_| !told.append(&mut store, &context));
    told.append(&mut store, &context);
    disk.leave(u64::MAX);
    assert!(told.append(&mut store, &context), "{context}: there is room again, and it goes on");
    disk.leave(room % 7);
    for _ in 0..2 {
        told.append(&mut store, &context);
    }
    drop(store);
    // A start on a full disk may fail, but must not report the store as damaged.
    match Store::open_by(disk.opening(), folder) {
        Ok((mut store, registry)) => {
            told.assert_in(&registry, &context);
            told.append(&mut store, &context);
            disk.leave(u64::MAX);
            assert!(told.append(&mut store, &context), "{context}: there is room again after a start");
        }
        Err(error) => assert!(matches!(error, StoreError::Database { .. }), "{context}: {error}"),
    }
    disk.leave(u64::MAX);
    let (mut store, registry) = Store::open_by(disk.opening(), folder).expect("opens");
    told.assert_in(&registry, &context);
    assert!(told.append(&mut store, &context), "{context}: there is room again");
    drop(store);
    let (_, registry) = Store::open(folder).expect("opens");
    told.assert_in(&registry, &context);
    was_full
}

/// Returns the least space with which the disk never fills up, after trying every smaller one.
fn least_room(meets: impl Fn(u64, &Path) -> bool) -> u64 {
    let folder = || tempfile::tempdir().expect("folder");
    (0..ROOM_MAX).find(|room| !meets(*room, folder().path())).expect("the maximum is enough")
}

#[test]
fn acknowledged_writes_survive_disk_failing_every_operation() {
    let tried = least_room(|room, folder| goes_through(FullDiskError::ForEverything, room, folder));
    assert!(tried > APPENDS * 3, "{tried}");
}

#[test]
fn acknowledged_writes_survive_disk_without_new_blocks() {
    let tried = least_room(|room, folder| goes_through(FullDiskError::ForNewBlocks, room, folder));
    assert!(tried > APPENDS, "{tried}");
}

/// Opens a store on a disk with exactly `room`. Returns true if that was too little.
fn begins(full: FullDiskError, room: u64, folder: &Path) -> bool {
    let (disk, context) = (LimitedDisk::with_room(full), format!("{full:?} after {room}"));
    disk.leave(room);
    let opened = Store::open_by(disk.opening(), folder);
    let was_full = opened.is_err();
    if let Err(error) = opened {
        assert!(matches!(error, StoreError::Database { .. }), "{context}: {error}");
        assert!(error.to_string().contains("No space left"), "{context}: {error}");
    }
    disk.leave(u64::MAX);
    let (mut store, registry) =
        Store::open_by(disk.opening(), folder).unwrap_or_else(|error| panic!("{context}: {error}"));
    assert_eq!(registry, Registry::default(), "{context}");
    assert!(StoredKeys::default().append(&mut store, &context), "{context}");
    was_full
}

#[test]
fn store_starts_once_disk_has_space() {
    for full in [FullDiskError::ForEverything, FullDiskError::ForNewBlocks] {
        let tried = least_room(|room, folder| begins(full, room, folder));
        assert!(tried > 3, "{full:?}: {tried}");
    }
}
