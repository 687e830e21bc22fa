//! The Linux x86-64 system call ABI for one process with threads, served without a kernel.
//!
//! This crate knows nothing of KVM. It works on a [`window`](machine) of host memory that the hypervisor
//! makes visible to a guest, and asks the hypervisor for what only that can do through the traits in
//! [`machine`]. So it can be tested and fuzzed in an ordinary process.

pub mod machine;
