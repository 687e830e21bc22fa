//! A call from its request to its outcome while nothing else is in flight.

use crate::guard::{Guard, this_thread};
use crate::latch::Latch;
use crate::line::{Copied, Line};
use crate::request::Head;
use crate::seat::Seat;
use nexus_abi::device::RING_AND_WAIT;
use pyo3::exceptions::{PyOSError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyWeakref, PyWeakrefMethods};
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// What became of a call.
pub enum Outcome<'py> {
    /// Nothing was done: it has to go the ordinary way.
    Refused,
    /// The result, made of an ordinary answer.
    Result(Bound<'py, PyDict>),
    /// What `Channel.conclude` brought.
    Other(Bound<'py, PyAny>),
}

/// What of a channel stays as long as it does: the fields that `Channel.__init__` tells.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct Parts {
    line: Py<Line>,
    seat: Py<Seat>,
    /// The channel's lock, and its tickets, followers and what it is to discard.
    lock: Py<Latch>,
    tickets: Py<PyDict>,
    followers: Py<PyDict>,
    discarded: Py<PyAny>,
    /// The class of tickets.
    ticket: Py<PyAny>,
    guard: Py<Guard>,
    /// Rings and waits; or the device's descriptor does.
    wait: Py<PyAny>,
    device: Option<i32>,
    /// The channel, weakly: it has this.
    channel: Py<PyWeakref>,
    /// Bytes of a body that are copied at most, and those where the heap is not mapped.
    copied: (usize, usize),
}

/// The native half of `Channel.alone`, for the most usual of calls: on heap that was kept for it, and is mapped. Whatever comes in
/// between is the channel's.
#[pyclass(frozen, module = "nexus.guest.device._native")]
pub struct Alone {
    parts: Parts,
    barred: AtomicBool,
}

#[pymethods]
impl Alone {
    #[new]
    fn new(parts: Parts) -> Self {
        Self {
            parts,
            barred: AtomicBool::new(false),
        }
    }

    /// Refuse everything from now on: the arena is another process's.
    fn bar(&self) {
        self.barred.store(true, Relaxed);
    }
}

/// A call that was submitted: its number and ticket, and its heap: `held` bytes at `start`, of which `fixed` are the request's.
struct Begun<'py> {
    identity: u64,
    ticket: Bound<'py, PyAny>,
    start: usize,
    held: usize,
    fixed: usize,
}

impl Alone {
    /// One operation, start to end, with up to `room_max` bytes for its reply. In a section of the guard: what it brings may hold heap.
    pub fn call<'py>(
        &self,
        py: Python<'py>,
        operation: u16,
        head: Head,
        body: &Bound<'py, PyBytes>,
        room_max: usize,
    ) -> PyResult<Outcome<'py>> {
        let lock = self.parts.lock.get();
        if self.barred.load(Relaxed) || !lock.try_acquire() {
            return Ok(Outcome::Refused);
        }
        let begun = self.begin(py, operation, &head, body, room_max);
        lock.release(py)?;
        let Some(begun) = begun? else {
            return Ok(Outcome::Refused);
        };
        let ticket = begun.ticket.clone();
        let ended = self
            .ring_and_wait(py)
            .and_then(|()| self.end(py, &begun))
            .and_then(|copied| match copied {
                Some(copied) => outcome(py, copied, &head),
                None => self
                    .channel(py)?
                    .call_method1("conclude", (begun.ticket, begun.identity, head))
                    .map(Outcome::Other),
            });
        if ended.is_err() {
            // Signals' handlers may raise in its wait.
            self.channel(py)?.call_method1("give_up", (ticket,))?;
        }
        ended
    }

    fn channel<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let channel = self.parts.channel.bind(py).upgrade();
        channel.ok_or_else(|| PyRuntimeError::new_err("the channel is no more"))
    }

    /// Submit and take the lead, or do nothing. Under the channel's lock.
    fn begin<'py>(
        &self,
        py: Python<'py>,
        operation: u16,
        head: &Head,
        body: &Bound<'py, PyBytes>,
        room_max: usize,
    ) -> PyResult<Option<Begun<'py>>> {
        let (line, seat, tickets) = (
            self.parts.line.get(),
            self.parts.seat.get(),
            self.parts.tickets.bind(py),
        );
        let (start, held) = (seat.start.load(Relaxed), seat.held.load(Relaxed));
        let bytes = body.as_bytes();
        let lent = line.lies_in(bytes);
        let fixed = Line::taken_by(head.json.len(), if lent { 0 } else { bytes.len() });
        if !tickets.is_empty()
            || seat.leader.load(Relaxed) != 0
            || self.parts.discarded.bind(py).len()? > 0
            || (bytes.len() > self.parts.copied.0 && !lent)
            || held < room_max + fixed
            || start + fixed > seat.mapped.load(Relaxed)
        {
            return Ok(None);
        }
        let identity = seat.last_id.load(Relaxed) + 1;
        let ticket =
            self.parts
                .ticket
                .bind(py)
                .call1((start, held, held - fixed, true, body, false))?;
        tickets.set_item(identity, &ticket)?;
        let place = (start, held);
        if let Err(error) = line.publish(
            identity,
            (operation, 0),
            place,
            room_max,
            head.json.as_bytes(),
            bytes,
        ) {
            tickets.del_item(identity)?;
            return Err(error);
        }
        seat.last_id.store(identity, Relaxed);
        seat.leave();
        seat.leader.store(this_thread(), Relaxed);
        Ok(Some(Begun {
            identity,
            ticket,
            start,
            held,
            fixed,
        }))
    }

    /// Handlers of signals run meanwhile.
    fn ring_and_wait(&self, py: Python<'_>) -> PyResult<()> {
        let guard = self.parts.guard.get();
        guard.wait(py)?;
        let waited = self.ring_and_wait_now(py);
        guard.waited();
        waited
    }

    fn ring_and_wait_now(&self, py: Python<'_>) -> PyResult<()> {
        let Some(device) = self.parts.device else {
            return self.parts.wait.bind(py).call0().map(|_| ());
        };
        let failed = py.detach(|| {
            // SAFETY: the command takes a number.
            let outcome = unsafe { libc::ioctl(device, RING_AND_WAIT.into(), -1) };
            (outcome < 0).then(std::io::Error::last_os_error)
        });
        match failed {
            None => Ok(()),
            // A signal: its handler runs here, and then whoever waits looks, and comes back.
            Some(error) if error.kind() == ErrorKind::Interrupted => py.check_signals(),
            Some(error) => Err(PyOSError::new_err((
                error.raw_os_error(),
                error.to_string(),
            ))),
        }
    }

    /// What an ordinary reply says, whose heap is kept for the next call; None, and nothing is done, for any other.
    fn end<'py>(&self, py: Python<'py>, begun: &Begun<'py>) -> PyResult<Option<Copied<'py>>> {
        let (seat, lock) = (self.parts.seat.get(), self.parts.lock.bind(py));
        Latch::__enter__(lock)?;
        let ended = self.take(py, begun);
        if matches!(ended, Ok(Some(_))) {
            seat.leader.store(0, Relaxed);
        }
        let woken = match &ended {
            Ok(Some(_)) if !self.parts.followers.bind(py).is_empty() => self
                .channel(py)
                .and_then(|channel| channel.call_method0("pass_lead").map(|_| ())),
            _ => Ok(()),
        };
        lock.get().release(py)?;
        woken.and(ended)
    }

    fn take<'py>(&self, py: Python<'py>, begun: &Begun<'py>) -> PyResult<Option<Copied<'py>>> {
        let Begun {
            identity,
            start,
            held,
            fixed,
            ..
        } = *begun;
        let (seat, room) = (self.parts.seat.get(), start + fixed);
        let mapped = seat.mapped.load(Relaxed);
        // What is larger, and not mapped, the kernel copies with less work.
        let small = if room + self.parts.copied.0 <= mapped {
            self.parts.copied.0
        } else {
            self.parts.copied.1
        };
        let line = self.parts.line.get();
        let Some(copied) = line.copied(py, identity, room, start + held, small)? else {
            return Ok(None);
        };
        let end = copied.body + copied.length;
        self.parts.tickets.bind(py).del_item(identity)?;
        let mapped = if end > mapped {
            self.channel(py)?
                .call_method1("reached", (room, end))?
                .extract()?
        } else {
            mapped
        };
        seat.keep(start, held, mapped);
        Ok(Some(copied))
    }
}

/// What an ordinary reply becomes. Nothing is held while it is made: that runs Python.
fn outcome<'py>(py: Python<'py>, copied: Copied<'py>, head: &Head) -> PyResult<Outcome<'py>> {
    if copied.status >= 0
        && let Some(result) = head.of(py, &copied.head, copied.data.as_ref())?
    {
        return Ok(Outcome::Result(result));
    }
    Ok(Outcome::Other(copied.taken(py)?))
}
