//! The journal: writes that were acknowledged before the store had them, on disk (docs/writes.md).
//!
//! One thread owns the database; what waits when it comes round is made durable by one commit. An entry is answered for once
//! its row is synced, and its payload, where that is a file of the [`spool`], before it.

mod database;
mod spool;

use super::ledger::ObjectName;
use database::Database;
use serde::Serialize;
use spool::Spool;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use tokio::sync::oneshot;

/// Larger payloads are files.
const INLINE: usize = 64 << 10;
/// Commands that one commit takes.
const BATCH: usize = 256;
/// Bytes of parked writes that are kept while new ones are accepted.
const MAX_PARKED_BYTES: u64 = 256 << 20;

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
    Append(Box<Entry>, oneshot::Sender<Result<Entry, String>>),
    Base(i64, Base),
    Done(i64, oneshot::Sender<()>),
    Park(i64, bool, String, oneshot::Sender<()>),
    Forget(i64, oneshot::Sender<Result<bool, String>>),
    Revive(i64, oneshot::Sender<Result<Option<Entry>, String>>),
    Pending(oneshot::Sender<Result<Vec<Entry>, String>>),
    Parked(mpsc::Sender<Result<Vec<Parked>, String>>),
    Stored(ObjectName, String, oneshot::Sender<()>),
    LastStored(ObjectName, oneshot::Sender<Option<String>>),
}

#[derive(Debug)]
pub struct Journal {
    commands: mpsc::Sender<Command>,
    spool: Arc<Spool>,
    parked_bytes: Arc<AtomicU64>,
}

const GONE: &str = "the journal's thread has ended";

impl Journal {
    /// # Errors
    /// The disk's, or a journal of another version.
    pub fn open(directory: &Path) -> Result<Self, String> {
        let spool = Arc::new(Spool::open(&directory.join("spool"))?);
        let mut database = Database::open(&directory.join("journal.db"))?;
        spool.sweep(&database.files()?)?;
        let parked_bytes = Arc::new(AtomicU64::new(database.parked_bytes()?));
        let (commands, inbox) = mpsc::channel();
        let (own, parked) = (Arc::clone(&spool), Arc::clone(&parked_bytes));
        std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || serve(&mut database, &own, &parked, &inbox))
            .map_err(|error| format!("cannot start the journal's thread: {error}"))?;
        Ok(Self {
            commands,
            spool,
            parked_bytes,
        })
    }

    /// So much is parked that nothing more is accepted.
    pub fn is_full(&self) -> bool {
        self.parked_bytes.load(Ordering::Relaxed) > MAX_PARKED_BYTES
    }

    /// Make a write durable. Returns once it is.
    ///
    /// # Errors
    /// The disk's: it is not accepted.
    pub async fn append(&self, mut entry: Entry) -> Result<Entry, String> {
        let memory = entry.payload.clone();
        if let Payload::Bytes(bytes) = &memory
            && bytes.len() > INLINE
        {
            let (spool, bytes) = (Arc::clone(&self.spool), Arc::clone(bytes));
            let length = bytes.len();
            let name = tokio::task::spawn_blocking(move || spool.put(&bytes))
                .await
                .map_err(|error| error.to_string())??;
            entry.payload = Payload::File(name, length);
        }
        let kept = self.ask(|reply| Command::Append(Box::new(entry), reply));
        let mut kept = kept.await.map_err(|()| GONE.to_owned())??;
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
        let _ = self.commands.send(Command::Base(id, base));
    }

    /// The store has it. Returns once that is on disk: what is written to the object from then on, by whomever, must not look
    /// like a conflict after a restart.
    pub async fn done(&self, id: i64) {
        let _ = self.ask(|reply| Command::Done(id, reply)).await;
    }

    /// It cannot be done; it is kept until somebody decides.
    pub async fn park(&self, id: i64, conflict: bool, reason: &str) {
        let reason = reason.chars().take(500).collect();
        let _ = self
            .ask(|reply| Command::Park(id, conflict, reason, reply))
            .await;
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
type Told = Vec<Box<dyn FnOnce(Result<(), String>) + Send>>;

fn serve(
    database: &mut Database,
    spool: &Spool,
    parked_bytes: &AtomicU64,
    inbox: &mpsc::Receiver<Command>,
) {
    while let Ok(first) = inbox.recv() {
        let batch: Vec<Command> = std::iter::once(first)
            .chain(inbox.try_iter().take(BATCH - 1))
            .collect();
        let mut told: Told = Vec::new();
        let mut files = Vec::new();
        let result = database.transaction(|t| {
            for command in batch {
                apply(t, command, &mut told, &mut files)?;
            }
            // Files are durable before the rows that name them.
            spool.sync()
        });
        if let Err(error) = &result {
            tracing::error!(error, "the journal of deferred writes");
        }
        for tell in told {
            tell(result.clone());
        }
        if result.is_ok() {
            for name in files {
                if database.is_unused(&name) {
                    spool.remove(&name);
                }
            }
            if let Ok(bytes) = database.parked_bytes() {
                parked_bytes.store(bytes, Ordering::Relaxed);
            }
        }
    }
}

fn apply(
    t: &database::Rows<'_>,
    command: Command,
    told: &mut Told,
    files: &mut Vec<String>,
) -> Result<(), String> {
    match command {
        Command::Append(mut entry, reply) => {
            entry.id = t.insert(&entry)?;
            told.push(Box::new(move |result| {
                let _ = reply.send(result.map(|()| *entry));
            }));
        }
        Command::Base(id, base) => t.set_base(id, &base)?,
        Command::Done(id, reply) => {
            files.extend(t.done(id)?);
            told.push(Box::new(move |_| {
                let _ = reply.send(());
            }));
        }
        Command::Park(id, conflict, reason, reply) => {
            t.park(id, conflict, &reason)?;
            told.push(Box::new(move |_| {
                let _ = reply.send(());
            }));
        }
        Command::Forget(id, reply) => {
            let found = t.forget(id)?;
            let any = found.is_some();
            files.extend(found.flatten());
            told.push(Box::new(move |result| {
                let _ = reply.send(result.map(|()| any));
            }));
        }
        Command::Revive(id, reply) => {
            let entry = t.revive(id)?;
            told.push(Box::new(move |result| {
                let _ = reply.send(result.map(|()| entry));
            }));
        }
        Command::Pending(reply) => {
            let _ = reply.send(t.pending());
        }
        Command::Parked(reply) => {
            let _ = reply.send(t.parked());
        }
        Command::Stored(object, etag, reply) => {
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
