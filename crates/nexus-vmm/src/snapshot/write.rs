//! Taking a snapshot of a stopped guest.

use super::base::Base;
use super::format::{Leaf, Metadata, encode};
use super::pages::{self, Pagemap};
use super::{METADATA, PAGES, read};
use crate::clock::Clock;
use crate::kvm::cpuid::{NativeLeaves, Template};
use crate::kvm::flavour::Flavour;
use crate::report::now;
use nexus_personality::machine::{ThreadState, Tid};
use nexus_personality::process::Process;
use nexus_personality::window::Window;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// What must be opened before the jail closes.
pub struct Taker {
    metadata: File,
    pages: File,
    pagemap: Pagemap,
    base: Option<Base>,
}

/// What was written.
pub struct Taken {
    pub bytes: u64,
    pub mappings: usize,
}

impl Taker {
    /// Prepare for a snapshot in the empty directory `target`: once the jail has closed, nothing can be opened there.
    ///
    /// # Errors
    /// A sentence.
    pub fn new(target: &Path) -> Result<Self, String> {
        let pagemap = Pagemap::open().map_err(|e| format!("/proc/self/pagemap: {e}"))?;
        let create = |name: &str| {
            let path = target.join(name);
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
                .map_err(|e| format!("preparing the snapshot: {}: {e}", path.display()))
        };
        Ok(Self {
            metadata: create(METADATA)?,
            pages: create(PAGES)?,
            pagemap,
            base: None,
        })
    }

    /// Tell which snapshot the guest was restored from. Whoever keeps the new one puts its pages beside it.
    ///
    /// # Errors
    /// It rests on another itself; the host's.
    pub fn set_base(&mut self, base: &read::Opened) -> Result<(), String> {
        if base.base.is_some() {
            return Err("a base must not have a base of its own".into());
        }
        let runs = base.metadata.runs.clone();
        let base = Base::new(&base.pages, base.file, runs).map_err(|e| format!("the base: {e}"))?;
        self.base = Some(base);
        Ok(())
    }

    /// Write it, and make it durable. It is whole once its metadata is.
    ///
    /// # Errors
    /// What cannot be kept, or what the host refused: a sentence.
    pub fn take(
        mut self,
        process: &Process,
        window: Window,
        threads: Vec<ThreadState>,
        renews: Option<Tid>,
        (flavour, template, clock): (Flavour, Template, Option<Clock>),
    ) -> Result<Taken, String> {
        let state = process
            .save()
            .map_err(|e| format!("the guest cannot be kept: {e}"))?;
        let base = self.base.as_ref();
        let (saved, file) = pages::save(process, window, &self.pagemap, base, &self.pages)
            .map_err(|e| format!("writing the snapshot's pages: {e}"))?;
        let taken = Taken {
            bytes: file.length,
            mappings: state.mappings.len(),
        };
        let cpuid = template
            .leaves
            .as_slice()
            .iter()
            .map(|l| Leaf([l.function, l.index, l.flags, l.eax, l.ebx, l.ecx, l.edx]))
            .collect();
        let metadata = Metadata {
            vmm: Metadata::vmm_version(),
            flavour,
            native: NativeLeaves::read(),
            cpuid,
            clock: clock.map(|c| c.identity),
            process: state,
            threads,
            renews,
            taken: now(),
            base: self.base.as_ref().map(|base| base.file),
            runs: saved.runs,
            changed: saved.changed,
            differences: saved.differences,
        };
        let bytes = encode(&metadata, file)?;
        self.pages
            .sync_all()
            .and_then(|()| self.metadata.write_all(&bytes))
            .and_then(|()| self.metadata.sync_all())
            .map_err(|e| format!("writing the snapshot: {e}"))?;
        Ok(taken)
    }
}
