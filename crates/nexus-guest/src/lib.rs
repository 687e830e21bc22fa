//! `nexus.guest.device._native`: what each call of a guest's SDK passes through, once it is known to be an ordinary one.
//!
//! The Python modules beside it do all of this too, for interpreters that cannot load it, and everything that is not
//! ordinary: several calls in flight, heap that is short, bodies that stay in the arena as a view. Only a loan has no twin: without
//! it bodies are copied.

mod alone;
mod answer;
mod call;
mod guard;
mod latch;
mod line;
mod loans;
mod request;
mod seat;

use pyo3::prelude::*;

#[pymodule(gil_used = true)]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<line::Line>()?;
    module.add_class::<alone::Alone>()?;
    module.add_class::<call::Calls>()?;
    module.add_class::<guard::Guard>()?;
    module.add_class::<guard::Waiting>()?;
    module.add_class::<guard::Deferring>()?;
    module.add_class::<latch::Latch>()?;
    module.add_class::<loans::Loans>()?;
    module.add_class::<answer::Answers>()?;
    module.add_class::<request::Head>()?;
    module.add_class::<seat::Seat>()?;
    module.add_class::<request::Requests>()
}
