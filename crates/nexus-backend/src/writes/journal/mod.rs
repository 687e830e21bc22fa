//! The journal: writes that were acknowledged before the store had them, on disk (docs/writes.md).
//!
//! One thread owns the database; what waits when it comes round is made durable by one commit. An entry is answered for once
//! its row is synced, and its payload, where that is a file of the [`spool`], before it. How an entry ended is tried until it is
//! on disk: until then a replay would write it again, so nobody may be told that it has ended.

mod database;
mod spool;

use super::ledger::ObjectName;
use database::Database;
use serde::Serialize;
use spool::Spool;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// Larger payloads are files.
const INLINE: usize = 64 << 10;
/// Commands that one commit takes.
const BATCH: usize = 256;
/// Bytes of parked writes that are kept while new ones are accepted.
const MAX_PARKED_BYTES: u64 = 256 << 20;
/// Between attempts to write down what could not be.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A write on disk.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Order of acceptance; given by the journal.
    pub id: i64,
    pub function: String,
    pub region: String,
    pub invocation: String,
    pub object: ObjectName,
    /// The PUT's head (JSON, docs/abi.md).
    pub head: String,
    /// What the store will call these bytes.
    pub etag: String,
    /// What it called the object at acceptance, where that was learnt in time.
    pub base: Option<Base>,
    /// Unix milliseconds.
    pub accepted_ms: u64,
    pub payload: Payload,
}

/// The object that a write replaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base {
    Absent,
    Etag(String),
}

impl Base {
    fn as_text(&self) -> &str {
        match self {
            Self::Absent => "",
            Self::Etag(etag) => etag,
        }
    }

    fn from_text(text: String) -> Self {
        if text.is_empty() {
            Self::Absent
        } else {
            Self::Etag(text)
        }
    }
}

#[derive(Clone, Debug)]
pub enum Payload {
    Bytes(Arc<Vec<u8>>),
    /// SHA-256 (hexadecimal) and length of a file of the spool.
    File(String, usize),
}

impl Payload {
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::File(_, length) => *length,
        }
    }
}

/// A write that will not be tried again by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Parked {
    pub id: i64,
    pub function: String,
    pub invocation: String,
    pub bucket: String,
    pub key: String,
    pub bytes: usize,
    pub accepted_ms: u64,
    /// It conflicts with somebody else's write, rather than having failed.
    pub conflict: bool,
    pub reason: String,
}

enum Command {
    Append(Box<Entry>, oneshot::Sender<Result<Entry, NotKept>>),
    Note(Note),
    Forget(i64, oneshot::Sender<Result<bool, String>>),
    Revive(i64, oneshot::Sender<Result<Option<Entry>, String>>),
    Pending(oneshot::Sender<Result<Vec<Entry>, String>>),
    Parked(mpsc::Sender<Result<Vec<Parked>, String>>),
    Stored(ObjectName, String, oneshot::Sender<()>),
    LastStored(ObjectName, oneshot::Sender<Option<String>>),
}

/// What has to reach the disk, if not now then later. To write it twice changes nothing.
struct Note {
    what: What,
    written: Option<oneshot::Sender<()>>,
}

enum What {
    Base(i64, Base),
    Done(i64),
    Park(i64, bool, String),
    /// Nothing in particular: once it is there, a commit that failed before will not be found after a restart.
    Fence,
}

/// Why a write was not accepted.
#[derive(Debug)]
pub struct NotKept {
    pub reason: String,
    /// A restart may find it nevertheless, until a [`Journal::fence`].
    pub perhaps: bool,
}

impl NotKept {
    fn surely(reason: String) -> Self {
        Self {
            reason,
            perhaps: false,
        }
    }
}

#[derive(Debug)]
pub struct Journal {
    commands: mpsc::Sender<Command>,
    spool: Arc<Spool>,
    parked_bytes: Arc<AtomicU64>,
    /// There are notes that could not be written yet.
    is_behind: watch::Receiver<bool>,
}

const GONE: &str = "the journal's thread has ended, or could not write a batch";

impl Journal {
    /// # Errors
    /// The disk's, or a journal of another version.
    pub fn open(directory: &Path) -> Result<Self, String> {
        let spool = Arc::new(Spool::open(&directory.join("spool"))?);
        let database = Database::open(&directory.join("journal.db"))?;
        spool.sweep(&database.files()?)?;
        let parked_bytes = Arc::new(AtomicU64::new(database.parked_bytes()?));
        let (commands, inbox) = mpsc::channel();
        let (behind, is_behind) = watch::channel(false);
        let mut writer = Writer {
            database,
            spool: Arc::clone(&spool),
            parked_bytes: Arc::clone(&parked_bytes),
            notes: VecDeque::new(),
            behind,
        };
        std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || writer.serve(&inbox))
            .map_err(|error| format!("cannot start the journal's thread: {error}"))?;
        Ok(Self {
            commands,
            spool,
            parked_bytes,
            is_behind,
        })
    }

    /// The ends of writes cannot be written down at the moment: their keys stay pending until they can.
    pub fn is_behind(&self) -> bool {
        *self.is_behind.borrow()
    }

    /// Until the journal has been behind for `patience` without a break.
    pub async fn behind_for(&self, patience: Duration) {
        let mut behind = self.is_behind.clone();
        while behind.wait_for(|behind| *behind).await.is_ok() {
            let caught_up = behind.wait_for(|behind| !*behind);
            if tokio::time::timeout(patience, caught_up).await.is_err() {
                return;
            }
        }
        // Its thread has ended: nothing more will be written down.
        tokio::time::sleep(patience).await;
    }

    /// So much is parked that nothing more is accepted.
    pub fn is_full(&self) -> bool {
        self.parked_bytes.load(Ordering::Relaxed) > MAX_PARKED_BYTES
    }

    /// Make a write durable. Returns once it is.
    ///
    /// # Errors
    /// The disk's: it is not accepted.
    pub async fn append(&self, mut entry: Entry) -> Result<Entry, NotKept> {
        let memory = entry.payload.clone();
        if let Payload::Bytes(bytes) = &memory
            && bytes.len() > INLINE
        {
            let (spool, bytes) = (Arc::clone(&self.spool), Arc::clone(bytes));
            let length = bytes.len();
            let name = tokio::task::spawn_blocking(move || spool.put(&bytes))
                .await
                .map_err(|error| NotKept::surely(error.to_string()))?
                .map_err(NotKept::surely)?;
            entry.payload = Payload::File(name, length);
        }
        let kept = self.ask(|reply| Command::Append(Box::new(entry), reply));
        let mut kept = kept
            .await
            .map_err(|()| NotKept::surely(GONE.to_owned()))??;
        // No need to read it back.
        kept.payload = memory;
        Ok(kept)
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, ()> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).map_err(|_| ())?;
        answer.await.map_err(|_| ())
    }

    /// The object that a write replaces is known now.
    pub fn set_base(&self, id: i64, base: Base) {
        let _ = self.commands.send(Command::Note(Note {
            what: What::Base(id, base),
            written: None,
        }));
    }

    /// Returns once it is on disk, however long that takes.
    async fn write_down(&self, what: What) -> Result<(), String> {
        let answer = self.ask(|reply| {
            Command::Note(Note {
                what,
                written: Some(reply),
            })
        });
        answer.await.map_err(|()| GONE.to_owned())
    }

    /// The store has it. Returns once that is on disk: what is written to the object from then on, by whomever, must be neither
    /// undone after a restart nor look like a conflict.
    ///
    /// # Errors
    /// It will never be on disk: the write has to stay pending.
    pub async fn done(&self, id: i64) -> Result<(), String> {
        self.write_down(What::Done(id)).await
    }

    /// It cannot be done; it is kept until somebody decides.
    ///
    /// # Errors
    /// As of [`Journal::done`].
    pub async fn park(&self, id: i64, conflict: bool, reason: &str) -> Result<(), String> {
        let reason = reason.chars().take(500).collect();
        self.write_down(What::Park(id, conflict, reason)).await
    }

    /// Returns once something else is on disk, in place of a commit that failed.
    ///
    /// # Errors
    /// As of [`Journal::done`].
    pub async fn fence(&self) -> Result<(), String> {
        self.write_down(What::Fence).await
    }

    /// Drop a parked write. `false`: there is none of this id.
    ///
    /// # Errors
    /// The disk's.
    pub async fn forget(&self, id: i64) -> Result<bool, String> {
        let answer = self.ask(|reply| Command::Forget(id, reply)).await;
        answer.map_err(|()| GONE.to_owned())?
    }

    /// Make a parked write pending again.
    ///
    /// # Errors
    /// The disk's.
    pub async fn revive(&self, id: i64) -> Result<Option<Entry>, String> {
        let answer = self.ask(|reply| Command::Revive(id, reply)).await;
        answer.map_err(|()| GONE.to_owned())?
    }

    /// What an earlier process left, in the order of acceptance.
    ///
    /// # Errors
    /// The disk's.
    pub async fn pending(&self) -> Result<Vec<Entry>, String> {
        let answer = self.ask(Command::Pending).await;
        answer.map_err(|()| GONE.to_owned())?
    }

    /// # Errors
    /// The disk's.
    pub fn parked(&self) -> Result<Vec<Parked>, String> {
        let (reply, answer) = mpsc::channel();
        self.commands
            .send(Command::Parked(reply))
            .map_err(|_| GONE.to_owned())?;
        answer.recv().map_err(|_| GONE.to_owned())?
    }

    /// The store has an object under this ETag, by a write of this node that was not journalled.
    pub async fn note_stored(&self, object: &ObjectName, etag: &str) {
        let (object, etag) = (object.clone(), etag.to_owned());
        let _ = self.ask(|reply| Command::Stored(object, etag, reply)).await;
    }

    /// The ETag under which this journal last stored an object, as far as it remembers.
    pub async fn last_stored(&self, object: &ObjectName) -> Option<String> {
        let object = object.clone();
        self.ask(|reply| Command::LastStored(object, reply))
            .await
            .ok()
            .flatten()
    }

    /// The bytes of an entry.
    ///
    /// # Errors
    /// The file is not there, or not what it was.
    pub async fn load(&self, payload: &Payload) -> Result<Arc<Vec<u8>>, String> {
        match payload {
            Payload::Bytes(bytes) => Ok(Arc::clone(bytes)),
            Payload::File(name, _) => {
                let (spool, name) = (Arc::clone(&self.spool), name.clone());
                tokio::task::spawn_blocking(move || spool.get(&name))
                    .await
                    .map_err(|error| error.to_string())?
                    .map(Arc::new)
            }
        }
    }
}

/// What is told once a batch is on disk.
type Told = Vec<Box<dyn FnOnce(Result<(), database::Failure>) + Send>>;

/// The journal's thread.
struct Writer {
    database: Database,
    spool: Arc<Spool>,
    parked_bytes: Arc<AtomicU64>,
    /// Oldest first. No more than a few for each pending write, of which there is a limit.
    notes: VecDeque<Note>,
    behind: watch::Sender<bool>,
}

impl Writer {
    fn serve(&mut self, inbox: &mpsc::Receiver<Command>) {
        let mut pause = FIRST_PAUSE;
        loop {
            let first = if self.notes.is_empty() {
                match inbox.recv() {
                    Ok(first) => Some(first),
                    Err(_) => return,
                }
            } else {
                match inbox.recv_timeout(pause) {
                    Ok(first) => Some(first),
                    Err(mpsc::RecvTimeoutError::Timeout) => None,
                    Err(mpsc::RecvTimeoutError::Disconnected) => return,
                }
            };
            let mut others = Vec::new();
            for command in first.into_iter().chain(inbox.try_iter().take(BATCH - 1)) {
                match command {
                    Command::Note(note) => self.notes.push_back(note),
                    other => others.push(other),
                }
            }
            let alone = others.is_empty();
            let mut written = self.commit(others);
            if !written && !alone && !self.notes.is_empty() {
                // What fails again and again must not keep what was done from being written down.
                written = self.commit(Vec::new());
            }
            if written {
                pause = FIRST_PAUSE;
            } else {
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            let behind = !written && !self.notes.is_empty();
            self.behind
                .send_if_modified(|was| std::mem::replace(was, behind) != behind);
        }
    }

    /// One transaction, of the oldest notes and these commands. False: nothing of it is on disk, and the notes are kept.
    fn commit(&mut self, commands: Vec<Command>) -> bool {
        let mut told: Told = Vec::new();
        let mut files = Vec::new();
        let count = self.notes.len().min(BATCH);
        let (notes, spool) = (&self.notes, &self.spool);
        let result = self.database.transaction(|t| {
            for note in notes.iter().take(count) {
                files.extend(write(t, &note.what)?);
            }
            for command in commands {
                apply(t, command, &mut told, &mut files)?;
            }
            // Files are durable before the rows that name them.
            spool.sync()
        });
        if let Err(error) = &result {
            tracing::error!(error = error.text, "the journal of deferred writes");
        }
        for tell in told {
            tell(result.clone());
        }
        if result.is_err() {
            return false;
        }
        for note in self.notes.drain(..count) {
            if let Some(written) = note.written {
                let _ = written.send(());
            }
        }
        for name in files {
            if self.database.is_unused(&name) {
                self.spool.remove(&name);
            }
        }
        if let Ok(bytes) = self.database.parked_bytes() {
            self.parked_bytes.store(bytes, Ordering::Relaxed);
        }
        true
    }
}

/// Write a note down; the file that its entry named, where it is gone.
fn write(t: &database::Rows<'_>, what: &What) -> Result<Option<String>, String> {
    match what {
        What::Base(id, base) => t.set_base(*id, base)?,
        What::Done(id) => return t.done(*id),
        What::Park(id, conflict, reason) => t.park(*id, *conflict, reason)?,
        What::Fence => t.fence()?,
    }
    Ok(None)
}

fn apply(
    t: &database::Rows<'_>,
    command: Command,
    told: &mut Told,
    files: &mut Vec<String>,
) -> Result<(), String> {
    match command {
        Command::Note(_) => {}
        Command::Append(mut entry, reply) => {
            let inserted = t.insert(&entry);
            entry.id = inserted.as_ref().copied().unwrap_or_default();
            told.push(Box::new(move |result| {
                let _ = reply.send(match result {
                    Ok(()) => Ok(*entry),
                    Err(error) => Err(NotKept {
                        reason: error.text,
                        perhaps: error.perhaps,
                    }),
                });
            }));
            inserted?;
        }
        Command::Forget(id, reply) => {
            let found = t.forget(id)?;
            let any = found.is_some();
            files.extend(found.flatten());
            told.push(Box::new(move |result| {
                let _ = reply.send(result.map(|()| any).map_err(|error| error.text));
            }));
        }
        Command::Revive(id, reply) => {
            let entry = t.revive(id)?;
            told.push(Box::new(move |result| {
                let _ = reply.send(result.map(|()| entry).map_err(|error| error.text));
            }));
        }
        Command::Pending(reply) => {
            let _ = reply.send(t.pending());
        }
        Command::Parked(reply) => {
            let _ = reply.send(t.parked());
        }
        Command::Stored(object, etag, reply) => {
            // Where it cannot be written, a replay may take the object for somebody else's: it is told, and nothing is lost.
            t.set_stored(&object, &etag)?;
            told.push(Box::new(move |_| {
                let _ = reply.send(());
            }));
        }
        Command::LastStored(object, reply) => {
            let _ = reply.send(t.last_stored(&object)?);
        }
    }
    Ok(())
}
