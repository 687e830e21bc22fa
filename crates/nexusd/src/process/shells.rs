//! Shells: VMMs with a VM made and jailed ahead of need, so that a cold start need only map a snapshot and run.
//!
//! A shell belongs to no function. It is handed one start's descriptors and configuration over its own socket and is
//! that instance from then on. A few are kept ready ([`Config::shells`]); a burst beyond them starts VMMs from
//! nothing, as if there were no shells.

use super::child::Child;
use super::numbers;
use super::spawner::{Launch, Spawner};
use crate::config::Config;
use crate::process::launch;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::sleep;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// After one was taken, before the next is made: the start that took it comes first.
const CALM: Duration = Duration::from_millis(15);
/// After one could not be made, doubled up to the longest.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Shell {
    child: Child,
    control: UnixStream,
}

/// The shells that are ready.
#[derive(Debug, Default)]
pub struct Shells {
    ready: Mutex<Vec<Shell>>,
    taken: Notify,
}

impl Shells {
    fn lock(&self) -> MutexGuard<'_, Vec<Shell>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Start an instance in a shell. `None`: there is none, or none that lives.
    pub fn start(&self, launch: &Launch) -> Option<Child> {
        loop {
            let shell = self.lock().pop()?;
            self.taken.notify_one();
            match shell.hand_over(launch) {
                Ok(child) => return Some(child),
                Err(error) => tracing::warn!(%error, "a shell could not be used"),
            }
        }
    }

    /// How many are ready.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Keep as many ready as the configuration says, for ever.
    pub async fn keep(&self, config: &Config, spawner: &Spawner) {
        let mut retry = RETRY;
        loop {
            while self.count() < config.shells {
                match Shell::make(config, spawner).await {
                    Ok(shell) => {
                        retry = RETRY;
                        self.lock().push(shell);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot make a shell; starts go without");
                        sleep(retry).await;
                        retry = (retry * 2).min(RETRY_MOST);
                    }
                }
            }
            self.taken.notified().await;
            sleep(CALM).await;
        }
    }
}

impl Shell {
    async fn make(config: &Config, spawner: &Spawner) -> io::Result<Self> {
        let (control, theirs) = UnixStream::pair()?;
        control.set_nonblocking(true)?;
        let child = spawner.spawn(launch::shell(config, theirs.into())?).await?;
        Ok(Self { child, control })
    }

    /// Give it the descriptors of one start, each with its number.
    fn hand_over(self, launch: &Launch) -> io::Result<Child> {
        if self.child.has_ended() {
            return Err(io::Error::other("it has ended"));
        }
        let given = || launch.descriptors.iter().filter(|(_, number)| *number > 0);
        let fds: Vec<RawFd> = given().map(|(fd, _)| fd.as_fd().as_raw_fd()).collect();
        let numbers: Vec<u8> = given().flat_map(|(_, n)| n.to_le_bytes()).collect();
        debug_assert_eq!(
            launch.descriptors.last().map(|d| d.1),
            Some(numbers::CONFIG)
        );
        let sent = self
            .control
            .send_with_fds(&[numbers.as_slice()], &fds)
            .map_err(io::Error::from)?;
        if sent == numbers.len() {
            Ok(self.child)
        } else {
            Err(io::Error::other("the hand-over was cut short"))
        }
    }
}
