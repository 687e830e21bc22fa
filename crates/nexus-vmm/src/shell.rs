//! `nexus-vmm shell`: a VM made ahead of need. It belongs to no function and runs nothing, until its node hands it the
//! descriptors and the configuration of one restore. (unsafe: descriptors taken from a message.)
//!
//! What can be done without knowing the function is done here: the VM with its first vCPU, a base's memory, and the jail of the
//! guest's threads but for the files that the function may read. One other thread is held by a wider filter of system calls, which
//! leaves what opening and mapping a snapshot takes, and has ended when the guest runs.

use crate::config::{Mode, Serve};
use crate::jail::{self, files::Rules};
use crate::kvm::touch::Touch;
use crate::layout::CHUNK;
use crate::microvm::{self, Failure, Machinery, Restored};
use crate::report::{Report, now};
use crate::serve::finished;
use crate::snapshot::laid::Laid;
use crate::snapshot::plan::{self, Segment};
use crate::snapshot::read;
use crate::snapshot::working_set;
use nexus_personality::config::Root;
use nexus_personality::window::Window;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// Descriptors in a hand-over, and so the numbers that a shell keeps free for them: 0 to 15.
const MOST: usize = 16;

/// A VM without a process, and the memory it shows: a base's, or none.
struct Shell {
    machinery: Machinery,
    laid: Option<Laid>,
    /// The base's roots, and what Landlock is to let through of them.
    roots: (Vec<Root>, Rules),
}

/// What a shell has become, but for its jail's last part.
struct Function {
    config: Serve,
    started: Duration,
    restored: Restored,
    rules: Option<Rules>,
}

/// Make a shell, wait for its function, run that; the exit status of this process. 0: the node needs it no more.
/// `base`: descriptor of the configuration that its base would be restored with. `uid`: who runs guests, where the caller is root.
#[must_use]
pub fn shell(control: RawFd, base: Option<RawFd>, uid: Option<u32>) -> i32 {
    // Its function's, once it has one; until then faults go to standard error.
    let report = Arc::new(Report::new(None));
    let result = prepare(control, base, &report)
        .and_then(|(shell, control)| run(shell, control, uid, &report));
    finished(result, &report)
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::Failed(format!("shell: {error}"))
}

/// This thread, which starts the guest's, is jailed before there is a function, but for what the function may read. What it takes
/// to become that function is done by another thread, which has ended when the guest runs.
fn run(
    shell: Shell,
    control: UnixStream,
    uid: Option<u32>,
    report: &Arc<Report>,
) -> Result<i32, Failure> {
    let say = control.try_clone().map_err(failed)?;
    let theirs = Arc::clone(report);
    let becoming = thread::Builder::new()
        .spawn(move || shell.receive(control, uid, &theirs))
        .map_err(failed)?;
    jail::confine_guests(uid).map_err(failed)?;
    // The node waits for this: a shell that is not ready is slower than none. Not by send(2), which the filter refuses.
    (File::from(OwnedFd::from(say)).write_all(&[1])).map_err(failed)?;
    let became = becoming.join();
    let became =
        became.unwrap_or_else(|_| Err(failed("the thread that takes up a function ended")));
    let Some(function) = became? else {
        return Ok(0);
    };
    if let Some(rules) = function.rules {
        rules.restrict().map_err(failed)?;
    }
    let Function {
        config,
        restored,
        started,
        ..
    } = function;
    restored.run(&config, report, started)
}

impl Shell {
    /// Wait for the function, and have everything ready for it to go on. `None`: there will be none.
    fn receive(
        self,
        control: UnixStream,
        uid: Option<u32>,
        report: &Arc<Report>,
    ) -> Result<Option<Function>, Failure> {
        let Some(config) = receive(&control).map_err(failed)? else {
            return Ok(None);
        };
        drop(control);
        let started = now();
        report.take_over(config.report);
        if config.mode != Mode::Restore || config.record {
            return Err(failed("it can only restore, and record nothing"));
        }
        if config.jail.uid != uid {
            return Err(failed("its function is to have another user"));
        }
        let (roots, rules) = self.roots;
        let rules = match config.jail.landlock {
            true => Some(further(&config, &roots, rules).map_err(failed)?),
            false => None,
        };
        let restored = Restored::make(&config, report, Some((self.machinery, self.laid)))?;
        Ok(Some(Function {
            config,
            started,
            restored,
            rules,
        }))
    }
}

/// What Landlock lets through for a function, where these rules do it for these roots.
fn further(config: &Serve, roots: &[Root], rules: Rules) -> Result<Rules, jail::Error> {
    if roots.iter().all(|root| config.roots.contains(root)) {
        let others = config.roots.iter().filter(|root| !roots.contains(root));
        jail::beneath(rules, others)
    } else {
        jail::beneath(Rules::new()?, &config.roots)
    }
}

fn prepare(
    control: RawFd,
    base: Option<RawFd>,
    report: &Arc<Report>,
) -> Result<(Shell, UnixStream), Failure> {
    if usize::try_from(control).is_ok_and(|n| n < MOST) {
        return Err(failed(format!(
            "--control-fd {control}: it must be {MOST} or above"
        )));
    }
    let given: Vec<RawFd> = [control].into_iter().chain(base).collect();
    jail::close_others(&given).map_err(failed)?;
    let base = base.map(Serve::read).transpose().map_err(failed)?;
    // SAFETY: the caller names an inherited descriptor that nothing else in this process owns.
    let control = unsafe { UnixStream::from_raw_fd(control) };
    keep_numbers_free().map_err(failed)?;
    microvm::widen_descriptor_table();
    let window = Window::reserve().map_err(failed)?;
    let machinery = Machinery::new(None, window, report)?;
    machinery.guest.prepare_vcpus(1).map_err(failed)?;
    let laid = match &base {
        Some(base) => lay_out(base, &machinery, window)?,
        None => None,
    };
    let roots = base.map_or_else(Vec::new, |base| base.roots);
    let rules = Rules::new().and_then(|rules| jail::beneath(rules, &roots));
    let roots = (roots, rules.map_err(failed)?);
    jail::confine_shell().map_err(failed)?;
    Ok((
        Shell {
            machinery,
            laid,
            roots,
        },
        control,
    ))
}

/// Show a base's memory, with the pages that its functions use within the guest's reach. `None`: it is none for this machine, or
/// gone by now, and the window is as it was.
fn lay_out(config: &Serve, machinery: &Machinery, window: Window) -> Result<Option<Laid>, Failure> {
    let failed = |e: &dyn std::fmt::Display| Failure::Failed(format!("laying out the base: {e}"));
    let directory = config.snapshot.as_deref().unwrap_or(Path::new(""));
    let known = || -> Result<_, String> {
        let opened = read::snapshot(directory)?;
        if !machinery.suits(&opened.metadata)? {
            return Ok(None);
        }
        let process = machinery.process(config, &opened.metadata.process)?;
        let segments = opened.plan(&process)?;
        Ok(Some((opened, process, segments)))
    };
    let (opened, process, segments) = match known() {
        Ok(Some(known)) => known,
        Ok(None) => return Ok(None),
        Err(reason) => {
            eprintln!("nexus-vmm: a shell goes without its base: {reason}");
            return Ok(None);
        }
    };
    plan::map(&segments, window).map_err(|e| failed(&e))?;
    let groups = opened.metadata.flavour.maps_neighbours();
    let (mut sets, mut prepared) = (Vec::new(), Vec::new());
    for likely in &config.likely {
        let set = working_set::read(likely);
        if !set.written.is_empty() {
            prepared.push(likely.clone());
        }
        working_set::prefault(&set.written, groups, &segments, window);
        // What will be copied there.
        working_set::prefault(&set.changed, false, &segments, window);
        sets.push(set);
    }
    machinery.guest.set_growing(false);
    process.mm().back_all().map_err(|e| failed(&e))?;
    machinery.guest.set_growing(true);
    let touched = working_set::to_touch(&sets, groups, &segments, window);
    let mut pages = touched.map_err(|e| failed(&e))?;
    pages.extend(segments.iter().flat_map(huge_pages));
    machinery.guest.touch(&pages).map_err(|e| failed(&e))?;
    let laid = Laid::new(&segments, process, prepared).map_err(|e| failed(&e))?;
    Ok(Some(laid))
}

/// One page of each that may be huge.
fn huge_pages(segment: &Segment) -> impl Iterator<Item = Touch> + use<> {
    let first = segment.start.next_multiple_of(CHUNK);
    let length = segment.huge().map_or(0, |(_, _, length)| length);
    (first..first + length)
        .step_by(CHUNK as usize)
        .map(Touch::Read)
}

/// So that what the hand-over puts at these numbers replaces nothing of the shell's own.
fn keep_numbers_free() -> io::Result<()> {
    let null = File::open("/dev/null")?;
    for number in 3..RawFd::try_from(MOST).unwrap_or(RawFd::MAX) {
        if number != null.as_raw_fd() {
            // SAFETY: two numbers; nothing owns the target, which was closed before.
            if unsafe { libc::dup3(null.as_raw_fd(), number, libc::O_CLOEXEC) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
    }
    // It holds the first number itself.
    let _ = null.into_raw_fd();
    Ok(())
}

/// The message: a target number (i32, little-endian) for each descriptor that comes with it. `None`: the node closed.
fn receive(control: &UnixStream) -> Result<Option<Serve>, String> {
    let mut numbers = [0_u8; 4 * MOST];
    let mut fds = [-1; MOST];
    let mut vector = [libc::iovec {
        iov_base: numbers.as_mut_ptr().cast(),
        iov_len: numbers.len(),
    }];
    // SAFETY: the vector describes a live buffer.
    let (bytes, count) = unsafe { control.recv_with_fds(&mut vector, &mut fds) }
        .map_err(|e| format!("the hand-over: {e}"))?;
    if bytes == 0 {
        return Ok(None);
    }
    let received: Vec<OwnedFd> = fds
        .iter()
        .take(count)
        // SAFETY: just received, owned by nobody else.
        .map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) })
        .collect();
    if bytes != 4 * received.len() {
        return Err(format!(
            "the hand-over names {} descriptors and brings {}",
            bytes / 4,
            received.len()
        ));
    }
    let mut config = None;
    let mut named = 0_u32;
    for (fd, number) in received.into_iter().zip(numbers.as_chunks::<4>().0) {
        let number = RawFd::from_le_bytes(*number);
        if !usize::try_from(number).is_ok_and(|n| (1..MOST).contains(&n)) {
            return Err(format!("the hand-over puts a descriptor at {number}"));
        }
        // SAFETY: two numbers; the target is a placeholder or a standard stream.
        if unsafe { libc::dup3(fd.as_raw_fd(), number, 0) } < 0 {
            return Err(format!(
                "descriptor {number}: {}",
                io::Error::last_os_error()
            ));
        }
        config = Some(number);
        named |= 1 << number;
    }
    for number in 3..RawFd::try_from(MOST).unwrap_or(RawFd::MAX) {
        if named & (1 << number) == 0 {
            // SAFETY: a placeholder of ours.
            unsafe { libc::close(number) };
        }
    }
    // The last one is the configuration.
    config
        .ok_or_else(|| "the hand-over brings nothing".to_owned())
        .and_then(Serve::read)
        .map(Some)
}
