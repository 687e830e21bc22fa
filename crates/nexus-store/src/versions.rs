//! Objects and their versions in the index: write, read, delete, list; and what else belongs to a version or a bucket.
//!
//! A bucket without versioning has one version of each key, named `null`. With it every write adds a version, and a
//! delete adds a marker. One row of a key is the latest.

use crate::index::{Condition, Index, NewObject, Refusal, bucket_exists, text, to_record};
use crate::meta::{Place, Record, now};
use crate::store::unique_name;
use rusqlite::{OptionalExtension, Transaction, params};

/// The version of what was written without versioning.
pub const NULL: &str = "null";
const ENABLED: &str = "Enabled";

/// What a write or a delete did.
#[derive(Debug, Default)]
pub struct Written {
    /// A file that nothing refers to any more.
    pub old: Option<String>,
    /// The version that is written or deleted, where the bucket knows versions.
    pub version: Option<String>,
    /// It is a delete marker.
    pub marker: bool,
}

/// A version to write: its id, and what it replaces.
struct Slot {
    version: String,
    /// Whether the bucket knows versions at all.
    shown: bool,
    old: Option<String>,
}

fn versioning(t: &rusqlite::Connection, bucket: &str) -> Result<Option<String>, Refusal> {
    t.prepare_cached("SELECT versioning FROM buckets WHERE name = ?")?
        .query_row([bucket], |r| r.get(0))
        .optional()?
        .ok_or(Refusal::NoBucket)
}

/// Make way for a new latest version of a key.
fn slot(t: &Transaction<'_>, bucket: &str, key: &str) -> Result<Slot, Refusal> {
    let state = versioning(t, bucket)?;
    let mut old = None;
    let version = if state.as_deref() == Some(ENABLED) {
        unique_name()
            .map_err(|e| Refusal::Database(rusqlite::Error::ToSqlConversionFailure(Box::new(e))))?
    } else {
        old = remove(t, bucket, key, NULL)?.and_then(|(file, _)| file);
        NULL.to_owned()
    };
    if state.is_some() {
        t.prepare_cached(
            "UPDATE objects SET latest = 0 WHERE bucket = ? AND key = ? AND latest = 1",
        )?
        .execute(params![bucket, key.as_bytes()])?;
    }
    Ok(Slot {
        version,
        shown: state.is_some(),
        old,
    })
}

/// Delete one version; its file, and whether it was a marker.
fn remove(
    t: &Transaction<'_>,
    bucket: &str,
    key: &str,
    version: &str,
) -> rusqlite::Result<Option<(Option<String>, bool)>> {
    t.prepare_cached(
        "DELETE FROM objects WHERE bucket = ? AND key = ? AND version = ? RETURNING file, marker",
    )?
    .query_row(params![bucket, key.as_bytes(), version], |r| {
        Ok((r.get(0)?, r.get(1)?))
    })
    .optional()
}

/// Write an object in a transaction.
///
/// # Errors
/// `NoBucket`, `Condition`, `NoKey`.
pub(crate) fn put_in(
    t: &Transaction<'_>,
    bucket: &str,
    object: &NewObject,
    condition: &Condition,
) -> Result<Written, Refusal> {
    if !bucket_exists(t, bucket)? {
        return Err(Refusal::NoBucket);
    }
    let record = &object.record;
    if *condition != Condition::None {
        let found: Option<String> = t
            .prepare_cached(
                "SELECT etag FROM objects WHERE bucket = ? AND key = ? AND latest = 1 AND marker = 0",
            )?
            .query_row(params![bucket, record.key.as_bytes()], |r| r.get(0))
            .optional()?;
        match (condition, found) {
            (Condition::Absent, Some(_)) => return Err(Refusal::Condition),
            (Condition::Matches(_), None) => return Err(Refusal::NoKey),
            (Condition::Matches(etag), Some(found)) if etag != "*" && *etag != found => {
                return Err(Refusal::Condition);
            }
            _ => {}
        }
    }
    let slot = slot(t, bucket, &record.key)?;
    let file = match &record.place {
        Place::Inline => None,
        Place::File(name) => Some(name),
    };
    let size = i64::try_from(record.size).unwrap_or(i64::MAX);
    t.prepare_cached(
        "INSERT INTO objects (bucket, key, version, etag, size, modified, meta, file) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )?
    .execute(params![
        bucket,
        record.key.as_bytes(),
        slot.version,
        record.etag,
        size,
        record.modified,
        text(&record.meta),
        file
    ])?;
    if file.is_none() {
        t.prepare_cached("INSERT INTO bodies VALUES (?, ?)")?
            .execute(params![t.last_insert_rowid(), object.inline])?;
    }
    Ok(Written {
        old: slot.old,
        version: slot.shown.then_some(slot.version),
        marker: false,
    })
}

impl Index {
    /// An object, with its bytes if they are inline and wanted; the latest version, or the one named.
    ///
    /// # Errors
    /// `NoBucket`, `NoKey`, `NoVersion`, `Marker`.
    pub fn get(
        &self,
        bucket: &str,
        key: &str,
        version: Option<&str>,
        body: bool,
    ) -> Result<(Record, Vec<u8>), Refusal> {
        let found = self
            .connection
            .prepare_cached(
                "SELECT * FROM objects WHERE bucket = ?1 AND key = ?2 AND (version = ?3 OR (?3 IS NULL AND latest = 1))",
            )?
            .query_row(params![bucket, key.as_bytes(), version], |r| {
                Ok((to_record(r)?, r.get::<_, i64>("id")?))
            })
            .optional()?;
        let Some((record, id)) = found else {
            return Err(match (self.has_bucket(bucket)?, version) {
                (false, _) => Refusal::NoBucket,
                (true, None) => Refusal::NoKey,
                (true, Some(_)) => Refusal::NoVersion,
            });
        };
        if record.marker {
            return Err(Refusal::Marker(record.version));
        }
        let data = if body && record.place == Place::Inline {
            self.connection
                .prepare_cached("SELECT data FROM bodies WHERE id = ?")?
                .query_row([id], |r| r.get(0))?
        } else {
            Vec::new()
        };
        Ok((record, data))
    }

    /// Write an object.
    ///
    /// # Errors
    /// `NoBucket`, `Condition`, `NoKey`.
    pub fn put(
        &mut self,
        bucket: &str,
        object: &NewObject,
        condition: &Condition,
    ) -> Result<Written, Refusal> {
        let t = self.connection.transaction()?;
        let written = put_in(&t, bucket, object, condition)?;
        t.commit()?;
        Ok(written)
    }

    /// Delete an object if it is there, or hide it behind a marker; with a version, that version for good.
    ///
    /// # Errors
    /// `NoBucket`; `Condition` where another ETag than the given one is there.
    pub fn delete(
        &mut self,
        bucket: &str,
        key: &str,
        version: Option<&str>,
        condition: &Condition,
    ) -> Result<Written, Refusal> {
        let t = self.connection.transaction()?;
        let state = versioning(&t, bucket)?;
        if let Condition::Matches(etag) = condition {
            let found: Option<String> = t
                .prepare_cached(
                    "SELECT etag FROM objects WHERE bucket = ?1 AND key = ?2 AND marker = 0
                     AND (version = ?3 OR (?3 IS NULL AND latest = 1))",
                )?
                .query_row(params![bucket, key.as_bytes(), version], |r| r.get(0))
                .optional()?;
            match found {
                Some(found) if etag == "*" || *etag == found => {}
                Some(_) => return Err(Refusal::Condition),
                None => return Err(Refusal::NoKey),
            }
        }
        let written = match (version, state) {
            (Some(version), state) => {
                let (old, marker) = remove(&t, bucket, key, version)?.unwrap_or_default();
                // The newest that is left comes to the fore.
                t.prepare_cached(
                    "UPDATE objects SET latest = 1 WHERE id = (SELECT max(id) FROM objects WHERE bucket = ?1 AND key = ?2)
                     AND NOT EXISTS (SELECT 1 FROM objects WHERE bucket = ?1 AND key = ?2 AND latest = 1)",
                )?
                .execute(params![bucket, key.as_bytes()])?;
                Written {
                    old,
                    version: state.map(|_| version.to_owned()),
                    marker,
                }
            }
            (None, None) => Written {
                old: remove(&t, bucket, key, NULL)?.and_then(|(file, _)| file),
                ..Written::default()
            },
            (None, Some(_)) => {
                let slot = slot(&t, bucket, key)?;
                t.prepare_cached(
                    "INSERT INTO objects (bucket, key, version, marker, etag, size, modified, meta, file)
                     VALUES (?, ?, ?, 1, '', 0, ?, '{}', NULL)",
                )?
                .execute(params![bucket, key.as_bytes(), slot.version, now()])?;
                Written {
                    old: slot.old,
                    version: Some(slot.version),
                    marker: true,
                }
            }
        };
        t.commit()?;
        Ok(written)
    }

    /// Versions behind a place (key, and version there), keys in order and the newest of each first.
    ///
    /// # Errors
    /// `NoBucket`; SQLite's.
    pub fn versions(
        &self,
        bucket: &str,
        prefix: &str,
        key: &str,
        version: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Record>, Refusal> {
        versioning(&self.connection, bucket)?;
        let mut statement = self.connection.prepare_cached(
            "SELECT * FROM objects WHERE bucket = ?1 AND substr(key, 1, length(?2)) = ?2 AND (key > ?3 OR (key = ?3 AND id <
             (SELECT id FROM objects WHERE bucket = ?1 AND key = ?3 AND version = ?4))) ORDER BY key, id DESC LIMIT ?5",
        )?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let place = params![bucket, prefix.as_bytes(), key.as_bytes(), version, limit];
        let rows = statement.query_map(place, to_record)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Change what is kept of an object; the version that was changed.
    ///
    /// # Errors
    /// As [`Index::get`].
    pub fn set_tags(
        &mut self,
        bucket: &str,
        key: &str,
        version: Option<&str>,
        tags: Vec<(String, String)>,
    ) -> Result<Record, Refusal> {
        let (mut record, _) = self.get(bucket, key, version, false)?;
        record.meta.tags = tags;
        self.connection
            .prepare_cached(
                "UPDATE objects SET meta = ? WHERE bucket = ? AND key = ? AND version = ?",
            )?
            .execute(params![
                text(&record.meta),
                bucket,
                key.as_bytes(),
                record.version
            ])?;
        Ok(record)
    }

    /// `Enabled`, `Suspended`, or None where it never was.
    ///
    /// # Errors
    /// `NoBucket`.
    pub fn versioning(&self, bucket: &str) -> Result<Option<String>, Refusal> {
        versioning(&self.connection, bucket)
    }

    /// Turn versioning on or off.
    ///
    /// # Errors
    /// `NoBucket`.
    pub fn set_versioning(&mut self, bucket: &str, enabled: bool) -> Result<(), Refusal> {
        let state = if enabled { ENABLED } else { "Suspended" };
        self.set_bucket("versioning", bucket, Some(state))
    }

    /// A bucket's tags; None where it has none.
    ///
    /// # Errors
    /// `NoBucket`.
    pub fn bucket_tags(&self, bucket: &str) -> Result<Option<Vec<(String, String)>>, Refusal> {
        let text: Option<String> = self
            .connection
            .prepare_cached("SELECT tags FROM buckets WHERE name = ?")?
            .query_row([bucket], |r| r.get(0))
            .optional()?
            .ok_or(Refusal::NoBucket)?;
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
    }

    /// Give a bucket tags, or none.
    ///
    /// # Errors
    /// `NoBucket`.
    pub fn set_bucket_tags(
        &mut self,
        bucket: &str,
        tags: Option<&[(String, String)]>,
    ) -> Result<(), Refusal> {
        let text = tags.map(|tags| serde_json::to_string(tags).unwrap_or_default());
        self.set_bucket("tags", bucket, text.as_deref())
    }

    fn set_bucket(
        &mut self,
        column: &str,
        bucket: &str,
        value: Option<&str>,
    ) -> Result<(), Refusal> {
        let statement = format!("UPDATE buckets SET {column} = ? WHERE name = ?");
        match self
            .connection
            .execute(&statement, params![value, bucket])?
        {
            0 => Err(Refusal::NoBucket),
            _ => Ok(()),
        }
    }
}
