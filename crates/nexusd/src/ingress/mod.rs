//! The node's HTTP face: Lambda's API and the admin API, on one loopback address.

mod admin;
mod body;
pub mod errors;
mod guard;
mod invoke;
mod lambda_api;
mod respond;
mod router;
mod server;

pub use server::serve;
