//! Taking a snapshot of a stopped guest.

use super::base::Base;
use super::commit::Pending;
use super::format::{Leaf, Metadata, encode};
use super::pages::{self, Pagemap};
use super::read;
use crate::clock::Clock;
use crate::kvm::cpuid::{NativeLeaves, Template};
use crate::kvm::flavour::Flavour;
use crate::report::now;
use nexus_personality::machine::{ThreadState, Tid};
use nexus_personality::process::Process;
use nexus_personality::window::Window;
use std::io::Write;
use std::path::Path;

/// What must be opened before the jail closes.
pub struct Taker {
    pending: Pending,
    pagemap: Pagemap,
    base: Option<Base>,
}

/// What was written.
pub struct Taken {
    pub bytes: u64,
    pub mappings: usize,
}

impl Taker {
    /// Prepare for a snapshot at `target`, of a guest that is restored from the snapshot `base` where there is one.
    ///
    /// # Errors
    /// A sentence.
    pub fn new(target: &Path, base: Option<&Path>) -> Result<Self, String> {
        let pagemap = Pagemap::open().map_err(|e| format!("/proc/self/pagemap: {e}"))?;
        let pending = Pending::new(target, base)
            .map_err(|e| format!("preparing the snapshot {}: {e}", target.display()))?;
        Ok(Self {
            pending,
            pagemap,
            base: None,
        })
    }

    /// Tell which snapshot the guest was restored from: that which `new` was told of.
    ///
    /// # Errors
    /// It rests on another itself; the host's.
    pub fn set_base(&mut self, base: &read::Opened) -> Result<(), String> {
        if base.base.is_some() {
            return Err("a base must not have a base of its own".into());
        }
        let base = Base::new(&base.pages, base.file).map_err(|e| format!("the base: {e}"))?;
        self.base = Some(base);
        Ok(())
    }

    /// Write, make durable, give it its name.
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
        let (runs, file) = pages::save(process, window, &self.pagemap, base, &self.pending.pages)
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
            runs,
        };
        let bytes = encode(&metadata, file)?;
        self.pending
            .metadata
            .write_all(&bytes)
            .map_err(|e| format!("writing the snapshot's metadata: {e}"))?;
        self.pending.commit()?;
        Ok(taken)
    }
}
