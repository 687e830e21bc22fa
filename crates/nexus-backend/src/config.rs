//! What the backend of a node is told.

use crate::credentials::Source;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Where services are, and whose credentials are used.
#[derive(Clone, Debug, Default)]
pub struct Config {
    pub region: String,
    /// Service name to URL; a service without one is AWS's own.
    pub endpoints: BTreeMap<String, String>,
    /// JSON file with the credentials; without one AWS's ordinary chain applies.
    pub credentials_file: Option<PathBuf>,
}

impl Config {
    pub(crate) fn credentials(&self) -> Source {
        self.credentials_file
            .clone()
            .map_or(Source::Chain, Source::File)
    }
}
