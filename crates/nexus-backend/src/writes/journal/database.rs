//! The journal's rows, in SQLite: write-ahead log, every commit synced.

use super::{Base, Entry, Parked, Payload};
use crate::writes::ledger::ObjectName;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, Transaction, params};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

const VERSION: i64 = 1;
/// Objects whose last ETag is remembered.
const REMEMBERED: i64 = 10_000;
const PENDING: i64 = 0;
const FAILED: i64 = 1;
const CONFLICT: i64 = 2;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS writes (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        function TEXT NOT NULL, region TEXT NOT NULL, invocation TEXT NOT NULL,
        bucket TEXT NOT NULL, key TEXT NOT NULL, head TEXT NOT NULL, etag TEXT NOT NULL,
        base TEXT, accepted_ms INTEGER NOT NULL,
        bytes INTEGER NOT NULL, payload BLOB, file TEXT,
        state INTEGER NOT NULL DEFAULT 0, reason TEXT NOT NULL DEFAULT ''
    );
    CREATE INDEX IF NOT EXISTS writes_file ON writes (file) WHERE file IS NOT NULL;
    CREATE INDEX IF NOT EXISTS writes_state ON writes (state, id);
    CREATE TABLE IF NOT EXISTS stored (
        bucket TEXT NOT NULL, key TEXT NOT NULL, etag TEXT NOT NULL, number INTEGER NOT NULL,
        PRIMARY KEY (bucket, key)
    ) WITHOUT ROWID;
";
const COLUMNS: &str = "id, function, region, invocation, bucket, key, head, etag, base, accepted_ms, bytes, payload, file";

#[derive(Debug)]
pub struct Database(Connection);

/// Why a transaction was not made.
#[derive(Clone, Debug)]
pub struct Failure {
    pub text: String,
    /// Its last step failed, maybe after it was written: until another transaction takes its place in the log, a restart may
    /// find it there.
    pub perhaps: bool,
}

/// The rows inside a transaction.
#[derive(Debug)]
pub struct Rows<'a>(Transaction<'a>);

fn failed(error: &rusqlite::Error) -> String {
    format!("the journal's database: {error}")
}

impl Database {
    /// # Errors
    /// The disk's, or a journal of another version.
    pub fn open(path: &Path) -> Result<Self, String> {
        let open = || -> rusqlite::Result<(Connection, i64)> {
            let connection = Connection::open(path)?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            let version = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
            Ok((connection, version))
        };
        let what = |error: rusqlite::Error| format!("cannot open {}: {error}", path.display());
        let (connection, version) = open().map_err(what)?;
        match version {
            0 => {
                connection.execute_batch(SCHEMA).map_err(what)?;
                connection
                    .pragma_update(None, "user_version", VERSION)
                    .map_err(what)?;
            }
            VERSION => {}
            other => {
                return Err(format!(
                    "{} is a journal of version {other}; this nexusd reads version {VERSION}. Let the nexusd that wrote it \
                     finish its writes (nexus writes), then remove the file",
                    path.display()
                ));
            }
        }
        Ok(Self(connection))
    }

    /// Do `work` in one transaction, synced at its end.
    ///
    /// # Errors
    /// The work's, or the disk's; this process sees nothing of it then.
    pub fn transaction(
        &mut self,
        work: impl FnOnce(&Rows<'_>) -> Result<(), String>,
    ) -> Result<(), Failure> {
        let surely = |text| Failure {
            text,
            perhaps: false,
        };
        let rows = Rows(self.0.transaction().map_err(|e| surely(failed(&e)))?);
        work(&rows).map_err(surely)?;
        rows.0.commit().map_err(|error| Failure {
            text: failed(&error),
            // Without room its last frame is not there; behind a failed sync it may be.
            perhaps: error.sqlite_error_code() != Some(ErrorCode::DiskFull),
        })
    }

    /// Files that rows name.
    pub fn files(&self) -> Result<HashSet<String>, String> {
        let read = || -> rusqlite::Result<HashSet<String>> {
            let mut statement = self
                .0
                .prepare("SELECT DISTINCT file FROM writes WHERE file IS NOT NULL")?;
            let names = statement.query_map([], |row| row.get(0))?;
            names.collect()
        };
        read().map_err(|e| failed(&e))
    }

    pub fn is_unused(&self, file: &str) -> bool {
        let found = self
            .0
            .query_row("SELECT 1 FROM writes WHERE file = ?1", [file], |_| Ok(()))
            .optional();
        matches!(found, Ok(None))
    }

    pub fn parked_bytes(&self) -> Result<u64, String> {
        self.0
            .query_row(
                "SELECT coalesce(sum(bytes), 0) FROM writes WHERE state > 0",
                [],
                |row| row.get::<_, i64>(0),
            )
            .map(i64::unsigned_abs)
            .map_err(|e| failed(&e))
    }
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let length: i64 = row.get(10)?;
    let file: Option<String> = row.get(12)?;
    let payload = match file {
        Some(name) => Payload::File(name, usize::try_from(length).unwrap_or(0)),
        None => Payload::Bytes(Arc::new(row.get(11)?)),
    };
    Ok(Entry {
        id: row.get(0)?,
        function: row.get(1)?,
        region: row.get(2)?,
        invocation: row.get(3)?,
        object: ObjectName {
            bucket: row.get(4)?,
            key: row.get(5)?,
        },
        head: row.get(6)?,
        etag: row.get(7)?,
        base: row.get::<_, Option<String>>(8)?.map(Base::from_text),
        accepted_ms: row.get::<_, i64>(9)?.unsigned_abs(),
        payload,
    })
}

impl Rows<'_> {
    pub fn insert(&self, entry: &Entry) -> Result<i64, String> {
        let (bytes, file) = match &entry.payload {
            Payload::Bytes(bytes) => (Some(bytes.as_slice()), None),
            Payload::File(name, _) => (None, Some(name)),
        };
        self.0
            .prepare_cached(
                "INSERT INTO writes (function, region, invocation, bucket, key, head, etag, base, accepted_ms, bytes, payload, \
                 file) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            )
            .and_then(|mut statement| {
                statement.insert(params![
                    entry.function,
                    entry.region,
                    entry.invocation,
                    entry.object.bucket,
                    entry.object.key,
                    entry.head,
                    entry.etag,
                    entry.base.as_ref().map(Base::as_text),
                    i64::try_from(entry.accepted_ms).unwrap_or(i64::MAX),
                    i64::try_from(entry.payload.len()).unwrap_or(i64::MAX),
                    bytes,
                    file,
                ])
            })
            .map_err(|e| failed(&e))
    }

    fn execute(&self, sql: &str, values: impl rusqlite::Params) -> Result<usize, String> {
        self.0
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute(values))
            .map_err(|e| failed(&e))
    }

    pub fn set_base(&self, id: i64, base: &Base) -> Result<(), String> {
        let sql = "UPDATE writes SET base = ?2 WHERE id = ?1";
        self.execute(sql, params![id, base.as_text()]).map(drop)
    }

    /// Delete an entry whose object is stored; the file that it named.
    pub fn done(&self, id: i64) -> Result<Option<String>, String> {
        let sql = "INSERT OR REPLACE INTO stored (bucket, key, etag, number) SELECT bucket, key, etag, id FROM writes WHERE id = ?1";
        self.execute(sql, [id])?;
        self.execute("DELETE FROM stored WHERE number < ?1", [id - REMEMBERED])?;
        Ok(self.delete(id)?.flatten())
    }

    pub fn set_stored(&self, object: &ObjectName, etag: &str) -> Result<(), String> {
        let sql = "INSERT OR REPLACE INTO stored (bucket, key, etag, number) \
                   SELECT ?1, ?2, ?3, coalesce(max(seq), 0) FROM sqlite_sequence";
        self.execute(sql, params![object.bucket, object.key, etag])
            .map(drop)
    }

    /// Write something that says nothing: no object has this name.
    pub fn fence(&self) -> Result<(), String> {
        // Another value each time: SQLite does not write a page that stays as it is.
        let sql = "INSERT INTO stored (bucket, key, etag, number) VALUES ('', '', '', 0) \
                   ON CONFLICT DO UPDATE SET number = number + 1";
        self.execute(sql, []).map(drop)
    }

    /// `None`: there is no such entry.
    fn delete(&self, id: i64) -> Result<Option<Option<String>>, String> {
        self.0
            .prepare_cached("DELETE FROM writes WHERE id = ?1 RETURNING file")
            .and_then(|mut statement| statement.query_row([id], |row| row.get(0)).optional())
            .map_err(|e| failed(&e))
    }

    pub fn park(&self, id: i64, conflict: bool, reason: &str) -> Result<(), String> {
        let state = if conflict { CONFLICT } else { FAILED };
        let sql = "UPDATE writes SET state = ?2, reason = ?3 WHERE id = ?1";
        self.execute(sql, params![id, state, reason]).map(drop)
    }

    /// Delete a parked entry; `None`: there is none.
    pub fn forget(&self, id: i64) -> Result<Option<Option<String>>, String> {
        if self.one("state > 0", id)?.is_none() {
            return Ok(None);
        }
        self.delete(id)
    }

    pub fn revive(&self, id: i64) -> Result<Option<Entry>, String> {
        let found = self.one("state > 0", id)?;
        let sql =
            "UPDATE writes SET state = 0, reason = '', base = NULL WHERE id = ?1 AND state > 0";
        self.execute(sql, [id])?;
        Ok(found)
    }

    fn one(&self, condition: &str, id: i64) -> Result<Option<Entry>, String> {
        let sql = format!("SELECT {COLUMNS} FROM writes WHERE id = ?1 AND {condition}");
        self.0
            .prepare_cached(&sql)
            .and_then(|mut statement| statement.query_row([id], entry).optional())
            .map_err(|e| failed(&e))
    }

    pub fn pending(&self) -> Result<Vec<Entry>, String> {
        let sql = format!("SELECT {COLUMNS} FROM writes WHERE state = {PENDING} ORDER BY id");
        self.0
            .prepare_cached(&sql)
            .and_then(|mut statement| statement.query_map([], entry)?.collect())
            .map_err(|e| failed(&e))
    }

    pub fn parked(&self) -> Result<Vec<Parked>, String> {
        let sql = "SELECT id, function, invocation, bucket, key, bytes, accepted_ms, state, reason FROM writes \
                   WHERE state > 0 ORDER BY id LIMIT 1000";
        let parked = |row: &Row<'_>| {
            Ok(Parked {
                id: row.get(0)?,
                function: row.get(1)?,
                invocation: row.get(2)?,
                bucket: row.get(3)?,
                key: row.get(4)?,
                bytes: usize::try_from(row.get::<_, i64>(5)?).unwrap_or(0),
                accepted_ms: row.get::<_, i64>(6)?.unsigned_abs(),
                conflict: row.get::<_, i64>(7)? == CONFLICT,
                reason: row.get(8)?,
            })
        };
        self.0
            .prepare_cached(sql)
            .and_then(|mut statement| statement.query_map([], parked)?.collect())
            .map_err(|e| failed(&e))
    }

    pub fn last_stored(&self, object: &ObjectName) -> Result<Option<String>, String> {
        self.0
            .prepare_cached("SELECT etag FROM stored WHERE bucket = ?1 AND key = ?2")
            .and_then(|mut statement| {
                statement
                    .query_row([&object.bucket, &object.key], |row| row.get(0))
                    .optional()
            })
            .map_err(|e| failed(&e))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_takes_the_place_in_the_log() {
        let directory = tempfile::tempdir().unwrap();
        let mut database = Database::open(&directory.path().join("journal.db")).unwrap();
        let log = directory.path().join("journal.db-wal");
        let length = || std::fs::metadata(&log).unwrap().len();
        for _ in 0..2 {
            let before = length();
            database.transaction(|rows| rows.fence()).unwrap();
            assert!(length() > before);
        }
        database.transaction(|_| Ok(())).unwrap();
    }
}
