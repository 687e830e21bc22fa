//! Making pages reachable for a guest before it runs: a program of ours in its place touches them, so that KVM makes the
//! entries which the guest's own first touches would wait for.

use super::Error;
use super::vcpu::{Exit, Vcpu};
use super::vm::Vm;
use crate::layout::{PAGE, SYSTEM_BASE, system};
use nexus_personality::machine::UserRegs;

/// Set in an entry of the list, an address of a page, where it is to be written: with what it holds.
const WRITE: u64 = 1;
/// Entries of a list.
const BATCH: usize = (PAGE / 8 - 1) as usize;

/// With the list in RSI; `syscall` at its end.
const PROGRAM: &[u8] = &[
    0x48, 0xad, //                   next:  lods  (%rsi), %rax
    0x48, 0x85, 0xc0, //                    test  %rax, %rax
    0x74, 0x10, //                          jz    end
    0x48, 0x0f, 0xba, 0xf0, 0x00, //        btr   $0, %rax
    0x72, 0x04, //                          jc    write
    0x8a, 0x08, //                          mov   (%rax), %cl
    0xeb, 0xee, //                          jmp   next
    0x80, 0x08, 0x00, //             write: orb   $0, (%rax)
    0xeb, 0xe9, //                          jmp   next
    0x0f, 0x05, //                   end:   syscall
];

/// A page's address in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    Read(u64),
    /// It keeps what it holds.
    Write(u64),
}

/// Touch these pages, with a vCPU that no thread has. `false`: one cannot be touched so, and it and what follows it may have been
/// left out.
///
/// # Errors
/// The VM stopped for good.
pub fn touch(vm: &Vm, vcpu: &mut Vcpu, pages: &[Touch]) -> Result<bool, Error> {
    vm.system().map_touch(PROGRAM);
    let all = run(vm, vcpu, pages);
    *vcpu.regs_mut() = UserRegs::default();
    vm.system()
        .unmap_touch()
        .map_err(|e| Error::Io("take the touching program away", e))?;
    all
}

fn run(vm: &Vm, vcpu: &mut Vcpu, pages: &[Touch]) -> Result<bool, Error> {
    let chunk = vm.system();
    let mut list = Vec::with_capacity(BATCH);
    for batch in pages.chunks(BATCH) {
        list.clear();
        list.extend(batch.iter().map(|page| match page {
            Touch::Read(at) => at & !(PAGE - 1),
            Touch::Write(at) => at & !(PAGE - 1) | WRITE,
        }));
        chunk.set_touch_list(&list);
        *vcpu.regs_mut() = UserRegs {
            rip: SYSTEM_BASE + system::TOUCH,
            rsi: SYSTEM_BASE + system::TOUCH_LIST,
            ..UserRegs::default()
        };
        loop {
            match vcpu.run(chunk)? {
                Exit::Syscall => break,
                Exit::Interrupted => {}
                _ => return Ok(false),
            }
        }
    }
    Ok(true)
}
