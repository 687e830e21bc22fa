//! `/proc/self`: what a process is told of itself, written at the moment it asks.

use crate::errno::{ENOENT, Errno};
use crate::files::{Description, Object};
use crate::mm::Backing;
use crate::process::{NAME, ThreadShared};
use crate::thread::Thread;
use std::fmt::Write;
use std::os::fd::AsRawFd;

/// Content of a file of `/proc/self`.
///
/// # Errors
/// ENOENT for a name that is not there.
pub fn content(t: &Thread, name: &str) -> Result<Vec<u8>, Errno> {
    let program = &t.process.config.program;
    Ok(match name {
        "cmdline" => program.arguments().iter().fold(Vec::new(), joined),
        "environ" => program.environment().iter().fold(Vec::new(), joined),
        "comm" => format!("{}\n", process_name(t)).into_bytes(),
        "limits" => limits(t).into_bytes(),
        "maps" => maps(t, false).into_bytes(),
        "smaps" => maps(t, true).into_bytes(),
        "stat" => stat(t).into_bytes(),
        "statm" => {
            let (size, resident) = sizes(t);
            format!(
                "{} {} 0 0 0 {} 0\n",
                size / 4096,
                resident / 4096,
                size / 4096
            )
            .into_bytes()
        }
        "status" => status(t).into_bytes(),
        _ => return Err(ENOENT),
    })
}

fn joined(mut out: Vec<u8>, text: impl AsRef<[u8]>) -> Vec<u8> {
    out.extend_from_slice(text.as_ref());
    out.push(0);
    out
}

/// A thread's name: its own, or the program's as the kernel cuts it.
pub(super) fn comm(t: &Thread, of: &ThreadShared) -> Vec<u8> {
    let name = of.name().clone();
    if !name.is_empty() {
        return name;
    }
    let path = &t.process.config.program.path;
    let last = path.rsplit('/').next().unwrap_or_default();
    last.bytes().take(NAME).collect()
}

/// The process's name, which is its first thread's.
fn process_name(t: &Thread) -> String {
    let first = t.process.threads().get(&t.process.pid()).cloned();
    let name = comm(t, first.as_ref().unwrap_or(&t.shared));
    String::from_utf8_lossy(&name).into_owned()
}

/// Bytes mapped, bytes of private memory in use.
fn sizes(t: &Thread) -> (u64, u64) {
    let mapped = t.process.mm().vmas().iter().map(|(s, v)| v.end - s).sum();
    (mapped, t.process.private_bytes().unwrap_or(0))
}

fn maps(t: &Thread, details: bool) -> String {
    let mm = t.process.mm();
    let mut text = String::new();
    for (start, vma) in mm.vmas() {
        let flag = |bit, letter| if vma.prot & bit != 0 { letter } else { '-' };
        let (offset, name) = match &vma.backing {
            Backing::File(file, offset) => {
                (*offset, String::from_utf8_lossy(&file.path).into_owned())
            }
            Backing::Memory(_, offset) => (*offset, "/tmp (memory)".to_owned()),
            Backing::Arena | Backing::Doorbell => (0, "/dev/nexus".to_owned()),
            _ if *start >= mm.heap.0 && vma.end <= mm.heap.1.next_multiple_of(4096) => {
                (0, "[heap]".to_owned())
            }
            _ => (0, String::new()),
        };
        let line = format!(
            "{start:08x}-{:08x} {}{}{}{} {offset:08x} 00:0{} {}",
            vma.end,
            flag(libc::PROT_READ, 'r'),
            flag(libc::PROT_WRITE, 'w'),
            flag(libc::PROT_EXEC, 'x'),
            if vma.shared { 's' } else { 'p' },
            i32::from(!name.is_empty() && !name.starts_with('[')),
            u64::from(!name.is_empty() && !name.starts_with('[')),
        );
        // A String takes all that is written.
        let _ = if name.is_empty() {
            writeln!(text, "{line} ")
        } else {
            writeln!(text, "{line:<73}{name}")
        };
        if details {
            let _ = writeln!(text, "Size: {:>15} kB", (vma.end - start) / 1024);
        }
    }
    text
}

fn stat(t: &Thread) -> String {
    let pid = t.process.pid();
    let (size, resident) = sizes(t);
    let threads = t.process.threads().len();
    let mut fields = vec!["0".to_owned(); 52];
    let mut put = |n: usize, value: String| {
        if let Some(field) = fields.get_mut(n - 1) {
            *field = value;
        }
    };
    // Numbers as in proc(5).
    put(1, pid.to_string());
    put(2, format!("({})", process_name(t)));
    put(3, "R".to_owned());
    let parent = t.process.parent().map_or(1, |p| p.pid());
    put(4, parent.to_string());
    let member = t.process.groups.get(pid);
    let (group, session) = member.map_or((pid, pid), |m| (m.group, m.session));
    put(5, group.to_string());
    put(6, session.to_string());
    put(8, "-1".to_owned());
    put(18, "20".to_owned());
    put(20, threads.to_string());
    put(22, "1".to_owned());
    put(23, size.to_string());
    put(24, (resident / 4096).to_string());
    put(25, u64::MAX.to_string());
    fields.join(" ") + "\n"
}

fn status(t: &Thread) -> String {
    let pid = t.process.pid();
    let id = super::info::UID;
    let (size, resident) = sizes(t);
    let cpus = t.process.config.cpus.clamp(1, 63);
    let lines = [
        format!("Name:\t{}", process_name(t)),
        format!("Umask:\t{:04o}", t.process.umask()),
        "State:\tR (running)".to_owned(),
        format!("Tgid:\t{pid}"),
        format!("Pid:\t{}", t.tid()),
        format!("PPid:\t{}", t.process.parent().map_or(1, |p| p.pid())),
        "TracerPid:\t0".to_owned(),
        format!("Uid:\t{id}\t{id}\t{id}\t{id}"),
        format!("Gid:\t{id}\t{id}\t{id}\t{id}"),
        "FDSize:\t256".to_owned(),
        format!("Groups:\t{id}"),
        format!("VmPeak:\t{:>8} kB", size / 1024),
        format!("VmSize:\t{:>8} kB", size / 1024),
        format!("VmHWM:\t{:>8} kB", resident / 1024),
        format!("VmRSS:\t{:>8} kB", resident / 1024),
        format!("VmData:\t{:>8} kB", size / 1024),
        "VmSwap:\t       0 kB".to_owned(),
        format!("Threads:\t{}", t.process.threads().len()),
        "CapInh:\t0000000000000000".to_owned(),
        "CapPrm:\t0000000000000000".to_owned(),
        "CapEff:\t0000000000000000".to_owned(),
        "CapBnd:\t0000000000000000".to_owned(),
        "CapAmb:\t0000000000000000".to_owned(),
        "NoNewPrivs:\t1".to_owned(),
        format!("Cpus_allowed:\t{:x}", (1u64 << cpus) - 1),
        format!("Cpus_allowed_list:\t0-{}", cpus - 1),
        "voluntary_ctxt_switches:\t1".to_owned(),
        "nonvoluntary_ctxt_switches:\t1".to_owned(),
    ];
    lines.join("\n") + "\n"
}

fn limits(t: &Thread) -> String {
    const NAMES: [(&str, &str); 16] = [
        ("Max cpu time", "seconds"),
        ("Max file size", "bytes"),
        ("Max data size", "bytes"),
        ("Max stack size", "bytes"),
        ("Max core file size", "bytes"),
        ("Max resident set", "bytes"),
        ("Max processes", "processes"),
        ("Max open files", "files"),
        ("Max locked memory", "bytes"),
        ("Max address space", "bytes"),
        ("Max file locks", "locks"),
        ("Max pending signals", "signals"),
        ("Max msgqueue size", "bytes"),
        ("Max nice priority", ""),
        ("Max realtime priority", ""),
        ("Max realtime timeout", "us"),
    ];
    let shown = |value: u64| match value {
        u64::MAX => "unlimited".to_owned(),
        value => value.to_string(),
    };
    let mut text = format!(
        "{:<26}{:<21}{:<21}{:<10}\n",
        "Limit", "Soft Limit", "Hard Limit", "Units"
    );
    for ((name, unit), [soft, hard]) in NAMES.iter().zip(*t.process.limits()) {
        let _ = writeln!(
            text,
            "{name:<26}{:<21}{:<21}{unit:<10}",
            shown(soft),
            shown(hard)
        );
    }
    text
}

/// Where a link in `/proc/self/fd` leads, as text.
#[must_use]
pub fn target(d: &Description) -> Vec<u8> {
    match &d.object {
        Object::Host(file) => file.path.clone(),
        Object::Directory(path) if path.is_empty() => b"/".to_vec(),
        Object::Directory(path) => path.clone(),
        Object::Null => b"/dev/null".to_vec(),
        Object::Zero => b"/dev/zero".to_vec(),
        Object::Full => b"/dev/full".to_vec(),
        Object::Random => b"/dev/urandom".to_vec(),
        Object::Device => b"/dev/nexus".to_vec(),
        Object::Memory(inode) => format!("/tmp/#{} (memory)", inode.number).into_bytes(),
        Object::Fifo(end) => format!("/tmp/#{} (fifo)", end.inode.number).into_bytes(),
        Object::Standard(fd) => format!("pipe:[{fd}]").into_bytes(),
        Object::Pipe(fd, _) => format!("pipe:[{}]", fd.as_raw_fd()).into_bytes(),
        Object::Socket(socket) => format!("socket:[{}]", socket.host()).into_bytes(),
        Object::Terminal(side) if side.is_master => b"/dev/ptmx".to_vec(),
        Object::Terminal(side) => format!("/dev/pts/{}", side.terminal.number).into_bytes(),
        Object::Event(_) => b"anon_inode:[eventfd]".to_vec(),
        Object::Timer(..) => b"anon_inode:[timerfd]".to_vec(),
        Object::Poll(..) => b"anon_inode:[eventpoll]".to_vec(),
    }
}
