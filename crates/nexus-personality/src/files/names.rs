//! The guest's file names: the root table, `/tmp`, and what is made up.

use super::made_up::{Facts, made_up_paths};
use super::terminal::Terminals;
use super::tmpfs::{Inode, Usage};
use crate::config::{Config, Root};
use crate::errno::Errno;
use crate::ledger::Ledger;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

/// What a name leads to.
#[derive(Clone, Debug)]
pub enum Node {
    /// Behind the root table: directory descriptor of the host and the path beneath it.
    Host { directory: RawFd, relative: Vec<u8> },
    /// In memory.
    Memory(Arc<Inode>),
    /// A directory that exists since something lies below it.
    Synthetic,
    /// A device, by its name in `/dev`.
    Device(&'static str),
    /// A made-up file with this content.
    MadeUp(Vec<u8>),
    /// `/etc/shadow`, which the one user may not read.
    Shadow,
    /// A file of `/proc/self` that tells of the process as it is: its name there.
    Process(&'static str),
    /// A link in `/proc/self/fd`, which leads to what the descriptor refers to.
    Descriptor(u64),
    /// The slave of a pseudo-terminal.
    Terminal(u32),
    /// A made-up symbolic link.
    Link(Vec<u8>),
}

/// One root, opened.
struct OpenRoot {
    root: Root,
    /// Guest path, without the slash at its end; empty for `/`.
    prefix: Vec<u8>,
    directory: OwnedFd,
    /// The name in `directory`, where the root is a single file.
    file: Option<Vec<u8>>,
}

/// All names of one guest.
pub struct Namespace {
    roots: Arc<Vec<Arc<OpenRoot>>>,
    /// `/tmp`.
    pub tmp: Arc<Inode>,
    /// `/dev/shm`, which counts as `/tmp` does.
    pub shm: Arc<Inode>,
    pub terminals: Arc<Terminals>,
    facts: Facts,
}

/// Character devices of the guest.
pub const DEVICES: [&str; 8] = [
    "null", "zero", "full", "urandom", "random", "tty", "ptmx", "nexus",
];

fn open_path(path: &Path, directory: bool) -> io::Result<OwnedFd> {
    let mut name = path.as_os_str().as_bytes().to_vec();
    name.push(0);
    let flags = libc::O_PATH | libc::O_CLOEXEC | if directory { libc::O_DIRECTORY } else { 0 };
    // SAFETY: a NUL-terminated name; the result is checked.
    let fd = unsafe { libc::open(name.as_ptr().cast(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

impl OpenRoot {
    fn new(root: &Root) -> Result<Self, String> {
        let prefix = root.guest.trim_end_matches('/').as_bytes().to_vec();
        if !root.guest.starts_with('/') || root.guest.split('/').any(|c| c == "..") {
            return Err(format!(
                "root {}: the guest path must be absolute, without '..'",
                root.guest
            ));
        }
        if root.writable {
            return Err(format!(
                "root {}: writable roots are not supported; use /tmp",
                root.guest
            ));
        }
        let host = std::fs::canonicalize(&root.host).map_err(|e| {
            format!(
                "root {}: host path {}: {e}",
                root.guest,
                root.host.display()
            )
        })?;
        let failed = |e: io::Error| format!("root {}: opening {}: {e}", root.guest, host.display());
        if host.is_dir() {
            return Ok(Self {
                root: root.clone(),
                prefix,
                directory: open_path(&host, true).map_err(failed)?,
                file: None,
            });
        }
        match (host.is_file(), host.parent(), host.file_name()) {
            (true, Some(parent), Some(name)) => Ok(Self {
                root: root.clone(),
                prefix,
                directory: open_path(parent, true).map_err(failed)?,
                file: Some(name.as_bytes().to_vec()),
            }),
            _ => Err(format!(
                "root {}: {} is neither a directory nor a regular file",
                root.guest,
                host.display()
            )),
        }
    }
}

/// Whether `path` is `prefix` or lies below it; both without a slash at the end.
fn below<'a>(path: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let rest = path.strip_prefix(prefix)?;
    if rest.is_empty() {
        Some(rest)
    } else {
        rest.strip_prefix(b"/")
    }
}

impl Namespace {
    /// The same names for another program, without a device.
    #[must_use]
    pub fn shared(&self, program: &str) -> Self {
        Self {
            roots: Arc::clone(&self.roots),
            tmp: Arc::clone(&self.tmp),
            shm: Arc::clone(&self.shm),
            terminals: Arc::clone(&self.terminals),
            facts: self.facts.for_program(program),
        }
    }

    /// Open the root table, but for what `other` has open of it.
    ///
    /// # Errors
    /// A sentence that names the root and what is wrong with it.
    pub fn new(config: &Config, ledger: Arc<Ledger>, other: Option<&Self>) -> Result<Self, String> {
        let known: &[Arc<OpenRoot>] = other.map_or(&[], |other| &other.roots);
        let open = |root: &Root| match known.iter().find(|open| open.root == *root) {
            Some(open) => Ok(Arc::clone(open)),
            None => OpenRoot::new(root).map(Arc::new),
        };
        let mut roots = (config.roots.iter())
            .map(open)
            .collect::<Result<Vec<_>, _>>()?;
        // The longest prefix decides.
        roots.sort_by_key(|r| std::cmp::Reverse(r.prefix.len()));
        let usage = Arc::new(Usage::new(config.tmp_mib << 20, ledger));
        let tmp =
            Inode::directory(&usage, 0o1777).map_err(|e| format!("making /tmp: error {}", e.0))?;
        Ok(Self {
            roots: Arc::new(roots),
            tmp,
            shm: Inode::directory(&usage, 0o1777)
                .map_err(|e| format!("making /dev/shm: error {}", e.0))?,
            terminals: Arc::default(),
            facts: Facts::of(config),
        })
    }

    /// What a canonical path (no links, no dots in it) names; `None`: nothing. Host nodes may still turn out
    /// not to exist.
    ///
    /// # Errors
    /// ENOTDIR for a path through a file in memory, EACCES through a directory that may not be searched.
    pub fn lookup(&self, path: &[u8]) -> Result<Option<Node>, Errno> {
        if let Some(rest) = below(path, b"/tmp") {
            // A root below /tmp comes first; directories on the way to it need not exist in memory.
            return match self.lookup_root(path)? {
                Some(node) => Ok(Some(node)),
                None => Ok(lookup_memory(&self.tmp, rest)?
                    .or_else(|| self.is_parent(path).then_some(Node::Synthetic))),
            };
        }
        if let Some(rest) = below(path, b"/dev/shm") {
            return lookup_memory(&self.shm, rest);
        }
        if let Some(rest) = below(path, b"/dev") {
            return Ok(self.lookup_device(rest));
        }
        let rooted = |path| self.roots.iter().any(|r| below(path, &r.prefix).is_some());
        // What is made up for /etc stands back behind the root table's.
        if !(path.starts_with(b"/etc/") && rooted(path))
            && let Some(node) = self.facts.node(path)
        {
            return Ok(Some(node));
        }
        if let Some(node) = self.lookup_root(path)? {
            return Ok(Some(node));
        }
        Ok(self.is_parent(path).then_some(Node::Synthetic))
    }

    /// The deepest root that holds this path, below `/tmp` only those that lie there themselves; and the path beneath it.
    fn root_of<'a>(&self, path: &'a [u8]) -> Option<(&Arc<OpenRoot>, &'a [u8])> {
        let in_tmp = below(path, b"/tmp").is_some();
        (self.roots.iter())
            .filter(|r| !in_tmp || below(&r.prefix, b"/tmp").is_some())
            .find_map(|root| below(path, &root.prefix).map(|rest| (root, rest)))
    }

    /// Whether both lead to the same place of the host's by this canonical path.
    pub(crate) fn agrees(&self, other: &Self, path: &[u8]) -> bool {
        match (self.root_of(path), other.root_of(path)) {
            (Some((one, _)), Some((other, _))) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    fn lookup_root(&self, path: &[u8]) -> Result<Option<Node>, Errno> {
        let Some((root, rest)) = self.root_of(path) else {
            return Ok(None);
        };
        let relative = match &root.file {
            Some(name) if rest.is_empty() => name.clone(),
            Some(_) => return Err(crate::errno::ENOTDIR),
            None if rest.is_empty() => b".".to_vec(),
            None => rest.to_vec(),
        };
        Ok(Some(Node::Host {
            directory: root.directory.as_raw_fd(),
            relative,
        }))
    }

    /// Whether a root or a made-up file lies somewhere below this path.
    #[must_use]
    pub fn is_parent(&self, path: &[u8]) -> bool {
        path.is_empty() || !self.children(path).is_empty()
    }

    /// Names in a synthetic directory.
    #[must_use]
    pub fn children(&self, path: &[u8]) -> Vec<Vec<u8>> {
        let fixed: [&[u8]; 3] = [b"/tmp", b"/dev", b"/proc"];
        let made_up = made_up_paths().map(|p| p as &[u8]);
        let all = self
            .roots
            .iter()
            .map(|r| r.prefix.as_slice())
            .chain(fixed)
            .chain(made_up);
        let mut names: Vec<Vec<u8>> = all
            .filter_map(|p| below(p, path))
            .filter_map(|rest| rest.split(|b| *b == b'/').next())
            .filter(|name| !name.is_empty())
            .map(<[u8]>::to_vec)
            .collect();
        if path == b"/dev" {
            names.extend(
                DEVICES
                    .iter()
                    .filter(|d| **d != "nexus" || self.facts.has_device())
                    .map(|d| d.as_bytes().to_vec()),
            );
            names.extend(
                ["fd", "pts", "shm", "stderr", "stdin", "stdout"].map(|n| n.as_bytes().to_vec()),
            );
        }
        names.sort();
        names.dedup();
        names
    }

    /// Whether this is the top of a tree in memory, which cannot be moved or removed.
    #[must_use]
    pub fn is_memory_root(&self, path: &[u8]) -> bool {
        matches!(path, b"/tmp" | b"/dev/shm")
    }

    fn lookup_device(&self, rest: &[u8]) -> Option<Node> {
        match rest {
            b"" => return Some(Node::Synthetic),
            b"fd" => return Some(Node::Link(b"/proc/self/fd".to_vec())),
            b"stdin" => return Some(Node::Link(b"/proc/self/fd/0".to_vec())),
            b"stdout" => return Some(Node::Link(b"/proc/self/fd/1".to_vec())),
            b"stderr" => return Some(Node::Link(b"/proc/self/fd/2".to_vec())),
            b"pts" => return Some(Node::Synthetic),
            b"pts/ptmx" => return Some(Node::Device("ptmx")),
            _ => {}
        }
        if let Some(number) = rest.strip_prefix(b"pts/") {
            let number = std::str::from_utf8(number).ok()?.parse().ok()?;
            return (self.terminals.get(number).is_some()).then_some(Node::Terminal(number));
        }
        DEVICES
            .into_iter()
            .find(|d| d.as_bytes() == rest && (*d != "nexus" || self.facts.has_device()))
            .map(Node::Device)
    }
}

fn lookup_memory(root: &Arc<Inode>, rest: &[u8]) -> Result<Option<Node>, Errno> {
    let mut inode = Arc::clone(root);
    for name in rest.split(|b| *b == b'/').filter(|n| !n.is_empty()) {
        let next = inode.entries()?.get(name).map(|e| Arc::clone(&e.inode));
        inode.permit(1)?;
        match next {
            Some(next) => inode = next,
            None => return Ok(None),
        }
    }
    Ok(Some(Node::Memory(inode)))
}
