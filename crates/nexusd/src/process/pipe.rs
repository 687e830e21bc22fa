//! The read end of a pipe in non-blocking mode, on the event loop.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use tokio::io::unix::AsyncFd;

/// Bytes taken at once; what a pipe holds.
const SCRATCH: usize = 64 << 10;

thread_local! {
    // One per worker thread rather than one per pipe: idle instances cost no buffer.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH]);
}

#[derive(Debug)]
pub struct PipeReader {
    pipe: AsyncFd<OwnedFd>,
}

impl PipeReader {
    /// A new pipe: our end and the other one, both close-on-exec.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn new() -> io::Result<(Self, OwnedFd)> {
        let (reader, writer) = io::pipe()?;
        let reader = OwnedFd::from(reader);
        // SAFETY: a valid descriptor of ours; only its status flags change.
        if unsafe { libc::fcntl(reader.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: an OwnedFd names one open descriptor for as long as it lives.
        let pipe = unsafe { AsyncFd::register(reader) }?;
        Ok((Self { pipe }, writer.into()))
    }

    /// Wait for bytes and hand them to `sink`. `false` at the end of the pipe. Cancel safe.
    pub async fn read(&self, mut sink: impl FnMut(&[u8])) -> bool {
        loop {
            let Ok(mut guard) = self.pipe.readable().await else {
                return false;
            };
            if let Ok(result) = guard.try_io(|pipe| read(pipe.get_ref(), &mut sink)) {
                return matches!(result, Ok(n) if n > 0);
            }
        }
    }

    /// Hand to `sink` what is there now, in at most `most` reads: a live writer is not waited for.
    pub fn drain(&self, most: usize, mut sink: impl FnMut(&[u8])) {
        for _ in 0..most {
            if !matches!(read(self.pipe.get_ref(), &mut sink), Ok(n) if n > 0) {
                break;
            }
        }
    }
}

fn read(pipe: &OwnedFd, sink: &mut impl FnMut(&[u8])) -> io::Result<usize> {
    BUFFER.with_borrow_mut(|buffer| {
        // SAFETY: the buffer is ours and valid for its length.
        let n = unsafe { libc::read(pipe.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
        let n = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
        sink(buffer.get(..n).unwrap_or_default());
        Ok(n)
    })
}
