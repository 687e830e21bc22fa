//! The guest's file names: the root table, `/tmp`, and what is made up.

use super::tmpfs::{Inode, Usage};
use crate::config::{Config, Root};
use crate::errno::Errno;
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
    /// A made-up symbolic link.
    Link(Vec<u8>),
}

/// One root, opened.
struct OpenRoot {
    /// Guest path, without the slash at its end; empty for `/`.
    prefix: Vec<u8>,
    directory: OwnedFd,
    /// The name in `directory`, where the root is a single file.
    file: Option<Vec<u8>>,
}

/// All names of one guest.
pub struct Namespace {
    roots: Arc<Vec<OpenRoot>>,
    /// `/tmp`.
    pub tmp: Arc<Inode>,
    program: Vec<u8>,
    facts: Facts,
}

/// What made-up files tell.
#[derive(Clone)]
struct Facts {
    cpus: u32,
    memory_mib: u64,
    hostname: String,
    device: bool,
}

/// Character devices of the guest.
pub const DEVICES: [&str; 5] = ["null", "zero", "urandom", "random", "nexus"];

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
                prefix,
                directory: open_path(&host, true).map_err(failed)?,
                file: None,
            });
        }
        match (host.is_file(), host.parent(), host.file_name()) {
            (true, Some(parent), Some(name)) => Ok(Self {
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
            program: program.as_bytes().to_vec(),
            facts: Facts {
                device: false,
                ..self.facts.clone()
            },
        }
    }

    /// Open the root table.
    ///
    /// # Errors
    /// A sentence that names the root and what is wrong with it.
    pub fn new(config: &Config) -> Result<Self, String> {
        let mut roots = config
            .roots
            .iter()
            .map(OpenRoot::new)
            .collect::<Result<Vec<_>, _>>()?;
        // The longest prefix decides.
        roots.sort_by_key(|r| std::cmp::Reverse(r.prefix.len()));
        let usage = Arc::new(Usage::new(config.tmp_mib << 20));
        let tmp =
            Inode::directory(&usage, 0o1777).map_err(|e| format!("making /tmp: error {}", e.0))?;
        Ok(Self {
            roots: Arc::new(roots),
            tmp,
            program: config.program.path.clone().into_bytes(),
            facts: Facts {
                cpus: config.cpus,
                memory_mib: config.memory_mib,
                hostname: config.hostname.clone(),
                device: config.device.is_some(),
            },
        })
    }

    /// What a canonical path (no links, no dots in it) names; `None`: nothing. Host nodes may still turn out
    /// not to exist.
    ///
    /// # Errors
    /// ENOTDIR for a path through a file in memory.
    pub fn lookup(&self, path: &[u8]) -> Result<Option<Node>, Errno> {
        if let Some(rest) = below(path, b"/tmp") {
            // A root below /tmp comes first; directories on the way to it need not exist in memory.
            return match self.lookup_root(path)? {
                Some(node) => Ok(Some(node)),
                None => Ok(self
                    .lookup_tmp(rest)?
                    .or_else(|| self.is_parent(path).then_some(Node::Synthetic))),
            };
        }
        if let Some(rest) = below(path, b"/dev") {
            return Ok(self.lookup_device(rest));
        }
        if let Some(node) = self.made_up(path) {
            return Ok(Some(node));
        }
        if let Some(node) = self.lookup_root(path)? {
            return Ok(Some(node));
        }
        Ok(self.is_parent(path).then_some(Node::Synthetic))
    }

    /// The deepest root that holds this path, below `/tmp` only those that lie there themselves.
    fn lookup_root(&self, path: &[u8]) -> Result<Option<Node>, Errno> {
        let in_tmp = below(path, b"/tmp").is_some();
        for root in self
            .roots
            .iter()
            .filter(|r| !in_tmp || below(&r.prefix, b"/tmp").is_some())
        {
            let Some(rest) = below(path, &root.prefix) else {
                continue;
            };
            let directory = root.directory.as_raw_fd();
            match &root.file {
                Some(name) if rest.is_empty() => {
                    return Ok(Some(Node::Host {
                        directory,
                        relative: name.clone(),
                    }));
                }
                Some(_) => return Err(crate::errno::ENOTDIR),
                None => {
                    let relative = if rest.is_empty() {
                        b".".to_vec()
                    } else {
                        rest.to_vec()
                    };
                    return Ok(Some(Node::Host {
                        directory,
                        relative,
                    }));
                }
            }
        }
        Ok(None)
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
        let made_up = MADE_UP.iter().map(|p| p.as_bytes());
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
                    .filter(|d| **d != "nexus" || self.facts.device)
                    .map(|d| d.as_bytes().to_vec()),
            );
        }
        names.sort();
        names.dedup();
        names
    }

    fn lookup_tmp(&self, rest: &[u8]) -> Result<Option<Node>, Errno> {
        let mut inode = Arc::clone(&self.tmp);
        for name in rest.split(|b| *b == b'/').filter(|n| !n.is_empty()) {
            let next = inode.entries()?.get(name).cloned();
            match next {
                Some(next) => inode = next,
                None => return Ok(None),
            }
        }
        Ok(Some(Node::Memory(inode)))
    }

    fn lookup_device(&self, rest: &[u8]) -> Option<Node> {
        if rest.is_empty() {
            return Some(Node::Synthetic);
        }
        DEVICES
            .into_iter()
            .find(|d| d.as_bytes() == rest && (*d != "nexus" || self.facts.device))
            .map(Node::Device)
    }

    /// Files that runtimes read and that tell of the guest alone. A root of that path comes first only for `/etc`.
    fn made_up(&self, path: &[u8]) -> Option<Node> {
        let path = std::str::from_utf8(path).ok()?;
        let under_root = self
            .roots
            .iter()
            .any(|r| below(path.as_bytes(), &r.prefix).is_some());
        if path == "/proc/self" || path == "/proc" {
            return Some(Node::Synthetic);
        }
        if !MADE_UP.contains(&path) || (path.starts_with("/etc/") && under_root) {
            return None;
        }
        let facts = &self.facts;
        let last = facts.cpus.saturating_sub(1);
        let text = match path {
            "/proc/self/exe" => return Some(Node::Link(self.program.clone())),
            "/proc/self/cmdline" => format!("{}\0", String::from_utf8_lossy(&self.program)),
            "/proc/self/cgroup" => "0::/\n".to_owned(),
            "/proc/self/maps" | "/proc/self/mounts" | "/proc/mounts" => String::new(),
            "/proc/self/status" => format!(
                "Name:\tpython\nUmask:\t0022\nState:\tR (running)\nThreads:\t1\nVmRSS:\t{} kB\n",
                1024
            ),
            "/proc/self/statm" => "1024 512 256 1 0 256 0\n".to_owned(),
            "/proc/cpuinfo" => (0..facts.cpus)
                .map(|n| {
                    format!(
                        "processor\t: {n}\nmodel name\t: Nexus\ncpu cores\t: {}\n\n",
                        facts.cpus
                    )
                })
                .collect(),
            "/proc/meminfo" => {
                let kib = facts.memory_mib * 1024;
                format!(
                    "MemTotal: {kib:>14} kB\nMemFree: {kib:>15} kB\nMemAvailable: {kib:>10} kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n"
                )
            }
            "/proc/stat" => (0..facts.cpus)
                .fold("cpu  0 0 0 0 0 0 0 0 0 0\n".to_owned(), |s, n| {
                    s + &format!("cpu{n} 0 0 0 0 0 0 0 0 0 0\n")
                }),
            "/proc/loadavg" => "0.00 0.00 0.00 1/1 1\n".to_owned(),
            "/proc/uptime" => "1.00 1.00\n".to_owned(),
            "/proc/version" => format!("Linux version {}\n", crate::syscall::info::RELEASE),
            "/proc/filesystems" => "nodev\ttmpfs\n".to_owned(),
            "/proc/sys/kernel/osrelease" => format!("{}\n", crate::syscall::info::RELEASE),
            "/proc/sys/kernel/pid_max" => "32768\n".to_owned(),
            "/proc/sys/kernel/ngroups_max" => "65536\n".to_owned(),
            "/proc/sys/kernel/cap_last_cap" => "40\n".to_owned(),
            "/proc/sys/kernel/threads-max" => "1024\n".to_owned(),
            "/proc/sys/vm/overcommit_memory" => "1\n".to_owned(),
            "/sys/devices/system/cpu/online"
            | "/sys/devices/system/cpu/possible"
            | "/sys/devices/system/cpu/present" => format!("0-{last}\n"),
            "/etc/passwd" => {
                "root:x:0:0:root:/:/bin/sh\nuser:x:1000:1000:user:/tmp:/bin/sh\n".to_owned()
            }
            "/etc/group" => "root:x:0:\nuser:x:1000:\n".to_owned(),
            "/etc/hostname" => format!("{}\n", facts.hostname),
            "/etc/hosts" => format!("127.0.0.1 localhost\n127.0.0.1 {}\n", facts.hostname),
            "/etc/nsswitch.conf" => "passwd: files\ngroup: files\nhosts: files\n".to_owned(),
            _ => return None,
        };
        Some(Node::MadeUp(text.into_bytes()))
    }
}

const MADE_UP: [&str; 29] = [
    "/proc/self/exe",
    "/proc/self/cmdline",
    "/proc/self/cgroup",
    "/proc/self/maps",
    "/proc/self/mounts",
    "/proc/mounts",
    "/proc/self/status",
    "/proc/self/statm",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/loadavg",
    "/proc/uptime",
    "/proc/version",
    "/proc/filesystems",
    "/proc/sys/kernel/osrelease",
    "/proc/sys/kernel/pid_max",
    "/proc/sys/kernel/ngroups_max",
    "/proc/sys/kernel/cap_last_cap",
    "/proc/sys/kernel/threads-max",
    "/proc/sys/vm/overcommit_memory",
    "/sys/devices/system/cpu/online",
    "/sys/devices/system/cpu/possible",
    "/sys/devices/system/cpu/present",
    "/etc/passwd",
    "/etc/group",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/nsswitch.conf",
];
