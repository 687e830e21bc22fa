//! The command line: `serve`, `run`, `probe`, `verify`, `syscalls`.

use nexus_vmm::front;
use nexus_vmm::kvm::probe;
use nexus_vmm::serve::{STATUS_FAILED, STATUS_REFUSED, serve};
use nexus_vmm::snapshot::read;
use std::path::Path;
use std::process::exit;

const USAGE: &str = "usage: nexus-vmm serve --config-fd N\n       nexus-vmm run [--memory MIB] [--threads N] [--ro DIR]... [--rw DIR]... [--env K=V]... [--cwd DIR] -- PROGRAM [ARGS]\n       nexus-vmm probe [--json]\n       nexus-vmm verify DIR\n       nexus-vmm syscalls";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let status = match words.as_slice() {
        ["serve", "--config-fd", fd] => fd.parse().map_or_else(|_| usage(), serve),
        ["run", rest @ ..] => front::run(rest).unwrap_or_else(|reason| {
            eprintln!("nexus-vmm: {reason}");
            STATUS_FAILED
        }),
        ["verify", directory] => verify(Path::new(directory)),
        ["syscalls"] => {
            println!("{}", nexus_vmm::syscalls::json());
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
fn verify(directory: &Path) -> i32 {
    match read::verify(directory) {
        Ok(()) => 0,
        Err(reason) => {
            eprintln!("nexus-vmm: {}: {reason}", directory.display());
            STATUS_REFUSED
        }
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
