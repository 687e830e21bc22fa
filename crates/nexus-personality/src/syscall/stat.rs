//! stat and its relatives, and access.

use super::open::resolve;
use crate::errno::{EACCES, EINVAL, ENOENT, EROFS, Errno, SysResult};
use crate::files::names::Node;
use crate::files::resolve::{host_stat, open_beneath};
use crate::files::tmpfs::{Inode, MAX_FILES};
use crate::files::{Description, Object};
use crate::machine::Cpu;
use crate::thread::Thread;
use std::os::fd::AsRawFd;

const CWD: u64 = 0xffff_ff9c;
const AT_EMPTY_PATH: u64 = 0x1000;
const AT_SYMLINK_NOFOLLOW: u64 = 0x100;

/// What stat tells, by field; device and owner are the guest's own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stat {
    inode: u64,
    mode: u32,
    links: u64,
    size: u64,
    device: u64,
    special: u64,
    owner: u32,
    accessed: (i64, i64),
    modified: (i64, i64),
    changed: (i64, i64),
}

/// A stable number for a name that has no inode.
fn number_of(path: &[u8]) -> u64 {
    path.iter().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| {
        (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3)
    }) >> 16
}

/// A number for a file of the host: not the host's, but as stable, and different for different files. The key is
/// the instance's own (and its snapshots'), so that nobody can work the host's numbers out.
pub(super) fn hidden(number: u64, device: u64, key: u64) -> u64 {
    // A permutation of 64 bits (multiplications by odd numbers, shifts), keyed at either end.
    let mix = |value: u64| {
        let value = (value ^ value >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (value ^ value >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
    };
    let number = mix(number ^ key) ^ mix(device ^ key.rotate_left(32));
    mix(number ^ key) >> 1
}

impl Stat {
    fn of_host(stat: &libc::stat, key: u64) -> Self {
        Self {
            inode: hidden(stat.st_ino, stat.st_dev, key),
            mode: stat.st_mode,
            links: stat.st_nlink,
            size: stat.st_size.cast_unsigned(),
            device: 1,
            special: 0,
            owner: 0,
            accessed: (stat.st_atime, stat.st_atime_nsec),
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            changed: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    fn of_memory(inode: &Inode) -> Self {
        let meta = *inode.meta();
        Self {
            inode: inode.number,
            mode: meta.mode,
            links: u64::from(meta.links),
            size: inode.size(),
            device: 2,
            special: 0,
            owner: super::info::UID as u32,
            accessed: meta.accessed,
            modified: meta.modified,
            changed: meta.changed,
        }
    }

    fn made_up(path: &[u8], mode: u32, size: u64) -> Self {
        Self {
            inode: number_of(path),
            mode,
            links: 1,
            size,
            device: 3,
            ..Self::default()
        }
    }

    fn device(name: &str) -> Self {
        // Major and minor numbers as Linux has them.
        let special = match name {
            "null" => 0x103,
            "zero" => 0x105,
            "full" => 0x107,
            "random" => 0x108,
            "urandom" => 0x109,
            "tty" => 0x500,
            "ptmx" => 0x502,
            _ => 0xa00,
        };
        Self {
            special,
            ..Self::made_up(name.as_bytes(), libc::S_IFCHR | 0o666, 0)
        }
    }

    fn terminal(number: u32) -> Self {
        Self {
            special: 0x8800 + u64::from(number),
            owner: super::info::UID as u32,
            ..Self::made_up(
                format!("/dev/pts/{number}").as_bytes(),
                libc::S_IFCHR | 0o620,
                0,
            )
        }
    }

    fn of_node(t: &Thread, path: &[u8], node: &Node) -> Result<Self, Errno> {
        let key = t.process.number_key();
        Ok(match node {
            Node::Host {
                directory,
                relative,
            } => {
                let fd = open_beneath(*directory, relative, libc::O_PATH)?;
                Self::of_host(&host_stat(fd.as_raw_fd())?, key)
            }
            Node::Memory(inode) => Self::of_memory(inode),
            Node::Synthetic => Self::made_up(path, libc::S_IFDIR | 0o555, 4096),
            Node::Device(name) => Self::device(name),
            Node::Terminal(number) => Self::terminal(*number),
            Node::Process("cwd") | Node::Descriptor(_) => {
                Self::made_up(path, libc::S_IFLNK | 0o777, 64)
            }
            Node::Shadow => Self::made_up(path, libc::S_IFREG | 0o640, 0),
            Node::MadeUp(_) | Node::Process(_) => Self::made_up(path, libc::S_IFREG | 0o444, 0),
            Node::Link(target) => Self::made_up(path, libc::S_IFLNK | 0o777, target.len() as u64),
        })
    }

    fn of_description(t: &Thread, d: &Description) -> Result<Self, Errno> {
        let key = t.process.number_key();
        Ok(match &d.object {
            Object::Host(file) => Self::of_host(&host_stat(file.fd.as_raw_fd())?, key),
            Object::Memory(inode) => Self::of_memory(inode),
            Object::Fifo(end) => Self::of_memory(&end.inode),
            // Directories are opened by name: the same answer as for that name.
            Object::Directory(path) => match t.process.names.lookup(path)? {
                Some(node) => Self::of_node(t, path, &node)?,
                None => Self::made_up(path, libc::S_IFDIR | 0o755, 4096),
            },
            Object::Null => Self::device("null"),
            Object::Zero => Self::device("zero"),
            Object::Full => Self::device("full"),
            Object::Random => Self::device("urandom"),
            Object::Device => Self::device("nexus"),
            Object::Standard(fd) => {
                let stat = host_stat(*fd)?;
                let kind = stat.st_mode & libc::S_IFMT;
                let name = [b'0' + (*fd).clamp(0, 9) as u8];
                Self {
                    device: 4,
                    ..Self::made_up(&name, kind | 0o600, stat.st_size.cast_unsigned())
                }
            }
            Object::Pipe(fd, _) => {
                Self::made_up(&fd.as_raw_fd().to_le_bytes(), libc::S_IFIFO | 0o600, 0)
            }
            Object::Socket(socket) => {
                Self::made_up(&socket.host().to_le_bytes(), libc::S_IFSOCK | 0o777, 0)
            }
            Object::Terminal(side) if side.is_master => Self::device("ptmx"),
            Object::Terminal(side) => Self::terminal(side.terminal.number),
            Object::Event(fd) | Object::Timer(fd, _) | Object::Poll(fd, _) => {
                Self::made_up(&fd.as_raw_fd().to_le_bytes(), 0o600, 0)
            }
        })
    }

    /// `struct stat` of x86-64.
    fn bytes(&self) -> [u8; 144] {
        let owner = u64::from(self.owner);
        let words = [
            self.device,
            self.inode,
            self.links,
            u64::from(self.mode) | owner << 32,
            owner,
            self.special,
            self.size,
            4096,
            self.size.div_ceil(512),
            self.accessed.0.cast_unsigned(),
            self.accessed.1.cast_unsigned(),
            self.modified.0.cast_unsigned(),
            self.modified.1.cast_unsigned(),
            self.changed.0.cast_unsigned(),
            self.changed.1.cast_unsigned(),
            0,
            0,
            0,
        ];
        let mut bytes = [0; 144];
        for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// `struct statx`.
    fn bytes_x(&self) -> [u8; 256] {
        let mut b = [0; 256];
        let mut put = |at: usize, value: &[u8]| {
            if let Some(to) = b.get_mut(at..at + value.len()) {
                to.copy_from_slice(value);
            }
        };
        put(0, &0x7ffu32.to_le_bytes());
        put(4, &4096u32.to_le_bytes());
        put(16, &(self.links as u32).to_le_bytes());
        put(20, &self.owner.to_le_bytes());
        put(24, &self.owner.to_le_bytes());
        put(28, &(self.mode as u16).to_le_bytes());
        put(32, &self.inode.to_le_bytes());
        put(40, &self.size.to_le_bytes());
        put(48, &self.size.div_ceil(512).to_le_bytes());
        for (at, time) in [
            (64, self.accessed),
            (80, self.changed),
            (96, self.changed),
            (112, self.modified),
        ] {
            put(at, &time.0.to_le_bytes());
            put(at + 8, &(time.1 as u32).to_le_bytes());
        }
        put(128, &(self.special as u32 >> 8).to_le_bytes());
        put(132, &(self.special as u32 & 0xff).to_le_bytes());
        put(136, &0u32.to_le_bytes());
        put(140, &(self.device as u32).to_le_bytes());
        b
    }
}

fn look(t: &Thread, directory: u64, path: u64, flags: u64) -> Result<Stat, Errno> {
    if flags & AT_EMPTY_PATH != 0
        && (path == 0 || t.process.memory.read::<u8>(path)? == 0)
        && directory as u32 != CWD as u32
    {
        return Stat::of_description(t, &*super::io::description(t, directory)?);
    }
    let resolved = resolve(t, directory, path, flags & AT_SYMLINK_NOFOLLOW == 0)?;
    match &resolved.node {
        Some(Node::Descriptor(fd)) if flags & AT_SYMLINK_NOFOLLOW == 0 => {
            Stat::of_description(t, &*super::io::description(t, *fd).map_err(|_| ENOENT)?)
        }
        Some(node) => Stat::of_node(t, &resolved.path, node),
        None => Err(ENOENT),
    }
}

pub fn stat(t: &mut Thread, _: &mut dyn Cpu, [path, to, ..]: [u64; 6]) -> SysResult {
    let stat = look(t, CWD, path, 0)?;
    t.process.memory.write_bytes(to, &stat.bytes()).map(|()| 0)
}

pub fn lstat(t: &mut Thread, _: &mut dyn Cpu, [path, to, ..]: [u64; 6]) -> SysResult {
    let stat = look(t, CWD, path, AT_SYMLINK_NOFOLLOW)?;
    t.process.memory.write_bytes(to, &stat.bytes()).map(|()| 0)
}

pub fn fstat(t: &mut Thread, _: &mut dyn Cpu, [fd, to, ..]: [u64; 6]) -> SysResult {
    let stat = Stat::of_description(t, &*super::io::description(t, fd)?)?;
    t.process.memory.write_bytes(to, &stat.bytes()).map(|()| 0)
}

pub fn newfstatat(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [directory, path, to, flags, ..]: [u64; 6],
) -> SysResult {
    let stat = look(t, directory, path, flags)?;
    t.process.memory.write_bytes(to, &stat.bytes()).map(|()| 0)
}

pub fn statx(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [directory, path, flags, _, to, _]: [u64; 6],
) -> SysResult {
    let stat = look(t, directory, path, flags)?;
    t.process
        .memory
        .write_bytes(to, &stat.bytes_x())
        .map(|()| 0)
}

pub fn access(t: &mut Thread, cpu: &mut dyn Cpu, [path, mode, ..]: [u64; 6]) -> SysResult {
    faccessat(t, cpu, [CWD, path, mode, 0, 0, 0])
}

pub fn faccessat(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [directory, path, mode, ..]: [u64; 6],
) -> SysResult {
    faccess(t, directory, path, mode, 0)
}

pub fn faccessat2(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [directory, path, mode, flags, ..]: [u64; 6],
) -> SysResult {
    faccess(t, directory, path, mode, flags)
}

fn faccess(t: &Thread, directory: u64, path: u64, mode: u64, flags: u64) -> SysResult {
    if mode & !7 != 0 {
        return Err(EINVAL);
    }
    let resolved = resolve(t, directory, path, flags & AT_SYMLINK_NOFOLLOW == 0)?;
    let node = resolved.node.as_ref().ok_or(ENOENT)?;
    let stat = Stat::of_node(t, &resolved.path, node)?;
    let writes = mode & libc::W_OK as u64 != 0;
    match node {
        Node::Memory(inode) => return inode.permit(mode as u32).map(|()| 0),
        Node::Device(_) | Node::Terminal(_) => {}
        Node::Shadow if mode != 0 => return Err(EACCES),
        _ if writes => return Err(EROFS),
        _ => {}
    }
    let executes = mode & libc::X_OK as u64 != 0;
    if executes && stat.mode & 0o111 == 0 {
        Err(EACCES)
    } else {
        Ok(0)
    }
}

/// statfs: a file system of no particular size.
pub fn statfs(t: &mut Thread, _: &mut dyn Cpu, [path, to, ..]: [u64; 6]) -> SysResult {
    resolve(t, CWD, path, true)?.node.ok_or(ENOENT)?;
    write_statfs(t, to)
}

pub fn fstatfs(t: &mut Thread, _: &mut dyn Cpu, [fd, to, ..]: [u64; 6]) -> SysResult {
    super::io::description(t, fd)?;
    write_statfs(t, to)
}

fn write_statfs(t: &Thread, to: u64) -> SysResult {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    let blocks = (t.process.config.tmp_mib << 20) / 4096;
    let usage = t.process.names.tmp.usage();
    let free = blocks.saturating_sub(usage.used().div_ceil(4096));
    let words: [u64; 15] = [
        TMPFS_MAGIC,
        4096,
        blocks,
        free,
        free,
        MAX_FILES,
        usage.files_left(),
        0,
        255,
        4096,
        0,
        0,
        0,
        0,
        0,
    ];
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    t.process.memory.write_bytes(to, &bytes).map(|()| 0)
}
