//! A machine without a virtual machine: it remembers what was asked of it, and calls are made by hand.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use nexus_personality::config::{Config, DeviceDescriptors, Program, Root};
use nexus_personality::machine::{Cpu, Machine, Outcome, ThreadState, UserRegs};
use nexus_personality::mm::{Backing, Neighbours, Request};
use nexus_personality::window::Window;
use nexus_personality::{Process, Thread, table};
use std::io;
use std::os::fd::RawFd;
use std::path::Path;
use std::sync::{Arc, Mutex};

#[derive(Default)]
pub struct FakeMachine {
    pub executable: Mutex<std::collections::BTreeMap<u64, bool>>,
    pub backed: Mutex<Vec<(u64, u64)>>,
    pub spawned: Mutex<Vec<ThreadState>>,
}

impl Machine for FakeMachine {
    fn back(&self, start: u64, end: u64) -> io::Result<()> {
        self.backed.lock().unwrap().push((start, end));
        Ok(())
    }
    fn set_executable(&self, start: u64, end: u64, executable: bool) -> io::Result<()> {
        for chunk in (start & !0x1f_ffff..end).step_by(2 << 20) {
            self.executable.lock().unwrap().insert(chunk, executable);
        }
        Ok(())
    }
    fn map_doorbell(&self, _: RawFd) -> io::Result<()> {
        Ok(())
    }
    fn spawn(&self, thread: ThreadState) -> io::Result<()> {
        self.spawned.lock().unwrap().push(thread);
        Ok(())
    }
    fn kick(&self, _: i32) {}
}

#[derive(Default)]
pub struct FakeCpu {
    pub regs: UserRegs,
}

impl Cpu for FakeCpu {
    fn regs(&self) -> &UserRegs {
        &self.regs
    }
    fn regs_mut(&mut self) -> &mut UserRegs {
        &mut self.regs
    }
    fn xsave(&mut self) -> io::Result<Vec<u8>> {
        Ok(vec![0; 4096])
    }
    fn set_xsave(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

pub struct Guest {
    pub window: Window,
    pub machine: Arc<FakeMachine>,
    pub process: Arc<Process>,
    pub thread: Thread,
    pub cpu: FakeCpu,
}

pub fn config(roots: &[(&str, &Path)]) -> Config {
    Config {
        memory_mib: 128,
        tmp_mib: 8,
        max_threads: 8,
        cpus: 2,
        hostname: "guest".to_owned(),
        roots: roots
            .iter()
            .map(|(g, h)| Root {
                guest: (*g).to_owned(),
                host: h.to_path_buf(),
                writable: false,
            })
            .collect(),
        program: Program {
            cwd: "/".to_owned(),
            ..Default::default()
        },
        vdso: 0,
        device: None,
        wants_snapshot: false,
    }
}

/// An arena and its doorbell, kept open for the test's life.
pub fn device() -> DeviceDescriptors {
    // SAFETY: plain calls; results are checked.
    unsafe {
        let arena = libc::memfd_create(c"arena".as_ptr(), libc::MFD_CLOEXEC);
        assert!(arena >= 0 && libc::ftruncate(arena, 8 << 20) == 0);
        let doorbell = libc::eventfd(0, 0);
        assert!(doorbell >= 0);
        DeviceDescriptors {
            arena,
            doorbell,
            completion: None,
            network: None,
        }
    }
}

/// One more thread of a guest, which makes calls by itself.
pub struct Caller {
    thread: Thread,
    cpu: FakeCpu,
}

impl Caller {
    /// As [`Guest::call`].
    pub fn call(&mut self, name: &str, arguments: &[u64]) -> i64 {
        let call = table::all().find(|c| c.name == name).expect("a call");
        let mut a = [0; 6];
        a[..arguments.len()].copy_from_slice(arguments);
        let r = &mut self.cpu.regs;
        (r.rax, r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9) =
            (call.number, a[0], a[1], a[2], a[3], a[4], a[5]);
        (r.rip, r.rcx) = (0x40_1002, 0x40_1002);
        self.thread.syscall(&mut self.cpu);
        self.cpu.regs.rax.cast_signed()
    }
}

impl Guest {
    /// Have two threads do `work` at the same time, which is told which it is; the sum of what it returns.
    pub fn by_two(&self, work: impl Fn(u64, &mut Caller) -> u64 + Sync) -> u64 {
        let (process, work) = (&self.process, &work);
        std::thread::scope(|scope| {
            let start = |which: u64| {
                move || {
                    let state = ThreadState {
                        tid: process.pid() + 1 + i32::try_from(which).unwrap(),
                        ..Default::default()
                    };
                    let thread = process.enter(&state);
                    let cpu = FakeCpu::default();
                    work(which, &mut Caller { thread, cpu })
                }
            };
            let (one, two) = (scope.spawn(start(0)), scope.spawn(start(1)));
            one.join().unwrap() + two.join().unwrap()
        })
    }

    pub fn new(config: Config) -> Self {
        let window = Window::reserve().unwrap();
        let machine = Arc::new(FakeMachine::default());
        let process = Process::new(window, config, Arc::<FakeMachine>::clone(&machine)).unwrap();
        let state = ThreadState {
            tid: process.pid(),
            ..Default::default()
        };
        let thread = process.enter(&state);
        Self {
            window,
            machine,
            process,
            thread,
            cpu: FakeCpu::default(),
        }
    }

    pub fn plain() -> Self {
        Self::new(config(&[]))
    }

    /// Make a system call by its name; the result is what RAX would be, as a signed number.
    pub fn call(&mut self, name: &str, arguments: &[u64]) -> i64 {
        let call = table::all()
            .find(|c| c.name == name)
            .expect("a call of the table");
        self.call_number(call.number, arguments).0
    }

    pub fn call_number(&mut self, number: u64, arguments: &[u64]) -> (i64, Outcome) {
        let mut a = [0; 6];
        a[..arguments.len()].copy_from_slice(arguments);
        let r = &mut self.cpu.regs;
        (r.rax, r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9) =
            (number, a[0], a[1], a[2], a[3], a[4], a[5]);
        (r.rip, r.rcx) = (0x40_1002, 0x40_1002);
        let outcome = self.thread.syscall(&mut self.cpu);
        (self.cpu.regs.rax.cast_signed(), outcome)
    }

    /// Anonymous memory of this size, readable and writable.
    pub fn memory(&mut self, length: u64) -> u64 {
        let at = self.call("mmap", &[0, length, 3, 0x22, u64::MAX, 0]);
        assert!(at > 0, "mmap: {at}");
        at.cast_unsigned()
    }

    /// A first thread's stack as the loader maps it; its bottom.
    pub fn map_stack(&mut self) -> u64 {
        let request = Request {
            address: 0,
            length: 8 << 20,
            prot: libc::PROT_READ | libc::PROT_WRITE,
            shared: false,
            fixed: false,
            exclusive: false,
            backing: Backing::Anonymous,
            source: None,
            neighbours: Neighbours::Alike,
            used: 0,
        };
        self.process.mm().map_stack(request).unwrap()
    }

    /// Map much, and see that none of it is where a stack with this bottom would overflow to.
    pub fn keeps_off_the_stack(&mut self, bottom: u64) {
        let guard = bottom - (1 << 20)..bottom;
        let hint = bottom - 0x8000;
        for n in 0..200 {
            let length = [1, 16, 75, 200, 600, 2000][n % 6] * 4096;
            let (address, prot) = [(0, 3), (0, 5), (hint, 3), (0, 0)][n % 4];
            let at = self.call("mmap", &[address, length, prot, 0x4022, u64::MAX, 0]);
            let at = at.cast_unsigned();
            assert!(
                at + length <= guard.start || at >= guard.end,
                "{at:#x}, {length:#x} meets {guard:#x?}"
            );
        }
        let exact = [hint, 4096, 3, 0x32, u64::MAX, 0];
        assert_eq!(self.call("mmap", &exact), hint.cast_signed());
    }

    pub fn poke(&self, address: u64, bytes: &[u8]) {
        let host = self.window.host(address, bytes.len() as u64).unwrap() as *mut u8;
        // SAFETY: the test mapped this range of the window.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), host, bytes.len()) };
    }

    pub fn peek(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let host = self.window.host(address, length as u64).unwrap() as *const u8;
        // SAFETY: the test mapped this range of the window.
        unsafe { std::ptr::copy_nonoverlapping(host, bytes.as_mut_ptr(), length) };
        bytes
    }

    /// Put a NUL-terminated text into fresh guest memory.
    pub fn text(&mut self, text: &str) -> u64 {
        let at = self.memory(8192);
        self.poke(at, text.as_bytes());
        at
    }

    /// Open; a descriptor or a negative error number.
    pub fn open(&mut self, path: &str, flags: i32) -> i64 {
        let at = self.text(path);
        self.call("openat", &[0xffff_ff9c, at, flags as u64, 0o644])
    }

    /// Read a whole file, at most 64 KiB.
    pub fn read_file(&mut self, path: &str) -> Result<Vec<u8>, i64> {
        let fd = self.open(path, 0);
        if fd < 0 {
            return Err(fd);
        }
        let buffer = self.memory(65536);
        let got = self.call("read", &[fd.cast_unsigned(), buffer, 65536]);
        self.call("close", &[fd.cast_unsigned()]);
        if got < 0 {
            Err(got)
        } else {
            Ok(self.peek(buffer, usize::try_from(got).unwrap()))
        }
    }

    pub fn write_file(&mut self, path: &str, content: &[u8]) -> i64 {
        let fd = self.open(path, libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC);
        if fd < 0 {
            return fd;
        }
        let buffer = self.memory(content.len().max(1) as u64);
        self.poke(buffer, content);
        let wrote = self.call("write", &[fd.cast_unsigned(), buffer, content.len() as u64]);
        self.call("close", &[fd.cast_unsigned()]);
        wrote
    }
}

impl Guest {
    /// A call without arguments, with the registers as they are.
    pub fn call_number_at_current_stack(&mut self, number: u64) -> (i64, Outcome) {
        self.cpu.regs.rax = number;
        let outcome = self.thread.syscall(&mut self.cpu);
        (self.cpu.regs.rax.cast_signed(), outcome)
    }
}
