//! The last invocations of a function, phase by phase, for `nexus bench`.

use serde::Serialize;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// CLOCK_MONOTONIC nanoseconds; 0 where a phase does not apply.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Timing {
    pub request_id: String,
    pub cold: bool,
    pub isolation: &'static str,
    /// The request's head was read.
    pub received_ns: u64,
    /// The VMM executes.
    pub spawned_ns: u64,
    /// The guest asked for its first event.
    pub ready_ns: u64,
    pub dispatched_ns: u64,
    /// Steps of a cold start inside the VMM, by its own account.
    pub stages: Vec<(String, u64)>,
    /// The guest's own, for measurement only.
    pub handler_ns: u64,
    pub handler_end_ns: u64,
    /// The node learnt of the handler's end; from here on the instance is free.
    pub ended_ns: u64,
    /// The first read ahead began, the last one ended.
    pub prefetch_begin_ns: u64,
    pub prefetch_end_ns: u64,
    /// Reads ahead that were used as they were, after a confirmation, and not.
    pub prefetch_used: usize,
    pub prefetch_revalidated: usize,
    pub prefetch_wasted: usize,
    /// Deferred writes, and when they were terminal.
    pub writes: usize,
    pub committed_ns: u64,
    pub responded_ns: u64,
    /// Exits of the microVM to its hypervisor from the dispatch to the result, as counted where the guest can write too.
    pub exits: u64,
}

const KEPT: usize = 1024;

/// A ring of the newest timings.
#[derive(Debug, Default)]
pub struct Timings(Mutex<VecDeque<Timing>>);

impl Timings {
    pub fn push(&self, timing: Timing) {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.len() == KEPT {
            ring.pop_front();
        }
        ring.push_back(timing);
    }

    /// The last `count`, oldest first.
    pub fn last(&self, count: usize) -> Vec<Timing> {
        let ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ring.iter()
            .skip(ring.len().saturating_sub(count))
            .cloned()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_keeps_the_newest() {
        let timings = Timings::default();
        for n in 0..2000 {
            timings.push(Timing {
                received_ns: n,
                ..Timing::default()
            });
        }
        let last = timings.last(3);
        assert_eq!(
            last.iter().map(|t| t.received_ns).collect::<Vec<_>>(),
            [1997, 1998, 1999]
        );
        assert_eq!(timings.last(usize::MAX).len(), KEPT);
    }
}
