//! Writer of the audit: one file per mapping under `audit/` in the data folder, written on a thread of its own. Lines
//! are written before their commit is sent and survive the process. They are not synced, so a power failure may lose
//! the last ones, which the audit then shows as missing. A write error does not stop processing; it is counted. A
//! hanging disk delays each commit by up to a second. Its lines stay queued and none is dropped. Once the queue is
//! full, commits wait and no partition starts.

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

/// File size in bytes from which a file is rewritten in its shortest form, if it is also twice as long as that.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Maximum time that a hanging disk delays a commit.
const WRITE_DEADLINE: Duration = Duration::from_secs(1);
/// Maximum length of a line, in bytes. The longest valid one has two totals of all outcomes or one fully escaped
/// reason.
const LINE_BYTES_MAX: u64 = 4 * 1024;
/// Maximum number of audits kept of deleted mappings. The oldest are removed first.
const DELETED_MAX: usize = 32;
const DELETED: &str = "deleted";

/// Audit log of a node. Clones share it.
#[derive(Clone)]
pub struct AuditLog {
    orders: OrderSender,
}

impl AuditLog {
    /// Starts the writer thread. Files are kept under `data_dir/audit`.
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

    /// Appends `entries` of a mapping. Returns when they are written or the write failed, or after a second if the
    /// disk is slower; they are then written later. Waits as long as the queue is full.
    pub async fn append(&self, mapping: MappingId, entries: Vec<AuditEntry>) {
        self.append_of(mapping, None, entries).await;
    }

    /// As [`Self::append`], for entries of `topic`. Entries of a topic that has been replaced by another of its name
    /// are not written: they would be counted for the new one.
    pub async fn append_of(&self, mapping: MappingId, topic: Option<TopicId>, entries: Vec<AuditEntry>) {
        let (written, done) = oneshot::channel();
        self.orders.send(WriterCommand::Append { mapping, topic, entries, written: Some(written) }).await;
        if tokio::time::timeout(WRITE_DEADLINE, done).await.is_err() {
            metrics::counter!(crate::metrics::AUDIT_LATE).increment(1);
        }
    }

    /// Queues `entries` for writing, before all later ones, without waiting. Call [`AuditLog::has_room`] first.
    pub fn note(&self, mapping: MappingId, entries: Vec<AuditEntry>) {
        self.orders.send_over(WriterCommand::Append { mapping, topic: None, entries, written: None });
    }

    /// Returns false while the queue is full.
    pub fn has_room(&self) -> bool {
        self.orders.has_room()
    }

    /// Returns the audit of a mapping, by partition.
    pub async fn read(&self, mapping: MappingId) -> BTreeMap<i32, AuditReport> {
        let (pages, told) = oneshot::channel();
        self.orders.send(WriterCommand::Read { mapping, pages }).await;
        told.await.unwrap_or_default()
    }

    /// Closes the file of a stopped mapping and frees its audit from memory until it is read again.
    pub fn close(&self, mapping: MappingId) {
        self.orders.send_over(WriterCommand::Close { mapping });
    }

    /// Renames the audit of a deleted mapping. It is kept while it is among the last `DELETED_MAX`.
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
    /// File size at which the file is rewritten next.
    rewrite_at: u64,
    /// Set after a failed write, which may have left part of a line.
    torn: bool,
    books: BTreeMap<i32, PartitionAudit>,
}

impl AuditThread {
    /// Executes a command. A panic loses only this command and is counted; the audit is read from its file again.
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

    /// Returns the audit of a mapping, read from its file on first use.
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
            // The file may end in a torn line, so the next entry starts a new line.
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
        // Also after a failure: retry only once as much has been written again.
        ledgers.rewrite_at = FILE_BYTES_MAX.max(ledgers.bytes.saturating_mul(2));
        rewritten
    }
}

impl AuditFiles {
    /// Reads line by line, since a file that was never rewritten may be much longer than its content in memory.
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
        // Sync before the rename: the new file must survive a power failure.
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
    use crate::messages::outcome::Outcome;

    fn entry(first: i64, end: i64) -> AuditEntry {
        let range = OffsetRange { first: Offset(first), end: Offset(end) };
        AuditEntry { at: TimestampMs(1), partition: 3, range, what: EntryKind::Ended(Outcome::Delivered) }
    }

    #[tokio::test]
    async fn alo_1_audit_survives_restart_and_torn_line() {
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
    async fn mem_1_audit_file_size_is_bounded() {
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

    /// Notable outcomes are never merged, so the shortest form may itself exceed the limit.
    #[test]
    fn mem_1_long_shortest_form_is_not_rewritten_every_line() {
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
        assert!(ledgers.bytes > bytes && ledgers.rewrite_at == rewrite_at, "one more line without a rewrite");
    }

    #[test]
    fn mem_1_audits_of_deleted_mappings_are_bounded() {
        let folder = tempfile::tempdir().expect("scratch");
        let mut desk = AuditThread { folder: folder.path().to_owned(), open: HashMap::new() };
        let others = folder.path().join("a-person.deleted.txt");
        fs::write(&others, "foreign file").expect("written");
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
        assert!(
            !left(7) && left(8) && left(39) && others.exists(),
            "the latest audits and foreign files remain"
        );
        assert!(desk.open.is_empty(), "deleted audits are not kept in memory");
    }

    #[test]
    fn mem_1_endless_line_is_skipped_and_reading_continues() {
        let mut ledgers = AuditFiles::default();
        let mut text = entry(0, 10).line().into_bytes();
        text.extend(std::iter::repeat_n(b'x', 3 * LINE_BYTES_MAX as usize + 5));
        text.push(b'\n');
        text.extend_from_slice(entry(10, 12).line().as_bytes());
        ledgers.read(&text[..]).expect("read");
        assert_eq!(ledgers.books[&3].end(), Some(Offset(12)));
    }

    #[tokio::test]
    async fn unwritable_folder_does_not_block_append() {
        let folder = tempfile::tempdir().expect("scratch");
        fs::write(folder.path().join("audit"), "a file in place of the folder").expect("written");
        let log = AuditLog::start(folder.path()).expect("starts");
        log.append(MappingId(uuid::Uuid::nil()), vec![entry(0, 1)]).await;
    }

    /// A pipe without a reader acts as a hanging disk.
    #[tokio::test]
    async fn alo_1_hanging_disk_delays_without_losing_lines() {
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
            drop(OpenOptions::new().write(true).open(&path).expect("opens the empty audit"));
            let lines = BufReader::new(File::open(&path).expect("the disk works")).lines();
            let entries = lines.map(|line| line.expect("text")).filter_map(|line| AuditEntry::parse(&line));
            entries.take(LINES as usize).map(|entry| entry.range.first.0).collect::<Vec<_>>()
        });
        assert!(read.await.expect("read").into_iter().eq(0..LINES));
    }
}
