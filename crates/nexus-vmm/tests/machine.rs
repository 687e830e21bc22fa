//! The microVM against hostile code: what CPL 3 may not do is reported exactly or ends the guest.
//! These tests need /dev/kvm and fail where it exists but does not work.
#![allow(clippy::unwrap_used, clippy::panic)]

use nexus_personality::machine::Exception;
use nexus_personality::window::Window;
use nexus_vmm::fault;
use nexus_vmm::kvm::cpuid::Template;
use nexus_vmm::kvm::flavour::Flavour;
use nexus_vmm::kvm::touch::{Touch, touch};
use nexus_vmm::kvm::vcpu::{Exit, Vcpu};
use nexus_vmm::kvm::vm::Vm;
use nexus_vmm::kvm::{Error, probe};
use nexus_vmm::layout::{CHUNK, SYSTEM_BASE, system};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const CODE: u64 = 0x40_0000;
const DATA: u64 = 0x80_0000;

struct Bench {
    vm: Vm,
    window: Window,
}

impl Bench {
    /// A VM with an executable chunk at CODE and a data chunk at DATA. `None` without /dev/kvm.
    fn new() -> Option<Self> {
        if !std::path::Path::new("/dev/kvm").exists() {
            eprintln!("no /dev/kvm on this machine: nothing was tested");
            return None;
        }
        let kvm = probe::open().unwrap();
        let template = Template::supported(&kvm).unwrap();
        let flavour = probe::flavour(&kvm, &template).unwrap();
        let window = Window::reserve().unwrap();
        let vm = Vm::new(&kvm, template, flavour, window.base()).unwrap();
        let bench = Self { vm, window };
        for at in [CODE, DATA] {
            bench.map(at, CHUNK, libc::PROT_READ | libc::PROT_WRITE);
            bench.vm.back(at, at + CHUNK, false).unwrap();
        }
        bench.vm.set_executable(CODE, CODE + CHUNK, true).unwrap();
        Some(bench)
    }

    fn map(&self, at: u64, length: u64, prot: i32) {
        // SAFETY: inside the window, which nothing else uses.
        let got = unsafe {
            libc::mmap(
                self.window.host(at, length).unwrap() as *mut libc::c_void,
                length as usize,
                prot,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                -1,
                0,
            )
        };
        assert_ne!(got, libc::MAP_FAILED);
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        let host = self.window.host(at, bytes.len() as u64).unwrap() as *mut u8;
        // SAFETY: mapped by `map`; no guest runs meanwhile.
        unsafe { host.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }

    fn vcpu(&self, code: &[u8]) -> Vcpu {
        self.put(CODE, code);
        let mut vcpu = self.vm.create_vcpu().unwrap();
        let regs = vcpu.regs_mut();
        regs.rip = CODE;
        regs.rsp = DATA + CHUNK - 64;
        regs.rflags = 0x202;
        vcpu
    }

    fn go(&self, vcpu: &mut Vcpu) -> Result<Exit, Error> {
        loop {
            match vcpu.run(self.vm.system())? {
                Exit::Interrupted => {}
                exit => return Ok(exit),
            }
        }
    }

    fn exception(&self, code: &[u8]) -> Exception {
        let mut vcpu = self.vcpu(code);
        match self.go(&mut vcpu).unwrap() {
            Exit::Exception(exception) => {
                assert_eq!(
                    vcpu.regs().rsp,
                    DATA + CHUNK - 64,
                    "the stack pointer is the guest's"
                );
                exception
            }
            other => panic!("{other:x?}"),
        }
    }
}

/// mov rax, imm64
fn mov_rax(value: u64) -> Vec<u8> {
    [&[0x48, 0xb8][..], &value.to_le_bytes()].concat()
}

fn store_to(address: u64) -> Vec<u8> {
    [mov_rax(address), vec![0x48, 0x89, 0x00]].concat() // mov [rax], rax
}

#[test]
fn pages_are_touched_and_keep_what_they_hold() {
    let Some(bench) = Bench::new() else { return };
    let count = 1200_u64;
    let (at, page) = (DATA + CHUNK, 4096);
    let read_only = at + count * page;
    bench.map(at, count * page, libc::PROT_READ | libc::PROT_WRITE);
    bench.map(read_only, page, libc::PROT_READ);
    bench.vm.back(at, read_only + page, false).unwrap();
    let addresses = (at..read_only).step_by(4096);
    for (number, address) in addresses.clone().enumerate() {
        bench.put(address, &(number as u64).to_le_bytes());
    }
    let mut vcpu = bench.vm.create_vcpu().unwrap();
    let mut list: Vec<Touch> = addresses.clone().map(|a| Touch::Write(a + 7)).collect();
    list.push(Touch::Read(read_only));
    assert!(touch(&bench.vm, &mut vcpu, &list).unwrap());
    for (number, address) in addresses.enumerate() {
        let host = bench.window.host(address, 8).unwrap() as *const u64;
        // SAFETY: mapped above; no guest runs meanwhile.
        assert_eq!(unsafe { host.read_volatile() }, number as u64);
    }
    // It can go on with a guest's code, which finds nothing of the program.
    for gone in [system::TOUCH, system::TOUCH_LIST] {
        let e = bench.exception(&[mov_rax(SYSTEM_BASE + gone), vec![0x8a, 0x00]].concat());
        assert_eq!((e.vector, e.address), (14, SYSTEM_BASE + gone));
    }
    bench.put(CODE, &[0xb8, 39, 0, 0, 0, 0x0f, 0x05]);
    vcpu.regs_mut().rip = CODE;
    assert_eq!(bench.go(&mut vcpu).unwrap(), Exit::Syscall);
    assert_eq!(vcpu.regs().rax, 39);
}

#[test]
fn what_is_hidden_is_out_of_reach_and_is_found_again_as_it_was() {
    let Some(bench) = Bench::new() else { return };
    bench.put(DATA, &39_u64.to_le_bytes());
    // mov rax, [DATA]; syscall; mov rax, [DATA + 8]; syscall
    let load = |at: u64| [mov_rax(at), vec![0x48, 0x8b, 0x00, 0x0f, 0x05]].concat();
    let mut vcpu = bench.vcpu(&[load(DATA), load(DATA + 8)].concat());
    assert_eq!(bench.go(&mut vcpu).unwrap(), Exit::Syscall);
    bench.vm.hide().unwrap();
    bench.put(DATA + 8, &40_u64.to_le_bytes());
    let mut other = bench.vm.create_vcpu().unwrap();
    other.regs_mut().rip = CODE;
    assert!(!matches!(bench.go(&mut other), Ok(Exit::Syscall)));
    // One that is made meanwhile is hidden with the others the next time.
    let more = DATA + 4 * CHUNK;
    bench.map(more, CHUNK, libc::PROT_READ | libc::PROT_WRITE);
    bench.vm.back(more, more + CHUNK, false).unwrap();
    for _ in 0..3 {
        bench.vm.show().unwrap();
        bench.vm.hide().unwrap();
    }
    bench.vm.show().unwrap();
    assert_eq!(vcpu.regs().rax, 39);
    assert_eq!(bench.go(&mut vcpu).unwrap(), Exit::Syscall);
    assert_eq!(vcpu.regs().rax, 40);
    // Data does not execute now either.
    let e = bench.exception(&[mov_rax(DATA), vec![0xff, 0xe0]].concat());
    assert_eq!((e.vector, e.address), (14, DATA));
    let mut vcpu = bench.vcpu(&[store_to(more), vec![0x0f, 0x05]].concat());
    assert_eq!(bench.go(&mut vcpu).unwrap(), Exit::Syscall);
}

#[test]
fn what_cannot_be_touched_is_left_out_and_harms_nothing() {
    let Some(bench) = Bench::new() else { return };
    let (read_only, nothing, unbacked) = (DATA + CHUNK, DATA + CHUNK + 4096, DATA + 8 * CHUNK);
    bench.map(read_only, 4096, libc::PROT_READ);
    bench.vm.back(read_only, nothing + 4096, false).unwrap();
    let mut vcpu = bench.vm.create_vcpu().unwrap();
    for wrong in [
        Touch::Write(read_only),
        Touch::Read(nothing),
        Touch::Write(unbacked),
    ] {
        assert!(!touch(&bench.vm, &mut vcpu, &[wrong]).unwrap(), "{wrong:?}");
    }
    assert!(touch(&bench.vm, &mut vcpu, &[Touch::Read(read_only)]).unwrap());
    bench.put(CODE, &[0xb8, 39, 0, 0, 0, 0x0f, 0x05]);
    vcpu.regs_mut().rip = CODE;
    assert_eq!(bench.go(&mut vcpu).unwrap(), Exit::Syscall);
    assert_eq!(vcpu.regs().rax, 39);
}

#[test]
fn the_wrong_stub_is_refused() {
    if Bench::new().is_none() {
        return;
    }
    let kvm = probe::open().unwrap();
    let template = Template::supported(&kvm).unwrap();
    let right = probe::flavour(&kvm, &template).unwrap();
    let wrong = if right == Flavour::Pvm {
        Flavour::Hardware
    } else {
        Flavour::Pvm
    };
    match probe::try_flavour(&kvm, &template, wrong) {
        // SMEP, the code segment's check, or a fault in fetching the stub.
        Err(Error::Unsafe(_) | Error::Stopped(_)) | Ok(Exit::Exception(_)) => {}
        other => panic!("{other:x?}"),
    }
}

#[test]
fn a_system_call_arrives_with_its_registers_and_returns() {
    let Some(bench) = Bench::new() else { return };
    // mov eax, 39; syscall; mov rdi, rax; syscall
    let mut vcpu = bench.vcpu(&[0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0x48, 0x89, 0xc7, 0x0f, 0x05]);
    vcpu.regs_mut().fs_base = 0x1234_5000;
    assert_eq!(bench.go(&mut vcpu).unwrap(), Exit::Syscall);
    assert_eq!((vcpu.regs().rax, vcpu.regs().rip), (39, CODE + 7));
    assert_eq!(vcpu.regs().rflags & 0x202, 0x202);
    vcpu.regs_mut().rax = 777;
    assert_eq!(bench.go(&mut vcpu).unwrap(), Exit::Syscall);
    assert_eq!((vcpu.regs().rdi, vcpu.regs().rip), (777, CODE + 12));
    assert_eq!(vcpu.regs().fs_base, 0x1234_5000);
}

#[test]
fn a_changed_instruction_pointer_and_base_take_effect() {
    let Some(bench) = Bench::new() else { return };
    bench.put(
        CODE + 0x100,
        &[0x64, 0x48, 0x8b, 0x04, 0x25, 8, 0, 0, 0, 0x0f, 0x05],
    ); // mov rax, fs:[8]; syscall
    bench.put(DATA + 8, &0xfeed_u64.to_le_bytes());
    let mut vcpu = bench.vcpu(&[0x0f, 0x05]);
    assert_eq!(bench.go(&mut vcpu).unwrap(), Exit::Syscall);
    vcpu.regs_mut().rip = CODE + 0x100;
    vcpu.regs_mut().fs_base = DATA;
    assert_eq!(bench.go(&mut vcpu).unwrap(), Exit::Syscall);
    assert_eq!(vcpu.regs().rax, 0xfeed);
}

#[test]
fn exceptions_are_reported_with_vector_code_and_place() {
    let Some(bench) = Bench::new() else { return };
    for (name, code, vector, length) in [
        ("#UD", vec![0x0f, 0x0b], 6, 0),
        ("#DE", vec![0x31, 0xc9, 0xf7, 0xf1], 0, 2),
        ("#GP", vec![0xf4], 13, 0),
        ("#BP", vec![0xcc], 3, 1),
    ] {
        let mut vcpu = bench.vcpu(&code);
        match bench.go(&mut vcpu).unwrap() {
            Exit::Exception(e) => assert_eq!(e.vector, vector, "{name}"),
            other => panic!("{name}: {other:x?}"),
        }
        assert_eq!(vcpu.regs().rip, CODE + length, "{name}");
    }
}

#[test]
fn where_there_is_no_slot_the_directory_entry_is_absent() {
    let Some(bench) = Bench::new() else { return };
    let e = bench.exception(&store_to(0x7_0000_1238));
    assert_eq!((e.vector, e.address), (14, 0x7_0000_1238));
    assert_eq!(
        e.error_code & 7,
        6,
        "a write by CPL 3 to what is not present"
    );
    let e = bench.exception(&store_to(8));
    assert_eq!((e.vector, e.address), (14, 8));
}

#[test]
fn the_system_chunk_cannot_be_written_and_not_even_read() {
    let Some(bench) = Bench::new() else { return };
    bench.vm.system().map_probe();
    for offset in [
        system::PML4,
        system::PDPT,
        system::DIRECTORIES,
        system::SYSTEM_TABLE,
        system::GDT,
        system::IDT,
        system::STUB,
        system::HANDLERS,
        system::PROBE,
        system::VCPU_PAGES,
    ] {
        let e = bench.exception(&store_to(SYSTEM_BASE + offset));
        assert_eq!((e.vector, e.address), (14, SYSTEM_BASE + offset));
        assert_eq!(e.error_code & 6, 6);
    }
    for offset in [system::PML4, system::GDT, system::VCPU_PAGES] {
        let code = [mov_rax(SYSTEM_BASE + offset), vec![0x48, 0x8b, 0x00]].concat();
        assert_eq!(bench.exception(&code).address, SYSTEM_BASE + offset);
    }
}

#[test]
fn data_chunks_do_not_execute_until_they_are_allowed_to() {
    let Some(bench) = Bench::new() else { return };
    bench.put(DATA, &[0x0f, 0x05]);
    let jump = [mov_rax(DATA), vec![0xff, 0xe0]].concat();
    let e = bench.exception(&jump);
    assert_eq!((e.vector, e.address), (14, DATA));
    assert_ne!(e.error_code & 16, 0, "an instruction fetch");
    bench.vm.set_executable(DATA, DATA + 1, true).unwrap();
    let mut vcpu = bench.vcpu(&jump);
    assert_eq!(bench.go(&mut vcpu).unwrap(), Exit::Syscall);
}

#[test]
fn ports_are_closed() {
    let Some(bench) = Bench::new() else { return };
    let codes: [(&str, &[u8]); 5] = [
        ("out to the exceptions' port", &[0xe6, 0x11]),
        ("out to port 0x80", &[0xe6, 0x80]),
        ("out dx", &[0x66, 0xba, 0xf8, 0x03, 0xee]),
        ("in from port 0x11", &[0xe4, 0x11]),
        ("a double word to the call's port", &[0xe7, 0x10]),
    ];
    for (name, code) in codes {
        let mut vcpu = bench.vcpu(code);
        match bench.go(&mut vcpu) {
            Ok(Exit::Exception(e)) => assert_eq!(e.vector, 13, "{name}"),
            Ok(Exit::Port) => assert_eq!(code, [0xe7, 0x10], "{name}"),
            other => panic!("{name}: {other:x?}"),
        }
    }
    // The call's port from elsewhere than the stub: closed on hardware, the guest's end on PVM.
    let mut vcpu = bench.vcpu(&[0xe6, 0x10]);
    match bench.go(&mut vcpu) {
        Ok(Exit::Exception(e)) => assert_eq!(e.vector, 13),
        Ok(Exit::Port) => {}
        other => panic!("{other:x?}"),
    }
}

#[test]
fn privileged_instructions_fault() {
    let Some(bench) = Bench::new() else { return };
    let codes: [(&str, &[u8]); 5] = [
        ("mov cr3", &[0x0f, 0x22, 0xd8]),
        ("wrmsr", &[0x0f, 0x30]),
        ("rdmsr", &[0x0f, 0x32]),
        ("cli", &[0xfa]),
        ("lgdt", &[0x0f, 0x01, 0x14, 0x24]),
    ];
    for (name, code) in codes {
        let e = bench.exception(code);
        assert!(e.vector == 13 || e.vector == 6, "{name}: {e:?}");
    }
}

#[test]
fn what_the_host_forbids_is_decoded_to_an_address() {
    let Some(bench) = Bench::new() else { return };
    bench.map(DATA, 4096, libc::PROT_READ);
    let mut vcpu = bench.vcpu(&store_to(DATA + 0x123 * 8));
    let Exit::HostFault { page, .. } = bench.go(&mut vcpu).unwrap() else {
        panic!("not a host fault");
    };
    let code = store_to(DATA + 0x123 * 8);
    let read = |at: u64, to: &mut [u8]| {
        let from = (at - CODE) as usize;
        for (index, byte) in to.iter_mut().enumerate() {
            *byte = code.get(from + index).copied().unwrap_or(0x90);
        }
        true
    };
    let e = fault::exception(vcpu.regs(), page, read, |_, write| !write);
    assert_eq!(
        (e.vector, e.address, e.error_code & 2),
        (14, DATA + 0x123 * 8, 2)
    );
    assert_eq!(
        vcpu.regs().rip,
        CODE + 10,
        "the instruction can be run again"
    );
}

#[test]
fn an_immediate_exit_before_entry_is_not_lost() {
    let Some(bench) = Bench::new() else { return };
    let mut vcpu = bench.vcpu(&[0xeb, 0xfe]); // jmp $
    let byte = vcpu.immediate_exit();
    // SAFETY: the page belongs to `vcpu`.
    unsafe { byte.write_volatile(1) };
    assert_eq!(vcpu.run(bench.vm.system()).unwrap(), Exit::Interrupted);
    assert_eq!(vcpu.regs().rip, CODE);
}

#[test]
fn a_signal_ends_a_loop_in_the_guest() {
    let Some(bench) = Bench::new() else { return };
    extern "C" fn nothing(_: i32) {}
    // SAFETY: a handler that does nothing.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as *const () as usize;
        libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut());
    }
    let mut vcpu = bench.vcpu(&[0xeb, 0xfe]);
    // SAFETY: no preconditions.
    let target = unsafe { libc::pthread_self() };
    let done = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&done);
    let sender = std::thread::spawn(move || {
        while !seen.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
            // SAFETY: the target joins this thread before it ends.
            unsafe { libc::pthread_kill(target, libc::SIGUSR1) };
        }
    });
    assert_eq!(vcpu.run(bench.vm.system()).unwrap(), Exit::Interrupted);
    done.store(true, Ordering::SeqCst);
    sender.join().unwrap();
    assert_eq!(vcpu.regs().rip, CODE);
}

#[test]
fn the_doorbell_is_one_page_and_rings() {
    let Some(bench) = Bench::new() else { return };
    let event = vmm_sys_util::eventfd::EventFd::new(libc::EFD_NONBLOCK).unwrap();
    let page = nexus_vmm::layout::DOORBELL;
    bench
        .vm
        .map_doorbell(std::os::fd::AsRawFd::as_raw_fd(&event))
        .unwrap();
    let code = [store_to(page), vec![0x0f, 0x05]].concat();
    let mut vcpu = bench.vcpu(&code);
    assert_eq!(bench.go(&mut vcpu).unwrap(), Exit::Syscall);
    assert_eq!(event.read().unwrap(), 1);
    // Beside it is the vDSO's place, which this machine does not show.
    let e = bench.exception(&store_to(page - 4096));
    assert_eq!((e.vector, e.address), (14, page - 4096));
    assert!(
        bench.vm.map_doorbell(0).is_err(),
        "one doorbell per machine"
    );
}

#[test]
fn slots_stay_out_of_the_hole_and_the_system_chunk() {
    let Some(bench) = Bench::new() else { return };
    for (start, end) in [
        (0, CHUNK),
        (SYSTEM_BASE, SYSTEM_BASE + CHUNK),
        (0xc000_0000, 0xc000_1000),
        (0xbfff_f000, 0xc000_1000),
        (64 << 30, (64 << 30) + CHUNK),
        (DATA, DATA),
    ] {
        assert!(bench.vm.back(start, end, true).is_err(), "{start:#x}");
    }
}

#[test]
fn extended_state_survives_a_round_trip_and_hostile_areas_are_refused() {
    let Some(bench) = Bench::new() else { return };
    // pcmpeqd xmm3, xmm3; syscall; movq rax, xmm3; syscall
    let code = [
        0x66, 0x0f, 0x76, 0xdb, 0x0f, 0x05, 0x66, 0x48, 0x0f, 0x7e, 0xd8, 0x0f, 0x05,
    ];
    let mut vcpu = bench.vcpu(&code);
    assert_eq!(bench.go(&mut vcpu).unwrap(), Exit::Syscall);
    let (area, regs) = (vcpu.xsave().unwrap(), *vcpu.regs());
    let mut other = bench.vm.create_vcpu().unwrap();
    *other.regs_mut() = regs;
    other.set_xsave(&area).unwrap();
    assert_eq!(bench.go(&mut other).unwrap(), Exit::Syscall);
    assert_eq!(other.regs().rax, u64::MAX);
    let mut hostile = area;
    hostile[527] = 0x80;
    assert!(other.set_xsave(&hostile).is_err());
}

#[test]
fn legacy_entries_reach_nobody() {
    let Some(bench) = Bench::new() else { return };
    // mov eax, 20 (getpid); int 0x80; syscall
    let e = bench.exception(&[0xb8, 20, 0, 0, 0, 0xcd, 0x80, 0x0f, 0x05]);
    assert!(e.vector == 6 || e.vector == 13, "int 0x80: {e:x?}");
    // sysenter, syscall
    let mut vcpu = bench.vcpu(&[0xb8, 20, 0, 0, 0, 0x0f, 0x34, 0x0f, 0x05]);
    match bench.go(&mut vcpu) {
        Ok(Exit::Exception(e)) => assert!(e.vector == 6 || e.vector == 13, "sysenter: {e:x?}"),
        other => panic!("sysenter: {other:x?}"),
    }
}

#[test]
fn compatibility_mode_gives_no_way_out() {
    let Some(bench) = Bench::new() else { return };
    for (name, entry) in [
        ("int 0x80", [0xcd, 0x80]),
        ("sysenter", [0x0f, 0x34]),
        ("syscall", [0x0f, 0x05]),
    ] {
        // 32-bit code: mov eax, 20 (getpid); enter; ud2
        let inner = [&[0xb8, 20, 0, 0, 0][..], &entry, &[0x0f, 0x0b]].concat();
        bench.put(CODE + 0x100, &inner);
        // push 0x23; push CODE + 0x100; retfq
        let target = (CODE as u32 + 0x100).to_le_bytes();
        let code = [&[0x6a, 0x23, 0x68][..], &target, &[0x48, 0xcb]].concat();
        let mut vcpu = bench.vcpu(&code);
        match bench.go(&mut vcpu) {
            // Hardware: there is no such segment. PVM: the host's own exists, but its entries do not.
            Ok(Exit::Exception(_)) => {
                assert_ne!(vcpu.regs().rax as u32, std::process::id(), "{name}")
            }
            Err(Error::Stopped(_) | Error::Unsafe(_)) => {}
            other => panic!("{name}: {other:x?}"),
        }
    }
}
