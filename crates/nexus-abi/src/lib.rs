//! The contract between a guest, the hypervisor and the backend.
//!
//! One memfd per instance, the *arena*, is mapped by the backend and by the guest. It holds a control
//! page, a submission ring (guest to backend), a completion ring (backend to guest) and a payload heap.
//! The guest owns the heap: it places requests in it and names the *room* that replies may be written
//! to, so the backend only ever has to check bounds. `docs/abi.md` shows the format to the byte.
//!
//! This crate is layout and nothing else (`network`, whose both sides are Rust, writes and reads its bytes too); it is the one
//! source of every shared number. The Python side (`nexus/guest/abi.py`) is generated from it and checked against it by a test.
#![no_std]
#![forbid(unsafe_code)]

pub mod arena;
pub mod device;
pub mod network;
pub mod operation;
