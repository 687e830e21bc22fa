//! A started process, watched and ended through its pidfd, so that a recycled pid is never hit.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use tokio::io::unix::AsyncFd;

/// Wait status as `wait4` gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub i32);

impl Status {
    pub fn code(self) -> Option<i32> {
        libc::WIFEXITED(self.0).then(|| libc::WEXITSTATUS(self.0))
    }

    pub fn signal(self) -> Option<i32> {
        libc::WIFSIGNALED(self.0).then(|| libc::WTERMSIG(self.0))
    }
}

/// A child process. Dropping it kills it.
#[derive(Debug)]
pub struct Child {
    pid: i32,
    pidfd: AsyncFd<OwnedFd>,
    status: Option<Status>,
}

impl Child {
    pub(super) fn adopt(pid: i32, pidfd: OwnedFd) -> io::Result<Self> {
        // SAFETY: an OwnedFd names one open descriptor for as long as it lives.
        let registered = unsafe { AsyncFd::register(pidfd) };
        Ok(Self {
            pid,
            pidfd: registered.map_err(|e| {
                let (pidfd, error) = e.into_parts();
                kill(&pidfd);
                reap(&pidfd, 0);
                error
            })?,
            status: None,
        })
    }

    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Wait for its end and reap it. Cancel safe; answers at once when it has ended before.
    pub async fn wait(&mut self) -> Status {
        loop {
            if let Some(status) = self.status {
                return status;
            }
            let ready = self.pidfd.readable().await;
            self.status = reap(self.pidfd.get_ref(), libc::WNOHANG);
            match ready {
                Ok(mut guard) if self.status.is_none() => guard.clear_ready(),
                Ok(_) => {}
                // The runtime is shutting down: nobody will learn the true status.
                Err(_) if self.status.is_none() => return Status(libc::SIGKILL),
                Err(_) => {}
            }
        }
    }

    /// Whether it has ended, without waiting: a pidfd is readable from then on.
    pub fn has_ended(&self) -> bool {
        let mut poll = libc::pollfd {
            fd: self.pidfd.get_ref().as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one pollfd of ours, which the kernel fills.
        self.status.is_some() || unsafe { libc::poll(&raw mut poll, 1, 0) } > 0
    }

    /// Whether its pid may be another process's by now.
    pub fn is_reaped(&self) -> bool {
        self.status.is_some()
    }

    /// Send SIGKILL, unless it has ended and been reaped.
    pub fn kill(&self) {
        self.signal(libc::SIGKILL);
    }

    /// Send a signal, unless it has ended and been reaped.
    pub fn signal(&self, signal: i32) {
        if self.status.is_none() {
            send(self.pidfd.get_ref(), signal);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.status.is_none() {
            kill(self.pidfd.get_ref());
            reap(self.pidfd.get_ref(), libc::WNOHANG);
        }
    }
}

fn kill(pidfd: &OwnedFd) {
    send(pidfd, libc::SIGKILL);
}

fn send(pidfd: &OwnedFd, signal: i32) {
    // SAFETY: a pidfd of ours; no pointer is passed but a null siginfo.
    unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        );
    }
}

fn reap(pidfd: &OwnedFd, flags: i32) -> Option<Status> {
    let Ok(id) = libc::id_t::try_from(pidfd.as_fd().as_raw_fd()) else {
        return None;
    };
    // SAFETY: siginfo_t is plain data for which zero is valid, and the kernel fills it.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let result = libc::waitid(libc::P_PIDFD, id, &raw mut info, libc::WEXITED | flags);
        if result != 0 {
            // ECHILD: reaped elsewhere; there is nothing left to wait for.
            return (*libc::__errno_location() == libc::ECHILD).then_some(Status(libc::SIGKILL));
        }
        if info.si_pid() == 0 {
            return None;
        }
        let detail = info.si_status();
        Some(Status(if info.si_code == libc::CLD_EXITED {
            (detail & 0xff) << 8
        } else {
            detail & 0x7f
        }))
    }
}
