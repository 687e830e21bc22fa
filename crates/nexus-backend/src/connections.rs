//! How many connections to the outside are open, against a limit.
//!
//! A socket that was passed to a hypervisor is out of sight: nobody says when it is closed, and the hypervisor would not be
//! believed. The kernel's own table of connections knows (proc_pid_net(5)): a socket's inode is in it for as long as somebody
//! has it open. It is read only when the limit has been reached.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// The table is read at most this often for one limit: who is at it waits for that, and loads nobody else.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);
const TABLES: [&str; 2] = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];

/// The connections of a function, or of an instance.
#[derive(Debug)]
pub struct Connections {
    limit: usize,
    open: Mutex<Open>,
    last_look: tokio::sync::Mutex<Option<Instant>>,
}

#[derive(Debug, Default)]
struct Open {
    /// Those that are held here, or about to be passed.
    held: usize,
    /// Inodes of those that were passed.
    passed: HashSet<u64>,
}

/// Room for one connection, for as long as this lives.
#[derive(Debug)]
pub struct Place(Arc<Connections>);

impl Connections {
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            open: Mutex::default(),
            last_look: tokio::sync::Mutex::default(),
        }
    }

    /// Room for one more. `None`: as many are open as may be.
    pub async fn place(self: &Arc<Self>) -> Option<Place> {
        if let Some(place) = self.try_place() {
            return Some(place);
        }
        let mut last_look = self.last_look.lock().await;
        if let Some(before) = *last_look {
            tokio::time::sleep_until(before + BETWEEN_LOOKS).await;
        }
        match tokio::task::spawn_blocking(inodes).await {
            Ok(Ok(there)) => self.open().passed.retain(|inode| there.contains(inode)),
            Ok(Err(error)) => tracing::warn!(%error, "open connections cannot be counted"),
            Err(error) => tracing::warn!(%error, "open connections cannot be counted"),
        }
        *last_look = Some(Instant::now());
        drop(last_look);
        self.try_place()
    }

    fn try_place(self: &Arc<Self>) -> Option<Place> {
        let mut open = self.open();
        if open.held + open.passed.len() >= self.limit {
            return None;
        }
        open.held += 1;
        drop(open);
        Some(Place(Arc::clone(self)))
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// The connection's socket is passed on: it counts until whoever has it closes it.
    ///
    /// # Errors
    /// It is no open socket.
    pub fn passed(self, socket: &OwnedFd) -> io::Result<()> {
        let inode = inode(socket)?;
        self.0.open().passed.insert(inode);
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open().held -= 1;
    }
}

fn inode(socket: &OwnedFd) -> io::Result<u64> {
    // SAFETY: all zeros is a valid stat.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: a descriptor of ours, and a live structure.
    if unsafe { libc::fstat(socket.as_raw_fd(), &raw mut stat) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(stat.st_ino)
}

/// Inodes of all sockets with a connection that somebody has open.
fn inodes() -> io::Result<HashSet<u64>> {
    let mut found = HashSet::new();
    for table in TABLES {
        match std::fs::read_to_string(table) {
            Ok(text) => found.extend(text.lines().skip(1).filter_map(inode_of)),
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Of a line of the table; 0 stands for a socket that nobody has open.
fn inode_of(line: &str) -> Option<u64> {
    let inode = line.split_ascii_whitespace().nth(9)?.parse().ok()?;
    (inode != 0).then_some(inode)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn what_is_passed_counts_until_it_is_closed_and_what_is_held_until_it_is_dropped() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let connections = Arc::new(Connections::new(3));
        let mut sockets = Vec::new();
        for _ in 0..2 {
            let socket = OwnedFd::from(TcpStream::connect(to).unwrap());
            let place = connections.place().await.unwrap();
            place.passed(&socket).unwrap();
            sockets.push(socket);
        }
        let held = connections.place().await.unwrap();
        assert!(connections.place().await.is_none());
        drop(held);
        let held = connections.place().await.unwrap();
        assert!(connections.place().await.is_none());
        // A copy of the descriptor keeps it open.
        let copy = sockets.pop().unwrap().try_clone().unwrap();
        assert!(connections.place().await.is_none());
        drop(copy);
        assert!(connections.place().await.is_some());
        drop(held);
    }

    #[test]
    fn a_line_of_the_table() {
        let line = "  0: 0100007F:0016 0100007F:D431 01 00000000:00000000 00:00000000 00000000  1000 0 12345 1 0000";
        assert_eq!(inode_of(line), Some(12345));
        assert_eq!(inode_of(&line.replace("12345", "0")), None);
        assert_eq!(inode_of("rubbish"), None);
    }
}
