//! One virtual CPU: entering the guest at CPL 3 and telling what it left for.
//!
//! Registers travel in the `kvm_run` page (KVM_CAP_SYNC_REGS), so a system call costs no further ioctl. Whatever the
//! machine shows at an exit, [`Vcpu::regs`] is canonical: the CPL 3 state after the call.

use super::Error;
use super::cpuid::Template;
use super::flavour::{Flavour, OUT_LENGTH};
use super::setup::{from_kvm, set_msrs, set_tsc_offset, set_xcr0, to_kvm, user_sregs};
use super::system_chunk::SystemChunk;
use crate::layout::{
    HANDLER_STRIDE, PAGE, PORT_EXCEPTION, PORT_SYSCALL, SYSTEM_BASE, VECTORS, system,
};
use kvm_bindings::{KVM_EXIT_MEMORY_FAULT, kvm_sregs, kvm_xsave};
use kvm_ioctls::{SyncReg, VcpuExit, VcpuFd};
use nexus_personality::machine::{Exception, UserRegs};
use std::io;

/// CF PF AF ZF SF TF DF OF AC ID: what a program may set itself.
const USER_FLAGS: u64 = 0x0024_0dd5;
const FIXED_FLAGS: u64 = 0x202;

const STUB: u64 = SYSTEM_BASE + system::STUB;
const HANDLERS: u64 = SYSTEM_BASE + system::HANDLERS;

/// Why the guest was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Number in RAX, arguments in RDI, RSI, RDX, R10, R8, R9.
    Syscall,
    Exception(Exception),
    /// The host's mapping forbids an access of the instruction at RIP; `page` is its page where KVM tells.
    HostFault {
        page: Option<u64>,
        write: bool,
    },
    /// An access to the doorbell's page that the ioeventfd did not take.
    Doorbell {
        write: bool,
    },
    /// A use of the stub's port that is no system call: of another size, from elsewhere, or a read. The instruction is half
    /// done, so it cannot be resumed.
    Port,
    /// A signal or `immediate_exit`.
    Interrupted,
}

/// An exit as KVM gives it, free of borrows.
enum Raw {
    Out(u16, usize),
    In(u16, usize),
    Mmio(bool),
    Fault(Option<u64>, bool),
    Interrupted,
    Stopped(String),
}

pub struct Vcpu {
    fd: VcpuFd,
    flavour: Flavour,
    task: u64,
    user: kvm_sregs,
    regs: UserRegs,
    /// The stub's RIP and RFLAGS, and the registers at its exit: `sysretq` can return if they stay.
    in_stub: Option<(u64, u64)>,
    /// FS and GS base as the vCPU holds them, once its segments are a user's.
    bases: Option<(u64, u64)>,
    xcr0: u64,
    xsave_size: usize,
}

impl Vcpu {
    pub(super) fn new(
        fd: VcpuFd,
        task: u64,
        flavour: Flavour,
        template: &Template,
    ) -> Result<Self, Error> {
        fd.set_cpuid2(&template.leaves)
            .map_err(|e| Error::Call("KVM_SET_CPUID2", e))?;
        let user = user_sregs(&fd, task, flavour, template)?;
        fd.set_sregs(&user)
            .map_err(|e| Error::Call("KVM_SET_SREGS", e))?;
        if template.has.xsave {
            set_xcr0(&fd, template.xcr0)?;
        }
        set_msrs(&fd)?;
        if flavour.has_tsc_offset() {
            set_tsc_offset(&fd)?;
        }
        let mut vcpu = Self {
            fd,
            flavour,
            task,
            user,
            regs: UserRegs::default(),
            in_stub: None,
            bases: None,
            xcr0: template.xcr0,
            xsave_size: template.xsave_size,
        };
        vcpu.fd.set_sync_valid_reg(SyncReg::Register);
        vcpu.fd.set_sync_valid_reg(SyncReg::SystemRegister);
        Ok(vcpu)
    }

    #[must_use]
    pub fn regs(&self) -> &UserRegs {
        &self.regs
    }

    pub fn regs_mut(&mut self) -> &mut UserRegs {
        &mut self.regs
    }

    /// Address of `kvm_run.immediate_exit`, valid as long as the vCPU lives.
    pub fn immediate_exit(&mut self) -> *mut u8 {
        &raw mut self.fd.get_kvm_run().immediate_exit
    }

    /// Enter the guest and stay until something needs service.
    ///
    /// # Errors
    /// The VM stopped for good, or the machine is not what the stub needs. Neither can be resumed.
    pub fn run(&mut self, chunk: &SystemChunk) -> Result<Exit, Error> {
        self.load();
        let raw = match self.fd.run() {
            Ok(VcpuExit::IoOut(port, data)) => Raw::Out(port, data.len()),
            Ok(VcpuExit::IoIn(port, data)) => Raw::In(port, data.len()),
            Ok(VcpuExit::MmioRead(_, data)) => {
                data.fill(0);
                Raw::Mmio(false)
            }
            Ok(VcpuExit::MmioWrite(..)) => Raw::Mmio(true),
            Ok(VcpuExit::Intr) => Raw::Interrupted,
            Ok(other) => Raw::Stopped(format!("{other:?}")),
            Err(e) if matches!(e.errno(), libc::EINTR | libc::EAGAIN) => Raw::Interrupted,
            Err(e) if e.errno() == libc::EFAULT => self.host_fault(),
            Err(e) => return Err(Error::Call("KVM_RUN", e)),
        };
        self.store();
        self.interpret(raw, chunk)
    }

    fn host_fault(&mut self) -> Raw {
        let run = self.fd.get_kvm_run();
        if run.exit_reason != KVM_EXIT_MEMORY_FAULT {
            return Raw::Fault(None, false);
        }
        // SAFETY: the exit reason says which member of the union is valid; any bit pattern is.
        let fault = unsafe { run.__bindgen_anon_1.memory_fault };
        Raw::Fault(Some(fault.gpa), false)
    }

    /// Hand the canonical registers to KVM: through the stub's `sysretq` where nothing but what it restores has
    /// changed, else the whole CPL 3 state.
    fn load(&mut self) {
        let regs = self.regs;
        let bases = (regs.fs_base, regs.gs_base);
        let through_stub = self.in_stub.filter(|_| {
            regs.rip == regs.rcx && regs.rflags == regs.r11 && self.bases == Some(bases)
        });
        let (rip, rflags) =
            through_stub.unwrap_or((regs.rip, (regs.rflags & USER_FLAGS) | FIXED_FLAGS));
        let full = through_stub.is_none() && (self.in_stub.is_some() || self.bases != Some(bases));
        let sync = self.fd.sync_regs_mut();
        sync.regs = to_kvm(&regs, rip, rflags);
        if full {
            sync.sregs = self.user;
            sync.sregs.fs.base = regs.fs_base;
            sync.sregs.gs.base = regs.gs_base;
            self.fd.set_sync_dirty_reg(SyncReg::SystemRegister);
        }
        self.fd.set_sync_dirty_reg(SyncReg::Register);
    }

    fn store(&mut self) {
        let sync = self.fd.sync_regs_mut();
        let sregs = &sync.sregs;
        self.regs = from_kvm(&sync.regs, sregs);
        self.bases = Some((sregs.fs.base, sregs.gs.base));
        self.in_stub = None;
    }

    fn cpl(&mut self) -> u8 {
        (self.fd.sync_regs_mut().sregs.cs.selector & 3) as u8
    }

    fn interpret(&mut self, raw: Raw, chunk: &SystemChunk) -> Result<Exit, Error> {
        let cpl = self.cpl();
        let rip = self.regs.rip;
        match raw {
            Raw::Out(PORT_SYSCALL, 1) if rip == STUB || rip == STUB + OUT_LENGTH => {
                self.syscall_exit(cpl, true)?;
                Ok(Exit::Syscall)
            }
            Raw::Out(PORT_EXCEPTION, 1) if cpl == 0 => self.exception_exit(chunk),
            Raw::Out(PORT_SYSCALL, _) | Raw::In(PORT_SYSCALL, _) if cpl == 3 => Ok(Exit::Port),
            Raw::Out(port, bytes) | Raw::In(port, bytes) => Err(Error::Stopped(format!(
                "access of {bytes} bytes to port {port:#x} at {rip:#x}, CPL {cpl}"
            ))),
            Raw::Interrupted if rip == STUB => {
                // About to leave for a system call: this is that call.
                self.syscall_exit(cpl, false)?;
                Ok(Exit::Syscall)
            }
            Raw::Interrupted if rip == STUB + OUT_LENGTH => {
                self.syscall_exit(cpl, false)?;
                Ok(Exit::Interrupted)
            }
            Raw::Interrupted if cpl == 0 => self.exception_exit(chunk),
            Raw::Interrupted => Ok(Exit::Interrupted),
            Raw::Fault(page, write) if cpl == 3 => Ok(Exit::HostFault { page, write }),
            Raw::Fault(..) => Err(Error::Stopped(format!("host fault at CPL 0, RIP {rip:#x}"))),
            Raw::Mmio(write) if cpl == 3 => Ok(Exit::Doorbell { write }),
            Raw::Mmio(_) => Err(Error::Stopped(format!(
                "device access at CPL 0, RIP {rip:#x}"
            ))),
            Raw::Stopped(reason) => Err(Error::Stopped(format!("{reason} at {rip:#x}, CPL {cpl}"))),
        }
    }

    /// Make the state canonical after a system call, and check that the stub is right for this machine.
    fn syscall_exit(&mut self, cpl: u8, may_return: bool) -> Result<(), Error> {
        let cs = self.fd.sync_regs_mut().sregs.cs.selector;
        if cs != self.flavour.syscall_cs() {
            return Err(Error::Unsafe(format!(
                "a system call arrived with code segment {cs:#x}, but the {:?} stub implies {:#x}: refusing to run",
                self.flavour,
                self.flavour.syscall_cs()
            )));
        }
        if cpl == 0 {
            self.in_stub = if may_return {
                Some((self.regs.rip, self.regs.rflags))
            } else {
                // The vCPU's segments are the kernel's: load everything.
                self.bases = None;
                None
            };
        }
        self.regs.rip = self.regs.rcx;
        self.regs.rflags = self.regs.r11;
        Ok(())
    }

    /// Read the frame that the exception pushed. All of it may be a hostile guest's.
    fn exception_exit(&mut self, chunk: &SystemChunk) -> Result<Exit, Error> {
        let vector = self.regs.rip.wrapping_sub(HANDLERS) / HANDLER_STRIDE;
        let stack = self.task + PAGE;
        if vector >= VECTORS || !(self.task..stack).contains(&self.regs.rsp) {
            return Err(Error::Stopped(format!(
                "exception report from {:#x}, stack {:#x}",
                self.regs.rip, self.regs.rsp
            )));
        }
        let has_code = matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30);
        let word = |index: u64| chunk.read_u64(self.regs.rsp + index * 8);
        let first = u64::from(has_code);
        let (Some(rip), Some(rflags), Some(rsp)) = (word(first), word(first + 2), word(first + 3))
        else {
            return Err(Error::Stopped("exception frame outside its stack".into()));
        };
        let error_code = if has_code { word(0).unwrap_or(0) } else { 0 };
        let address = if vector == 14 {
            self.fd.sync_regs_mut().sregs.cr2
        } else {
            0
        };
        self.regs.rip = rip;
        self.regs.rflags = rflags;
        self.regs.rsp = rsp;
        self.bases = None;
        Ok(Exit::Exception(Exception {
            vector: vector as u8,
            error_code,
            address,
        }))
    }

    /// The extended state, standard format.
    ///
    /// # Errors
    /// What `KVM_GET_XSAVE` failed with.
    pub fn xsave(&self) -> io::Result<Vec<u8>> {
        let area = self
            .fd
            .get_xsave()
            .map_err(|e| io::Error::from_raw_os_error(e.errno()))?;
        let mut bytes: Vec<u8> = area
            .region
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        bytes.truncate(self.xsave_size);
        crate::xsave::keep(&mut bytes, self.xcr0);
        Ok(bytes)
    }

    /// Load an extended state that may be hostile; empty: the initial one.
    ///
    /// # Errors
    /// `InvalidInput` for what no XSAVE could have written.
    pub fn set_xsave(&mut self, area: &[u8]) -> io::Result<()> {
        let area = crate::xsave::checked(area, self.xcr0)?;
        let mut native = kvm_xsave::default();
        for (word, bytes) in native.region.iter_mut().zip(area.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        // SAFETY: no dynamic XSAVE feature is enabled, so the 4 KiB structure is all that KVM reads.
        unsafe { self.fd.set_xsave(&native) }.map_err(|e| io::Error::from_raw_os_error(e.errno()))
    }
}
