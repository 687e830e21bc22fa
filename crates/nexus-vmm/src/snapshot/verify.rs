//! A restore up to its first mapping: what decides whether a snapshot is taken in, and whether it is still good when
//! its node starts. Needs no KVM.

use super::plan::Segment;
use super::{huge, read};
use crate::clock::Clock;
use crate::config::{MAX_DOCUMENT, Serve};
use crate::guest::Handle;
use crate::microvm::personality;
use nexus_personality::process::Process;
use nexus_personality::window::Window;
use std::io::Read;
use std::sync::Arc;

/// Verify the snapshot that a configuration of mode `restore` names, with the roots that it names.
///
/// # Errors
/// Why it would not be restored: a sentence.
pub fn for_config(document: impl Read) -> Result<(), String> {
    let mut text = Vec::new();
    document
        .take(MAX_DOCUMENT)
        .read_to_end(&mut text)
        .map_err(|e| format!("reading the configuration: {e}"))?;
    for_restore(&Serve::parse(&text)?)
}

/// As [`for_config`].
///
/// # Errors
/// As there.
pub fn for_restore(config: &Serve) -> Result<(), String> {
    let directory = config.snapshot.as_deref().ok_or("no snapshot is named")?;
    read::verify(directory)?;
    planned(config, |segments| huge::read_anew(&segments))
}

/// The host's mappings that a restore would make.
///
/// # Errors
/// As [`for_config`], but for damage to the pages.
pub fn plan(config: &Serve) -> Result<Vec<Segment>, String> {
    planned(config, |segments| segments)
}

/// Give `then` these mappings while their files are open.
fn planned<T>(config: &Serve, then: impl FnOnce(Vec<Segment>) -> T) -> Result<T, String> {
    let directory = config.snapshot.as_deref().ok_or("no snapshot is named")?;
    let opened = read::snapshot(directory)?;
    let metadata = &opened.metadata;
    if metadata.threads.len() > config.max_threads {
        return Err(format!(
            "it has {} threads, more than the {} that it may have",
            metadata.threads.len(),
            config.max_threads
        ));
    }
    read::template(&metadata.cpuid)?;
    let clock = metadata.clock.map(Clock::known).transpose()?;
    let window = Window::reserve().map_err(|e| format!("reserving the address space: {e}"))?;
    let machine = Arc::new(Handle::default());
    let process = Process::restore(
        window,
        personality(config, clock),
        machine,
        &metadata.process,
        None,
    )
    .map_err(|e| e.to_string())?;
    opened.plan(&process).map(then)
}
