//! The backend as guests and servers meet it. One program, so that what all of it takes is compiled and linked once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod channel;
mod common;
mod fuzz;
mod hostile;
mod judged;
mod neighbours;
mod operations;
mod sockets;
mod web;
mod writes;
