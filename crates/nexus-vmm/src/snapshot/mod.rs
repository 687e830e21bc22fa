//! Snapshots (docs/snapshots.md): a directory with `metadata` (checked at every restore) and `pages` (mapped at every restore, its
//! checksum verified once, when the snapshot is stored). One that was initialised from another holds only what differs
//! and has the other's pages beside it, as `base`: a hard link, so that both map the same memory, and deleting either
//! leaves the other whole.

pub mod base;
pub mod differences;
mod exact;
pub mod format;
mod given;
pub mod huge;
pub mod laid;
pub mod pages;
pub mod plan;
pub mod read;
pub mod tidy;
pub mod verify;
pub mod working_set;
pub mod write;

pub const METADATA: &str = "metadata";
pub const PAGES: &str = "pages";
pub const BASE: &str = "base";
