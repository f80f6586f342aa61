//! Writes the audit: one file for each mapping under `audit/` in the data folder, on a thread of its own. Lines are written
//! before their commit is sent and survive the process; they are not forced to disk, so a machine that loses power may lose
//! the last ones, which the audit then shows as missing. A file that cannot be written holds nothing up: the records go on,
//! the failure is counted. A disk that hangs holds each commit up for a second; its lines wait, none is dropped, and when as
//! many wait as may, commits wait for them and no partition begins.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use lighterman_proto::ids::MappingId;
use lighterman_proto::topic_id::TopicId;
use tokio::sync::oneshot;

use super::entry::AuditEntry;
use super::orders::{OrderSender, WriterCommand, channel};
use super::partition_audit::{AuditReport, PartitionAudit};

/// A file longer than this, and twice as long as its books' shortest form, is rewritten as that.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// A disk that hangs holds a commit up so long and no longer.
const WRITE_DEADLINE: Duration = Duration::from_secs(1);
/// Longer lines are not ours: the longest has two sums of all outcomes or one reason, all of it escaped.
const LINE_BYTES_MAX: u64 = 4 * 1024;
/// Audits of deleted mappings that are kept; the oldest go first.
const DELETED_MAX: usize = 32;
const DELETED: &str = "deleted";

/// The audit of a node; clones share it.
#[derive(Clone)]
pub struct AuditLog {
    orders: OrderSender,
}

impl AuditLog {
    /// Starts the thread; files go under `data_dir/audit`.
    pub fn start(data_dir: &Path) -> io::Result<Self> {
        let (orders, inbox) = channel();
        let mut desk = AuditThread { folder: data_dir.join("audit"), open: HashMap::new() };
        thread::Builder::new().name("audit".to_owned()).spawn(move || {
            while let Some(order) = inbox.next() {
                desk.carry_out_or_forget(order);
            }
        })?;
        Ok(Self { orders })
    }

    /// Writes `entries` of a mapping and returns when they are written, or could not be; or after a second, when the disk is
    /// slower than that: they are written later then. Waits for as long as there is no room for them.
    pub async fn append(&self, mapping: MappingId, entries: Vec<AuditEntry>) {
        self.append_of(mapping, None, entries).await;
    }

    /// So too, of `topic`. What is told of a topic after another of its name was begun is not written: it would stand for that one.
    pub async fn append_of(&self, mapping: MappingId, topic: Option<TopicId>, entries: Vec<AuditEntry>) {
        let (written, done) = oneshot::channel();
        self.orders.send(WriterCommand::Append { mapping, topic, entries, written: Some(written) }).await;
        if tokio::time::timeout(WRITE_DEADLINE, done).await.is_err() {
            metrics::counter!(crate::metrics::AUDIT_LATE).increment(1);
        }
    }

    /// Writes `entries` some time, and before all that is said later. For what [`AuditLog::has_room`] was asked for.
    pub fn note(&self, mapping: MappingId, entries: Vec<AuditEntry>) {
        self.orders.send_over(WriterCommand::Append { mapping, topic: None, entries, written: None });
    }

    /// False while as many lines wait for the disk as may.
    pub fn has_room(&self) -> bool {
        self.orders.has_room()
    }

    /// The audit of a mapping, by partition.
    pub async fn read(&self, mapping: MappingId) -> BTreeMap<i32, AuditReport> {
        let (pages, told) = oneshot::channel();
        self.orders.send(WriterCommand::Read { mapping, pages }).await;
        told.await.unwrap_or_default()
    }

    /// A mapping has stopped: its file is closed and its books leave memory, until they are asked for.
    pub fn close(&self, mapping: MappingId) {
        self.orders.send_over(WriterCommand::Close { mapping });
    }

    /// A mapping is gone: its audit is renamed, and kept as long as it is among the last [`DELETED_MAX`] of them.
    pub fn remove(&self, mapping: MappingId) {
        self.orders.send_over(WriterCommand::Remove { mapping });
    }
}

struct AuditThread {
    folder: PathBuf,
    open: HashMap<MappingId, AuditFiles>,
}

#[derive(Default)]
struct AuditFiles {
    file: Option<File>,
    bytes: u64,
    /// The length at which it is rewritten next.
    rewrite_at: u64,
    /// The last write failed: part of a line may stand there.
    torn: bool,
    books: BTreeMap<i32, PartitionAudit>,
}

impl AuditThread {
    /// A panic costs the order that it came in, which is counted; the books are read again from their file.
    fn carry_out_or_forget(&mut self, order: WriterCommand) {
        let mapping = order.mapping();
        if catch_unwind(AssertUnwindSafe(|| self.carry_out(order))).is_err() {
            metrics::counter!(crate::metrics::AUDIT_ERRORS).increment(1);
            tracing::error!(%mapping, "the audit's writer panicked; reading the file again");
            self.open.remove(&mapping);
        }
    }

    fn carry_out(&mut self, order: WriterCommand) {
        match order {
            WriterCommand::Append { mapping, topic, entries, written } => {
                if let Err(error) = self.append(mapping, topic, &entries) {
                    metrics::counter!(crate::metrics::AUDIT_ERRORS).increment(1);
                    tracing::debug!(%mapping, %error, "the audit could not be written");
                }
                if let Some(written) = written {
                    let _ = written.send(());
                }
            }
            WriterCommand::Read { mapping, pages } => {
                let ledgers = self.ledgers(mapping);
                let shown = ledgers.books.iter().map(|(partition, book)| (*partition, book.page()));
                let _ = pages.send(shown.collect());
            }
            WriterCommand::Close { mapping } => {
                self.open.remove(&mapping);
            }
            WriterCommand::Remove { mapping } => {
                self.open.remove(&mapping);
                let path = self.path(mapping);
                let _ = fs::rename(&path, path.with_extension(DELETED));
                if let Err(error) = self.forget_oldest_deleted() {
                    tracing::debug!(%error, "audits of deleted mappings could not be removed");
                }
            }
        }
    }

    fn forget_oldest_deleted(&self) -> io::Result<()> {
        let mut deleted = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == DELETED) {
                deleted.push((fs::metadata(&path)?.modified()?, path));
            }
        }
        deleted.sort();
        for (_, path) in deleted.iter().take(deleted.len().saturating_sub(DELETED_MAX)) {
            fs::remove_file(path)?;
        }
        Ok(())
    }

    fn path(&self, mapping: MappingId) -> PathBuf {
        self.folder.join(format!("{mapping}.log"))
    }

    /// The books of a mapping, read from its file when they are first asked for.
    fn ledgers(&mut self, mapping: MappingId) -> &mut AuditFiles {
        let path = self.path(mapping);
        self.open.entry(mapping).or_insert_with(|| {
            let mut ledgers = AuditFiles::default();
            if let Ok(file) = File::open(&path)
                && let Err(error) = ledgers.read(BufReader::new(file))
            {
                metrics::counter!(crate::metrics::AUDIT_ERRORS).increment(1);
                tracing::warn!(%mapping, %error, "the audit cannot be read to its end");
            }
            // Whatever stands at the end, the next line begins a new one.
            ledgers.torn = true;
            ledgers
        })
    }

    fn append(
        &mut self,
        mapping: MappingId,
        topic: Option<TopicId>,
        entries: &[AuditEntry],
    ) -> io::Result<()> {
        let (folder, path) = (self.folder.clone(), self.path(mapping));
        let ledgers = self.ledgers(mapping);
        let mut text = String::new();
        if ledgers.torn {
            text.push('\n');
        }
        for entry in entries {
            let book = ledgers.books.entry(entry.partition).or_default();
            if book.is_of_another_topic(topic) {
                continue;
            }
            let line = book.worded(entry);
            book.enter(&line);
            text.push_str(&line.line());
        }
        if ledgers.file.is_none() {
            fs::create_dir_all(&folder)?;
            let file = OpenOptions::new().create(true).append(true).open(&path)?;
            (ledgers.bytes, ledgers.file) = (file.metadata()?.len(), Some(file));
            ledgers.rewrite_at = FILE_BYTES_MAX.max(ledgers.rewrite_at);
        }
        let Some(file) = &mut ledgers.file else { return Ok(()) };
        ledgers.torn = true;
        file.write_all(text.as_bytes())?;
        ledgers.torn = false;
        ledgers.bytes += text.len() as u64;
        if ledgers.bytes <= ledgers.rewrite_at {
            return Ok(());
        }
        let rewritten = ledgers.rewrite(&path);
        // Also when it failed: not again before as much has been written once more.
        ledgers.rewrite_at = FILE_BYTES_MAX.max(ledgers.bytes.saturating_mul(2));
        rewritten
    }
}

impl AuditFiles {
    /// Line by line: a file that was never rewritten may be longer than what it says is.
    fn read(&mut self, mut file: impl BufRead) -> io::Result<()> {
        let mut line = Vec::new();
        loop {
            line.clear();
            if (&mut file).take(LINE_BYTES_MAX).read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            let text = line.strip_suffix(b"\n").unwrap_or(&line);
            if let Some(entry) = std::str::from_utf8(text).ok().and_then(AuditEntry::parse) {
                self.books.entry(entry.partition).or_default().enter(&entry);
            }
        }
    }

    fn rewrite(&mut self, path: &Path) -> io::Result<()> {
        let next = path.with_extension("next");
        let mut file = File::create(&next)?;
        for (partition, book) in &self.books {
            let text: String = book.lines(*partition).map(|entry| entry.line()).collect();
            file.write_all(text.as_bytes())?;
        }
        // What is renamed over the old file must be there after a power cut.
        file.sync_all()?;
        fs::rename(&next, path)?;
        let file = OpenOptions::new().append(true).open(path)?;
        (self.bytes, self.file) = (file.metadata()?.len(), Some(file));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use lighterman_proto::ids::{Offset, OffsetRange};
    use lighterman_proto::units::TimestampMs;

    use super::*;
    use crate::audit::EntryKind;
    use crate::partition::ledger::Outcome;

    fn entry(first: i64, end: i64) -> AuditEntry {
        let range = OffsetRange { first: Offset(first), end: Offset(end) };
        AuditEntry { at: TimestampMs(1), partition: 3, range, what: EntryKind::Ended(Outcome::Delivered) }
    }

    #[tokio::test]
    async fn alo_1_what_was_written_is_there_for_the_next_process_and_a_torn_line_hurts_nobody() {
        let folder = tempfile::tempdir().expect("scratch");
        let mapping = MappingId(uuid::Uuid::nil());
        let log = AuditLog::start(folder.path()).expect("starts");
        log.append(mapping, vec![entry(0, 10), entry(10, 15)]).await;
        let path = folder.path().join("audit").join(format!("{mapping}.log"));
        let mut torn = fs::read(&path).expect("there");
        torn.extend_from_slice(b"1c291ca3 1 3 15 9");
        fs::write(&path, torn).expect("written");
        let next = AuditLog::start(folder.path()).expect("starts");
        next.append(mapping, vec![entry(15, 20)]).await;
        let third = AuditLog::start(folder.path()).expect("starts");
        let page = third.read(mapping).await.remove(&3).expect("partition 3");
        assert_eq!((page.began, page.end, page.stretches.len()), (Some(Offset(0)), Some(Offset(20)), 1));
    }

    #[tokio::test]
    async fn mem_1_a_file_does_not_grow_for_ever() {
        let folder = tempfile::tempdir().expect("scratch");
        let mapping = MappingId(uuid::Uuid::nil());
        let log = AuditLog::start(folder.path()).expect("starts");
        for round in 0..50 {
            let from = round * 4_000;
            log.append(mapping, (from..from + 4_000).map(|first| entry(first, first + 1)).collect()).await;
        }
        let path = folder.path().join("audit").join(format!("{mapping}.log"));
        let bytes = fs::metadata(path).expect("there").len();
        assert!(bytes <= FILE_BYTES_MAX + 400_000, "{bytes}");
        let page = log.read(mapping).await.remove(&3).expect("partition 3");
        assert_eq!((page.end, page.stretches.len()), (Some(Offset(200_000)), 1));
    }

    /// Notable outcomes are never joined: the books' shortest form may itself be longer than the limit.
    #[test]
    fn mem_1_a_long_shortest_form_is_not_rewritten_at_every_line() {
        let folder = tempfile::tempdir().expect("scratch");
        let mapping = MappingId(uuid::Uuid::nil());
        let mut desk = AuditThread { folder: folder.path().to_owned(), open: HashMap::new() };
        let outcomes = [Outcome::Skipped, Outcome::Expired];
        for partition in 0..30 {
            let lines: Vec<AuditEntry> = (0..9_000)
                .map(|first| AuditEntry {
                    partition,
                    what: EntryKind::Ended(outcomes[first as usize % 2]),
                    ..entry(first, first + 1)
                })
                .collect();
            desk.append(mapping, None, &lines).expect("written");
        }
        let ledgers = &desk.open[&mapping];
        let shortest: usize =
            ledgers.books.iter().flat_map(|(of, book)| book.lines(*of)).map(|entry| entry.line().len()).sum();
        assert!(shortest as u64 > FILE_BYTES_MAX, "{shortest}");
        let (bytes, rewrite_at) = (ledgers.bytes, ledgers.rewrite_at);
        desk.append(mapping, None, &[entry(9_000, 9_001)]).expect("written");
        let ledgers = &desk.open[&mapping];
        assert!(ledgers.bytes > bytes && ledgers.rewrite_at == rewrite_at, "one more line, no rewriting");
    }

    #[test]
    fn mem_1_deleted_mappings_leave_a_bounded_number_of_audits() {
        let folder = tempfile::tempdir().expect("scratch");
        let mut desk = AuditThread { folder: folder.path().to_owned(), open: HashMap::new() };
        let others = folder.path().join("a-person.deleted.txt");
        fs::write(&others, "not ours").expect("written");
        for id in 0..DELETED_MAX as u128 + 8 {
            let mapping = MappingId(uuid::Uuid::from_u128(id));
            desk.append(mapping, None, &[entry(0, 1)]).expect("written");
            let path = desk.path(mapping);
            let file = OpenOptions::new().append(true).open(&path).expect("there");
            let written = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000 + id as u64);
            file.set_modified(written).expect("set");
            desk.carry_out(WriterCommand::Remove { mapping });
        }
        let left =
            |id: u128| desk.path(MappingId(uuid::Uuid::from_u128(id))).with_extension(DELETED).exists();
        assert!(!left(7) && left(8) && left(39) && others.exists(), "the last ones, and what is not ours");
        assert!(desk.open.is_empty(), "nothing of them in memory");
    }

    #[test]
    fn mem_1_a_line_without_end_is_passed_over_and_what_follows_is_read() {
        let mut ledgers = AuditFiles::default();
        let mut text = entry(0, 10).line().into_bytes();
        text.extend(std::iter::repeat_n(b'x', 3 * LINE_BYTES_MAX as usize + 5));
        text.push(b'\n');
        text.extend_from_slice(entry(10, 12).line().as_bytes());
        ledgers.read(&text[..]).expect("read");
        assert_eq!(ledgers.books[&3].end(), Some(Offset(12)));
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_written_holds_nothing_up() {
        let folder = tempfile::tempdir().expect("scratch");
        fs::write(folder.path().join("audit"), "a file where the folder should be").expect("written");
        let log = AuditLog::start(folder.path()).expect("starts");
        log.append(MappingId(uuid::Uuid::nil()), vec![entry(0, 1)]).await;
    }

    /// A pipe that nobody reads is a disk that hangs.
    #[tokio::test]
    async fn alo_1_a_disk_that_hangs_makes_a_commit_late_and_loses_no_line() {
        const LINES: i64 = 20_000;
        let folder = tempfile::tempdir().expect("scratch");
        let mapping = MappingId(uuid::Uuid::nil());
        fs::create_dir(folder.path().join("audit")).expect("made");
        let path = folder.path().join("audit").join(format!("{mapping}.log"));
        let made = std::process::Command::new("mkfifo").arg(&path).status().expect("coreutils");
        assert!(made.success());
        let log = AuditLog::start(folder.path()).expect("starts");
        log.append(mapping, vec![entry(0, 1)]).await;
        log.note(mapping, (1..LINES).map(|first| entry(first, first + 1)).collect());
        let read = tokio::task::spawn_blocking(move || {
            drop(OpenOptions::new().write(true).open(&path).expect("what was written before: nothing"));
            let lines = BufReader::new(File::open(&path).expect("the disk works again")).lines();
            let entries = lines.map(|line| line.expect("text")).filter_map(|line| AuditEntry::parse(&line));
            entries.take(LINES as usize).map(|entry| entry.range.first.0).collect::<Vec<_>>()
        });
        assert!(read.await.expect("read").into_iter().eq(0..LINES));
    }
}
