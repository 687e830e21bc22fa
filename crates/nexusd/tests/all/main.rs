//! The daemon as its clients and its instances meet it. One program, so that what all of it takes is compiled and linked once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
mod durability;
mod hostile;
mod invoke;
mod scheduling;
