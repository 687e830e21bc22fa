//! `_make_api_call` of a botocore client, for an ordinary call of one of S3's hot operations.

use crate::alone::{Alone, Outcome};
use crate::answer::Answers;
use crate::request::Requests;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString, PyTuple};
use std::collections::HashMap;

/// How one operation is done.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct Plan {
    requests: Py<Requests>,
    answers: Py<Answers>,
    /// The parameter that is the body.
    body: Option<Py<PyString>>,
    /// Bytes for the reply.
    room: usize,
}

/// The twin of `FastPath.call` in `shims/boto3_api/api`, which has all that is not ordinary.
#[pyclass(frozen, module = "nexus.guest.device._native")]
pub struct Calls {
    alone: Py<Alone>,
    operation: u16,
    plans: HashMap<String, Plan>,
    /// The attribute of a client that bears what was found out about it: a `Verdict`.
    verdict: Py<PyString>,
    /// botocore's recorder.
    history: Py<PyAny>,
    empty: Py<PyBytes>,
}

#[pymethods]
impl Calls {
    #[new]
    fn new(
        py: Python<'_>,
        alone: Py<Alone>,
        operation: u16,
        plans: HashMap<String, Plan>,
        verdict: Py<PyString>,
        history: Py<PyAny>,
    ) -> Self {
        Self {
            alone,
            operation,
            plans,
            verdict,
            history,
            empty: PyBytes::new(py, b"").unbind(),
        }
    }

    /// The call's result; None, and nothing was done, where it has to go the ordinary way; or what `Channel.conclude` brought of it.
    fn call<'py>(
        &self,
        py: Python<'py>,
        client: &Bound<'py, PyAny>,
        name: &Bound<'py, PyAny>,
        parameters: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let (Ok(name), Ok(parameters)) = (
            name.cast_exact::<PyString>(),
            parameters.cast_exact::<PyDict>(),
        ) else {
            return Ok(None);
        };
        let Some(plan) = name.to_str().ok().and_then(|name| self.plans.get(name)) else {
            return Ok(None);
        };
        let attributes = client.getattr(pyo3::intern!(py, "__dict__"))?;
        let Some(verdict) = attributes.cast::<PyDict>()?.get_item(&self.verdict)? else {
            return Ok(None);
        };
        let verdict = Verdict::of(verdict.cast::<PyTuple>()?)?;
        let recording = self.history.bind(py).getattr(pyo3::intern!(py, "_enabled"));
        if !verdict.eligible || !verdict.still_holds(client)? || recording?.is_truthy()? {
            return Ok(None);
        }
        let body = match &plan.body {
            Some(member) => parameters.get_item(member)?,
            None => None,
        };
        let body = match &body {
            None => self.empty.bind(py),
            Some(body) => match body.cast_exact::<PyBytes>() {
                Ok(body) => body,
                Err(_) => return Ok(None),
            },
        };
        let answers = Some(plan.answers.clone_ref(py));
        let (region, endpoint) = (verdict.region.to_str()?, verdict.endpoint.as_ref());
        let endpoint = endpoint.map(|url| url.to_str()).transpose()?;
        let validates = verdict.validates;
        let head = plan
            .requests
            .get()
            .build(py, parameters, region, endpoint, validates, answers)?;
        let Some(head) = head else {
            return Ok(None);
        };
        let alone = self.alone.get();
        match alone.call(py, self.operation, head, body, plan.room)? {
            Outcome::Refused => Ok(None),
            Outcome::Result(result) => Ok(Some(result.into_any())),
            Outcome::Other(taken) => Ok(Some(taken)),
        }
    }
}

/// What `eligibility.Verdict` says.
struct Verdict<'py> {
    lookup_cache: Bound<'py, PyAny>,
    credentials: Bound<'py, PyAny>,
    eligible: bool,
    region: Bound<'py, PyString>,
    endpoint: Option<Bound<'py, PyString>>,
    validates: bool,
}

impl<'py> Verdict<'py> {
    fn of(fields: &Bound<'py, PyTuple>) -> PyResult<Self> {
        let endpoint = fields.get_item(4)?;
        Ok(Self {
            lookup_cache: fields.get_item(0)?,
            credentials: fields.get_item(1)?,
            eligible: fields.get_item(2)?.is_truthy()?,
            region: fields.get_item(3)?.cast_into()?,
            endpoint: (!endpoint.is_none())
                .then(|| endpoint.cast_into())
                .transpose()?,
            validates: fields.get_item(5)?.is_truthy()?,
        })
    }

    /// As `still_holds` in `eligibility.py`.
    fn still_holds(&self, client: &Bound<'py, PyAny>) -> PyResult<bool> {
        let py = client.py();
        let emitter = client
            .getattr(pyo3::intern!(py, "meta"))?
            .getattr(pyo3::intern!(py, "events"))?
            .getattr(pyo3::intern!(py, "_emitter"))?;
        let signer = client.getattr(pyo3::intern!(py, "_request_signer"))?;
        Ok(emitter
            .getattr(pyo3::intern!(py, "_lookup_cache"))?
            .is(&self.lookup_cache)
            && signer
                .getattr(pyo3::intern!(py, "_credentials"))?
                .is(&self.credentials))
    }
}
