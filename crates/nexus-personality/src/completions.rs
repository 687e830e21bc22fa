//! Waiting for the backend: a futex in the arena's control page, which the backend counts up and wakes once it has made
//! completions. It takes no descriptor on either side.
//!
//! The guest can write the word too, and then only wakes itself for nothing, or not at all. A wait ends by its time-out and
//! by a kick, whatever the word does meanwhile.

use crate::control_page::ControlPage;
use crate::errno::{EAGAIN, SysResult};
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU32, Ordering};

/// The word, and what of it the guest has been told.
#[derive(Debug)]
pub(crate) struct Completions {
    page: ControlPage,
    seen: AtomicU32,
}

impl Completions {
    /// Of this arena, which is new: what has come before is told too.
    ///
    /// # Errors
    /// It cannot be mapped.
    pub(crate) fn of(arena: RawFd) -> io::Result<Self> {
        Ok(Self {
            page: ControlPage::new(arena)?,
            seen: AtomicU32::new(0),
        })
    }

    /// Where the part of the heap ends that holds something: what the guest says, once.
    pub(crate) fn take_held_until(&self) -> u32 {
        self.page.held_until().swap(0, Ordering::AcqRel)
    }

    fn word(&self) -> &AtomicU32 {
        self.page.signals()
    }

    /// Until there was a signal that no thread was told yet. `block` makes a futex call with these arguments, cut short as
    /// that is.
    ///
    /// # Errors
    /// What `block` says, but for EAGAIN.
    pub(crate) fn wait(&self, mut block: impl FnMut([u64; 6]) -> SysResult) -> SysResult {
        loop {
            // In this order: a word read later is not older.
            let seen = self.seen.load(Ordering::Acquire);
            let value = self.word().load(Ordering::Acquire);
            if value != seen {
                let (set, read) = (Ordering::AcqRel, Ordering::Relaxed);
                if (self.seen.compare_exchange(seen, value, set, read)).is_ok() {
                    return Ok(0);
                }
                // Another thread of the guest was faster.
                continue;
            }
            let address = self.word().as_ptr() as u64;
            // Not private: who wakes it is another process. The kernel looks at the word once more, so no signal is lost.
            let wait = libc::FUTEX_WAIT as u64;
            match block([address, wait, u64::from(value), 0, 0, 0]) {
                Ok(_) => {}
                // It has changed before the wait began.
                Err(e) if e == EAGAIN => {}
                Err(e) => return Err(e),
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::errno::{EINTR, ETIMEDOUT};
    use crate::host::Kick;
    use crate::syscall::time::timespec;
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    use std::sync::mpsc::{Receiver, channel};
    use std::time::{Duration, Instant};

    fn arena() -> OwnedFd {
        // SAFETY: plain calls; the descriptor is owned by nobody else.
        unsafe {
            let fd = libc::memfd_create(c"arena".as_ptr(), libc::MFD_CLOEXEC);
            assert!(fd >= 0 && libc::ftruncate(fd, 8 << 20) == 0);
            OwnedFd::from_raw_fd(fd)
        }
    }

    /// As the backend does, by a mapping of its own.
    fn signal(backend: &Completions) {
        backend.word().fetch_add(1, Ordering::Release);
        let word = backend.word().as_ptr();
        // SAFETY: the word is mapped.
        unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAKE, i32::MAX) };
    }

    fn wait(guest: &Completions, kick: &Kick, limit: Duration) -> SysResult {
        let end = Instant::now() + limit;
        guest.wait(|mut arguments| {
            let left = timespec(end.saturating_duration_since(Instant::now()));
            arguments[3] = std::ptr::from_ref(&left) as u64;
            // SAFETY: the word is mapped, the time lives across the call.
            unsafe { kick.block(libc::SYS_futex, arguments) }
        })
    }

    const LONG: Duration = Duration::from_secs(20);
    const SHORT: Duration = Duration::from_millis(30);

    #[test]
    fn a_signal_before_the_wait_is_told_once() {
        let arena = arena();
        let backend = Completions::of(arena.as_raw_fd()).unwrap();
        signal(&backend);
        // Made after it.
        let guest = Completions::of(arena.as_raw_fd()).unwrap();
        let kick = Kick::default();
        assert_eq!(wait(&guest, &kick, LONG), Ok(0));
        assert_eq!(wait(&guest, &kick, SHORT), Err(ETIMEDOUT));
        // Several together are one.
        signal(&backend);
        signal(&backend);
        assert_eq!(wait(&guest, &kick, LONG), Ok(0));
        assert_eq!(wait(&guest, &kick, Duration::ZERO), Err(ETIMEDOUT));
    }

    #[test]
    fn one_that_comes_as_the_wait_begins_is_not_lost() {
        let arena = arena();
        let backend = Completions::of(arena.as_raw_fd()).unwrap();
        let guest = Completions::of(arena.as_raw_fd()).unwrap();
        let kick = Kick::default();
        let mut first = true;
        let told = guest.wait(|mut arguments| {
            // Behind the look at the word.
            assert!(first, "it waits again");
            first = false;
            signal(&backend);
            let limit = timespec(LONG);
            arguments[3] = std::ptr::from_ref(&limit) as u64;
            // SAFETY: the word is mapped, the time lives across the call.
            unsafe { kick.block(libc::SYS_futex, arguments) }
        });
        assert_eq!(told, Ok(0));
    }

    #[test]
    fn each_signal_is_told_to_one_of_two() {
        let arena = arena();
        let backend = Completions::of(arena.as_raw_fd()).unwrap();
        let guest = Completions::of(arena.as_raw_fd()).unwrap();
        let (tell, told) = channel();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                let (tell, guest) = (tell.clone(), &guest);
                scope.spawn(move || tell.send(wait(guest, &Kick::default(), LONG)).unwrap());
            }
            let none = |told: &Receiver<SysResult>| told.recv_timeout(SHORT).is_err();
            assert!(none(&told));
            signal(&backend);
            assert_eq!(told.recv_timeout(LONG), Ok(Ok(0)));
            assert!(none(&told));
            signal(&backend);
            assert_eq!(told.recv_timeout(LONG), Ok(Ok(0)));
        });
    }

    #[test]
    fn none_of_many_is_lost() {
        let arena = arena();
        let guest = Completions::of(arena.as_raw_fd()).unwrap();
        let kick = Kick::default();
        let backend = Completions::of(arena.as_raw_fd()).unwrap();
        // Each is answered before the next.
        const COUNT: u32 = 2000;
        let (answer, answered) = channel();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for _ in 0..COUNT {
                    signal(&backend);
                    answered.recv().unwrap();
                }
            });
            for _ in 0..COUNT {
                assert_eq!(wait(&guest, &kick, LONG), Ok(0));
                answer.send(()).unwrap();
            }
        });
        assert_eq!(wait(&guest, &kick, Duration::ZERO), Err(ETIMEDOUT));
    }

    #[test]
    fn a_guest_that_scribbles_cannot_hold_it() {
        let arena = arena();
        let scribbled = Completions::of(arena.as_raw_fd()).unwrap();
        let guest = Completions::of(arena.as_raw_fd()).unwrap();
        // It has changed at each look, and is what it was at the next.
        let flip = |arguments: [u64; 6], kick: &Kick, limit: &libc::timespec| {
            scribbled.word().store(1, Ordering::Release);
            let mut arguments = arguments;
            arguments[3] = std::ptr::from_ref(limit) as u64;
            // SAFETY: the word is mapped, the time lives across the call.
            let result = unsafe { kick.block(libc::SYS_futex, arguments) };
            scribbled.word().store(0, Ordering::Release);
            result
        };
        let kick = Kick::default();
        let limit = timespec(LONG);
        let mut looks = 0;
        let told = guest.wait(|arguments| {
            looks += 1;
            if looks == 100 {
                kick.set();
            }
            flip(arguments, &kick, &limit)
        });
        assert_eq!((told, looks), (Err(EINTR), 100));
    }
}
