//! System calls by family. `crate::table` lists them all.

pub mod attributes;
pub mod device;
pub mod dirs;
pub mod fdops;
pub mod fifo;
pub mod fork;
pub mod futex;
pub mod groups;
pub mod info;
pub mod io;
pub mod memory;
pub mod messages;
pub mod open;
pub mod polling;
pub mod proc;
pub mod processes;
pub mod record_locks;
pub mod scheduling;
pub mod signals;
pub mod socket_options;
pub mod sockets;
pub mod stat;
pub mod terminals;
pub mod threads;
pub mod time;
