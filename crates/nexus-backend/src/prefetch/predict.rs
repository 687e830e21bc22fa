//! Where a prefetch comes from, and whether it pays: per function, what its events and its reads had to do with each other.

use super::template::{Template, checked};
use crate::writes::ledger::ObjectName;
use crate::writes::target::decode;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Why an object was read ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Header,
    Template,
    Record,
    Learnt,
}

/// Guesses that a rate is made of.
const WINDOW: u32 = 16;
/// Guesses before a learnt pattern is used; it is right in at least this share of them.
const LEAST: u32 = 4;
const LEARNT_RATE: f64 = 0.75;
/// Records are read ahead until they turn out to be read in less than this share of invocations.
const RECORD_RATE: f64 = 0.5;
/// Patterns watched for a function.
const MAX_PATTERNS: usize = 32;
/// Strings of an event that are looked at, and how deep.
const MAX_LEAVES: usize = 64;
const DEPTH: usize = 6;
/// Wasted reads a function may have at once, and how many it earns a second.
const CREDIT: f64 = 100.0;
const CREDIT_PER_S: f64 = 1.0;

/// How often a guess was right lately.
#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    /// The newest is bit 0.
    hits: u32,
    tries: u32,
}

impl Rate {
    fn add(&mut self, hit: bool) {
        self.hits = (self.hits << 1 | u32::from(hit)) & ((1 << WINDOW) - 1);
        self.tries = (self.tries + 1).min(WINDOW);
    }

    fn is_at_least(&self, rate: f64) -> bool {
        f64::from(self.hits.count_ones()) >= rate * f64::from(self.tries)
    }
}

#[derive(Debug, Default)]
pub struct Predictor(Mutex<State>);

#[derive(Debug)]
struct State {
    records: Rate,
    /// By the template's text.
    patterns: HashMap<String, (Template, Rate)>,
    credit: f64,
    since: Instant,
}

impl Default for State {
    fn default() -> Self {
        Self {
            records: Rate::default(),
            patterns: HashMap::new(),
            credit: CREDIT,
            since: Instant::now(),
        }
    }
}

impl Predictor {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Objects that an event's S3 records name, where the function is known to read such.
    pub fn records(&self, event: &Value) -> Vec<ObjectName> {
        let pays = {
            let state = self.lock();
            state.records.tries < LEAST || state.records.is_at_least(RECORD_RATE)
        };
        if pays { of_records(event) } else { Vec::new() }
    }

    /// Objects that patterns learnt from earlier invocations name.
    pub fn learnt(&self, event: &Value) -> Vec<ObjectName> {
        let state = self.lock();
        let good = state
            .patterns
            .values()
            .filter(|(_, rate)| rate.tries >= LEAST && rate.is_at_least(LEARNT_RATE));
        good.filter_map(|(template, _)| template.expand(event))
            .collect()
    }

    /// How many reads ahead the function may have, by what it wasted.
    pub fn affordable(&self) -> usize {
        let mut state = self.lock();
        let earned = state.since.elapsed().as_secs_f64() * CREDIT_PER_S;
        state.credit = (state.credit + earned).min(CREDIT);
        state.since = Instant::now();
        // Between 0 and CREDIT.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let whole = state.credit.max(0.0) as usize;
        whole
    }

    /// An invocation has ended: what it read, and how many reads ahead were for nothing.
    pub fn observe(&self, event: &Value, reads: &[ObjectName], wasted: usize, learn: bool) {
        let mut state = self.lock();
        for _ in 0..wasted {
            state.credit -= 1.0;
        }
        for object in of_records(event) {
            state.records.add(reads.contains(&object));
        }
        if !learn {
            return;
        }
        for (template, rate) in state.patterns.values_mut() {
            if let Some(object) = template.expand(event) {
                rate.add(reads.contains(&object));
            }
        }
        let leaves = leaves(event);
        for object in reads.iter().take(super::MAX_REQUESTS) {
            let Some(text) = generalise(object, &leaves) else {
                continue;
            };
            if state.patterns.contains_key(&text) {
                continue;
            }
            if state.patterns.len() >= MAX_PATTERNS {
                state.drop_worst();
            }
            if let Ok(template) = Template::parse(&text) {
                let mut rate = Rate::default();
                rate.add(true);
                state.patterns.insert(text, (template, rate));
            }
        }
    }
}

impl State {
    fn drop_worst(&mut self) {
        let worst = self
            .patterns
            .iter()
            .min_by_key(|(_, (_, rate))| rate.hits.count_ones())
            .map(|(text, _)| text.clone());
        if let Some(text) = worst {
            self.patterns.remove(&text);
        }
    }
}

/// Objects named by S3's event records, as S3 writes them: keys are form-encoded.
fn of_records(event: &Value) -> Vec<ObjectName> {
    let records = event.get("Records").and_then(Value::as_array);
    let objects = records.into_iter().flatten().take(super::MAX_REQUESTS);
    objects
        .filter_map(|record| {
            let created = record
                .get("eventName")
                .and_then(Value::as_str)
                .is_none_or(|name| !name.contains("Removed") && !name.contains("Delete"));
            let s3 = record.get("s3").filter(|_| created)?;
            let bucket = s3.get("bucket")?.get("name")?.as_str()?;
            let key = s3.get("object")?.get("key")?.as_str()?;
            checked(bucket.to_owned(), decode(&key.replace('+', " ")))
        })
        .collect()
}

/// The strings of an event, with their paths.
fn leaves(event: &Value) -> Vec<(String, String)> {
    fn walk(value: &Value, path: &str, depth: usize, out: &mut Vec<(String, String)>) {
        if out.len() >= MAX_LEAVES || depth > DEPTH {
            return;
        }
        let join = |step: &str| {
            if path.is_empty() {
                step.to_owned()
            } else {
                format!("{path}.{step}")
            }
        };
        match value {
            Value::String(text) if !path.is_empty() => out.push((path.to_owned(), text.clone())),
            Value::Object(map) => {
                for (name, value) in map {
                    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
                    if !name.is_empty() && name.bytes().all(plain) {
                        walk(value, &join(name), depth + 1, out);
                    }
                }
            }
            Value::Array(list) => {
                for (index, value) in list.iter().enumerate().take(4) {
                    walk(value, &join(&index.to_string()), depth + 1, out);
                }
            }
            _ => {}
        }
    }
    let mut out = Vec::new();
    walk(event, "", 0, &mut out);
    out
}

/// The template that makes this object of that event: the longest string of the event that occurs in a name stands for its part.
fn generalise(object: &ObjectName, leaves: &[(String, String)]) -> Option<String> {
    let part = |text: &str, whole_only: bool| {
        if text.contains(['{', '}']) {
            return None;
        }
        let fits = |value: &str| {
            value == text || (!whole_only && value.len() >= 4 && text.contains(value))
        };
        let longest = leaves
            .iter()
            .filter(|(_, value)| !value.is_empty() && fits(value))
            .max_by_key(|(_, value)| value.len());
        Some(match longest {
            Some((path, value)) => text.replacen(value.as_str(), &format!("{{{path}}}"), 1),
            None => text.to_owned(),
        })
    };
    Some(format!(
        "s3://{}/{}",
        part(&object.bucket, true)?,
        part(&object.key, false)?
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(bucket: &str, key: &str) -> ObjectName {
        ObjectName {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
        }
    }

    #[test]
    fn a_pattern_is_used_once_it_has_proved_right_and_until_it_is_wrong() {
        let predictor = Predictor::default();
        let event = |n: u32| json!({"where": "photos", "id": format!("image-{n}")});
        for n in 0..4 {
            assert!(predictor.learnt(&event(n)).is_empty());
            let read = object("photos", &format!("in/image-{n}.png"));
            predictor.observe(&event(n), &[read], 0, true);
        }
        assert_eq!(
            predictor.learnt(&event(9)),
            [object("photos", "in/image-9.png")]
        );
        for n in 10..14 {
            predictor.observe(&event(n), &[], 0, true);
        }
        assert!(predictor.learnt(&event(9)).is_empty());
    }

    #[test]
    fn records_name_objects_until_nobody_reads_them() {
        let predictor = Predictor::default();
        let event = json!({"Records": [{"eventName": "ObjectCreated:Put",
            "s3": {"bucket": {"name": "photos"}, "object": {"key": "a+b%2Bc.png"}}}]});
        let named = object("photos", "a b+c.png");
        assert_eq!(predictor.records(&event).first(), Some(&named));
        for _ in 0..4 {
            predictor.observe(&event, &[], 1, false);
        }
        assert!(predictor.records(&event).is_empty());
        for _ in 0..4 {
            predictor.observe(&event, std::slice::from_ref(&named), 0, false);
        }
        assert_eq!(predictor.records(&event), [named]);
        let removed = json!({"Records": [{"eventName": "ObjectRemoved:Delete",
            "s3": {"bucket": {"name": "photos"}, "object": {"key": "k"}}}]});
        assert!(predictor.records(&removed).is_empty());
    }

    #[test]
    fn waste_is_paid_for() {
        let predictor = Predictor::default();
        assert_eq!(predictor.affordable(), 100);
        predictor.observe(&json!({}), &[], 200, false);
        assert_eq!(predictor.affordable(), 0);
    }
}
