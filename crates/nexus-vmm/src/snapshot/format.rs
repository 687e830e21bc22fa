//! The metadata file: a fixed header, then the encoded state. It was written by a tenant's hypervisor, so it is
//! parsed as hostile; checksums find damage, not malice.

use crate::clock::Identity;
use crate::kvm::cpuid::NativeLeaves;
use crate::kvm::flavour::Flavour;
use crate::report::now;
use nexus_personality::machine::{ThreadState, Tid};
use nexus_personality::snapshot::ProcessState;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// "NEXUSSNP"
const MAGIC: [u8; 8] = *b"NEXUSSNP";
/// Changes whenever the encoded state does.
pub const FORMAT: u32 = 9;
/// Magic, format, payload checksum, payload length, pages length, pages checksum, header checksum.
pub const HEADER: usize = 8 + 4 + 4 + 8 + 8 + 4 + 4;
const MAX_PAYLOAD: u64 = 256 << 20;
const VMM_VERSION: &str = env!("CARGO_PKG_VERSION");

/// The file that a run's content is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// `pages`.
    Own,
    /// `base`: the pages of the snapshot that this one was initialised from.
    Base,
}

/// Consecutive guest pages whose content is in a file, from `offset` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    pub start: u64,
    pub end: u64,
    pub content: Content,
    pub offset: u64,
}

impl Run {
    /// Where in its file the page at this address is, by runs that ascend; and which file that is.
    #[must_use]
    pub fn place(runs: &[Self], address: u64) -> Option<(Content, u64)> {
        let next = runs.partition_point(|run| run.start <= address);
        let run = next.checked_sub(1).and_then(|index| runs.get(index))?;
        let into = address
            .checked_sub(run.start)
            .filter(|_| address < run.end)?;
        Some((run.content, run.offset.checked_add(into)?))
    }
}

/// One CPUID leaf as it was given to KVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaf(pub [u32; 7]);

#[derive(Debug, Serialize, Deserialize)]
pub struct Metadata {
    pub vmm: String,
    pub flavour: Flavour,
    pub native: NativeLeaves,
    pub cpuid: Vec<Leaf>,
    /// The vDSO that the guest's C library found its clock in.
    pub clock: Option<Identity>,
    pub process: ProcessState,
    pub threads: Vec<ThreadState>,
    /// The thread that renews a restored guest before the others run.
    pub renews: Option<Tid>,
    /// CLOCK_MONOTONIC when it was taken.
    pub taken: Duration,
    /// The file `base`, where runs lie in it.
    pub base: Option<PagesFile>,
    pub runs: Vec<Run>,
    /// Of the pages of runs in `pages`, those whose content is not what the base shows there: first page's number and count,
    /// ascending. Empty without a base.
    pub changed: Vec<(u64, u64)>,
    /// Where in `pages` their differences are told: see [`super::differences`]. The file's end without a base.
    pub differences: u64,
}

/// Length and checksum of a file of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PagesFile {
    pub length: u64,
    pub checksum: u32,
}

impl Metadata {
    #[must_use]
    pub fn vmm_version() -> String {
        VMM_VERSION.to_owned()
    }
}

/// The whole metadata file.
///
/// # Errors
/// The state cannot be encoded, or is larger than a restore would accept.
pub fn encode(metadata: &Metadata, pages: PagesFile) -> Result<Vec<u8>, String> {
    let payload =
        postcard::to_stdvec(metadata).map_err(|e| format!("encoding the snapshot: {e}"))?;
    if payload.len() as u64 > MAX_PAYLOAD {
        return Err(format!(
            "the snapshot's state takes {} bytes, more than {MAX_PAYLOAD}",
            payload.len()
        ));
    }
    let mut file = Vec::with_capacity(HEADER + payload.len());
    file.extend_from_slice(&MAGIC);
    file.extend_from_slice(&FORMAT.to_le_bytes());
    file.extend_from_slice(&crc32fast::hash(&payload).to_le_bytes());
    file.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    file.extend_from_slice(&pages.length.to_le_bytes());
    file.extend_from_slice(&pages.checksum.to_le_bytes());
    let sum = crc32fast::hash(&file);
    file.extend_from_slice(&sum.to_le_bytes());
    file.extend_from_slice(&payload);
    Ok(file)
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(head)
}

/// Check and decode a metadata file.
///
/// # Errors
/// Why it cannot be used: a sentence.
pub fn decode(file: &[u8]) -> Result<(Metadata, PagesFile), String> {
    let short = || "the metadata file is cut off".to_owned();
    let header = file.get(..HEADER).ok_or_else(short)?;
    let mut rest = header;
    let magic = take::<8>(&mut rest).ok_or_else(short)?;
    if *magic != MAGIC {
        return Err("the metadata file is not a snapshot's".into());
    }
    let format = u32::from_le_bytes(*take(&mut rest).ok_or_else(short)?);
    let payload_sum = u32::from_le_bytes(*take(&mut rest).ok_or_else(short)?);
    let payload_length = u64::from_le_bytes(*take(&mut rest).ok_or_else(short)?);
    let length = u64::from_le_bytes(*take(&mut rest).ok_or_else(short)?);
    let checksum = u32::from_le_bytes(*take(&mut rest).ok_or_else(short)?);
    let sum = u32::from_le_bytes(*take(&mut rest).ok_or_else(short)?);
    if crc32fast::hash(&header[..HEADER - 4]) != sum {
        return Err("the metadata's header is damaged (checksum)".into());
    }
    if format != FORMAT {
        return Err(format!(
            "snapshot format {format}; this nexus-vmm reads format {FORMAT}"
        ));
    }
    let payload = &file[HEADER..];
    if payload.len() as u64 != payload_length {
        return Err(format!(
            "the metadata file is {} bytes long behind its header instead of {payload_length}",
            payload.len()
        ));
    }
    if crc32fast::hash(payload) != payload_sum {
        return Err("the metadata is damaged (checksum)".into());
    }
    let (metadata, rest): (Metadata, _) = postcard::take_from_bytes(payload)
        .map_err(|e| format!("the metadata cannot be read: {e}"))?;
    if !rest.is_empty() {
        return Err("the metadata has bytes behind its end".into());
    }
    Ok((metadata, PagesFile { length, checksum }))
}

/// Hold a snapshot against this machine and this program.
///
/// # Errors
/// What does not match.
pub fn check(metadata: &Metadata) -> Result<(), String> {
    if metadata.vmm != VMM_VERSION {
        return Err(format!(
            "the snapshot was taken by nexus-vmm {}, this is {VMM_VERSION}",
            metadata.vmm
        ));
    }
    if metadata.native != NativeLeaves::read() {
        return Err("the snapshot was taken on another CPU model (CPUID differs)".into());
    }
    // A program may rely on this clock never to go back.
    if metadata.taken > now() {
        return Err(
            "the snapshot was taken at a later time of the monotonic clock: the machine was started anew".into(),
        );
    }
    if metadata.threads.is_empty() {
        return Err("the snapshot has no thread".into());
    }
    // So that what is copied of them is no more than there is.
    let mut end = Some(0);
    for (first, count) in &metadata.changed {
        end = match end {
            Some(end) if end <= *first => first.checked_add(*count),
            _ => None,
        };
    }
    if end.is_none() {
        return Err("the snapshot's changed pages are out of order".into());
    }
    Ok(())
}
