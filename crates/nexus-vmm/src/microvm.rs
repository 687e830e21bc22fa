//! Modes `run`, `initialise` and `restore`: make the VM, jail this process, run the guest to its end.

use crate::config::{Mode, Serve};
use crate::guest::{End, Guest, Handle};
use crate::kvm::cpuid::Template;
use crate::kvm::flavour::Flavour;
use crate::kvm::probe;
use crate::kvm::vm::Vm;
use crate::report::{Event, Report, now};
use nexus_personality::config::Config;
use nexus_personality::machine::{Machine, ThreadState};
use nexus_personality::process::Process;
use nexus_personality::window::Window;
use std::sync::Arc;
use std::time::Duration;

/// How often the guest's memory is held against its limit.
const WATCH: Duration = Duration::from_millis(100);
/// Beyond the limit before the guest is ended: the hypervisor's own memory.
const WATCH_SLACK: u64 = 16 << 20;

/// Why a guest could not be run.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Status 125: a snapshot or this machine cannot be used.
    #[error("{0}")]
    Refused(String),
    /// Status 124.
    #[error("{0}")]
    Failed(String),
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::Failed(error.to_string())
}

/// A VM with a process in it, nothing of it run yet.
pub struct MicroVm {
    pub guest: Arc<Guest>,
    pub process: Arc<Process>,
    pub flavour: Flavour,
}

impl MicroVm {
    /// Make both. With `flavour` the probe is left out: the first exit of each vCPU still checks it.
    ///
    /// # Errors
    /// No KVM, or the configuration is wrong.
    pub fn new(
        config: &Serve,
        flavour: Option<Flavour>,
        report: &Arc<Report>,
    ) -> Result<Self, Failure> {
        let refused = |e: crate::kvm::Error| {
            Failure::Refused(format!("this machine cannot run microVMs: {e}"))
        };
        let kvm = probe::open().map_err(refused)?;
        let template = Template::supported(&kvm).map_err(refused)?;
        let flavour = match flavour {
            Some(flavour) => flavour,
            None => probe::flavour(&kvm, &template).map_err(refused)?,
        };
        let window = Window::reserve().map_err(failed)?;
        let vm = Vm::new(&kvm, template, flavour, window.base()).map_err(refused)?;
        let guest = Guest::new(vm, window, Arc::clone(report));
        let machine: Arc<dyn Machine> = Arc::new(Handle(Arc::clone(&guest)));
        let process = Process::new(window, personality(config), machine).map_err(failed)?;
        guest.attach(&process);
        Ok(Self {
            guest,
            process,
            flavour,
        })
    }
}

fn personality(config: &Serve) -> Config {
    Config {
        memory_mib: config.memory_mib,
        tmp_mib: config.tmp_mib,
        max_threads: config.max_threads,
        cpus: config.cpus,
        hostname: config.hostname.clone(),
        roots: config.roots.clone(),
        program: config.program.clone(),
        device: config.device,
        wants_snapshot: config.mode == Mode::Initialise,
    }
}

/// Run the configuration's guest to its end; the exit status of this process.
///
/// # Errors
/// See [`Failure`].
pub fn run(config: &Serve, report: &Arc<Report>, started: Duration) -> Result<i32, Failure> {
    let vm = MicroVm::new(config, None, report)?;
    let first = vm.process.load().map_err(failed)?;
    crate::jail::confine_microvm(config).map_err(failed)?;
    ready(&vm, report, started);
    start(&vm, vec![first])?;
    finish(config, &vm, report)
}

fn ready(vm: &MicroVm, report: &Report, started: Duration) {
    report.send(&Event::Ready {
        isolation: "kvm",
        machine: vm.flavour.machine(),
        us: (now().saturating_sub(started))
            .as_micros()
            .try_into()
            .unwrap_or(u64::MAX),
    });
}

fn start(vm: &MicroVm, threads: Vec<ThreadState>) -> Result<(), Failure> {
    for state in threads {
        vm.guest.start(state).map_err(failed)?;
    }
    Ok(())
}

/// Wait for the end and tell of it.
fn finish(config: &Serve, vm: &MicroVm, report: &Report) -> Result<i32, Failure> {
    let end = loop {
        if let Some(end) = vm.guest.wait(WATCH) {
            break end;
        }
        let used = vm.process.private_bytes().unwrap_or(0);
        if used > (config.memory_mib << 20) + WATCH_SLACK {
            report.send(&Event::MemoryLimit {
                limit_mib: config.memory_mib,
            });
            break End::Exit(libc::SIGKILL);
        }
    };
    for (number, count) in vm.process.unknown_calls() {
        report.send(&Event::UnknownSyscall {
            number,
            name: "",
            count,
        });
    }
    match end {
        End::Exit(status) => {
            report.send(&Event::Exit { status });
            let code = exit_code(status);
            // A guest that ends before its snapshot has not been initialised.
            Ok(if config.mode == Mode::Initialise && code == 0 {
                1
            } else {
                code
            })
        }
        End::Failed(reason) => Err(Failure::Failed(reason)),
        End::Snapshot(_) => Err(Failure::Failed(
            "a snapshot was asked for where none is wanted".into(),
        )),
    }
}

/// Shell convention for a wait status.
fn exit_code(status: i32) -> i32 {
    if status & 0x7f == 0 {
        (status >> 8) & 0xff
    } else {
        128 + (status & 0x7f)
    }
}
