//! The hypervisor.
#![allow(dead_code)]
mod kvm;
fn main() {}
