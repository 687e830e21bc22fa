//! Signals that this process receives are the guest's, where it stands for the guest: `nexus-vmm run` at a terminal.
//! (unsafe: signal masks and sigwaitinfo.)

use nexus_personality::process::Process;
use std::io;
use std::sync::{Arc, Weak};

const FORWARDED: [libc::c_int; 7] = [
    libc::SIGINT,
    libc::SIGTERM,
    libc::SIGQUIT,
    libc::SIGHUP,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGWINCH,
];
const STACK: usize = 64 << 10;

/// The signals, blocked in this thread and in all that it starts.
pub struct Forward(libc::sigset_t);

impl Forward {
    /// Before there is another thread.
    #[must_use]
    pub fn new() -> Self {
        // SAFETY: a zeroed set is valid and emptied first; the mask is this thread's own.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for signal in FORWARDED {
                libc::sigaddset(&raw mut set, signal);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            Self(set)
        }
    }

    /// Pass them on from here on, by a thread of their own that ends with this process.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn to(self, process: &Arc<Process>) -> io::Result<()> {
        let process: Weak<Process> = Arc::downgrade(process);
        std::thread::Builder::new()
            .stack_size(STACK)
            .spawn(move || {
                loop {
                    // SAFETY: a live set and no information asked for.
                    let signal =
                        unsafe { libc::sigwaitinfo(&raw const self.0, std::ptr::null_mut()) };
                    let Ok(signal) = u64::try_from(signal) else {
                        continue; // interrupted
                    };
                    let Some(process) = process.upgrade() else {
                        return;
                    };
                    process.signal(signal);
                }
            })?;
        Ok(())
    }
}

impl Default for Forward {
    fn default() -> Self {
        Self::new()
    }
}
