//! A virtual CPU: from a thread's canonical state into the guest, and back at each exit.

use super::layout::{BLOCK, EXCEPTION_PORT, PAGE, SYSCALL_PORT, SYSTEM, block, selector, system};
use super::tables::TSS_LIMIT;
use super::vm::Vm;
use super::{Error, Violation, doing};
use kvm_bindings::{Msrs, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs, kvm_xcrs, kvm_xsave};
use kvm_ioctls::{SyncReg, VcpuExit, VcpuFd};
use nexus_personality::machine::{Cpu, Exception, UserRegs};
use std::io;

const MSR_EFER: u32 = 0xc000_0080;
const MSR_STAR: u32 = 0xc000_0081;
const MSR_LSTAR: u32 = 0xc000_0082;
const MSR_FMASK: u32 = 0xc000_0084;
const EFER: u64 = 1 | 1 << 8 | 1 << 10 | 1 << 11; // SCE, LME, LMA, NXE
const CR0: u64 = 1 | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 31; // PE MP ET NE WP PG
const CR4_BASE: u64 = 1 << 5 | 1 << 9 | 1 << 10; // PAE OSFXSR OSXMMEXCPT
const CR4_UMIP: u64 = 1 << 11;
const CR4_OSXSAVE: u64 = 1 << 18;
const CR4_SMEP: u64 = 1 << 20;
const CR4_SMAP: u64 = 1 << 21;
/// Flags that CPL 3 may hold: CF PF AF ZF SF TF DF OF, RF, AC, ID; and bit 1 is always set, IF too.
const USER_FLAGS: u64 = 0x0025_0dd5;
const FIXED_FLAGS: u64 = 0x202;
/// Cleared by SYSCALL: TF, IF, DF, IOPL, NT, AC. The canonical state restores them from R11.
const FMASK: u64 = 0x0004_7700;
/// Most bits of state a guest may use: x87, SSE, AVX, and AVX-512 where the host has it.
const XCR0_TEMPLATE: u64 = 0xe7;

/// Why a vCPU left the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// A system call; number and arguments are in the registers.
    Syscall,
    /// An exception at CPL 3.
    Exception(Exception),
    /// The host mapping forbids an access of the instruction at RIP. Which one, KVM does not say.
    HostFault,
    /// A kick, or nothing at all.
    Interrupted,
    /// What no guest may do. It must be ended.
    Violation(Violation),
}

/// A vCPU and the canonical state of the thread it carries.
pub struct Vcpu<'vm> {
    vm: &'vm Vm,
    fd: VcpuFd,
    index: u64,
    regs: UserRegs,
    /// Segment bases as last loaded.
    loaded: (u64, u64),
    /// Where the guest stands: ready to go on behind a system call, or its whole state must be loaded.
    behind_syscall: Option<u64>,
    template: kvm_sregs,
    verified: bool,
}

impl<'vm> Vcpu<'vm> {
    pub(super) fn new(vm: &'vm Vm, mut fd: VcpuFd, index: u64) -> Result<Self, Error> {
        fd.set_cpuid2(vm.cpuid())
            .map_err(doing("setting the CPUID leaves"))?;
        let features = Features::of(vm);
        let mut template = fd
            .get_sregs()
            .map_err(doing("reading the system registers"))?;
        fill_template(&mut template, index, &features);
        fd.set_sregs(&template)
            .map_err(doing("setting the system registers"))?;
        let mut xcrs = kvm_xcrs {
            nr_xcrs: 1,
            ..Default::default()
        };
        if let Some(x) = xcrs.xcrs.first_mut() {
            x.value = features.xcr0;
        }
        fd.set_xcrs(&xcrs).map_err(doing("setting XCR0"))?;
        let entry = |index, data| kvm_msr_entry {
            index,
            data,
            ..Default::default()
        };
        let star =
            u64::from(selector::KERNEL_CODE) << 32 | u64::from((selector::USER_DATA - 8) | 3) << 48;
        let entries = [
            entry(MSR_EFER, EFER),
            entry(MSR_STAR, star),
            entry(MSR_LSTAR, SYSTEM + system::STUB),
            entry(MSR_FMASK, FMASK),
        ];
        let msrs = Msrs::from_entries(&entries).map_err(|_| Error {
            doing: "building the list of MSRs",
            source: kvm_ioctls::Error::new(libc::ENOMEM),
        })?;
        fd.set_msrs(&msrs)
            .map_err(doing("setting the SYSCALL registers"))?;
        fd.set_sync_valid_reg(SyncReg::Register);
        Ok(Self {
            vm,
            fd,
            index,
            regs: UserRegs::default(),
            loaded: (0, 0),
            behind_syscall: None,
            template,
            verified: false,
        })
    }

    /// Let the next run return at once (a kick does this from a signal handler).
    pub fn immediate_exit(&mut self) -> *mut u8 {
        &raw mut self.fd.get_kvm_run().immediate_exit
    }

    /// Run the guest until it leaves.
    pub fn run(&mut self) -> Exit {
        if let Err(e) = self.load() {
            return Exit::Violation(Violation(format!("loading the thread's state: {e}")));
        }
        let left = match self.fd.run() {
            Ok(VcpuExit::IoOut(port, data))
                if data.len() == 1 && port == u16::from(SYSCALL_PORT) =>
            {
                Left::Syscall
            }
            Ok(VcpuExit::IoOut(port, data))
                if data.len() == 1 && port == u16::from(EXCEPTION_PORT) =>
            {
                Left::Exception
            }
            Ok(VcpuExit::MmioRead(address, _) | VcpuExit::MmioWrite(address, _)) => {
                Left::Nowhere(address)
            }
            Ok(VcpuExit::Intr) => Left::Interrupted,
            Ok(other) => Left::Strange(format!("{other:?}")),
            Err(e) => match e.errno() {
                libc::EINTR | libc::EAGAIN => Left::Interrupted,
                libc::EFAULT => Left::HostFault,
                _ => Left::Strange(format!("KVM_RUN: {e}")),
            },
        };
        let raw = self.fd.sync_regs().regs;
        self.behind_syscall = None;
        match left {
            Left::Syscall => self.at_syscall(&raw),
            Left::Exception => self.at_exception(&raw),
            Left::Nowhere(address) => {
                self.take(&raw);
                Exit::Exception(Exception {
                    vector: 14,
                    error_code: 4,
                    address,
                })
            }
            Left::Interrupted | Left::HostFault if self.in_stub(raw.rip) => {
                // Between SYSCALL and its exit there is nothing canonical to show yet: let it get there.
                self.behind_syscall = Some(raw.rip);
                self.take(&raw);
                Exit::Interrupted
            }
            Left::Interrupted => {
                self.take(&raw);
                Exit::Interrupted
            }
            Left::HostFault => {
                self.take(&raw);
                Exit::HostFault
            }
            Left::Strange(what) => {
                Exit::Violation(Violation(format!("{what} at rip {:#x}", raw.rip)))
            }
        }
    }

    fn in_stub(&self, rip: u64) -> bool {
        (SYSTEM + system::STUB..SYSTEM + system::STUB + PAGE).contains(&rip)
    }

    fn at_syscall(&mut self, raw: &kvm_regs) -> Exit {
        let stub = SYSTEM + system::STUB;
        if raw.rip != stub && raw.rip != stub + 2 {
            return Exit::Violation(Violation(format!(
                "an I/O instruction at {:#x}, outside of the stub",
                raw.rip
            )));
        }
        if !self.verified {
            let cs = match self.fd.get_sregs() {
                Ok(sregs) => sregs.cs.selector,
                Err(e) => {
                    return Exit::Violation(Violation(format!("reading the code segment: {e}")));
                }
            };
            if cs != self.vm.flavour().syscall_cs() {
                return Exit::Violation(Violation(format!(
                    "the stub runs with code segment {cs:#x}: this machine is no {:?}",
                    self.vm.flavour()
                )));
            }
            self.verified = true;
        }
        self.take(raw);
        self.regs.rip = raw.rcx;
        self.regs.rflags = raw.r11 & USER_FLAGS | FIXED_FLAGS;
        self.behind_syscall = Some(raw.rip);
        Exit::Syscall
    }

    fn at_exception(&mut self, raw: &kvm_regs) -> Exit {
        let base = system::BLOCKS + self.index * BLOCK;
        let stack = SYSTEM + base + block::STACK_END..SYSTEM + base + block::STACK;
        let handlers = SYSTEM + system::HANDLERS..SYSTEM + system::HANDLERS + PAGE;
        if !stack.contains(&raw.rsp) || !handlers.contains(&raw.rip) {
            return Exit::Violation(Violation(format!(
                "an exception exit at {:#x} that is none",
                raw.rip
            )));
        }
        let word = |n: u64| self.vm.system_word(raw.rsp - SYSTEM + 8 * n);
        let (vector, error_code, rip, cs, rflags, rsp) =
            (word(0), word(1), word(2), word(3), word(4), word(5));
        if cs != u64::from(selector::USER_CODE) {
            return Exit::Violation(Violation(format!(
                "exception {vector} at CPL 0, rip {rip:#x}, code segment {cs:#x}"
            )));
        }
        let address = match self.fd.get_sregs() {
            Ok(sregs) if vector == 14 => sregs.cr2,
            Ok(_) => 0,
            Err(e) => return Exit::Violation(Violation(format!("reading CR2: {e}"))),
        };
        self.take(raw);
        self.regs.rip = rip;
        self.regs.rsp = rsp;
        self.regs.rflags = rflags & USER_FLAGS | FIXED_FLAGS;
        Exit::Exception(Exception {
            vector: (vector & 0xff) as u8,
            error_code,
            address,
        })
    }

    /// Copy the general registers into the canonical state.
    fn take(&mut self, raw: &kvm_regs) {
        let (fs_base, gs_base) = (self.regs.fs_base, self.regs.gs_base);
        self.regs = UserRegs {
            rax: raw.rax,
            rbx: raw.rbx,
            rcx: raw.rcx,
            rdx: raw.rdx,
            rsi: raw.rsi,
            rdi: raw.rdi,
            rbp: raw.rbp,
            rsp: raw.rsp,
            r8: raw.r8,
            r9: raw.r9,
            r10: raw.r10,
            r11: raw.r11,
            r12: raw.r12,
            r13: raw.r13,
            r14: raw.r14,
            r15: raw.r15,
            rip: raw.rip,
            rflags: raw.rflags & USER_FLAGS | FIXED_FLAGS,
            fs_base,
            gs_base,
        };
    }

    /// Bring the canonical state into the vCPU, by the cheapest way that is exact.
    fn load(&mut self) -> Result<(), Error> {
        let r = &self.regs;
        let mut raw = kvm_regs {
            rax: r.rax,
            rbx: r.rbx,
            rcx: r.rcx,
            rdx: r.rdx,
            rsi: r.rsi,
            rdi: r.rdi,
            rsp: r.rsp,
            rbp: r.rbp,
            r8: r.r8,
            r9: r.r9,
            r10: r.r10,
            r11: r.r11,
            r12: r.r12,
            r13: r.r13,
            r14: r.r14,
            r15: r.r15,
            rip: r.rip,
            rflags: r.rflags & USER_FLAGS | FIXED_FLAGS,
        };
        let bases = (r.fs_base, r.gs_base);
        let returns = r.rcx == r.rip && r.r11 & USER_FLAGS | FIXED_FLAGS == raw.rflags;
        match self.behind_syscall {
            // The stub's own way back loads RIP from RCX; flags need SYSRET, or that none differ.
            Some(rip) if returns && bases == self.loaded => raw.rip = rip,
            _ => {
                let mut sregs = self.template;
                sregs.fs.base = bases.0;
                sregs.gs.base = bases.1;
                self.fd
                    .set_sregs(&sregs)
                    .map_err(doing("setting the system registers"))?;
                self.loaded = bases;
            }
        }
        self.fd.sync_regs_mut().regs = raw;
        self.fd.set_sync_dirty_reg(SyncReg::Register);
        Ok(())
    }
}

/// Why `KVM_RUN` came back, before anything of it is believed.
enum Left {
    Syscall,
    Exception,
    Nowhere(u64),
    Interrupted,
    HostFault,
    Strange(String),
}

impl Cpu for Vcpu<'_> {
    fn regs(&self) -> &UserRegs {
        &self.regs
    }

    fn regs_mut(&mut self) -> &mut UserRegs {
        &mut self.regs
    }

    fn xsave(&mut self) -> io::Result<Vec<u8>> {
        let area = self
            .fd
            .get_xsave()
            .map_err(|e| io::Error::from_raw_os_error(e.errno()))?;
        Ok(area
            .region
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect())
    }

    fn set_xsave(&mut self, area: &[u8]) -> io::Result<()> {
        let mut words = kvm_xsave::default();
        for (word, bytes) in words.region.iter_mut().zip(area.chunks_exact(4)) {
            *word = u32::from_le_bytes(bytes.try_into().unwrap_or_default());
        }
        // SAFETY: the structure is 4 KiB, and no feature beyond the template's 0xe7 is enabled, so KVM reads no more.
        unsafe { self.fd.set_xsave(&words) }
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
    }
}

/// What the guest's CPU has, as the CPUID leaves say.
struct Features {
    smep: bool,
    smap: bool,
    umip: bool,
    xcr0: u64,
}

impl Features {
    fn of(vm: &Vm) -> Self {
        let leaf = |function, index| {
            vm.cpuid()
                .as_slice()
                .iter()
                .find(|e| e.function == function && e.index == index)
                .copied()
                .unwrap_or_default()
        };
        let seven = leaf(7, 0);
        let xstate = leaf(0xd, 0);
        let host = u64::from(xstate.eax) | u64::from(xstate.edx) << 32;
        let xcr0 = match host & XCR0_TEMPLATE {
            x if x & 0xe0 == 0xe0 => x,
            x => x & 7,
        };
        Self {
            smep: seven.ebx >> 7 & 1 == 1,
            smap: seven.ebx >> 20 & 1 == 1,
            umip: seven.ecx >> 2 & 1 == 1,
            xcr0: xcr0 | 1,
        }
    }
}

fn segment(selector: u16, type_: u8, dpl: u8, long: u8) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        dpl,
        db: 1 - long,
        s: 1,
        l: long,
        g: 1,
        ..Default::default()
    }
}

fn fill_template(sregs: &mut kvm_sregs, index: u64, features: &Features) {
    let base = SYSTEM + system::BLOCKS + index * BLOCK;
    let data = segment(selector::USER_DATA, 3, 3, 0);
    sregs.cs = segment(selector::USER_CODE, 11, 3, 1);
    (sregs.ss, sregs.ds, sregs.es, sregs.fs, sregs.gs) = (data, data, data, data, data);
    sregs.tr = kvm_segment {
        base: base + block::TSS,
        limit: TSS_LIMIT,
        selector: selector::TSS,
        type_: 11,
        present: 1,
        ..Default::default()
    };
    sregs.ldt = kvm_segment {
        unusable: 1,
        ..Default::default()
    };
    sregs.gdt.base = base + block::GDT;
    sregs.gdt.limit = selector::TSS + 15;
    sregs.idt.base = SYSTEM + system::IDT;
    sregs.idt.limit = 32 * 16 - 1;
    sregs.cr0 = CR0;
    sregs.cr3 = SYSTEM + system::PML4;
    sregs.cr4 = CR4_BASE
        | if features.xcr0 > 1 { CR4_OSXSAVE } else { 0 }
        | if features.smep { CR4_SMEP } else { 0 }
        | if features.smap { CR4_SMAP } else { 0 }
        | if features.umip { CR4_UMIP } else { 0 };
    sregs.efer = EFER;
}
