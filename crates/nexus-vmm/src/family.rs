//! The microVMs of one guest's child processes: VMs of their own in this process, under the same jail and limits.
//!
//! A child is no boundary towards its parent, who chose its program, so they may share a hypervisor; and so they share
//! pipes, files and /tmp as processes do.

use crate::guest::{End, Guest, Handle};
use crate::kvm::vm::Vm;
use crate::microvm::{WATCH, WATCH_SLACK};
use nexus_personality::errno::{EAGAIN, Errno};
use nexus_personality::host::KICK_SIGNAL;
use nexus_personality::machine::{Ended, Machine, Start};
use nexus_personality::process::Process;
use nexus_personality::window::Window;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

const STACK: usize = 128 << 10;
/// Between looks whether the last thread has let go of its VM.
const LET_GO: Duration = Duration::from_millis(2);
const LET_GO_MOST: Duration = Duration::from_millis(200);

/// Make a microVM with what `start` makes of it, and run it; `ended` is told its wait status.
///
/// # Errors
/// EAGAIN where KVM or the host refuses; what `start` says. `ended` is then not called.
pub fn launch(parent: &Guest, start: Start, ended: Ended) -> Result<(), Errno> {
    let (kvm, clock, report) = parent.parts();
    let window = Window::reserve()?;
    let made = (|| {
        let template = parent.vm().template().clone();
        // KVM gives up making a VM when a signal comes; a kick then waits until it is made.
        let unkicked = Unkicked::new();
        let vm =
            Vm::new(&kvm, template, parent.vm().flavour(), window.base()).map_err(|_| EAGAIN)?;
        if let Some(clock) = &clock {
            vm.map_clock(clock).map_err(|_| EAGAIN)?;
        }
        vm.map_silent_doorbell();
        drop(unkicked);
        let guest = Guest::new(vm, Arc::clone(&kvm), clock, window, report);
        let handle = Arc::new(Handle::default());
        handle.set(&guest);
        let machine: Arc<dyn Machine> = handle;
        match start(window, machine) {
            Ok((process, state)) => {
                guest.attach(&process);
                Ok((guest, process, state))
            }
            Err(error) => Err(Errno::from(error)),
        }
    })();
    let (guest, process, state) = match made {
        Ok(made) => made,
        Err(errno) => {
            window.release();
            return Err(errno);
        }
    };
    let (tell, told) = sync_channel(1);
    let watched = Arc::clone(&guest);
    let watching = std::thread::Builder::new()
        .stack_size(STACK)
        .spawn(move || watch(&watched, process, &told, window));
    if watching.is_err() {
        // Nothing has run: the VM goes before the memory that it shows.
        drop(guest);
        window.release();
        return Err(EAGAIN);
    }
    // Where it cannot start, `tell` is dropped, and the watch clears up.
    guest.start(state)?;
    tell.send(ended).map_err(|_| EAGAIN)
}

/// Kicks of the calling thread are put off as long as this lives. (unsafe: the thread's signal mask.)
struct Unkicked;

impl Unkicked {
    fn new() -> Self {
        Self::mask(libc::SIG_BLOCK);
        Self
    }

    fn mask(how: libc::c_int) {
        // SAFETY: a zeroed set is valid and emptied first; the mask is this thread's own.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, KICK_SIGNAL);
            libc::pthread_sigmask(how, &raw const set, std::ptr::null_mut());
        }
    }
}

impl Drop for Unkicked {
    fn drop(&mut self) {
        Self::mask(libc::SIG_UNBLOCK);
    }
}

/// Until the child ends; then take its VM down.
fn watch(guest: &Arc<Guest>, process: Arc<Process>, told: &Receiver<Ended>, window: Window) {
    let ended = told.recv().ok();
    let status = if ended.is_some() {
        wait_status(guest, &process)
    } else {
        libc::SIGKILL
    };
    process.abandon();
    guest.discard();
    process.close_files();
    drop(process);
    if let Some(ended) = ended {
        ended(status);
    }
    // The window's addresses are given back when no VM shows them any more.
    // Processes of its own that outlive it hold on to it, for as long as they please.
    let mut pause = LET_GO;
    while Arc::strong_count(guest) > 1 {
        std::thread::sleep(pause);
        pause = (pause * 2).min(LET_GO_MOST);
    }
    window.release();
}

fn wait_status(guest: &Guest, process: &Process) -> i32 {
    let mut next = WATCH;
    loop {
        match guest.wait(next, true) {
            Some(End::Exit(status)) => return status,
            Some(End::Failed(reason)) => {
                eprintln!("nexus-vmm: a child process: {reason}");
                return libc::SIGKILL;
            }
            Some(End::Snapshot { .. }) => return libc::SIGKILL,
            None => {}
        }
        match process.ledger().look(WATCH_SLACK) {
            Ok(pause) => next = pause,
            Err(_) => {
                guest.parts().2.memory_limit(process.memory_limit() >> 20);
                return libc::SIGKILL;
            }
        }
    }
}
