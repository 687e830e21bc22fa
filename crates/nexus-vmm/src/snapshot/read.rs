//! Opening a snapshot for restore, and verifying one as a whole.

use super::differences;
use super::format::{self, Content, Leaf, Metadata, PagesFile, Run};
use super::laid::Changed;
use super::plan::{self, Segment};
use super::{BASE, METADATA, PAGES};
use crate::kvm::cpuid::Template;
use crate::layout::PAGE;
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use nexus_personality::process::Process;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const MAX_METADATA: u64 = (256 << 20) + 4096;

/// A snapshot whose metadata is sound and fits this machine.
pub struct Opened {
    pub metadata: Metadata,
    pub pages: File,
    pub file: PagesFile,
    /// The base's pages, where the metadata tells of one.
    pub base: Option<File>,
}

impl Opened {
    /// Its changed pages.
    #[must_use]
    pub fn changed(&self) -> Changed<'_> {
        Changed {
            pages: &self.metadata.changed,
            own: (&self.pages, self.file.length),
            differences: self.metadata.differences,
        }
    }

    /// The host's mappings that show it, for a process restored from it.
    ///
    /// # Errors
    /// What of the runs is impossible.
    pub fn plan(&self, process: &Process) -> Result<Vec<Segment>, String> {
        let base = self.base.as_ref().map(AsRawFd::as_raw_fd);
        plan::plan(
            process.mm().vmas(),
            &self.metadata.runs,
            (self.pages.as_raw_fd(), self.file.length),
            base.zip(self.metadata.base.map(|b| b.length)),
        )
    }
}

pub(super) fn open(path: &Path) -> Result<File, String> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .map_err(|e| format!("{}: {e}", path.display()))?;
    let regular = file.metadata().is_ok_and(|m| m.is_file());
    if regular {
        Ok(file)
    } else {
        Err(format!("{} is not a file", path.display()))
    }
}

/// Open and check all but the content of the pages.
///
/// # Errors
/// Why it cannot be used: a sentence.
pub fn snapshot(directory: &Path) -> Result<Opened, String> {
    let mut bytes = Vec::new();
    open(&directory.join(METADATA))?
        .take(MAX_METADATA)
        .read_to_end(&mut bytes)
        .map_err(|e| format!("reading the snapshot's metadata: {e}"))?;
    let (metadata, file) = format::decode(&bytes)?;
    format::check(&metadata)?;
    let pages = pages_file(directory, PAGES, file)?;
    let base = metadata
        .base
        .map(|base| pages_file(directory, BASE, base))
        .transpose()?;
    Ok(Opened {
        metadata,
        pages,
        file,
        base,
    })
}

fn pages_file(directory: &Path, name: &str, expected: PagesFile) -> Result<File, String> {
    let file = open(&directory.join(name))?;
    let length = file
        .metadata()
        .map_err(|e| format!("the {name} file: {e}"))?
        .len();
    if length == expected.length {
        Ok(file)
    } else {
        Err(format!(
            "the {name} file has {length} bytes instead of {}",
            expected.length
        ))
    }
}

/// Everything that [`snapshot`] checks, and the checksums of the pages.
///
/// # Errors
/// As there.
pub fn verify(directory: &Path) -> Result<(), String> {
    let opened = snapshot(directory)?;
    checksum(&opened.pages, PAGES, opened.file)?;
    let (Some(base), Some(expected)) = (&opened.base, opened.metadata.base) else {
        return Ok(());
    };
    checksum(base, BASE, expected)?;
    let metadata = &opened.metadata;
    let changed = metadata.changed.iter();
    let pages = changed.flat_map(|(first, count)| *first..first + count);
    let place = |number: u64| match Run::place(&metadata.runs, number.saturating_mul(PAGE)) {
        Some((Content::Own, offset)) => Some(offset),
        _ => None,
    };
    let places = pages.map(place);
    (opened.changed().differences())
        .and_then(|found| differences::verify(&found, places, &opened.pages, base))
        .map_err(|e| e.to_string())
}

fn checksum(mut file: &File, name: &str, expected: PagesFile) -> Result<(), String> {
    let mut sum = crc32fast::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => sum.update(buffer.get(..count).unwrap_or_default()),
            Err(e) => return Err(format!("reading the {name} file: {e}")),
        }
    }
    if sum.finalize() == expected.checksum {
        Ok(())
    } else {
        Err(format!("the {name} file is damaged (checksum)"))
    }
}

/// The CPUID that the guest had.
///
/// # Errors
/// More leaves than KVM takes.
pub fn template(leaves: &[Leaf]) -> Result<Template, String> {
    if leaves.len() > KVM_MAX_CPUID_ENTRIES {
        return Err("the snapshot has too many CPUID leaves".into());
    }
    let entries: Vec<kvm_cpuid_entry2> = leaves
        .iter()
        .map(
            |Leaf([function, index, flags, eax, ebx, ecx, edx])| kvm_cpuid_entry2 {
                function: *function,
                index: *index,
                flags: *flags,
                eax: *eax,
                ebx: *ebx,
                ecx: *ecx,
                edx: *edx,
                ..Default::default()
            },
        )
        .collect();
    let leaves = CpuId::from_entries(&entries).map_err(|e| format!("CPUID: {e:?}"))?;
    Ok(Template::finished(leaves))
}
