//! Errors of the backend itself; those of operations travel to the guest as completions.

use std::io;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The configuration or the credentials cannot be used.
    #[error("{0}")]
    Config(String),
    /// The guest broke the contract.
    #[error("the guest broke the contract: {0}")]
    Broken(String),
}
