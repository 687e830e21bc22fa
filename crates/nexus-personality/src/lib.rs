//! The Linux x86-64 system call ABI for one process with threads, served without a kernel.
//!
//! This crate knows nothing of KVM. It works on a [`window`] of host memory that the hypervisor makes visible to a
//! guest, and asks the hypervisor for what only that can do through the traits in [`machine`]. So it can be tested
//! and fuzzed in an ordinary process.
//!
//! A hypervisor makes a [`Process`], loads or restores it, takes up each thread with [`Process::enter`], and calls
//! [`Thread::syscall`], [`Thread::exception`] or [`Thread::interrupted`] at each exit; the [`machine::Outcome`] says how
//! to go on.
// System call arguments are registers: narrowing them to the type Linux gives them is what a kernel does.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss
)]
#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

pub mod children;
mod completions;
pub mod config;
pub mod control_page;
pub mod errno;
pub mod files;
pub mod groups;
pub mod heritage;
pub mod host;
mod itimer;
pub mod ledger;
mod loader;
pub mod machine;
pub mod memory;
pub mod mm;
pub mod pending;
pub mod process;
mod ranges;
pub mod rest;
pub mod signal;
pub mod snapshot;
pub mod syscall;
pub mod table;
pub mod thread;
pub mod unserved;
pub mod window;

pub use config::Config;
pub use process::{Error, Process};
pub use thread::Thread;
