//! The operations that reach a server. (The engine behind them lands next; until then they are refused.)

use crate::raw::{RawRoom, RequestBody};
use crate::{Config, Error, FunctionIdentity};
use nexus_abi::operation::status;
use std::sync::Arc;

#[derive(Debug)]
pub struct Engine;

impl Engine {
    pub fn new(_config: &Config) -> Result<Arc<Self>, Error> {
        Ok(Arc::new(Self))
    }
}

#[derive(Debug)]
pub struct Reply {
    pub head: Vec<u8>,
    pub body: Option<BodyReader>,
}

#[derive(Debug)]
pub struct Refusal {
    pub status: i32,
    pub head: Vec<u8>,
}

#[derive(Debug)]
pub struct BodyReader;

impl BodyReader {
    pub async fn read_into(&mut self, _room: &RawRoom) -> Result<usize, Refusal> {
        Ok(0)
    }

    pub fn remaining(&self) -> Option<u64> {
        Some(0)
    }

    pub fn total(&self) -> Option<u64> {
        Some(0)
    }
}

pub async fn execute(
    _engine: &Engine,
    _identity: &FunctionIdentity,
    _operation: u16,
    _head: &[u8],
    _body: RequestBody,
    _timeout_ms: u32,
) -> Result<Reply, Refusal> {
    Err(Refusal {
        status: status::DENIED,
        head: br#"{"error":"NotImplemented","message":"not yet","endpoint":""}"#.to_vec(),
    })
}
