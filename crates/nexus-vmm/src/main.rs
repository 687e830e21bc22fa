//! The command line: `serve`, `shell`, `run`, `probe`, `syscalls`, `verify`.

use nexus_vmm::front;
use nexus_vmm::kvm::probe;
use nexus_vmm::serve::{STATUS_FAILED, STATUS_REFUSED, serve};
use nexus_vmm::shell::shell;
use nexus_vmm::snapshot::{read, verify};
use std::path::Path;
use std::process::exit;

const USAGE: &str = "usage: nexus-vmm serve --config-fd N\n       nexus-vmm shell --control-fd N [--base-fd N] [--uid N]\n       nexus-vmm run [--memory MIB] [--threads N] [--ro DIR]... [--rw DIR]... [--env K=V]... [--cwd DIR] -- PROGRAM [ARGS]\n       nexus-vmm probe [--json]\n       nexus-vmm verify DIR | --config-stdin\n       nexus-vmm syscalls\n       nexus-vmm jail";

/// One heap for all threads, returned to the kernel when little of it is used: a process of this kind exists thousands
/// of times, and its threads allocate too rarely to be in each other's way.
fn keep_heap_small() {
    // SAFETY: numbers only; before any other thread exists.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 64 << 10);
    }
}

fn main() {
    keep_heap_small();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let status = match words.as_slice() {
        ["serve", "--config-fd", fd] => fd.parse().map_or_else(|_| usage(), serve),
        ["shell", "--control-fd", control, rest @ ..] => made_ready(control, rest),
        ["run", rest @ ..] => front::run(rest).unwrap_or_else(|reason| {
            eprintln!("nexus-vmm: {reason}");
            STATUS_FAILED
        }),
        ["verify", "--config-stdin"] => verified(verify::for_config(std::io::stdin())),
        ["verify", directory] => verified(read::verify(Path::new(directory))),
        ["syscalls"] => {
            println!("{}", nexus_vmm::syscalls::json());
            0
        }
        ["jail"] => {
            print!("{}", nexus_vmm::jail::page::markdown());
            0
        }
        ["probe"] => probe(false),
        ["probe", "--json"] => probe(true),
        _ => usage(),
    };
    exit(status);
}

fn usage() -> i32 {
    eprintln!("{USAGE}");
    STATUS_FAILED
}

/// Status 0 where the snapshot can be used, else the reason.
fn verified(result: Result<(), String>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(reason) => {
            eprintln!("nexus-vmm: {reason}");
            STATUS_REFUSED
        }
    }
}

/// A shell, by its options.
fn made_ready(control: &str, options: &[&str]) -> i32 {
    let (mut base, mut uid) = (None, None);
    for option in options.chunks(2) {
        match option {
            ["--base-fd", number] if base.is_none() => base = number.parse().ok(),
            ["--uid", number] if uid.is_none() => uid = number.parse().ok(),
            _ => return usage(),
        }
    }
    let given = [base.is_some(), uid.is_some()].into_iter();
    match control.parse() {
        Ok(control) if 2 * given.filter(|given| *given).count() == options.len() => {
            shell(control, base, uid)
        }
        _ => usage(),
    }
}

/// Status 0 where microVMs can run.
fn probe(json: bool) -> i32 {
    let report = probe::Report::make();
    if json {
        println!("{}", serde_json::to_string(&report).unwrap_or_default());
    } else {
        println!("machine: {}\n{}", report.machine, report.reason);
    }
    i32::from(!report.usable)
}
