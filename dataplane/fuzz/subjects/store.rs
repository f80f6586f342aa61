//! Fuzz subject: the store after a crash, with a corrupted file, and with a file of arbitrary bytes. Opening it
//! never panics. Acknowledged commands are present, or the store reports damage; nothing else is present. A
//! partially written commit is discarded.

use std::cell::LazyCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use lighterman::control::registry::{Registry, RegistryCommand};
use lighterman::control::store::Store;
use lighterman_proto::api::{AccountScope, CreateRequest, Mapping, MappingState};
use lighterman_proto::ids::MappingId;
use tempfile::TempDir;

const ACCOUNT: AccountScope<'static> = AccountScope { region: "eu-west-1", id: "123456789012" };
const COMMANDS_MAX: usize = 6;
/// Bytes that a disk writes atomically.
const SECTOR_BYTES: usize = 512;
/// Byte in which redb marks the most recent of two commits; no checksum covers it.
const GOD_BYTE: usize = 9;

thread_local! {
    static FOLDER: LazyCell<TempDir> = LazyCell::new(super::shelf::folder);
}

/// Selects the kind of damage and the number of commands by the first byte. Two bytes follow for each command; the
/// rest controls the damage. Returns 1 if the store opened, so that callers can check that some do.
pub(crate) fn run(bytes: &[u8]) -> usize {
    let [first, rest @ ..] = bytes else { return 0 };
    let count = usize::from(first / 4) % COMMANDS_MAX + 1;
    let Some((commands, how)) = rest.split_at_checked(count * 2) else { return 0 };
    let commands: Vec<RegistryCommand> =
        commands.chunks_exact(2).map(|pair| command(pair[0], pair[1])).collect();
    usize::from(match first % 4 {
        0 => anything(rest),
        1 => bent(&commands, how, false),
        2 => bent(&commands, how, true),
        _ => crashed(&commands, how),
    })
}

fn command(kind: u8, number: u8) -> RegistryCommand {
    let number = number % 4;
    let id = MappingId(
        serde_json::from_value(format!("01234567-89ab-cdef-0123-{number:012}").into()).expect("a UUID"),
    );
    let key = format!("AKID{number}");
    match kind % 6 {
        0 | 1 => RegistryCommand::Put {
            mapping: Box::new(mapping(id, kind, number)),
            state: MappingState::Creating,
            at: f64::from(kind),
        },
        2 => RegistryCommand::Move { id, state: MappingState::Enabled, at: f64::from(kind) },
        3 => RegistryCommand::Tag { id, tags: BTreeMap::from([("team".to_owned(), kind.to_string())]) },
        4 => RegistryCommand::Remove { id },
        _ if kind < 128 => RegistryCommand::PutKey { id: key, secret: format!("secret-{kind}") },
        _ => RegistryCommand::RemoveKey { id: key },
    }
}

fn mapping(id: MappingId, kind: u8, number: u8) -> Mapping {
    let request: CreateRequest = serde_json::from_value(serde_json::json!({
        "FunctionName": format!("f{kind}"), "Topics": [format!("topic-{number}")],
        "SelfManagedEventSource": {"Endpoints": {"KAFKA_BOOTSTRAP_SERVERS": ["k:1"]}},
        "SourceAccessConfigurations": [
            {"Type": "VPC_SUBNET", "URI": "subnet:s"}, {"Type": "VPC_SECURITY_GROUP", "URI": "security_group:g"}
        ],
    }))
    .expect("a request");
    Mapping::create(request, id, ACCOUNT, 0.0).expect("valid")
}

fn registry(commands: &[RegistryCommand]) -> Registry {
    let mut registry = Registry::default();
    for command in commands {
        registry.apply(command);
    }
    registry
}

fn folder() -> PathBuf {
    FOLDER.with(|folder| folder.path().to_owned())
}

fn file(folder: &Path) -> PathBuf {
    folder.join("lighterman.redb")
}

fn opened(image: &[u8]) -> Option<(Store, Registry)> {
    let folder = folder();
    fs::write(file(&folder), image).expect("a file");
    match Store::open(&folder) {
        Ok(opened) => Some(opened),
        Err(error) => {
            assert!(!error.to_string().is_empty());
            None
        }
    }
}

fn append(store: &mut Store, commands: &[RegistryCommand]) {
    for command in commands {
        store.append(command).expect("written");
    }
}

/// Writes a store with these commands. Returns its file while open and after closing.
fn written(commands: &[RegistryCommand]) -> (Vec<u8>, Vec<u8>) {
    let folder = folder();
    let _ = fs::remove_file(file(&folder));
    let (mut store, _) = Store::open(&folder).expect("a new store");
    append(&mut store, commands);
    let open = fs::read(file(&folder)).expect("a file");
    drop(store);
    (open, fs::read(file(&folder)).expect("a file"))
}

/// Opens a file that is not a store.
fn anything(bytes: &[u8]) -> bool {
    let Some((_, registry)) = opened(bytes) else { return false };
    assert!(registry == Registry::default(), "nobody wrote anything");
    true
}

/// Opens a store on a disk that returns other bytes than were written.
fn bent(commands: &[RegistryCommand], how: &[u8], is_open: bool) -> bool {
    let (open, closed) = written(commands);
    let written = if is_open { open } else { closed };
    let mut image = written.clone();
    for change in how.chunks_exact(4) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) * 251 + usize::from(change[2]);
        let at = at % image.len();
        image[at] ^= change[3];
    }
    let Some((_, found)) = opened(&image) else { return false };
    if image[GOD_BYTE] == written[GOD_BYTE] {
        assert!(found == registry(commands), "all that was acknowledged");
    } else {
        let states = (0..=commands.len()).map(|count| registry(&commands[..count]));
        assert!(states.into_iter().any(|state| state == found), "a state that there was");
    }
    true
}

/// Simulates a crash during the write of the last command: only some of the changed sectors are written.
fn crashed(commands: &[RegistryCommand], how: &[u8]) -> bool {
    let Some((last, acknowledged)) = commands.split_last() else { return false };
    let folder = folder();
    let _ = fs::remove_file(file(&folder));
    let (mut store, _) = Store::open(&folder).expect("a new store");
    append(&mut store, acknowledged);
    let before = fs::read(file(&folder)).expect("a file");
    store.append(last).expect("written");
    let after = fs::read(file(&folder)).expect("a file");
    drop(store);
    let (mut store, found) = opened(&torn(&before, &after, how)).expect("a crash does not break it");
    let cut = found == registry(acknowledged);
    assert!(cut || found == registry(commands), "what was acknowledged, and the last command or not");
    store.append(last).expect("it goes on");
    drop(store);
    let (_, again) = Store::open(&folder).expect("opens again");
    assert!(again == registry(commands) || !cut && again == twice(commands, last));
    true
}

fn twice(commands: &[RegistryCommand], last: &RegistryCommand) -> Registry {
    let mut registry = registry(commands);
    registry.apply(last);
    registry
}

/// Returns `before` with those changed sectors of `after` whose bit is set. The marker of the most recent commit
/// is written only after all other sectors are on disk.
fn torn(before: &[u8], after: &[u8], how: &[u8]) -> Vec<u8> {
    let mut image = before.to_vec();
    let (mut differing, mut all_new) = (0, true);
    for at in (0..after.len()).step_by(SECTOR_BYTES) {
        let end = (at + SECTOR_BYTES).min(after.len());
        let sector = &after[at..end];
        if before.get(at..end) == Some(sector) {
            continue;
        }
        let is_new = how.get(differing / 8).is_some_and(|bits| bits >> (differing % 8) & 1 == 1);
        differing += 1;
        all_new &= is_new;
        if is_new {
            // A file grows in one call, so it has either the old or the new length.
            image.resize(image.len().max(after.len()), 0);
            image[at..end].copy_from_slice(sector);
        }
    }
    if !all_new {
        image[GOD_BYTE] = before[GOD_BYTE];
    }
    image
}
