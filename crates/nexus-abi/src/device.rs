//! The character device `/dev/nexus`, by which a guest in a microVM reaches its arena.
//!
//! `mmap` at offset 0 gives the arena (shared, the size in the control page); `mmap` of one page at
//! offset [`DOORBELL_OFFSET`] gives the doorbell: any store to it tells the backend to look at the
//! submission ring.

/// Path of the device inside a guest.
pub const PATH: &str = "/dev/nexus";
/// `mmap` offset of the doorbell page.
pub const DOORBELL_OFFSET: u64 = 1 << 32;

/// `ioctl(fd, WAIT, timeout_ms)`: block until the backend has made a completion since the last WAIT
/// returned; a signal ends it with EINTR. Returns 0, or -1 with ETIMEDOUT; a negative time-out waits
/// without end.
pub const WAIT: u32 = 0x4e01;
/// `ioctl(fd, RING_AND_WAIT, timeout_ms)`: the doorbell, then [`WAIT`], in one exit. For who submits and has nothing else to do
/// until that is done.
pub const RING_AND_WAIT: u32 = 0x4e07;
/// `ioctl(fd, SNAPSHOT, 0)`: take the snapshot here. Returns 0 where none is wanted and 1 in every
/// instance restored from it; the instance it was taken in ends.
pub const SNAPSHOT: u32 = 0x4e02;
/// `ioctl(fd, SNAPSHOT_AND_HOLD, anything)`: as [`SNAPSHOT`]; in a restored instance no thread but the
/// caller's runs before it says [`RENEWED`], or [`HOLD_LIMIT_MS`] have passed.
pub const SNAPSHOT_AND_HOLD: u32 = 0x4e06;
/// The longest that threads are held, in milliseconds.
pub const HOLD_LIMIT_MS: u64 = 10_000;
/// `ioctl(fd, SIZE, 0)`: size of the arena in bytes.
pub const SIZE: u32 = 0x4e03;
/// `ioctl(fd, GENERATION, 0)`: number of restores that lie between this instance and its first
/// initialisation: 0 before the first snapshot, and one more behind each.
pub const GENERATION: u32 = 0x4e04;
/// `ioctl(fd, RENEWED, 0)`: everything that must not repeat between clones has been renewed; held
/// threads go on. Returns 0, whether any were held or not.
pub const RENEWED: u32 = 0x4e05;

/// Descriptors a jailed host process (`isolation=process`) inherits instead of the device; their
/// numbers are in the environment variable [`PROCESS_ENV`] as `arena,doorbell,completion`.
/// The doorbell is an eventfd to write to, completion one to read from (semaphore mode off).
pub const PROCESS_ENV: &str = "NEXUS_DEVICE_FDS";
