//! A started process, watched and ended by its pid. It takes no descriptor.
//!
//! The thread that started it reaps it (`spawner.rs`), and does so under the lock that whoever sends it a signal holds: until
//! then nobody else has its pid, and from then on no signal is sent. So a recycled pid is never hit.

use std::io;
use tokio::sync::watch;

/// Wait status as `wait4` gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub i32);

/// Of one that somebody else reaped, or that ended with its spawner: nobody will learn the true one.
const UNKNOWN: Status = Status(libc::SIGKILL);

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
    /// Set under its lock as it is reaped.
    status: watch::Receiver<Option<Status>>,
}

/// The end of a child that its spawner keeps, to reap it.
#[derive(Debug)]
pub(super) struct Ward {
    pid: i32,
    status: watch::Sender<Option<Status>>,
}

/// The two ends of a child that runs. Nobody but the ward may reap it.
pub(super) fn watched(pid: i32) -> (Child, Ward) {
    let (sender, status) = watch::channel(None);
    let ward = Ward {
        pid,
        status: sender,
    };
    (Child { pid, status }, ward)
}

impl Child {
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Wait for its end. Cancel safe; answers at once when it has ended before.
    pub async fn wait(&mut self) -> Status {
        let ended = self.status.wait_for(Option::is_some).await;
        ended.map_or(UNKNOWN, |status| status.unwrap_or(UNKNOWN))
    }

    /// Whether it has ended, reaped or not, without waiting.
    pub fn has_ended(&self) -> bool {
        // Held meanwhile, so that the pid stays its own.
        let status = self.status.borrow();
        status.is_some() || matches!(ended(libc::P_PID, self.pid.unsigned_abs(), 0), Ok(Some(_)))
    }

    /// Whether its pid may be another process's by now.
    pub fn is_reaped(&self) -> bool {
        self.status.borrow().is_some()
    }

    /// Send SIGKILL, unless it has ended and been reaped.
    pub fn kill(&self) {
        self.signal(libc::SIGKILL);
    }

    /// Send a signal, unless it has ended and been reaped.
    pub fn signal(&self, signal: i32) {
        // Held meanwhile, so that the pid stays its own.
        let status = self.status.borrow();
        if status.is_none() {
            // SAFETY: plain numbers.
            unsafe { libc::kill(self.pid, signal) };
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Ward {
    /// Reap it; it has ended.
    pub fn reap(self) {
        self.status
            .send_modify(|status| *status = Some(reap(self.pid)));
    }

    pub fn kill(&self) {
        // SAFETY: plain numbers; who has the ward has not reaped it, so the pid is its own.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
    }
}

/// A child that has ended, of those that `kind` and `id` name as for `waitid`; it is left to be reaped. Does not wait.
///
/// # Errors
/// There is no such child.
pub(super) fn ended(kind: libc::idtype_t, id: libc::id_t, flags: i32) -> io::Result<Option<i32>> {
    let flags = libc::WEXITED | libc::WNOWAIT | libc::WNOHANG | flags;
    // SAFETY: siginfo_t is plain data for which zero is valid, and the kernel fills it.
    let (result, pid) = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let result = libc::waitid(kind, id, &raw mut info, flags);
        (result, info.si_pid())
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((pid != 0).then_some(pid))
}

/// Reap a child that has ended.
pub(super) fn reap(pid: i32) -> Status {
    let mut status = 0;
    // SAFETY: the kernel fills an integer of ours.
    let reaped = unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) };
    if reaped == pid {
        Status(status)
    } else {
        UNKNOWN
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[tokio::test]
    async fn after_its_end_nobody_with_its_pid_is_hit() {
        // As if the kernel had given the pid to somebody else.
        let mut other = Command::new("sleep")
            .arg("60")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let (mut child, ward) = watched(i32::try_from(other.id()).unwrap());
        assert!(!child.has_ended() && !child.is_reaped());
        ward.status.send_modify(|status| *status = Some(Status(0)));
        assert!(child.has_ended() && child.is_reaped());
        assert_eq!(child.wait().await, Status(0));
        child.kill();
        child.signal(libc::SIGTERM);
        drop(child);
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert_eq!(other.try_wait().unwrap(), None);
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[tokio::test]
    async fn one_whose_spawner_is_gone_is_given_up() {
        let (mut child, ward) = watched(i32::MAX);
        drop(ward);
        assert_eq!(child.wait().await, UNKNOWN);
    }
}
