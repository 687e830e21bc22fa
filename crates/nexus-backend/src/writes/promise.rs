//! What a deferred PUT is answered: what this store answered the same function's last PUT to the same bucket, with the ETag
//! and the checksum of these bytes. Where a store's answer has parts that cannot be known ahead, nothing is deferred.

use crate::operation::{Algorithm, Checksum};
use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long an answer stands for those to come: a bucket's settings may change.
const FRESH: Duration = Duration::from_secs(300);
/// Buckets remembered; a node that uses more learns some of them anew.
const MAX_PROFILES: usize = 4096;
/// Headers of an answer that are the same each time.
const CONSTANT: [&str; 8] = [
    "x-amz-server-side-encryption",
    "x-amz-checksum-type",
    "server",
    "content-length",
    "accept-ranges",
    "connection",
    "keep-alive",
    "vary",
];

/// Head of a reply, as it goes to the guest.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ReplyHead {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub retries: u64,
}

impl ReplyHead {
    pub fn value(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// What the bytes of an object say of themselves.
#[derive(Clone, Debug)]
pub struct Fingerprint {
    /// Quoted, as S3 writes ETags.
    pub etag: String,
    pub crc32: String,
}

impl Fingerprint {
    pub fn of(bytes: &[u8]) -> Self {
        let mut crc32 = Checksum::new(Algorithm::Crc32);
        crc32.update(bytes);
        let md5 = Md5::digest(bytes);
        Self {
            etag: format!("\"{}\"", crate::sigv4::hex(&md5)),
            crc32: crc32.finish(),
        }
    }
}

/// Whether a function's PUTs to a bucket can be answered ahead.
#[derive(Clone, Debug)]
pub enum Profile {
    Unknown,
    /// The answer to be shaped like this one.
    Plain(Arc<ReplyHead>),
    Never,
}

/// By function and bucket.
type Known = HashMap<(Arc<str>, String), (Profile, Instant)>;

#[derive(Debug, Default)]
pub struct Profiles(Mutex<Known>);

impl Profiles {
    pub fn get(&self, function: &Arc<str>, bucket: &str) -> Profile {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match known.get(&(Arc::clone(function), bucket.to_owned())) {
            Some((profile, since)) if since.elapsed() < FRESH => profile.clone(),
            _ => Profile::Unknown,
        }
    }

    /// Take note of a store's answer to a PUT of these bytes.
    pub fn learn(
        &self,
        function: &Arc<str>,
        bucket: &str,
        answer: &ReplyHead,
        bytes: &Fingerprint,
    ) {
        if answer.status != 200 {
            return;
        }
        let profile = if is_plain(answer, bytes) {
            Profile::Plain(Arc::new(answer.clone()))
        } else {
            Profile::Never
        };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let name = (Arc::clone(function), bucket.to_owned());
        if known.len() >= MAX_PROFILES && !known.contains_key(&name) {
            known.clear();
        }
        known.insert(name, (profile, Instant::now()));
    }
}

/// Whether everything that matters in an answer follows from the bytes, or is the same each time.
fn is_plain(answer: &ReplyHead, bytes: &Fingerprint) -> bool {
    let mut etag = false;
    for (name, value) in &answer.headers {
        let name = name.to_ascii_lowercase();
        match name.as_str() {
            "etag" if *value == bytes.etag => etag = true,
            "x-amz-checksum-crc32" if *value == bytes.crc32 => {}
            "x-amz-server-side-encryption" if value == "AES256" => {}
            "x-amz-server-side-encryption" | "etag" => return false,
            "date" | "x-amz-request-id" | "x-amz-id-2" => {}
            other if CONSTANT.contains(&other) => {}
            // Version ids, expiry dates, other checksums: not to be known ahead.
            other if other.starts_with("x-amz-") => return false,
            _ => {}
        }
    }
    etag
}

/// The answer to a PUT of these bytes.
pub fn answer(model: &ReplyHead, bytes: &Fingerprint, id: u64) -> ReplyHead {
    let headers = model.headers.iter().map(|(name, value)| {
        let value = match name.to_ascii_lowercase().as_str() {
            "etag" => bytes.etag.clone(),
            "x-amz-checksum-crc32" => bytes.crc32.clone(),
            "date" => http_date(SystemTime::now()),
            "x-amz-request-id" => format!("NEXUS{id:011X}"),
            "x-amz-id-2" => format!("nexus-deferred-{id}"),
            _ => value.clone(),
        };
        (name.clone(), value)
    });
    ReplyHead {
        status: 200,
        headers: headers.collect(),
        retries: 0,
    }
}

/// RFC 9110, section 5.6.7.
pub fn http_date(time: SystemTime) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let name = |names: &'static [&'static str], at: u64| {
        let at = usize::try_from(at).unwrap_or(0);
        names.get(at).copied().unwrap_or_default()
    };
    format!(
        "{}, {day:02} {} {year} {:02}:{:02}:{:02} GMT",
        name(&DAYS, days % 7),
        name(&MONTHS, month - 1),
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

/// Seconds since 1970 of an HTTP date in its only form that is still sent.
pub fn parse_date(text: &str) -> Option<u64> {
    let parts: Vec<&str> = text.split_ascii_whitespace().collect();
    let [_, day, month, year, clock, "GMT"] = parts.as_slice() else {
        return None;
    };
    let months = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let month = u64::try_from(months.find(month)? / 3 + 1).ok()?;
    let (day, year): (u64, u64) = (day.parse().ok()?, year.parse().ok()?);
    let mut clock = clock.split(':').map(str::parse::<u64>);
    let (h, m, s) = (
        clock.next()?.ok()?,
        clock.next()?.ok()?,
        clock.next()?.ok()?,
    );
    if !(1970..=9999).contains(&year) || !(1..=31).contains(&day) {
        return None;
    }
    Some(days(year, month, day) * 86_400 + h * 3600 + m * 60 + s)
}

/// Days since 1970 to a date of the Gregorian calendar, counted from March so that leap days come last.
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let of_era = z % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

/// The inverse of [`civil`].
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year / 400, year % 400);
    let shifted = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * shifted + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn head(headers: &[(&str, &str)]) -> ReplyHead {
        ReplyHead {
            status: 200,
            headers: headers
                .iter()
                .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
                .collect(),
            retries: 0,
        }
    }

    #[test]
    fn only_an_answer_that_can_be_known_ahead_is_promised() {
        let bytes = Fingerprint::of(b"hello");
        assert_eq!(bytes.etag, "\"5d41402abc4b2a76b9719d911017c592\"");
        let etag = bytes.etag.as_str();
        let function: Arc<str> = "f".into();
        let learnt = |headers: &[(&str, &str)]| {
            let profiles = Profiles::default();
            profiles.learn(&function, "b", &head(headers), &bytes);
            matches!(profiles.get(&function, "b"), Profile::Plain(_))
        };
        assert!(learnt(&[
            ("ETag", etag),
            ("Date", "x"),
            ("x-amz-request-id", "1")
        ]));
        assert!(learnt(&[
            ("ETag", etag),
            ("x-amz-server-side-encryption", "AES256")
        ]));
        assert!(!learnt(&[
            ("ETag", etag),
            ("x-amz-server-side-encryption", "aws:kms")
        ]));
        assert!(!learnt(&[("ETag", etag), ("x-amz-version-id", "v")]));
        assert!(!learnt(&[("ETag", etag), ("x-amz-expiration", "e")]));
        assert!(!learnt(&[("ETag", "\"other\"")]));
        assert!(!learnt(&[("Date", "x")]));
    }

    #[test]
    fn an_answer_is_that_of_its_own_bytes() {
        let first = Fingerprint::of(b"hello");
        let model = head(&[
            ("ETag", &first.etag),
            ("x-amz-checksum-crc32", &first.crc32),
            ("Server", "s"),
        ]);
        let second = Fingerprint::of(b"other");
        let reply = answer(&model, &second, 7);
        assert_eq!(reply.value("etag"), Some(second.etag.as_str()));
        assert_eq!(
            reply.value("x-amz-checksum-crc32"),
            Some(second.crc32.as_str())
        );
        assert_eq!(reply.value("server"), Some("s"));
    }

    #[test]
    fn dates() {
        for seconds in [0, 951_782_400, 1_709_210_096, 1_790_000_000, 4_107_542_399] {
            let text = http_date(UNIX_EPOCH + Duration::from_secs(seconds));
            assert_eq!(parse_date(&text), Some(seconds), "{text}");
        }
        let text = http_date(UNIX_EPOCH + Duration::from_secs(784_111_777));
        assert_eq!(text, "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(parse_date("yesterday"), None);
    }
}
