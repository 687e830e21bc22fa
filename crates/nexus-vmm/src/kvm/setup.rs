//! The state a vCPU starts from, and the two forms of its registers. (unsafe: one ioctl that kvm-ioctls lacks.)

use super::Error;
use super::cpuid::Template;
use super::flavour::Flavour;
use super::system_chunk::TSS_LIMIT;
use crate::layout::{SYSTEM_BASE, VECTORS, selector, system};
use kvm_bindings::{
    KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, Msrs, kvm_device_attr, kvm_msr_entry, kvm_regs,
    kvm_segment, kvm_sregs, kvm_xcr, kvm_xcrs,
};
use kvm_ioctls::VcpuFd;
use nexus_personality::machine::UserRegs;
use std::io;
use std::os::fd::AsRawFd;

/// `_IOW(KVMIO, 0xe1, struct kvm_device_attr)`; kvm-ioctls has it for devices only.
const KVM_SET_DEVICE_ATTR: libc::c_ulong = 0x4018_aee1;
const MSR_STAR: u32 = 0xc000_0081;
const MSR_LSTAR: u32 = 0xc000_0082;
const MSR_FMASK: u32 = 0xc000_0084;
/// As Linux masks: every flag that could matter at CPL 0.
const FMASK: u64 = 0x0025_7fd5;

const STUB: u64 = SYSTEM_BASE + system::STUB;

pub(super) fn to_kvm(r: &UserRegs, rip: u64, rflags: u64) -> kvm_regs {
    kvm_regs {
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
        rip,
        rflags,
    }
}

pub(super) fn from_kvm(r: &kvm_regs, s: &kvm_sregs) -> UserRegs {
    UserRegs {
        rax: r.rax,
        rbx: r.rbx,
        rcx: r.rcx,
        rdx: r.rdx,
        rsi: r.rsi,
        rdi: r.rdi,
        rbp: r.rbp,
        rsp: r.rsp,
        r8: r.r8,
        r9: r.r9,
        r10: r.r10,
        r11: r.r11,
        r12: r.r12,
        r13: r.r13,
        r14: r.r14,
        r15: r.r15,
        rip: r.rip,
        rflags: r.rflags,
        fs_base: s.fs.base,
        gs_base: s.gs.base,
    }
}

pub(super) fn user_sregs(
    fd: &VcpuFd,
    task: u64,
    flavour: Flavour,
    template: &Template,
) -> Result<kvm_sregs, Error> {
    let mut sregs = fd
        .get_sregs()
        .map_err(|e| Error::Call("KVM_GET_SREGS", e))?;
    let segment = |sel: u16, kind: u8, long: u8| kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector: sel,
        type_: kind,
        present: 1,
        dpl: 3,
        db: 1 - long,
        s: 1,
        l: long,
        g: 1,
        ..Default::default()
    };
    sregs.cs = segment(selector::USER_CODE, 0xb, 1);
    sregs.ss = segment(selector::USER_DATA, 0x3, 0);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs) = (sregs.ss, sregs.ss, sregs.ss, sregs.ss);
    sregs.tr = kvm_segment {
        base: task,
        limit: TSS_LIMIT,
        selector: selector::TASK,
        type_: 0xb,
        present: 1,
        ..Default::default()
    };
    // No local descriptors.
    sregs.ldt = kvm_segment {
        type_: 2,
        unusable: 1,
        ..Default::default()
    };
    sregs.gdt.base = SYSTEM_BASE + system::GDT;
    sregs.gdt.limit = 0x3f;
    sregs.idt.base = SYSTEM_BASE + system::IDT;
    sregs.idt.limit = (VECTORS * 16 - 1) as u16;
    sregs.cr0 = 0x8005_0033; // PG AM WP NE ET MP PE
    sregs.cr3 = SYSTEM_BASE + system::PML4;
    sregs.cr4 = (1 << 5) | (1 << 9) | (1 << 10) | (u64::from(template.has.xsave) << 18); // PAE OSFXSR OSXMMEXCPT OSXSAVE
    if flavour.protections() {
        sregs.cr4 |= (u64::from(template.has.umip) << 11)
            | (u64::from(template.has.smep) << 20)
            | (u64::from(template.has.smap) << 21);
    }
    sregs.efer = 0xd01; // NXE LMA LME SCE
    Ok(sregs)
}

pub(super) fn set_xcr0(fd: &VcpuFd, value: u64) -> Result<(), Error> {
    let mut xcrs = kvm_xcrs {
        nr_xcrs: 1,
        ..Default::default()
    };
    xcrs.xcrs[0] = kvm_xcr {
        xcr: 0,
        value,
        ..Default::default()
    };
    fd.set_xcrs(&xcrs)
        .map_err(|e| Error::Call("KVM_SET_XCRS", e))
}

pub(super) fn set_msrs(fd: &VcpuFd) -> Result<(), Error> {
    let star = (u64::from(selector::USER_CODE32) << 48) | (u64::from(selector::KERNEL_CODE) << 32);
    let entry = |index: u32, data: u64| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    let entries = [
        entry(MSR_STAR, star),
        entry(MSR_LSTAR, STUB),
        entry(MSR_FMASK, FMASK),
    ];
    let msrs =
        Msrs::from_entries(&entries).map_err(|e| Error::Stopped(format!("MSR list: {e:?}")))?;
    match fd.set_msrs(&msrs) {
        Ok(count) if count == entries.len() => Ok(()),
        Ok(count) => Err(Error::Stopped(format!("KVM refused MSR number {count}"))),
        Err(e) => Err(Error::Call("KVM_SET_MSRS", e)),
    }
}

/// The guest's time stamp counter is the host's, or the vDSO's clock would be wrong.
pub(super) fn set_tsc_offset(fd: &VcpuFd) -> Result<(), Error> {
    let offset = 0_u64;
    let attr = kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: u64::from(KVM_VCPU_TSC_OFFSET),
        addr: (&raw const offset) as u64,
        ..Default::default()
    };
    // SAFETY: the attribute's address is `offset`, which outlives the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), KVM_SET_DEVICE_ATTR, &raw const attr) };
    if result == 0 {
        Ok(())
    } else {
        Err(Error::Io("set the TSC offset", io::Error::last_os_error()))
    }
}
