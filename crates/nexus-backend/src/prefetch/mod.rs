//! Prefetch: what a function is about to read is read while its VM starts (docs/prefetch.md).
//!
//! [`template`] says what to read for an event, [`predict`] where that comes from and whether it pays, [`copies`] holds what was
//! read for one invocation and decides whether it may stand for a read that the function makes.

mod copies;
mod predict;
mod template;

pub use copies::{Copies, Inputs, PrefetchReport};
pub use template::Template;

use crate::FunctionIdentity;
use crate::operation::Engine;
use bytes::Bytes;
use predict::{Predictor, Source};
use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};

/// Objects read ahead for one invocation.
pub const MAX_REQUESTS: usize = 8;
/// Largest object that is kept, in bytes; a larger one is left to the function.
pub const MAX_OBJECT: u64 = 8 << 20;
/// Bytes of all copies of the node.
pub const MAX_BYTES: usize = 256 << 20;
/// Functions whose habits are remembered.
const MAX_FUNCTIONS: usize = 4096;

/// What a function wants read ahead.
#[derive(Clone, Debug, Default)]
pub struct PrefetchOptions {
    pub templates: Vec<Template>,
    /// Objects that S3 event records name.
    pub records: bool,
    /// What the function has been seen to read.
    pub learn: bool,
}

/// What the prefetches of a node share.
#[derive(Debug, Default)]
pub struct Prefetcher {
    functions: Mutex<HashMap<String, Arc<Predictor>>>,
    /// Held by copies now.
    bytes: Arc<AtomicUsize>,
}

impl Prefetcher {
    fn predictor(&self, function: &str) -> Arc<Predictor> {
        let mut functions = self
            .functions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if functions.len() >= MAX_FUNCTIONS && !functions.contains_key(function) {
            functions.clear();
        }
        Arc::clone(functions.entry(function.to_owned()).or_default())
    }
}

/// Begin to read what `event` lets expect. `hint`: the request's header, a list of `s3://` URLs that counts only within the
/// declared templates. To be called once the event has arrived, on a tokio runtime.
pub fn begin(
    engine: &Arc<Engine>,
    identity: &FunctionIdentity,
    options: &PrefetchOptions,
    event: &Bytes,
    hint: Option<&str>,
) -> Option<Arc<Copies>> {
    let nothing = options.templates.is_empty() && !options.records && !options.learn;
    if nothing {
        return None;
    }
    let value = serde_json::from_slice(event).unwrap_or_default();
    let predictor = engine.prefetch.predictor(&identity.name);
    let mut wanted: Vec<(_, Source)> = Vec::new();
    let mut want = |object, source| {
        if wanted.len() < MAX_REQUESTS && !wanted.iter().any(|(known, _)| *known == object) {
            wanted.push((object, source));
        }
    };
    for url in hint.unwrap_or_default().split(',').map(str::trim) {
        if let Some(object) = template::object(url)
            && options.templates.iter().any(|t| t.admits(&object))
        {
            want(object, Source::Header);
        }
    }
    for object in options.templates.iter().filter_map(|t| t.expand(&value)) {
        want(object, Source::Template);
    }
    if options.records {
        for object in predictor.records(&value) {
            want(object, Source::Record);
        }
    }
    if options.learn {
        for object in predictor.learnt(&value) {
            want(object, Source::Learnt);
        }
    }
    let affordable = predictor.affordable();
    wanted.truncate(affordable);
    Some(Copies::start(
        engine, identity, predictor, value, wanted, options,
    ))
}
