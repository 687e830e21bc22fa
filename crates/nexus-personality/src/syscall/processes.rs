//! Processes: vfork(2) and the clone(2) of posix_spawn(3), execve(2), wait4(2) and waitid(2).
//!
//! Between vfork and exec the child borrows the parent's thread and vCPU: the same thread goes on with a descriptor
//! table, working directory, signal dispositions and mask of the child's, until it executes a program or ends. The
//! program then runs in a microVM of its own; the thread gets the parent's registers back. One child at a time is
//! in the making. fork(2) is in `fork`.

use super::futex::release_robust;
use super::open;
use crate::children::{self, Found, Place, Wanted};
use crate::config::{Exact, Program};
use crate::errno::{
    E2BIG, EACCES, EAGAIN, ECHILD, EINTR, EINVAL, ELOOP, ENOENT, ENOEXEC, ENOSYS, Errno, SysResult,
};
use crate::files::Object;
use crate::files::names::Node;
use crate::heritage::{Heritage, with_others};
use crate::itimer::{self, Timers};
use crate::machine::{Cpu, Outcome, Start, Tid, UserRegs};
use crate::process::{Process, Stop};
use crate::signal;
use crate::thread::Thread;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

/// Bytes of a program's arguments and environment together, with a pointer for each.
const MOST_BYTES: usize = crate::loader::MOST_ARGUMENTS as usize;
const POINTER: usize = size_of::<u64>();
/// What a string takes here beside its bytes: a vector, and the least that is allocated.
const KEPT: usize = 48;
/// Of one string, with its end.
const MOST_STRING: usize = 128 << 10;
/// Scripts that name scripts.
const MOST_NESTED: usize = 4;
/// How long a second thread that wants a child waits before it looks again whether the first is done, in ns.
const LOOK_AGAIN: u64 = 500_000;

const WNOHANG: u64 = 1;
const WEXITED: u64 = 4;
const WNOWAIT: u64 = 0x0100_0000;

/// A child between vfork and exec, and what its parent's thread goes on with after it.
pub struct Making {
    pid: Tid,
    regs: UserRegs,
    xsave: Vec<u8>,
    mask: u64,
    alt_stack: (u64, u64, u32),
}

/// vfork(2): the child goes on with the caller's registers and stack.
pub fn vfork(t: &mut Thread, cpu: &mut dyn Cpu, _: [u64; 6]) -> SysResult {
    begin(t, cpu)
}

/// clone(2) of a process: as fork, or as vfork with a stack and a thread pointer of its own.
pub fn clone_process(
    t: &mut Thread,
    cpu: &mut dyn Cpu,
    [flags, stack, parent_tid, child_tid, tls, _]: [u64; 6],
) -> SysResult {
    let both = (libc::CLONE_VM | libc::CLONE_VFORK) as u64;
    if flags & both == 0 {
        let arguments = [flags, stack, parent_tid, child_tid, tls, 0];
        return super::fork::clone_copy(t, cpu, arguments);
    }
    // The lowest byte is the signal at its end, which is SIGCHLD in all that asks.
    let served = both | libc::CLONE_SETTLS as u64 | 0xff;
    if flags & both != both || flags & !served != 0 {
        return Err(ENOSYS);
    }
    let done = begin(t, cpu)?;
    let regs = cpu.regs_mut();
    if stack != 0 {
        regs.rsp = stack;
    }
    if flags & libc::CLONE_SETTLS as u64 != 0 {
        regs.fs_base = tls;
    }
    Ok(done)
}

fn begin(t: &mut Thread, cpu: &mut dyn Cpu) -> SysResult {
    if t.making.is_some() {
        return Err(ENOSYS);
    }
    while !t.process.lend() {
        let time = [0u64, LOOK_AGAIN];
        let arguments = [0, 0, time.as_ptr() as u64, 0, 0, 0];
        // SAFETY: the time lives across the call.
        let waited = unsafe { t.shared.kick.block(libc::SYS_ppoll, arguments) };
        if waited == Err(EINTR) {
            return waited;
        }
    }
    let xsave = match cpu.xsave() {
        Ok(xsave) => xsave,
        Err(error) => {
            t.process.take_back();
            return Err(error.into());
        }
    };
    let pid = t.process.next_tid();
    if let Err(error) = t.process.children.add(pid) {
        t.process.take_back();
        return Err(error);
    }
    t.process.groups.enter(pid, t.process.pid());
    t.making = Some(Box::new(Making {
        pid,
        regs: *cpu.regs(),
        xsave,
        mask: t.mask,
        alt_stack: t.alt_stack,
    }));
    Ok(0)
}

/// The child in the making ends, or has become a program: the parent's thread goes on.
fn resume_parent(t: &mut Thread, cpu: &mut dyn Cpu) -> Option<Tid> {
    let made = t.making.take()?;
    t.process.take_back();
    *cpu.regs_mut() = made.regs;
    cpu.regs_mut().rax = u64::from(made.pid.unsigned_abs());
    let _ = cpu.set_xsave(&made.xsave);
    t.alt_stack = made.alt_stack;
    t.set_mask(made.mask);
    t.control = Some(Outcome::Resume);
    Some(made.pid)
}

/// The process id as the caller sees it.
#[must_use]
pub fn own_pid(t: &Thread) -> Tid {
    t.making
        .as_ref()
        .map_or_else(|| t.process.pid(), |made| made.pid)
}

/// Whether the thread carried a child in the making, which has now ended with this wait status.
pub fn ends_in_making(t: &mut Thread, cpu: &mut dyn Cpu, status: i32) -> bool {
    let Some(pid) = resume_parent(t, cpu) else {
        return false;
    };
    children::ended(&t.process, pid, status);
    true
}

/// execve(2): the program runs in a microVM of its own. Of a child in the making that is all; else the caller's own
/// microVM stands for the new one until that ends.
pub fn execve(t: &mut Thread, cpu: &mut dyn Cpu, [path, argv, envp, ..]: [u64; 6]) -> SysResult {
    let path = open::own_pid(t, t.process.memory.read_path(path)?);
    let opened = [b"/proc/self/fd/".as_slice(), b"/dev/fd/"]
        .iter()
        .find_map(|links| path.strip_prefix(*links));
    let path = match opened.map(std::str::from_utf8) {
        Some(Ok(number)) => opened_path(t, number.parse().map_err(|_| ENOENT)?)?,
        // The new program's link of that name will lead to itself.
        _ if path == b"/proc/self/exe" => t.process.config.program.path.clone().into_bytes(),
        _ => path,
    };
    execute(t, cpu, path, argv, envp)
}

/// execveat(2).
pub fn execveat(
    t: &mut Thread,
    cpu: &mut dyn Cpu,
    [directory, path, argv, envp, flags, _]: [u64; 6],
) -> SysResult {
    let served = (libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW) as u64;
    if flags & !served != 0 {
        return Err(EINVAL);
    }
    let mut path = t.process.memory.read_path(path)?;
    if path.is_empty() && flags & libc::AT_EMPTY_PATH as u64 != 0 {
        path = opened_path(t, directory)?;
    } else if !path.starts_with(b"/") {
        let base = open::base(t, directory, &path)?;
        path = [&base, b"/".as_slice(), &path].concat();
    }
    let follow = flags & libc::AT_SYMLINK_NOFOLLOW as u64 == 0;
    let resolved = t.process.names.resolve(b"", &path, follow)?;
    if matches!(resolved.node, Some(Node::Link(_))) {
        return Err(ELOOP);
    }
    execute(t, cpu, path, argv, envp)
}

/// The path of the program that a descriptor refers to: of the host's files alone, which keep theirs.
fn opened_path(t: &Thread, fd: u64) -> Result<Vec<u8>, Errno> {
    match &super::io::description(t, fd)?.object {
        Object::Host(file) => Ok(file.path.clone()),
        _ => Err(EACCES),
    }
}

fn execute(t: &mut Thread, cpu: &mut dyn Cpu, path: Vec<u8>, argv: u64, envp: u64) -> SysResult {
    let mut budget = MOST_BYTES;
    let argv = strings(t, argv, &mut budget)?;
    let envp = strings(t, envp, &mut budget)?;
    let kept = MOST_BYTES - budget + (argv.len() + envp.len()) * KEPT;
    let charge = t.process.ledger.lend(kept as u64)?;
    let (path, argv) = program(t, path, argv)?;
    let program = Program {
        // The names of programs are text; what they are told need not be.
        path: String::from_utf8(path).map_err(|_| EINVAL)?,
        exact: Some(Arc::new(Exact {
            argv,
            env: envp,
            charge,
        })),
        ..Program::default()
    };
    let mask = t.mask;
    match t.making.as_ref().map(|made| made.pid) {
        Some(pid) => {
            launch(t, pid, program, mask, move |parent, status| {
                children::ended(parent, pid, status);
            })?;
            close_on_exec(t);
            resume_parent(t, cpu);
            Ok(0)
        }
        None => replace(t, program, mask),
    }
}

/// Record locks of files that the new program does not have open go; those of others stay.
fn close_on_exec(t: &Thread) {
    let closed: Vec<_> = (t.process.files().iter())
        .filter(|(_, entry)| entry.close_on_exec)
        .map(|(_, entry)| Arc::clone(&entry.description))
        .collect();
    for description in closed {
        super::fdops::closes(t, &description);
    }
}

fn launch(
    t: &Thread,
    pid: Tid,
    program: Program,
    mask: u64,
    ended: impl FnOnce(&Process, i32) + Send + 'static,
) -> Result<(), Errno> {
    let parent = Arc::clone(&t.process);
    let heritage = Heritage::of(&parent, pid, program);
    let start: Start = Box::new(move |window, machine| {
        let child = Process::inherit(window, machine, heritage)?;
        let state = child.load_with_mask(mask)?;
        if pid == parent.pid() {
            parent.set_successor(&child);
        }
        Ok((child, state))
    });
    with_place(t, start, ended)
}

/// Have the machine make another microVM, if one more may live; `ended` gets the calling process and the new one's
/// wait status.
///
/// # Errors
/// EAGAIN where too many live; the machine's.
pub fn with_place(
    t: &Thread,
    start: Start,
    ended: impl FnOnce(&Process, i32) + Send + 'static,
) -> Result<(), Errno> {
    let place = Place::take(&t.process.alive)?;
    let told = Arc::clone(&t.process);
    let ended = Box::new(move |status| {
        drop(place);
        ended(&told, status);
    });
    with_others(|| t.process.machine.launch(start, ended))
}

fn replace(t: &mut Thread, program: Program, mask: u64) -> SysResult {
    let pid = t.process.pid();
    let caller = t.tid();
    launch(t, pid, program, mask, move |old, status| {
        old.set_succeeded(status);
        old.machine.kick(caller);
    })?;
    release_robust(t);
    if let Some(new) = t.process.successor() {
        hand_over(t, &new);
    }
    // Nothing of the old program goes on but this thread, which waits for the new one.
    close_on_exec(t);
    t.process.close_files();
    t.process.set_stopping(Stop::Anywhere);
    let others: Vec<Tid> = t.process.tids();
    let others = others.into_iter().filter(|tid| *tid != caller);
    let alone = others.map(|tid| t.process.machine.kick(tid)).count() == 0;
    // Another thread may yet run for a moment, and is not to miss its memory; it leaves the memory with the old program.
    if alone {
        t.process.mm().clear()?;
    }
    let status = loop {
        if let Some(status) = t.process.succeeded() {
            break status;
        }
        if t.process.abandoned() {
            break libc::SIGKILL;
        }
        // SAFETY: no pointer is passed but null.
        let _ = unsafe { t.shared.kick.block(libc::SYS_ppoll, [0; 6]) };
        t.shared.kick.take();
    };
    t.control = Some(Outcome::Exit(status));
    Ok(0)
}

/// What goes on with the program that was executed: interval timers, and signals that wait.
fn hand_over(t: &Thread, new: &Arc<Process>) {
    for kind in 0..itimer::KINDS {
        let old = Timers::set(&t.process, kind, Duration::ZERO, Duration::ZERO);
        if let Some((left, interval)) = old.filter(|(left, _)| !left.is_zero()) {
            // Where there can be no thread for it, it is lost.
            let _ = Timers::set(new, kind, left, interval);
        }
    }
    for pending in [&t.shared.pending, &t.process.pending] {
        while let Some(sent) = pending.take(u64::MAX) {
            let _ = signal::send(new, None, sent);
        }
    }
}

/// A NULL-terminated array of strings.
fn strings(t: &Thread, mut address: u64, budget: &mut usize) -> Result<Vec<Vec<u8>>, Errno> {
    let mut list = Vec::new();
    if address == 0 {
        return Ok(list);
    }
    loop {
        let at: u64 = t.process.memory.read(address)?;
        if at == 0 {
            return Ok(list);
        }
        list.push(string(t, at, budget)?);
        address = address.wrapping_add(8);
    }
}

fn string(t: &Thread, address: u64, budget: &mut usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::new();
    let mut at = address;
    loop {
        // Up to the end of the page: what is behind it need not be there.
        let mut part = vec![0u8; (4096 - at % 4096) as usize];
        t.process.memory.read_bytes(at, &mut part)?;
        let end = part.iter().position(|b| *b == 0);
        part.truncate(end.unwrap_or(part.len()));
        bytes.extend_from_slice(&part);
        if bytes.len() >= MOST_STRING || bytes.len() > *budget {
            return Err(E2BIG);
        }
        if end.is_some() {
            let takes = bytes.len() + 1 + POINTER;
            *budget = budget.checked_sub(takes).ok_or(E2BIG)?;
            return Ok(bytes);
        }
        at = at.wrapping_add(part.len() as u64);
    }
}

/// What is to be executed, with its arguments: a program as it is, or a script's interpreter with the script.
fn program(
    t: &Thread,
    mut path: Vec<u8>,
    mut argv: Vec<Vec<u8>>,
) -> Result<(Vec<u8>, Vec<Vec<u8>>), Errno> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| EINVAL);
    for _ in 0..MOST_NESTED {
        let head = head(t, &path)?;
        let Some(rest) = head.strip_prefix(b"#!") else {
            if !head.starts_with(b"\x7fELF") {
                return Err(ENOEXEC);
            }
            return Ok((path, argv));
        };
        let line = rest.split(|b| *b == b'\n').next().unwrap_or_default();
        let line = text(line)?;
        let (interpreter, argument) = line
            .trim()
            .split_once([' ', '\t'])
            .map_or((line.trim(), None), |(i, a)| (i, Some(a.trim())));
        if interpreter.is_empty() {
            return Err(ENOEXEC);
        }
        let script = path;
        let rest = argv.into_iter().skip(1);
        argv = std::iter::once(interpreter.as_bytes().to_vec())
            .chain(
                argument
                    .filter(|a| !a.is_empty())
                    .map(|a| a.as_bytes().to_vec()),
            )
            .chain(std::iter::once(script))
            .chain(rest)
            .collect();
        path = interpreter.as_bytes().to_vec();
    }
    Err(ELOOP)
}

/// The first bytes of an executable file.
fn head(t: &Thread, path: &[u8]) -> Result<Vec<u8>, Errno> {
    if path.is_empty() {
        return Err(ENOENT);
    }
    let resolved = open::resolve_path(t, path)?;
    match resolved.node.ok_or(ENOENT)? {
        Node::Host {
            directory,
            relative,
        } => {
            let (file, stat) =
                crate::files::resolve::open_host(directory, &relative, &resolved.path)?;
            if stat.st_mode & libc::S_IFMT == libc::S_IFDIR || stat.st_mode & 0o111 == 0 {
                return Err(EACCES);
            }
            first_bytes(file.fd.as_raw_fd())
        }
        Node::Memory(inode) if !inode.is_directory() && inode.meta().mode & 0o111 != 0 => {
            first_bytes(inode.host().ok_or(EACCES)?)
        }
        _ => Err(EACCES),
    }
}

fn first_bytes(fd: RawFd) -> Result<Vec<u8>, Errno> {
    let mut head = vec![0u8; 256];
    // SAFETY: a live buffer of the length given.
    let got = unsafe { libc::pread(fd, head.as_mut_ptr().cast(), head.len(), 0) };
    let got = crate::errno::check(got as i64)?;
    head.truncate(got as usize);
    Ok(head)
}

pub fn wait4(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [pid, status, options, usage, ..]: [u64; 6],
) -> SysResult {
    let wanted = match pid as i32 {
        -1 => Wanted::Any,
        0 => Wanted::Group(t.process.groups.get(t.process.pid())?.group),
        one if one > 0 => Wanted::One(one),
        group => Wanted::Group(group.checked_neg().ok_or(ECHILD)?),
    };
    match wait_for(t, wanted, options & WNOHANG != 0, false)? {
        Some((pid, code)) => {
            if status != 0 {
                t.process.memory.write(status, code)?;
            }
            if usage != 0 {
                t.process.memory.write_bytes(usage, &[0; 144])?;
            }
            Ok(u64::from(pid.unsigned_abs()))
        }
        None => Ok(0),
    }
}

pub fn waitid(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [kind, id, info, options, usage, _]: [u64; 6],
) -> SysResult {
    if options & WEXITED == 0 {
        // Nothing ever stops or goes on.
        return Err(
            if options & !(WNOHANG | WNOWAIT | 0x2000_000f) == 0 && options & 0xe != 0 {
                ECHILD
            } else {
                EINVAL
            },
        );
    }
    let wanted = match kind {
        0 => Wanted::Any,
        1 => Wanted::One(id as i32),
        2 if id as i32 == 0 => Wanted::Group(t.process.groups.get(t.process.pid())?.group),
        2 => Wanted::Group(id as i32),
        _ => return Err(EINVAL),
    };
    let found = wait_for(t, wanted, options & WNOHANG != 0, options & WNOWAIT != 0)?;
    if info != 0 {
        let words = found.map_or([0; 16], |(pid, status)| children::about(pid, status).info());
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        t.process.memory.write_bytes(info, &bytes)?;
    }
    if usage != 0 {
        t.process.memory.write_bytes(usage, &[0; 144])?;
    }
    Ok(0)
}

fn wait_for(
    t: &Thread,
    wanted: Wanted,
    now: bool,
    stay: bool,
) -> Result<Option<(Tid, i32)>, Errno> {
    if t.making.is_some() {
        return Err(ECHILD); // the parent's are not the child's
    }
    loop {
        match t.process.children.find(wanted, &t.process.groups, stay) {
            Found::Ended(pid, status) => return Ok(Some((pid, status))),
            Found::Nobody => return Err(ECHILD),
            Found::Running if now => return Ok(None),
            Found::Running => {}
        }
        if t.process.stops(true) || signal::pending(t) & !t.mask != 0 {
            return Err(EINTR);
        }
        // SAFETY: no pointer is passed but null.
        let _ = unsafe { t.shared.kick.block(libc::SYS_ppoll, [0; 6]) };
        t.shared.kick.take();
    }
}

/// The error of a launch that the hypervisor could not make.
impl From<crate::process::Error> for Errno {
    fn from(error: crate::process::Error) -> Self {
        match error {
            crate::process::Error::Guest { errno, .. } => errno,
            crate::process::Error::Refused(_) => ENOEXEC,
            crate::process::Error::Host { .. } => EAGAIN,
        }
    }
}
