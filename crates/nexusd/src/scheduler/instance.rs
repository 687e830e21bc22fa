//! One VMM process with its channel and pipes: started, listened to, ended.

use super::failure::{Ending, StartFailure};
use super::working_set::Recording;
use crate::clock::monotonic_ns;
use crate::logs::{FunctionLog, Tail};
use crate::node::Node;
use crate::process::child::Child;
use crate::process::launch::{self, Ends, Mode, Places};
use crate::process::pipe::PipeReader;
use crate::process::report::{Event, ReportReader};
use crate::registry::Version;
use nexus_backend::{Backend, Channel, RuntimeMessage, Scope, Wake};
use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};

/// What an instance did.
#[derive(Debug)]
pub enum Turn {
    Message(RuntimeMessage),
    /// It ended; [`Instance::ending`] says how.
    Exited,
    Deadline,
}

/// How long a VMM may take to die of SIGKILL before it is left to the kernel.
const REAP: Duration = Duration::from_secs(10);
/// How long an instance that is to end may take to tell its working set.
const TELL: Duration = Duration::from_millis(200);
/// Reads of a full pipe at a response: what was written before it is certainly among them.
const DRAIN_READS: usize = 32;

pub struct Instance {
    pub channel: Channel,
    pub child: Child,
    pub ending: Ending,
    pub tail: Tail,
    /// A snapshot was reported taken, of this many bytes.
    pub snapshot_bytes: Option<u64>,
    pub spawned_ns: u64,
    /// The guest asked for its first event.
    pub ready_ns: u64,
    /// Steps of its start, as the VMM reports them.
    pub stages: Vec<(String, u64)>,
    /// Deferred writes of the invocations before, which its state rests on; and how many invocations that are.
    pub pending: Option<Arc<Scope>>,
    pub chain: usize,
    /// What of its snapshot it uses, where that is not known yet.
    pub recording: Option<Recording>,
    function_log: Arc<FunctionLog>,
    log: PipeReader,
    log_ended: bool,
    report: ReportReader,
    exited: bool,
}

impl Instance {
    /// Start a VMM for `version`. Returns once it executes.
    ///
    /// # Errors
    /// [`StartFailure::Node`]: out of memory, descriptors or processes, or no VMM.
    pub async fn launch(
        node: &Node,
        version: &Version,
        mode: Mode,
        places: Places<'_>,
    ) -> Result<Self, StartFailure> {
        let fail = |what: &str, error: &dyn std::fmt::Display| {
            StartFailure::Node(format!(
                "cannot start an instance of {}: {what}: {error}",
                version.name
            ))
        };
        let identity = version.identity(&node.config);
        let began_ns = monotonic_ns();
        let wake = match mode {
            Mode::Process => Wake::Eventfd,
            Mode::Initialise | Mode::Restore => Wake::Futex,
        };
        let size = nexus_abi::arena::DEFAULT_SIZE;
        let (mut channel, device) =
            Backend::open(&node.backend, identity, size, wake).map_err(|e| fail("no arena", &e))?;
        channel.set_writes(version.writes());
        let (log, log_end) = PipeReader::new().map_err(|e| fail("no pipe", &e))?;
        let (report, report_end) = PipeReader::new().map_err(|e| fail("no pipe", &e))?;
        let recording = (places.working_set).and_then(|path| node.recordings.begin(path));
        let document = launch::vmm_config(&node.config, version, mode, places, recording.is_some());
        let ends = Ends {
            device,
            log: log_end,
            report: report_end,
        };
        let order = launch::launch(&node.config, &document, ends)
            .map_err(|e| fail("no descriptors", &e))?;
        let prepared_ns = monotonic_ns();
        // Whose pages are within reach already cannot record which are used.
        let shell = (mode == Mode::Restore && recording.is_none())
            .then(|| {
                let base = places.working_set.and_then(|set| node.bases.of_recent(set));
                let base = base.as_ref().map(|base| base.snapshot.as_path());
                node.shells.start(&order, base)
            })
            .flatten();
        let in_shell = shell.is_some();
        let child = match shell {
            Some(child) => child,
            None => node
                .spawner
                .spawn(order)
                .await
                .map_err(|e| fail(&node.config.vmm.display().to_string(), &e))?,
        };
        let spawned_ns = monotonic_ns();
        tracing::debug!(
            pid = child.pid(),
            in_shell,
            prepare_us = (prepared_ns - began_ns) / 1000,
            spawn_us = (spawned_ns - prepared_ns) / 1000,
            "a VMM was started"
        );
        Ok(Self {
            channel,
            child,
            ending: Ending::default(),
            tail: Tail::default(),
            snapshot_bytes: None,
            spawned_ns,
            ready_ns: 0,
            stages: Vec::new(),
            pending: None,
            chain: 0,
            recording,
            function_log: Arc::clone(&version.log),
            log,
            log_ended: false,
            report: ReportReader::new(report),
            exited: false,
        })
    }

    /// Wait until the guest says something, ends, or `deadline` passes; its output and the VMM's report
    /// are taken meanwhile. Cancel safe.
    pub async fn turn(&mut self, deadline: Instant) -> Turn {
        loop {
            // Biased: a guest that floods its log cannot hide its deadline or its end.
            tokio::select! {
                biased;
                message = self.channel.receive() => return Turn::Message(message),
                () = sleep_until(deadline) => return Turn::Deadline,
                status = self.child.wait() => {
                    self.exited = true;
                    for event in self.report.drain() {
                        self.note(&event);
                    }
                    self.ending.note_exit(status);
                    self.drain_log();
                    return Turn::Exited;
                }
                events = self.report.next() => {
                    for event in &events {
                        self.note(event);
                    }
                }
                open = self.log.read(|bytes| {
                    self.function_log.append(bytes);
                    self.tail.push(bytes);
                }), if !self.log_ended => self.log_ended = !open,
            }
        }
    }

    fn note(&mut self, event: &Event) {
        self.ending.note(event);
        match event {
            Event::Ready {
                isolation,
                machine,
                us,
                stages,
            } => {
                tracing::debug!(
                    pid = self.child.pid(),
                    isolation,
                    machine,
                    us,
                    "instance runs"
                );
                self.stages.clone_from(stages);
            }
            Event::Snapshot { bytes, mappings } => {
                tracing::info!(bytes, mappings, "snapshot taken");
                self.snapshot_bytes = Some(*bytes);
            }
            Event::UnknownSyscall {
                number,
                name,
                count,
            } => {
                let name: String = name
                    .chars()
                    .filter(char::is_ascii_graphic)
                    .take(40)
                    .collect();
                let line = format!(
                    "[nexus] system call {number} ({name}) is not implemented; called {count} times"
                );
                self.function_log.append_line(&line);
            }
            Event::Fault { signal, .. } => {
                let detail = self.ending.fault.clone().unwrap_or_default();
                let line = format!("[nexus] fault: {detail}, signal {signal}");
                self.function_log.append_line(&line);
            }
            Event::NotRenewed => self.function_log.append_line(
                "[nexus] threads were let go in a clone before its random state was renewed: that took too long",
            ),
            Event::WorkingSet {
                written,
                read,
                changed,
                last,
            } => {
                if let Some(recording) = &mut self.recording
                    && recording.take([written, read, changed], *last)
                {
                    self.recording = None;
                }
            }
            _ => {}
        }
    }

    /// Log what is left to log of a guest that has ended: text without the end of its line lies in the arena.
    pub fn last_words(&mut self) {
        self.drain_log();
        let words = self.channel.take_last_words();
        if !words.is_empty() {
            self.function_log.append(&words);
            self.tail.push(&words);
        }
    }

    /// Take what the guest has written until now.
    pub fn drain_log(&mut self) {
        if !self.log_ended {
            let Self {
                log,
                tail,
                function_log,
                ..
            } = self;
            log.drain(DRAIN_READS, |bytes| {
                function_log.append(bytes);
                tail.push(bytes);
            });
        }
    }

    /// Resident memory of the VMM, in MiB; 0 once it has ended. The file is opened each time: kept open, it would be one more
    /// descriptor of every instance.
    pub fn resident_mib(&self) -> u64 {
        let mut text = [0_u8; 128];
        let read = File::open(format!("/proc/{}/statm", self.child.pid()))
            .and_then(|mut file| file.read(&mut text));
        // Looked at afterwards: until it is reaped, nobody else has its pid.
        if self.child.is_reaped() {
            return 0;
        }
        read.ok()
            .and_then(|n| std::str::from_utf8(text.get(..n)?).ok())
            .and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok())
            .map_or(0, |pages| (pages * 4096).div_ceil(1 << 20))
    }

    /// Wait until it has told its working set, if it was asked.
    async fn recorded(&mut self) {
        while self.recording.as_ref().is_some_and(Recording::is_asked) {
            for event in &self.report.next().await {
                self.note(event);
            }
        }
    }

    /// End it, if it has not ended, and reap it.
    pub async fn end(mut self) -> Ending {
        if !self.exited {
            // What its first result has it tell spares all later starts much.
            let _ = timeout(TELL, self.recorded()).await;
            self.child.kill();
            let deadline = Instant::now() + REAP;
            loop {
                // What the guest still says is of no interest.
                match timeout(REAP, self.child.wait()).await {
                    Ok(status) => {
                        for event in self.report.drain() {
                            self.note(&event);
                        }
                        self.ending.note_exit(status);
                        self.drain_log();
                        break;
                    }
                    Err(_) if Instant::now() >= deadline => {
                        tracing::error!(pid = self.child.pid(), "a VMM does not die of SIGKILL");
                        break;
                    }
                    Err(_) => {}
                }
            }
        }
        self.ending
    }
}
