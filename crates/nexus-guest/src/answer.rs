//! An S3 answer's head (JSON), and the result that botocore would make of its headers.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::HashMap;

#[derive(Deserialize)]
struct Answer<'a> {
    status: u16,
    #[serde(borrow)]
    headers: Vec<(Text<'a>, Text<'a>)>,
    retries: u32,
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Names that most answers have: made once.
const USUAL: [&str; 18] = [
    "accept-ranges",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "date",
    "etag",
    "last-modified",
    "server",
    "x-amz-checksum-crc32",
    "x-amz-checksum-crc64nvme",
    "x-amz-checksum-type",
    "x-amz-id-2",
    "x-amz-request-id",
    "x-amz-server-side-encryption",
    "x-amz-version-id",
];

/// What becomes of a header's value. Others are the Python side's.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Text,
    Integer,
    Boolean,
    Timestamp,
    /// See [`Answers::prefixed`].
    Prefixed,
}

struct Member {
    name: Py<PyString>,
    kind: Kind,
}

/// A header's name as an object that is made once, and the member that it gives.
struct Known {
    name: Py<PyString>,
    member: Option<usize>,
}

/// How one operation's answers become results: the twin of `ResponsePlan` and `metadata` in `shims/boto3_api/api/response.py`.
#[pyclass(frozen, module = "nexus.guest.device._native")]
pub struct Answers {
    members: Vec<Member>,
    known: HashMap<String, Known>,
    /// The member that all headers with a prefix go into, by what is behind it.
    prefixed: Option<(String, usize)>,
    timestamp: Py<PyAny>,
    zone: Py<PyAny>,
    payload: Option<Payload>,
}

/// How an answer's body becomes a member: the twin of `incoming` in `shims/boto3_api/api/body.py`.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct Payload {
    member: Py<PyString>,
    /// Of the bytes, a stream.
    stream: Py<PyAny>,
    /// Of a stream and the length that its header tells, botocore's body.
    plain: Py<PyAny>,
    /// The same with a checksum, and what it is expected to be.
    checked: Py<PyAny>,
    /// Of what is expected, a checksum that is that.
    verified: Py<PyAny>,
    /// Names of checksums and of their headers, in botocore's order of preference.
    checksums: Vec<(Py<PyString>, Py<PyString>)>,
}

/// Status, headers by lower-case name, retries, and the result but for its body.
type Read<'py> = (u16, Bound<'py, PyDict>, u32, Bound<'py, PyDict>);

#[pymethods]
impl Answers {
    /// `members`: header, member and kind of each, in botocore's order; `timestamp`: the class `datetime`; `zone`: its tzinfo; `payload`:
    /// the member that is the body, see `Payload`.
    #[new]
    #[pyo3(signature = (members, timestamp, zone, payload=None))]
    fn new(
        py: Python<'_>,
        members: Vec<(String, Py<PyString>, String)>,
        timestamp: Py<PyAny>,
        zone: Py<PyAny>,
        payload: Option<Payload>,
    ) -> PyResult<Self> {
        let interned = |name: &str, member| Known {
            name: PyString::intern(py, name).unbind(),
            member,
        };
        let mut known: HashMap<_, _> = USUAL
            .iter()
            .map(|name| ((*name).to_owned(), interned(name, None)))
            .collect();
        let mut prefixed = None;
        let mut all = Vec::new();
        for (number, (wire, name, kind)) in members.into_iter().enumerate() {
            let kind = match kind.as_str() {
                "string" => Kind::Text,
                "integer" | "long" => Kind::Integer,
                "boolean" => Kind::Boolean,
                "timestamp" => Kind::Timestamp,
                "prefix" => Kind::Prefixed,
                other => return Err(PyValueError::new_err(format!("no kind of member: {other}"))),
            };
            all.push(Member { name, kind });
            if kind == Kind::Prefixed {
                prefixed = Some((wire, number));
            } else {
                let entry = interned(&wire, Some(number));
                known.insert(wire, entry);
            }
        }
        Ok(Self {
            members: all,
            known,
            prefixed,
            timestamp,
            zone,
            payload,
        })
    }

    /// What an answer's head says; None where Python has to look: an answer of 300 or over, headers that come twice, odd values.
    fn read<'py>(&self, py: Python<'py>, head: &str) -> PyResult<Option<Read<'py>>> {
        self.parse(py, head.as_bytes())
    }
}

impl Answers {
    /// The whole result of an answer whose body is `data`; None as for [`Self::read`], and where a body is missing.
    pub fn result<'py>(
        &self,
        py: Python<'py>,
        head: &[u8],
        data: Option<&Bound<'py, PyBytes>>,
        verified: bool,
    ) -> PyResult<Option<Bound<'py, PyDict>>> {
        if self.payload.is_some() && data.is_none() {
            return Ok(None);
        }
        let Some((_, headers, retries, result)) = self.parse(py, head)? else {
            return Ok(None);
        };
        let mut checksum = None;
        if let (Some(payload), Some(data)) = (&self.payload, data) {
            let (body, name) = payload.body(py, &headers, data, verified)?;
            result.set_item(&payload.member, body)?;
            checksum = name;
        }
        let details = result.get_item(pyo3::intern!(py, "ResponseMetadata"))?;
        if let Some(details) = details {
            if let Some(name) = checksum {
                details.set_item(pyo3::intern!(py, "ChecksumAlgorithm"), name)?;
            }
            details.set_item(pyo3::intern!(py, "RetryAttempts"), retries)?;
        }
        Ok(Some(result))
    }

    fn parse<'py>(&self, py: Python<'py>, head: &[u8]) -> PyResult<Option<Read<'py>>> {
        let Ok(answer) = serde_json::from_slice::<Answer<'_>>(head) else {
            return Ok(None);
        };
        if answer.status >= 300 {
            return Ok(None);
        }
        let headers = PyDict::new(py);
        let mut present = Vec::with_capacity(answer.headers.len());
        let mut behind = None;
        for (Text(name), Text(text)) in &answer.headers {
            let wire = lower(name);
            let value = PyString::new(py, text);
            match self.known.get(&*wire) {
                Some(Known { name, member }) => {
                    headers.set_item(name, &value)?;
                    present.extend(member.map(|member| (member, value.into_any(), &**text)));
                }
                None => {
                    headers.set_item(&*wire, &value)?;
                    if let Some((prefix, _)) = &self.prefixed
                        && wire.starts_with(prefix.as_str())
                    {
                        let Some(rest) = name.get(prefix.len()..) else {
                            return Ok(None);
                        };
                        let found = behind.get_or_insert_with(|| PyDict::new(py));
                        found.set_item(rest, value)?;
                    }
                }
            }
        }
        if headers.len() < answer.headers.len() || headers.contains(pyo3::intern!(py, "expires"))? {
            return Ok(None);
        }
        let result = PyDict::new(py);
        result.set_item(
            pyo3::intern!(py, "ResponseMetadata"),
            metadata(py, answer.status, &headers)?,
        )?;
        if let Some((_, at)) = self.prefixed {
            let found = behind.unwrap_or_else(|| PyDict::new(py));
            present.push((at, found.into_any(), ""));
        }
        present.sort_unstable_by_key(|(member, _, _)| *member);
        for (member, value, text) in present {
            let Member { name, kind } = &self.members[member];
            match kind {
                Kind::Text | Kind::Prefixed => result.set_item(name, value)?,
                Kind::Boolean => result.set_item(name, text == "true")?,
                Kind::Integer => match integer(text) {
                    Some(number) => result.set_item(name, number)?,
                    None => return Ok(None),
                },
                Kind::Timestamp => match date(text).map(|(y, mo, d, h, mi, s)| {
                    // A date that there is not: botocore has its own way with it.
                    self.timestamp
                        .call1(py, (y, mo, d, h, mi, s, 0, &self.zone))
                }) {
                    Some(Ok(made)) => result.set_item(name, made)?,
                    _ => return Ok(None),
                },
            }
        }
        Ok(Some((answer.status, headers, answer.retries, result)))
    }
}

impl Payload {
    /// The body, and the name of the checksum that applies.
    fn body<'py>(
        &self,
        py: Python<'py>,
        headers: &Bound<'py, PyDict>,
        data: &Bound<'py, PyBytes>,
        verified: bool,
    ) -> PyResult<(Bound<'py, PyAny>, Option<&Py<PyString>>)> {
        let stream = self.stream.bind(py).call1((data,))?;
        let length = headers.get_item(pyo3::intern!(py, "content-length"))?;
        let mut found = None;
        for (name, header) in self.checksums.iter().filter(|_| verified) {
            if let Some(expected) = headers.get_item(header)?
                && !expected.cast::<PyString>()?.to_str()?.contains('-')
            {
                found = Some((name, expected));
                break;
            }
        }
        let body = match &found {
            None => self.plain.bind(py).call1((&stream, length))?,
            Some((_, expected)) => {
                let checksum = self.verified.bind(py).call1((expected,))?;
                self.checked
                    .bind(py)
                    .call1((&stream, length, checksum, expected))?
            }
        };
        let buffer = pyo3::intern!(py, "getbuffer");
        body.setattr(buffer, stream.getattr(buffer)?)?;
        Ok((body, found.map(|(name, _)| name)))
    }
}

fn metadata<'py>(
    py: Python<'py>,
    status: u16,
    headers: &Bound<'py, PyDict>,
) -> PyResult<Bound<'py, PyDict>> {
    let details = PyDict::new(py);
    if let Some(id) = headers.get_item(pyo3::intern!(py, "x-amzn-requestid"))? {
        details.set_item(pyo3::intern!(py, "RequestId"), id)?;
    } else if let Some(id) = headers.get_item(pyo3::intern!(py, "x-amz-request-id"))? {
        details.set_item(pyo3::intern!(py, "RequestId"), id)?;
        let host = headers.get_item(pyo3::intern!(py, "x-amz-id-2"))?;
        let host = host.unwrap_or_else(|| pyo3::intern!(py, "").clone().into_any());
        details.set_item(pyo3::intern!(py, "HostId"), host)?;
    }
    details.set_item(pyo3::intern!(py, "HTTPStatusCode"), status)?;
    details.set_item(pyo3::intern!(py, "HTTPHeaders"), headers)?;
    Ok(details)
}

fn lower(name: &str) -> Cow<'_, str> {
    if name
        .bytes()
        .all(|b| b.is_ascii() && !b.is_ascii_uppercase())
    {
        return Cow::Borrowed(name);
    }
    Cow::Owned(name.to_lowercase())
}

/// A number as servers write one.
fn integer(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
        .then(|| text.parse().ok())
        .flatten()
}

type Date = (u16, u8, u8, u8, u8, u8);

/// A date as servers write one: `Thu, 01 Jan 1970 00:00:00 GMT`.
fn date(text: &str) -> Option<Date> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let b: &[u8; 29] = text.as_bytes().try_into().ok()?;
    let weekday =
        b[0].is_ascii_uppercase() && b[1].is_ascii_lowercase() && b[2].is_ascii_lowercase();
    let fixed = [
        (3, b','),
        (4, b' '),
        (7, b' '),
        (11, b' '),
        (16, b' '),
        (19, b':'),
        (22, b':'),
        (25, b' '),
    ];
    if !weekday || fixed.iter().any(|&(at, wanted)| b[at] != wanted) || &b[26..] != b"GMT" {
        return None;
    }
    let number = |at: usize| {
        (b[at].is_ascii_digit() && b[at + 1].is_ascii_digit())
            .then(|| (b[at] - b'0') * 10 + b[at + 1] - b'0')
    };
    let month = MONTHS
        .iter()
        .position(|name| name.as_bytes() == &b[8..11])?;
    let year = u16::from(number(12)?) * 100 + u16::from(number(14)?);
    Some((
        year,
        u8::try_from(month).ok()? + 1,
        number(5)?,
        number(17)?,
        number(20)?,
        number(23)?,
    ))
}
