//! Shells: VMMs with a VM made and jailed ahead of need, so that a cold start need only map a snapshot and run. They show the base
//! of the function that was started last, with the pages that it used within reach: a function that rests on the same base has
//! most of its memory then.
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
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// After one was taken, before the next is made: the start that took it comes first.
const CALM: Duration = Duration::from_millis(15);
/// After one could not be made, doubled up to the longest.
const RETRY: Duration = Duration::from_secs(1);
/// For one to make ready.
const READY: Duration = Duration::from_secs(10);
const RETRY_MOST: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Shell {
    child: Child,
    control: UnixStream,
    /// What [`Renewal`] counted when it was made.
    made: u64,
    base: Option<Arc<Base>>,
}

/// What a shell shows.
#[derive(Debug)]
pub struct Base {
    pub snapshot: PathBuf,
    /// How it is restored.
    pub document: Vec<u8>,
}

/// Tells that shells have become worse than new ones would be.
#[derive(Debug, Default)]
pub struct Renewal {
    count: AtomicU64,
    wake: Notify,
}

impl Renewal {
    /// Have all that are ready replaced, one by one.
    pub fn ask(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.wake.notify_one();
    }

    fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

/// The shells that are ready.
#[derive(Debug, Default)]
pub struct Shells {
    ready: Mutex<Vec<Shell>>,
    pub renewal: Arc<Renewal>,
}

impl Shells {
    fn lock(&self) -> MutexGuard<'_, Vec<Shell>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Start an instance in a shell, the newest that shows this base, or the newest. `None`: there is none, or none that lives.
    pub fn start(&self, launch: &Launch, base: Option<&Path>) -> Option<Child> {
        loop {
            let shell = {
                let mut ready = self.lock();
                let fits =
                    |shell: &Shell| shell.base.as_ref().map(|b| b.snapshot.as_path()) == base;
                let last = ready.len().checked_sub(1)?;
                let index = ready.iter().rposition(fits).unwrap_or(last);
                ready.remove(index)
            };
            self.renewal.wake.notify_one();
            match shell.hand_over(launch) {
                Ok(child) => return Some(child),
                Err(error) => tracing::warn!(%error, "a shell could not be used"),
            }
        }
    }

    /// How many are ready, and not to be replaced.
    pub fn count(&self) -> usize {
        let now = self.renewal.count();
        self.lock().iter().filter(|shell| shell.made == now).count()
    }

    /// Add one; another that is to be replaced goes, where there is one.
    fn add(&self, shell: Shell) {
        let mut ready = self.lock();
        let old = ready.iter().position(|old| old.made != shell.made);
        let _ended_by_its_end = old.map(|index| ready.remove(index));
        ready.push(shell);
    }

    /// Keep as many ready as the configuration says, for ever. `base`: what the next one is to show.
    pub async fn keep(
        &self,
        config: &Config,
        spawner: &Spawner,
        base: impl Fn() -> Option<Arc<Base>>,
    ) {
        let mut retry = RETRY;
        loop {
            while self.count() < config.shells {
                let made = self.renewal.count();
                match Shell::make(config, spawner, base(), made).await {
                    Ok(shell) => {
                        retry = RETRY;
                        self.add(shell);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot make a shell; starts go without");
                        sleep(retry).await;
                        retry = (retry * 2).min(RETRY_MOST);
                    }
                }
            }
            self.renewal.wake.notified().await;
            sleep(CALM).await;
        }
    }
}

impl Shell {
    async fn make(
        config: &Config,
        spawner: &Spawner,
        base: Option<Arc<Base>>,
        made: u64,
    ) -> io::Result<Self> {
        let (control, theirs) = UnixStream::pair()?;
        control.set_nonblocking(true)?;
        let document = base.as_ref().map(|base| base.document.as_slice());
        let order = launch::shell(config, theirs.into(), document)?;
        let child = spawner.spawn(order).await?;
        let shell = Self {
            child,
            control,
            made,
            base,
        };
        match timeout(READY, shell.ready()).await {
            Ok(done) => done.map(|()| shell),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Wait for the one byte that it says.
    async fn ready(&self) -> io::Result<()> {
        let control = tokio::net::UnixStream::from_std(self.control.try_clone()?)?;
        let mut byte = [0];
        loop {
            control.readable().await?;
            match control.try_read(&mut byte) {
                Ok(0) => return Err(io::Error::other("it ended while it made ready")),
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
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
