//! Modes `run`, `initialise` and `restore`: make the VM, jail this process, run the guest to its end.

use crate::clock::Clock;
use crate::config::{Mode, Serve};
use crate::forward::Forward;
use crate::guest::{End, Guest, Handle};
use crate::kvm::cpuid::Template;
use crate::kvm::flavour::Flavour;
use crate::kvm::vm::Vm;
use crate::kvm::{self, probe};
use crate::layout::PAGE;
use crate::report::{Event, Report, Timeline, now};
use crate::snapshot::format::Metadata;
use crate::snapshot::laid::{Copied, Files, Laid, Shown};
use crate::snapshot::plan::Segment;
use crate::snapshot::read;
use crate::snapshot::tidy::Tidier;
use crate::snapshot::working_set::{self, Recorder};
use crate::snapshot::write::Taker;
use crate::{jail, names};
use nexus_personality::config::Config;
use nexus_personality::machine::{ThreadState, Tid};
use nexus_personality::process::Process;
use nexus_personality::snapshot::{ProcessState, SavedTimers};
use nexus_personality::window::Window;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Before the guest's memory is first held against its limit; after that the less is left the sooner.
pub(crate) const WATCH: Duration = Duration::from_millis(100);
/// The same while the working set is to be recorded, which a first result asks for and later ones would blur.
const WATCH_RECORDING: Duration = Duration::from_millis(5);
/// Beyond the limit before the guest is ended: the hypervisor's own memory.
pub(crate) const WATCH_SLACK: u64 = 16 << 20;
/// A rest is a long one when it lasts as many times longer than one behind which is tidied up.
const LONG_REST: u32 = 4;
/// For all threads to stop at a snapshot.
const STOP: Duration = Duration::from_secs(10);

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

/// The same, with what was being done.
fn at<E: std::fmt::Display>(doing: &'static str) -> impl Fn(E) -> Failure {
    move |error| Failure::Failed(format!("{doing}: {error}"))
}

/// What a snapshot says of the machine.
type Known = (Flavour, Template, Option<Clock>);

fn machine_of(metadata: &Metadata) -> Result<Known, String> {
    let template = read::template(&metadata.cpuid)?;
    let clock = metadata.clock.map(Clock::known).transpose()?;
    Ok((metadata.flavour, template, clock))
}

/// A VM without a process.
pub struct Machinery {
    pub guest: Arc<Guest>,
    window: Window,
    flavour: Flavour,
    template: Template,
    clock: Option<Clock>,
}

impl Machinery {
    /// `known`: what a snapshot says of the machine, which leaves out the probe. The first exit of each vCPU still checks it.
    ///
    /// # Errors
    /// This machine cannot run microVMs.
    pub fn new(
        known: Option<Known>,
        window: Window,
        report: &Arc<Report>,
    ) -> Result<Self, Failure> {
        let refused =
            |e: kvm::Error| Failure::Refused(format!("this machine cannot run microVMs: {e}"));
        let kvm = probe::open().map_err(refused)?;
        let (flavour, template, clock) = match known {
            Some(known) => known,
            None => {
                let template = Template::supported(&kvm).map_err(refused)?;
                let flavour = probe::flavour(&kvm, &template).map_err(refused)?;
                (flavour, template, Clock::find())
            }
        };
        let vm = Vm::new(&kvm, template.clone(), flavour, window.base()).map_err(refused)?;
        if let Some(clock) = &clock {
            vm.map_clock(clock).map_err(refused)?;
        }
        Ok(Self {
            guest: Guest::new(vm, Arc::new(kvm), clock, window, Arc::clone(report)),
            window,
            flavour,
            template,
            clock,
        })
    }

    /// Whether it is the machine that a snapshot asks for.
    fn is(&self, (flavour, template, clock): &Known) -> bool {
        self.flavour == *flavour
            && self.template.leaves.as_slice() == template.leaves.as_slice()
            && self.clock == *clock
    }

    /// Whether it is the machine that a snapshot was taken on.
    ///
    /// # Errors
    /// What the snapshot says makes no sense.
    pub fn suits(&self, metadata: &Metadata) -> Result<bool, String> {
        Ok(self.is(&machine_of(metadata)?))
    }

    /// A process as it is in a snapshot, for the sake of what it maps: it does not run.
    ///
    /// # Errors
    /// What it says is impossible, or a file has changed.
    pub fn process(&self, config: &Serve, state: &ProcessState) -> Result<Arc<Process>, String> {
        let machine = Arc::new(Handle::default());
        machine.set(&self.guest);
        let config = personality(config, self.clock);
        Process::restore(self.window, config, machine, state, None).map_err(|e| e.to_string())
    }

    fn known(&self) -> Known {
        (self.flavour, self.template.clone(), self.clock)
    }
}

pub(crate) fn personality(config: &Serve, clock: Option<Clock>) -> Config {
    Config {
        vdso: clock.map_or(0, |c| c.guest_code()),
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
    jail::close_inherited(config, report.fd()).map_err(failed)?;
    widen_descriptor_table();
    // First, while this process has no other thread.
    let forward = (config.mode == Mode::Run).then(Forward::new);
    let taker = match (&config.snapshot, config.mode) {
        (Some(target), Mode::Initialise) => Some(Taker::new(target).map_err(Failure::Failed)?),
        _ => None,
    };
    let window = Window::reserve().map_err(failed)?;
    let vm = Machinery::new(None, window, report)?;
    let machine = Arc::new(Handle::default());
    machine.set(&vm.guest);
    let process = Process::new(window, personality(config, vm.clock), machine).map_err(failed)?;
    vm.guest.attach(&process);
    count_exits(config, &vm)?;
    let first = process.load().map_err(failed)?;
    jail::confine_microvm(config).map_err(failed)?;
    // Behind the jail, which holds for threads that exist and for those they start.
    if let Some(forward) = forward {
        forward.to(&process).map_err(failed)?;
    }
    ready(vm.flavour, report, started, &Timeline::default());
    vm.guest.start(first).map_err(failed)?;
    let end = watch(config, &vm.guest, &process, report, None, None);
    finish(config, &vm, &process, (end, taker), report)
}

/// Go on from the configuration's snapshot, or from its base, to take a snapshot that rests on it; the exit status of this
/// process.
///
/// # Errors
/// See [`Failure`].
pub fn restore(config: &Serve, report: &Arc<Report>, started: Duration) -> Result<i32, Failure> {
    jail::close_inherited(config, report.fd()).map_err(failed)?;
    widen_descriptor_table();
    let restored = Restored::make(config, report, None)?;
    jail::confine_microvm(config).map_err(failed)?;
    restored.run(config, report, started)
}

/// A guest that is to go on: everything is open, and nothing of it runs. No thread was started that lives on: it would not be jailed.
pub struct Restored {
    vm: Machinery,
    process: Arc<Process>,
    threads: Vec<ThreadState>,
    renews: Option<Tid>,
    timers: SavedTimers,
    recorder: Option<Recorder>,
    tidier: Option<Tidier>,
    taker: Option<Taker>,
    timeline: Timeline,
}

impl Restored {
    /// From the configuration's snapshot, in a shell's machine and memory where there is one.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn make(
        config: &Serve,
        report: &Arc<Report>,
        made: Option<(Machinery, Option<Laid>)>,
    ) -> Result<Self, Failure> {
        let mut timeline = Timeline::new("configured", now());
        let named = config.base.as_deref().or(config.snapshot.as_deref());
        let directory = named.unwrap_or(Path::new(""));
        let refused = |reason: String| {
            Failure::Refused(format!("snapshot {}: {reason}", directory.display()))
        };
        let opened = read::snapshot(directory).map_err(refused)?;
        let taker = match (&config.snapshot, &config.base) {
            (Some(target), Some(_)) => Some(based(target, &opened).map_err(Failure::Failed)?),
            _ => None,
        };
        let metadata = &opened.metadata;
        if metadata.threads.len() > config.max_threads {
            return Err(refused(format!(
                "it has {} threads",
                metadata.threads.len()
            )));
        }
        let known = machine_of(metadata).map_err(refused)?;
        let clock = known.2;
        timeline.mark("decoded");
        let mut recorder = (config.record.then(Recorder::new).transpose())
            .map_err(at("preparing to record the working set"))?;
        // One made on other terms is given up; its window serves.
        let (window, made, laid) = match made {
            Some((made, laid)) => (made.window, Some(made).filter(|m| m.is(&known)), laid),
            None => (
                Window::reserve().map_err(at("reserving the guest's address space"))?,
                None,
                None,
            ),
        };
        let handle = Arc::new(Handle::default());
        // The machine and the memory take equally long to make. Joined before the jail, which must hold for every thread.
        let count = metadata.threads.len();
        let make = move || {
            let vm = Machinery::new(Some(known), window, report)?;
            vm.guest.prepare_vcpus(count).map_err(at("making vCPUs"))?;
            Ok(vm)
        };
        let mut fill = || {
            let machine = Arc::clone(&handle);
            populate(
                config,
                (window, laid.as_ref()),
                machine,
                &opened,
                clock,
                &mut timeline,
            )
        };
        let (vm, filled) = match made {
            Some(vm) => fill().map(|filled| (vm, filled)),
            None => side_by_side(make, fill),
        }
        .map_err(|failure| match failure {
            Failure::Refused(reason) => refused(reason),
            other => other,
        })?;
        timeline.mark("joined");
        let Filled {
            process,
            segments,
            copied,
        } = filled;
        if let Some(recorder) = &mut recorder {
            recorder.tell_all(&segments, window, opened.metadata.changed.clone());
        }
        let read::Opened {
            mut metadata,
            pages,
            base,
            ..
        } = opened;
        let files = || [pages].into_iter().chain(base).collect();
        let tidier = (config
            .tidy_ms
            .map(|_| Tidier::new(files(), copied))
            .transpose())
        .map_err(at("preparing to tidy up"))?;
        handle.set(&vm.guest);
        vm.guest.attach(&process);
        count_exits(config, &vm)?;
        vm.guest.set_growing(false);
        // Its process with all that this knows of goes as well.
        if let Some(laid) = laid {
            laid.forbid_execution(vm.guest.vm())
                .map_err(at("making memory slots"))?;
        }
        process.mm().back_all().map_err(at("making memory slots"))?;
        vm.guest.set_growing(true);
        timeline.mark("backed");
        process
            .restore_device(metadata.process.device)
            .map_err(|e| refused(e.to_string()))?;
        Ok(Self {
            vm,
            process,
            threads: std::mem::take(&mut metadata.threads),
            renews: metadata.renews,
            timers: metadata.process.timers,
            recorder,
            tidier,
            taker,
            timeline,
        })
    }

    /// Behind the jail: run it to its end; the exit status of this process.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn run(
        mut self,
        config: &Serve,
        report: &Report,
        started: Duration,
    ) -> Result<i32, Failure> {
        self.timeline.mark("jailed");
        ready(self.vm.flavour, report, started, &self.timeline);
        if let Some(renews) = self.renews {
            self.vm.guest.hold_for(renews);
            // It is what the first result waits for.
            self.threads.sort_by_key(|state| state.tid != renews);
        }
        (self.process.restore_timers(&self.timers)).map_err(failed)?;
        for state in self.threads {
            (self.vm.guest.start(state)).map_err(at("starting a thread of the snapshot"))?;
        }
        let end = watch(
            config,
            &self.vm.guest,
            &self.process,
            report,
            self.recorder,
            self.tidier,
        );
        finish(config, &self.vm, &self.process, (end, self.taker), report)
    }
}

/// Ready to take the snapshot of a guest that goes on from the one opened.
fn based(target: &Path, opened: &read::Opened) -> Result<Taker, String> {
    let mut taker = Taker::new(target)?;
    taker.set_base(opened)?;
    Ok(taker)
}

/// Report how the guest ended; take the snapshot that it ended with.
fn finish(
    config: &Serve,
    vm: &Machinery,
    process: &Process,
    (end, taker): (End, Option<Taker>),
    report: &Report,
) -> Result<i32, Failure> {
    tell_unknown_calls(process, report);
    match (end, taker) {
        (End::Snapshot { renews }, Some(taker)) => take(vm, process, (taker, renews), report),
        (end, _) => tell_end(config, end, report),
    }
}

fn side_by_side<A: Send, B>(
    one: impl FnOnce() -> Result<A, Failure> + Send,
    other: impl FnOnce() -> Result<B, Failure>,
) -> Result<(A, B), Failure> {
    std::thread::scope(|scope| {
        let one = scope.spawn(one);
        let other = other();
        let one = one
            .join()
            .unwrap_or_else(|_| Err(failed("the thread that makes the machine ended")))?;
        Ok((one, other?))
    })
}

/// A process with its memory, and how that is shown.
struct Filled {
    process: Arc<Process>,
    segments: Vec<Segment>,
    copied: Vec<Copied>,
}

/// The snapshot's process with its memory mapped, or copied over what is laid out, and as much of it present as its
/// working set tells.
fn populate(
    config: &Serve,
    (window, laid): (Window, Option<&Laid>),
    machine: Arc<Handle>,
    opened: &read::Opened,
    clock: Option<Clock>,
    timeline: &mut Timeline,
) -> Result<Filled, Failure> {
    let refused = |error: &dyn std::fmt::Display| Failure::Refused(error.to_string());
    let process = Process::restore(
        window,
        personality(config, clock),
        machine,
        &opened.metadata.process,
        laid.map(Laid::process),
    )
    .map_err(|e| refused(&e))?;
    timeline.mark("process");
    let segments = opened.plan(&process).map_err(|e| refused(&e))?;
    // Without a rest, what is copied would never be mapped.
    let keep = config.tidy_ms.is_some();
    let nothing = Shown::default();
    let files = Files {
        own: opened.pages.as_raw_fd(),
        base: opened.base.as_ref().map(AsRawFd::as_raw_fd),
    };
    let turn = (laid.map_or(&nothing, Laid::shown))
        .turn(&segments, files, keep)
        .map_err(at("looking at the snapshot's files"))?;
    turn.make_mappings(window)
        .map_err(at("mapping the snapshot"))?;
    timeline.mark("mapped");
    let is_prepared = |hint: &Path| laid.is_some_and(|laid| laid.is_prepared(hint));
    if let Some(hint) = (config.working_set.as_deref()).filter(|hint| !is_prepared(hint)) {
        let groups = opened.metadata.flavour.maps_neighbours();
        working_set::prefault(&working_set::read(hint).written, groups, &segments, window);
    }
    timeline.mark("prefaulted");
    let copied = turn
        .copy(&opened.changed(), window)
        .map_err(at("copying the snapshot"))?;
    timeline.mark("copied");
    Ok(Filled {
        process,
        segments,
        copied,
    })
}

/// Have the kernel make room for all descriptors now. Growing the table of a process with several threads waits for
/// an RCU grace period: 15 ms, at the 64th and the 256th file of a restore.
pub(crate) fn widen_descriptor_table() {
    const LAST: libc::c_int = 1023;
    // SAFETY: plain calls; a failure leaves the table as it was, and things slow.
    unsafe {
        let high = libc::fcntl(0, libc::F_DUPFD_CLOEXEC, LAST);
        if high >= 0 {
            libc::close(high);
        }
    }
}

/// Free parts of the hypervisor's own heap.
fn give_back_heap() {
    // SAFETY: no preconditions; the allocator does its own locking.
    unsafe { libc::malloc_trim(0) };
}

/// What deeper calls than this one have left of the main thread's stack, which is the one that grows by itself.
fn give_back_stack() {
    /// As far down as the kernel lets nothing else lie (the gap below a stack, proc_sys_vm(5)).
    const DEPTH: u64 = 512 << 10;
    // SAFETY: no preconditions.
    if unsafe { libc::gettid() } != std::process::id().cast_signed() {
        return;
    }
    let here = 0_u8;
    // The page below is the one that this call's own frames may reach into.
    let end = (&raw const here as u64 & !(PAGE - 1)) - PAGE;
    // SAFETY: below every live frame of this thread, and nothing but its stack lies there. Parts without a mapping are no matter.
    unsafe {
        libc::madvise(
            (end - DEPTH) as *mut libc::c_void,
            DEPTH as usize,
            libc::MADV_DONTNEED,
        );
    }
}

fn count_exits(config: &Serve, vm: &Machinery) -> Result<(), Failure> {
    match config.device {
        Some(device) => (vm.guest.count_exits(device.arena)).map_err(at("mapping the arena")),
        None => Ok(()),
    }
}

fn ready(flavour: Flavour, report: &Report, started: Duration, timeline: &Timeline) {
    report.send(&Event::Ready {
        isolation: "kvm",
        machine: flavour.machine(),
        stages: timeline.stages(),
        us: (now().saturating_sub(started))
            .as_micros()
            .try_into()
            .unwrap_or(u64::MAX),
    });
}

/// Wait for the end. Meanwhile hold the guest's memory against its limit, record its working set when asked, tidy up behind
/// a guest at rest, and behind one that rests for long let go of what KVM keeps for its memory.
fn watch(
    config: &Serve,
    guest: &Arc<Guest>,
    process: &Process,
    report: &Report,
    mut recorder: Option<Recorder>,
    mut tidier: Option<Tidier>,
) -> End {
    if let Some(recorder) = &recorder {
        recorder.listen();
    }
    let mut next = WATCH;
    // What parsing the snapshot took, 0.2 MiB that each of thousands would keep. Not beside the guest's first steps, which it delays:
    // what is unmapped here each processor that the guest runs on is told of.
    let mut parsed = true;
    let rest = Duration::from_millis(config.tidy_ms.unwrap_or(0));
    loop {
        if let (Some(tidier), None) = (&mut tidier, &recorder)
            && guest.nap(rest)
        {
            // Once for each rest.
            tidier.tidy(process, guest.window());
            process.at_rest(|| {
                process.give_back_arena();
                None
            });
            give_back_heap();
            give_back_stack();
            if guest.nap(LONG_REST * rest) {
                process.at_rest(|| Some(guest.hide()));
            }
        }
        let pause = recorder.as_ref().map_or(next, |_| WATCH_RECORDING);
        if let Some(end) = guest.wait(pause, recorder.is_none()) {
            return end;
        }
        if std::mem::take(&mut parsed) {
            give_back_heap();
        }
        recorder = recorder.filter(|r| !r.poll(process, guest.window(), report));
        match process.ledger().look(WATCH_SLACK) {
            Ok(pause) => next = pause,
            Err(_) => {
                report.memory_limit(config.memory_mib);
                return End::Exit(libc::SIGKILL);
            }
        }
    }
}

fn take(
    vm: &Machinery,
    process: &Process,
    (taker, renews): (Taker, Option<Tid>),
    report: &Report,
) -> Result<i32, Failure> {
    let threads = vm.guest.stop_all(process, STOP).map_err(Failure::Failed)?;
    let taken = taker
        .take(process, vm.window, threads, renews, vm.known())
        .map_err(Failure::Failed)?;
    report.send(&Event::Snapshot {
        bytes: taken.bytes,
        mappings: taken.mappings,
    });
    report.send(&Event::Exit { status: 0 });
    Ok(0)
}

fn tell_unknown_calls(process: &Process, report: &Report) {
    for (number, count) in process.unknown_calls() {
        let name = names::name(number);
        report.send(&Event::UnknownSyscall {
            number,
            name,
            count,
        });
    }
}

fn tell_end(config: &Serve, end: End, report: &Report) -> Result<i32, Failure> {
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
        End::Snapshot { .. } => Err(Failure::Failed(
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
