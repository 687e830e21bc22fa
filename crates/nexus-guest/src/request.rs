//! An S3 request's head (JSON), of an operation's parameters.

use crate::answer::Answers;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyInt, PySet, PyString};
use std::collections::HashMap;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Text,
    Integer,
    Boolean,
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Header,
    Query,
}

/// How one operation's parameters become a request's head: the twin of `RequestPlan.build` in `shims/boto3_api/api/request.py`, for
/// parameters of the simple kinds.
#[pyclass(frozen, module = "nexus.guest.device._native")]
pub struct Requests {
    operation: String,
    parameters: HashMap<String, (Place, String, Kind)>,
    required: Vec<String>,
    needs_bucket: bool,
    needs_key: bool,
    body: Option<String>,
    encoded: bool,
    checksum_mode: bool,
    buckets: Py<PySet>,
}

#[pymethods]
impl Requests {
    /// `parameters`: name, whether it is a header's, the name there, and kind; `required`: names that there have to be; `body`: the parameter that is the body; `encoded`: whether
    /// keys are asked for in an encoding; `checksum_mode`: whether checksums can be asked for; `buckets`: names known to be right.
    #[new]
    #[expect(
        clippy::too_many_arguments,
        reason = "each is a property of the operation"
    )]
    fn new(
        operation: String,
        parameters: Vec<(String, bool, String, String)>,
        required: Vec<String>,
        needs_bucket: bool,
        needs_key: bool,
        body: Option<String>,
        encoded: bool,
        checksum_mode: bool,
        buckets: Py<PySet>,
    ) -> Self {
        let parameter = |(name, header, wire, kind): (String, bool, String, String)| {
            let kind = match kind.as_str() {
                "string" => Kind::Text,
                "integer" | "long" => Kind::Integer,
                "boolean" => Kind::Boolean,
                _ => return None,
            };
            Some((
                name,
                (
                    if header { Place::Header } else { Place::Query },
                    wire,
                    kind,
                ),
            ))
        };
        let parameters = parameters.into_iter().filter_map(parameter).collect();
        Self {
            operation,
            parameters,
            required,
            needs_bucket,
            needs_key,
            body,
            encoded,
            checksum_mode,
            buckets,
        }
    }

    /// The head, or None where Python has to look. `answers`: what reads the answer to it.
    pub fn build(
        &self,
        py: Python<'_>,
        parameters: &Bound<'_, PyDict>,
        region: &str,
        endpoint: Option<&str>,
        validates: bool,
        answers: Option<Py<Answers>>,
    ) -> PyResult<Option<Head>> {
        for name in &self.required {
            if !parameters.contains(name)? {
                return Ok(None);
            }
        }
        let mut bucket = None;
        let mut key = None;
        let mut checksum_mode = self.checksum_mode && validates;
        let mut verified = validates;
        let mut headers = Pairs::default();
        let mut query = Pairs::default();
        let mut encoded = self.encoded;
        for (name, value) in parameters.iter() {
            let Ok(name) = name.cast_exact::<PyString>() else {
                return Ok(None);
            };
            let Ok(name) = name.to_str() else {
                return Ok(None);
            };
            if let Some((place, wire, kind)) = self.parameters.get(name) {
                let Some(text) = text(&value, *place, *kind) else {
                    return Ok(None);
                };
                if name == "ChecksumMode" {
                    checksum_mode = false;
                    verified = true;
                }
                encoded &= name != "EncodingType";
                let pairs = if *place == Place::Header {
                    &mut headers
                } else {
                    &mut query
                };
                pairs.add(wire, &text);
            } else if name == "Bucket" && self.needs_bucket {
                bucket = Some(value);
            } else if name == "Key" && self.needs_key {
                key = Some(value);
            } else if self.body.as_deref() != Some(name) {
                return Ok(None);
            }
        }
        if encoded {
            query.add("encoding-type", "url");
        }
        if checksum_mode {
            headers.add("x-amz-checksum-mode", "ENABLED");
        }
        let mut head = String::with_capacity(256);
        head.push_str("{\"op\":");
        quote(&mut head, &self.operation);
        head.push_str(",\"bucket\":");
        match &bucket {
            Some(name)
                if name.is_exact_instance_of::<PyString>()
                    && self.buckets.bind(py).contains(name)? =>
            {
                quote(&mut head, name.cast::<PyString>()?.to_str()?);
            }
            None if !self.needs_bucket => head.push_str("null"),
            _ => return Ok(None),
        }
        head.push_str(",\"key\":");
        match &key {
            Some(value) => {
                let Ok(text) = value.cast_exact::<PyString>() else {
                    return Ok(None);
                };
                let Ok(text) = text.to_str() else {
                    return Ok(None);
                };
                if text.is_empty()
                    || text.chars().count() > 1024
                    || text.split('/').any(|part| part == "." || part == "..")
                {
                    return Ok(None);
                }
                quote(&mut head, text);
            }
            None if !self.needs_key => head.push_str("null"),
            None => return Ok(None),
        }
        head.push_str(",\"query\":[");
        head.push_str(&query.json);
        head.push_str("],\"headers\":[");
        head.push_str(&headers.json);
        head.push_str("],\"region\":");
        quote(&mut head, region);
        head.push_str(",\"endpoint\":");
        match endpoint {
            Some(url) => quote(&mut head, url),
            None => head.push_str("null"),
        }
        head.push('}');
        Ok(Some(Head {
            json: head,
            answers,
            verified,
        }))
    }
}

/// A request's head, and how its answer is read.
#[pyclass(frozen, module = "nexus.guest.device._native")]
pub struct Head {
    pub json: String,
    pub answers: Option<Py<Answers>>,
    /// Whether the answer's body is asked to be what its checksum says.
    pub verified: bool,
}

#[pymethods]
impl Head {
    fn __len__(&self) -> usize {
        self.json.len()
    }

    fn __bytes__<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.json.as_bytes())
    }

    /// The result of an answer; None where it is no ordinary one.
    fn result<'py>(
        &self,
        py: Python<'py>,
        text: &str,
        data: Option<&Bound<'py, PyBytes>>,
    ) -> PyResult<Option<Bound<'py, PyDict>>> {
        self.of(py, text.as_bytes(), data)
    }
}

impl Head {
    pub fn of<'py>(
        &self,
        py: Python<'py>,
        head: &[u8],
        data: Option<&Bound<'py, PyBytes>>,
    ) -> PyResult<Option<Bound<'py, PyDict>>> {
        match &self.answers {
            Some(answers) => answers.get().result(py, head, data, self.verified),
            None => Ok(None),
        }
    }
}

/// Pairs of texts as JSON, without the brackets around all.
#[derive(Default)]
struct Pairs {
    json: String,
}

impl Pairs {
    fn add(&mut self, name: &str, value: &str) {
        self.json
            .push_str(if self.json.is_empty() { "[" } else { ",[" });
        quote(&mut self.json, name);
        self.json.push(',');
        quote(&mut self.json, value);
        self.json.push(']');
    }
}

/// Append `text` as a JSON string.
fn quote(json: &mut String, text: &str) {
    json.push('"');
    for c in text.chars() {
        match c {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\n' => json.push_str("\\n"),
            '\r' => json.push_str("\\r"),
            '\t' => json.push_str("\\t"),
            '\u{8}' => json.push_str("\\b"),
            '\u{c}' => json.push_str("\\f"),
            c if c < ' ' => json.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => json.push(c),
        }
    }
    json.push('"');
}

fn text(value: &Bound<'_, PyAny>, place: Place, kind: Kind) -> Option<String> {
    match kind {
        Kind::Text => {
            let text = value.cast_exact::<PyString>().ok()?.to_str().ok()?;
            let plain = place == Place::Query
                || (!text.is_empty()
                    && text.bytes().all(|b| (b' '..=b'~').contains(&b))
                    && !text.starts_with(' ')
                    && !text.ends_with(' '));
            plain.then(|| text.to_owned())
        }
        Kind::Integer => Some(
            value
                .cast_exact::<PyInt>()
                .ok()?
                .extract::<i64>()
                .ok()?
                .to_string(),
        ),
        Kind::Boolean => Some(
            if value.cast_exact::<PyBool>().ok()?.is_true() {
                "true"
            } else {
                "false"
            }
            .to_owned(),
        ),
    }
}
