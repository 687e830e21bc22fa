//! How often the guest was left: counted where nexusd can read it, in the arena's control page.
//!
//! The guest can write there too, so the count is for measurement only, as its clock is.

use nexus_personality::control_page::ControlPage;
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

/// The counter.
#[derive(Debug)]
pub struct Exits(ControlPage);

impl Exits {
    /// In this arena.
    ///
    /// # Errors
    /// It cannot be mapped.
    pub fn new(arena: RawFd) -> io::Result<Self> {
        ControlPage::new(arena).map(Self)
    }

    /// One more.
    pub fn count(&self) {
        self.0.exits().fetch_add(1, Ordering::Relaxed);
    }
}
