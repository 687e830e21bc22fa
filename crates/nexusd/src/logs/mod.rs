//! Logs of functions: one file each, rotated, and the tail that a response may carry.

mod file;
mod tail;

pub use file::FunctionLog;
pub use tail::Tail;
