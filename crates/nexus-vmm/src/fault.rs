//! Which access failed? KVM reports what the host's mapping forbids without an address, so the instruction is
//! decoded for it.

use iced_x86::{Decoder, DecoderOptions, InstructionInfoFactory, OpAccess, Register, UsedMemory};
use nexus_personality::machine::{Exception, UserRegs};

const PAGE: u64 = crate::layout::PAGE;
const LONGEST_INSTRUCTION: usize = 15;
const PAGE_FAULT: u8 = 14;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const FETCH: u64 = 1 << 4;

/// The page fault that the guest's CPU would have raised. `read` copies guest memory (and fails where there is
/// none), `allows(address, write)` asks the address space, `page` is the page that KVM named, if it did.
pub fn exception(
    regs: &UserRegs,
    page: Option<u64>,
    read: impl Fn(u64, &mut [u8]) -> bool,
    allows: impl Fn(u64, bool) -> bool,
) -> Exception {
    let fault = |address: u64, kind: u64| Exception {
        vector: PAGE_FAULT,
        error_code: USER | kind,
        address,
    };
    let code = fetch(regs.rip, read);
    if code.is_empty() {
        return fault(regs.rip, FETCH);
    }
    let mut decoder = Decoder::with_ip(64, &code, regs.rip, DecoderOptions::NONE);
    let instruction = decoder.decode();
    if instruction.is_invalid() {
        // Cut off by a page that cannot be fetched.
        let end = regs.rip + code.len() as u64;
        return fault(
            if code.len() < LONGEST_INSTRUCTION {
                end
            } else {
                regs.rip
            },
            FETCH,
        );
    }
    let mut factory = InstructionInfoFactory::new();
    let mut fallback = None;
    for memory in factory.info(&instruction).used_memory() {
        let write = writes(memory);
        let Some(address) = address_of(memory, regs) else {
            continue;
        };
        let last = address.saturating_add(memory.memory_size().size().max(1) as u64 - 1);
        for candidate in [address, last & !(PAGE - 1)] {
            if candidate < address {
                continue;
            }
            let named = page.is_some_and(|page| page == candidate & !(PAGE - 1));
            if named || (page.is_none() && !allows(candidate, write)) {
                return fault(candidate, if write { WRITE } else { 0 });
            }
        }
        fallback.get_or_insert((address, write));
    }
    match (page, fallback) {
        (None, Some((address, write))) => fault(address, if write { WRITE } else { 0 }),
        (Some(page), Some((_, write))) => fault(page, if write { WRITE } else { 0 }),
        (page, None) => fault(page.unwrap_or(regs.rip), 0),
    }
}

/// The bytes at `rip`, as many as can be read.
fn fetch(rip: u64, read: impl Fn(u64, &mut [u8]) -> bool) -> Vec<u8> {
    let mut code = vec![0; LONGEST_INSTRUCTION];
    if read(rip, &mut code) {
        return code;
    }
    let first = (PAGE - rip % PAGE) as usize;
    code.truncate(first.min(LONGEST_INSTRUCTION));
    if code.len() == LONGEST_INSTRUCTION || !read(rip, &mut code) {
        code.clear();
    }
    code
}

fn writes(memory: &UsedMemory) -> bool {
    matches!(
        memory.access(),
        OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
    )
}

/// `None` for addresses that come from vector registers.
fn address_of(memory: &UsedMemory, regs: &UserRegs) -> Option<u64> {
    memory.virtual_address(0, |register, _, _| value(register, regs))
}

fn value(register: Register, r: &UserRegs) -> Option<u64> {
    let full = match register {
        Register::CS | Register::DS | Register::ES | Register::SS => return Some(0),
        Register::FS => return Some(r.fs_base),
        Register::GS => return Some(r.gs_base),
        other => other.full_register(),
    };
    let whole = match full {
        Register::RAX => r.rax,
        Register::RBX => r.rbx,
        Register::RCX => r.rcx,
        Register::RDX => r.rdx,
        Register::RSI => r.rsi,
        Register::RDI => r.rdi,
        Register::RBP => r.rbp,
        Register::RSP => r.rsp,
        Register::R8 => r.r8,
        Register::R9 => r.r9,
        Register::R10 => r.r10,
        Register::R11 => r.r11,
        Register::R12 => r.r12,
        Register::R13 => r.r13,
        Register::R14 => r.r14,
        Register::R15 => r.r15,
        _ => return None,
    };
    Some(match register.size() {
        1 => whole & 0xff,
        2 => whole & 0xffff,
        4 => whole & 0xffff_ffff,
        _ => whole,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: u64 = 0x40_0ffd;

    fn decode(code: &[u8], regs: UserRegs, page: Option<u64>) -> Exception {
        let regs = UserRegs { rip: CODE, ..regs };
        let read = |address: u64, to: &mut [u8]| {
            let from = (address - CODE) as usize;
            let Some(bytes) = code.get(from..(from + to.len()).min(code.len())) else {
                return false;
            };
            to.fill(0x90);
            to[..bytes.len()].copy_from_slice(bytes);
            true
        };
        exception(&regs, page, read, |address, write| {
            !write && address < 0x1_0000
        })
    }

    #[test]
    fn a_store_is_found_by_base_index_and_displacement() {
        // mov [rax+rcx*8+0x10], rdx
        let regs = UserRegs {
            rax: 0x50_0000,
            rcx: 2,
            ..UserRegs::default()
        };
        let e = decode(&[0x48, 0x89, 0x54, 0xc8, 0x10], regs, None);
        assert_eq!((e.vector, e.error_code, e.address), (14, 6, 0x50_0020));
    }

    #[test]
    fn of_two_operands_the_forbidden_one_is_named() {
        // movsb: reads [rsi], which is allowed, and writes [rdi]
        let regs = UserRegs {
            rsi: 0x8000,
            rdi: 0x60_0001,
            ..UserRegs::default()
        };
        let e = decode(&[0xa4], regs, None);
        assert_eq!((e.error_code, e.address), (6, 0x60_0001));
    }

    #[test]
    fn an_access_that_spills_into_the_next_page_names_that_page() {
        // mov rax, [rbx]
        let regs = UserRegs {
            rbx: 0xfffc,
            ..UserRegs::default()
        };
        let e = decode(&[0x48, 0x8b, 0x03], regs, Some(0x1_0000));
        assert_eq!((e.error_code, e.address), (4, 0x1_0000));
    }

    #[test]
    fn thread_local_storage_counts_its_base() {
        // mov rax, fs:[0x28]
        let regs = UserRegs {
            fs_base: 0x70_0000,
            ..UserRegs::default()
        };
        let e = decode(&[0x64, 0x48, 0x8b, 0x04, 0x25, 0x28, 0, 0, 0], regs, None);
        assert_eq!(e.address, 0x70_0028);
    }

    #[test]
    fn what_cannot_be_fetched_is_a_fetch_fault() {
        let e = exception(
            &UserRegs {
                rip: 0x1234,
                ..UserRegs::default()
            },
            None,
            |_, _| false,
            |_, _| true,
        );
        assert_eq!((e.error_code, e.address), (0x14, 0x1234));
    }
}
