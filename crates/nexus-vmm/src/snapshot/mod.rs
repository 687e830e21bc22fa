//! Snapshots: a directory with `metadata` (checked at every restore) and `pages` (mapped at every restore, its
//! checksum verified once, when the snapshot is stored).

pub mod commit;
pub mod format;
pub mod pages;
pub mod plan;
pub mod read;
pub mod tidy;
pub mod working_set;
pub mod write;

pub const METADATA: &str = "metadata";
pub const PAGES: &str = "pages";
