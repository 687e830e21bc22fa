//! The index: buckets, objects and uploads in SQLite. A transaction that commits here is what makes a write exist.

use crate::meta::{Meta, Place, Record};
use crate::versions::{Written, put_in};
use rusqlite::{Connection, OptionalExtension, params};
use std::path::Path;

/// Objects up to this size are kept in the index itself: one commit instead of three syncs. Tuned against 64 KiB
/// writes, which are twice as fast inline; above 256 KiB the copy through SQLite's log costs more than it saves.
pub const INLINE: usize = 256 << 10;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS buckets (
        name TEXT PRIMARY KEY, created INTEGER NOT NULL, versioning TEXT, tags TEXT) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS objects (
        id INTEGER PRIMARY KEY, bucket TEXT NOT NULL, key BLOB NOT NULL, version TEXT NOT NULL DEFAULT 'null',
        latest INTEGER NOT NULL DEFAULT 1, marker INTEGER NOT NULL DEFAULT 0, etag TEXT NOT NULL, size INTEGER NOT NULL,
        modified INTEGER NOT NULL, meta TEXT NOT NULL, file TEXT, UNIQUE (bucket, key, version));
    CREATE UNIQUE INDEX IF NOT EXISTS current ON objects (bucket, key) WHERE latest = 1;
    CREATE TABLE IF NOT EXISTS bodies (id INTEGER PRIMARY KEY REFERENCES objects(id) ON DELETE CASCADE, data BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS uploads (
        id TEXT PRIMARY KEY, bucket TEXT NOT NULL, key BLOB NOT NULL, meta TEXT NOT NULL, initiated INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS parts (
        upload TEXT NOT NULL REFERENCES uploads(id) ON DELETE CASCADE, number INTEGER NOT NULL, etag TEXT NOT NULL,
        size INTEGER NOT NULL, modified INTEGER NOT NULL, file TEXT NOT NULL, meta TEXT NOT NULL,
        PRIMARY KEY (upload, number));
";
const FORMAT: i64 = 2;
/// From format 1, which knew no versions and no tags.
const UPGRADE: &str = "
    PRAGMA foreign_keys = OFF;
    BEGIN;
    ALTER TABLE buckets ADD COLUMN versioning TEXT;
    ALTER TABLE buckets ADD COLUMN tags TEXT;
    CREATE TABLE objects_2 (
        id INTEGER PRIMARY KEY, bucket TEXT NOT NULL, key BLOB NOT NULL, version TEXT NOT NULL DEFAULT 'null',
        latest INTEGER NOT NULL DEFAULT 1, marker INTEGER NOT NULL DEFAULT 0, etag TEXT NOT NULL, size INTEGER NOT NULL,
        modified INTEGER NOT NULL, meta TEXT NOT NULL, file TEXT, UNIQUE (bucket, key, version));
    INSERT INTO objects_2 (id, bucket, key, etag, size, modified, meta, file)
        SELECT id, bucket, key, etag, size, modified, meta, file FROM objects;
    DROP TABLE objects;
    ALTER TABLE objects_2 RENAME TO objects;
    PRAGMA user_version = 2;
    COMMIT;
    PRAGMA foreign_keys = ON;
";

/// The one connection; callers serialise.
pub struct Index {
    pub(crate) connection: Connection,
}

/// A condition on what is there, checked in the transaction that replaces it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    None,
    /// Nothing may be there.
    Absent,
    /// This ETag must be there; `*`: any.
    Matches(String),
}

/// Why a write did not happen.
#[derive(Debug)]
pub enum Refusal {
    NoBucket,
    Condition,
    /// The key that a condition names is not there.
    NoKey,
    NoVersion,
    /// What is there is a delete marker of this version.
    Marker(String),
    Database(rusqlite::Error),
}

impl From<rusqlite::Error> for Refusal {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

/// An object to be written.
pub struct NewObject {
    pub record: Record,
    /// Bytes, where `record.place` is inline.
    pub inline: Vec<u8>,
}

/// One part of an upload.
#[derive(Clone, Debug)]
pub struct Part {
    pub number: i64,
    pub etag: String,
    pub size: u64,
    pub modified: i64,
    pub file: String,
    pub meta: Meta,
}

/// A row of `objects`.
pub(crate) fn to_record(row: &rusqlite::Row<'_>) -> rusqlite::Result<Record> {
    let key: Vec<u8> = row.get("key")?;
    let meta: String = row.get("meta")?;
    let file: Option<String> = row.get("file")?;
    let size: i64 = row.get("size")?;
    Ok(Record {
        key: String::from_utf8_lossy(&key).into_owned(),
        version: row.get("version")?,
        latest: row.get("latest")?,
        marker: row.get("marker")?,
        etag: row.get("etag")?,
        size: u64::try_from(size).unwrap_or(0),
        modified: row.get("modified")?,
        meta: serde_json::from_str(&meta).unwrap_or_default(),
        place: file.map_or(Place::Inline, Place::File),
    })
}

pub(crate) fn text(meta: &Meta) -> String {
    serde_json::to_string(meta).unwrap_or_default()
}

pub(crate) fn bucket_exists(connection: &Connection, bucket: &str) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM buckets WHERE name = ?")?
        .exists([bucket])
}

impl Index {
    /// Open or create.
    ///
    /// # Errors
    /// SQLite's, or a format of another version.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let connection = Connection::open(path)?;
        connection.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA cache_size = -16384;",
        )?;
        let found: i64 = connection.query_row("PRAGMA user_version", [], |r| r.get(0))?;
        anyhow::ensure!(
            (0..=FORMAT).contains(&found),
            "{} has format {found}, this store reads {FORMAT}: use the version that wrote it, or another directory",
            path.display()
        );
        if found == 1 {
            connection.execute_batch(UPGRADE)?;
        }
        connection.execute_batch(SCHEMA)?;
        connection.pragma_update(None, "user_version", FORMAT)?;
        Ok(Self { connection })
    }

    /// Create a bucket; false if it exists.
    ///
    /// # Errors
    /// SQLite's.
    pub fn create_bucket(&self, name: &str, created: i64) -> rusqlite::Result<bool> {
        let n = self.connection.execute(
            "INSERT OR IGNORE INTO buckets (name, created) VALUES (?, ?)",
            params![name, created],
        )?;
        Ok(n == 1)
    }

    /// Delete an empty bucket.
    ///
    /// # Errors
    /// `NoBucket`; `Condition` if something is in it.
    pub fn delete_bucket(&mut self, name: &str) -> Result<(), Refusal> {
        let t = self.connection.transaction()?;
        if !bucket_exists(&t, name)? {
            return Err(Refusal::NoBucket);
        }
        if t.prepare_cached("SELECT 1 FROM objects WHERE bucket = ? LIMIT 1")?
            .exists([name])?
        {
            return Err(Refusal::Condition);
        }
        t.execute("DELETE FROM uploads WHERE bucket = ?", [name])?;
        t.execute("DELETE FROM buckets WHERE name = ?", [name])?;
        Ok(t.commit()?)
    }

    /// Whether a bucket exists.
    ///
    /// # Errors
    /// SQLite's.
    pub fn has_bucket(&self, name: &str) -> rusqlite::Result<bool> {
        bucket_exists(&self.connection, name)
    }

    /// Buckets and when they were made, by name.
    ///
    /// # Errors
    /// SQLite's.
    pub fn buckets(&self) -> rusqlite::Result<Vec<(String, i64)>> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT name, created FROM buckets ORDER BY name")?;
        statement
            .query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?
            .collect()
    }

    /// Objects from `from` on (at it, or behind it), in order of their bytes, up to but without `below`.
    ///
    /// # Errors
    /// SQLite's.
    pub fn range(
        &self,
        bucket: &str,
        from: &[u8],
        inclusive: bool,
        limit: usize,
    ) -> rusqlite::Result<Vec<Record>> {
        let order = if inclusive { ">=" } else { ">" };
        let query = format!(
            "SELECT * FROM objects WHERE bucket = ? AND key {order} ? AND latest = 1 AND marker = 0 ORDER BY key LIMIT ?"
        );
        let mut statement = self.connection.prepare_cached(&query)?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        statement
            .query_map(params![bucket, from, limit], to_record)?
            .collect()
    }

    /// Begin an upload.
    ///
    /// # Errors
    /// `NoBucket`.
    pub fn create_upload(
        &mut self,
        id: &str,
        bucket: &str,
        key: &str,
        meta: &Meta,
        at: i64,
    ) -> Result<(), Refusal> {
        let t = self.connection.transaction()?;
        if !bucket_exists(&t, bucket)? {
            return Err(Refusal::NoBucket);
        }
        t.execute(
            "INSERT INTO uploads VALUES (?, ?, ?, ?, ?)",
            params![id, bucket, key.as_bytes(), text(meta), at],
        )?;
        Ok(t.commit()?)
    }

    /// What an upload is for.
    ///
    /// # Errors
    /// `NoKey` if there is none of this id for bucket and key.
    pub fn upload(&self, id: &str, bucket: &str, key: &str) -> Result<Meta, Refusal> {
        self.connection
            .prepare_cached("SELECT meta FROM uploads WHERE id = ? AND bucket = ? AND key = ?")?
            .query_row(params![id, bucket, key.as_bytes()], |r| {
                r.get::<_, String>(0)
            })
            .optional()?
            .map(|meta| serde_json::from_str(&meta).unwrap_or_default())
            .ok_or(Refusal::NoKey)
    }

    /// Uploads of a bucket under way: key, id, start.
    ///
    /// # Errors
    /// SQLite's.
    pub fn uploads(&self, bucket: &str) -> rusqlite::Result<Vec<(String, String, i64)>> {
        let mut statement = self.connection.prepare_cached(
            "SELECT key, id, initiated FROM uploads WHERE bucket = ? ORDER BY key, initiated",
        )?;
        let rows = statement.query_map([bucket], |r| {
            let key: Vec<u8> = r.get(0)?;
            Ok((
                String::from_utf8_lossy(&key).into_owned(),
                r.get(1)?,
                r.get(2)?,
            ))
        })?;
        rows.collect()
    }

    /// Add or replace a part; returns the file of the one before.
    ///
    /// # Errors
    /// `NoKey` if the upload is gone.
    pub fn put_part(&mut self, upload: &str, part: &Part) -> Result<Option<String>, Refusal> {
        let t = self.connection.transaction()?;
        if !t
            .prepare_cached("SELECT 1 FROM uploads WHERE id = ?")?
            .exists([upload])?
        {
            return Err(Refusal::NoKey);
        }
        let old = t
            .prepare_cached("SELECT file FROM parts WHERE upload = ? AND number = ?")?
            .query_row(params![upload, part.number], |r| r.get(0))
            .optional()?;
        let size = i64::try_from(part.size).unwrap_or(i64::MAX);
        t.execute(
            "INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?, ?, ?, ?)",
            params![
                upload,
                part.number,
                part.etag,
                size,
                part.modified,
                part.file,
                text(&part.meta)
            ],
        )?;
        t.commit()?;
        Ok(old)
    }

    /// Parts of an upload in order.
    ///
    /// # Errors
    /// SQLite's.
    pub fn parts(&self, upload: &str) -> rusqlite::Result<Vec<Part>> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT * FROM parts WHERE upload = ? ORDER BY number")?;
        let rows = statement.query_map([upload], |r| {
            let size: i64 = r.get("size")?;
            let meta: String = r.get("meta")?;
            Ok(Part {
                number: r.get("number")?,
                etag: r.get("etag")?,
                size: u64::try_from(size).unwrap_or(0),
                modified: r.get("modified")?,
                file: r.get("file")?,
                meta: serde_json::from_str(&meta).unwrap_or_default(),
            })
        })?;
        rows.collect()
    }

    /// End an upload: with an object made of it, or without.
    ///
    /// # Errors
    /// `NoKey` if the upload is gone; as [`Index::put`].
    pub fn end_upload(
        &mut self,
        upload: &str,
        bucket: &str,
        object: Option<(&NewObject, &Condition)>,
    ) -> Result<Written, Refusal> {
        let t = self.connection.transaction()?;
        if t.execute("DELETE FROM uploads WHERE id = ?", [upload])? == 0 {
            return Err(Refusal::NoKey);
        }
        let old = match object {
            Some((object, condition)) => put_in(&t, bucket, object, condition)?,
            None => Written::default(),
        };
        t.commit()?;
        Ok(old)
    }

    /// Every file that something refers to.
    ///
    /// # Errors
    /// SQLite's.
    pub fn files(&self) -> rusqlite::Result<std::collections::BTreeSet<String>> {
        let mut statement = self.connection.prepare(
            "SELECT file FROM objects WHERE file IS NOT NULL UNION SELECT file FROM parts",
        )?;
        statement.query_map([], |r| r.get(0))?.collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// As the first version of the store made it.
    const FORMAT_1: &str = "
        CREATE TABLE buckets (name TEXT PRIMARY KEY, created INTEGER NOT NULL) WITHOUT ROWID;
        CREATE TABLE objects (
            id INTEGER PRIMARY KEY, bucket TEXT NOT NULL, key BLOB NOT NULL, etag TEXT NOT NULL, size INTEGER NOT NULL,
            modified INTEGER NOT NULL, meta TEXT NOT NULL, file TEXT, UNIQUE (bucket, key));
        CREATE TABLE bodies (id INTEGER PRIMARY KEY REFERENCES objects(id) ON DELETE CASCADE, data BLOB NOT NULL);
        CREATE TABLE uploads (
            id TEXT PRIMARY KEY, bucket TEXT NOT NULL, key BLOB NOT NULL, meta TEXT NOT NULL, initiated INTEGER NOT NULL);
        CREATE TABLE parts (
            upload TEXT NOT NULL REFERENCES uploads(id) ON DELETE CASCADE, number INTEGER NOT NULL, etag TEXT NOT NULL,
            size INTEGER NOT NULL, modified INTEGER NOT NULL, file TEXT NOT NULL, meta TEXT NOT NULL,
            PRIMARY KEY (upload, number));
        INSERT INTO buckets VALUES ('photos', 7);
        INSERT INTO objects VALUES (3, 'photos', CAST('inline' AS BLOB), 'e1', 5, 11, '{}', NULL);
        INSERT INTO objects VALUES (5, 'photos', CAST('large' AS BLOB), 'e2', 900000, 12, '{}', 'f1');
        INSERT INTO bodies VALUES (3, CAST('bytes' AS BLOB));
        INSERT INTO uploads VALUES ('u', 'photos', CAST('new' AS BLOB), '{}', 13);
        INSERT INTO parts VALUES ('u', 1, 'e3', 8, 14, 'f2', '{}');
        PRAGMA user_version = 1;
    ";

    #[test]
    fn an_index_of_format_1_is_taken_over_with_all_that_is_in_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("index");
        let first = Connection::open(&path).unwrap();
        first.execute_batch(FORMAT_1).unwrap();
        drop(first);
        // Once more as a store that starts again.
        for _ in 0..2 {
            let index = Index::open(&path).unwrap();
            assert_eq!(index.buckets().unwrap(), [("photos".to_owned(), 7)]);
            let read = |key: &str| {
                let mut statement = index
                    .connection
                    .prepare("SELECT * FROM objects WHERE key = CAST(? AS BLOB)")
                    .unwrap();
                statement.query_row([key], to_record).unwrap()
            };
            let (inline, large) = (read("inline"), read("large"));
            for record in [&inline, &large] {
                assert_eq!((record.version.as_str(), record.latest), ("null", true));
                assert!(!record.marker);
            }
            assert_eq!((inline.etag.as_str(), inline.size), ("e1", 5));
            assert_eq!((inline.modified, inline.place), (11, Place::Inline));
            assert_eq!(large.place, Place::File("f1".to_owned()));
            let body: Vec<u8> = index
                .connection
                .query_row("SELECT data FROM bodies WHERE id = 3", [], |r| r.get(0))
                .unwrap();
            assert_eq!(body, b"bytes");
            assert_eq!(index.parts("u").unwrap()[0].file, "f2");
            let files = index.files().unwrap();
            assert_eq!(files.into_iter().collect::<Vec<_>>(), ["f1", "f2"]);
        }
        // What refers to the tables that were replaced still holds.
        let index = Index::open(&path).unwrap();
        index
            .connection
            .execute("DELETE FROM objects WHERE id = 3", [])
            .unwrap();
        let bodies: i64 = index
            .connection
            .query_row("SELECT count(*) FROM bodies", [], |r| r.get(0))
            .unwrap();
        assert_eq!(bodies, 0);
    }

    #[test]
    fn an_index_of_a_later_format_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("index");
        Index::open(&path)
            .unwrap()
            .connection
            .pragma_update(None, "user_version", FORMAT + 1)
            .unwrap();
        let refused = Index::open(&path).err().unwrap().to_string();
        assert!(refused.contains("another directory"), "{refused}");
    }
}
