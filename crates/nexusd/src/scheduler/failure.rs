//! Why an instance could not start or did not finish, in Lambda's words.

use crate::process::child::Status;
use crate::process::report::Event;
use serde_json::{Map, Value, json};

/// How an instance ended.
#[derive(Clone, Debug, Default)]
pub struct Ending {
    /// The guest's own wait status where the VMM reported one, else the VMM's.
    pub status: Option<Status>,
    pub memory_limit_mib: Option<u64>,
    pub refused: Option<String>,
    pub failed: Option<String>,
    pub fault: Option<String>,
}

/// Exit status of a VMM that cannot use its snapshot or the machine.
const REFUSED: i32 = 125;
/// Exit status of a VMM that failed itself.
const FAILED: i32 = 124;

impl Ending {
    /// Take note of what the VMM reported.
    pub fn note(&mut self, event: &Event) {
        match event {
            Event::Refused { reason } => self.refused = Some(clip(reason)),
            Event::Failed { reason } => self.failed = Some(clip(reason)),
            Event::MemoryLimit { limit_mib } => self.memory_limit_mib = Some(*limit_mib),
            Event::Exit { status } => self.status = Some(Status(*status & 0xffff)),
            Event::Fault {
                vector,
                rip,
                address,
                ..
            } => {
                self.fault = Some(clip(&format!(
                    "exception {vector} at {rip}, address {address}"
                )));
            }
            Event::Ready { .. }
            | Event::Snapshot { .. }
            | Event::UnknownSyscall { .. }
            | Event::WorkingSet { .. }
            | Event::NotRenewed
            | Event::Unknown => {}
        }
    }

    /// Take note of the VMM's own end.
    pub fn note_exit(&mut self, vmm: Status) {
        match vmm.code() {
            Some(REFUSED) if self.refused.is_none() && self.status.is_none() => {
                self.refused = Some("the VMM gave no reason".to_owned());
            }
            Some(FAILED) if self.failed.is_none() && self.status.is_none() => {
                self.failed =
                    Some("the VMM gave no reason; see its standard error in the log".to_owned());
            }
            _ => {}
        }
        if self.status.is_none() {
            self.status = Some(match vmm.code() {
                // 128 + n: the guest ended by signal n.
                Some(code @ 129..=192) => Status(code - 128),
                _ => vmm,
            });
        }
    }

    /// Lambda's error object for a caller whose event was being handled.
    pub fn error(&self, request_id: &str) -> (&'static str, Vec<u8>) {
        let (kind, what) = match (self.memory_limit_mib, self.status) {
            (Some(_), _) => (
                "Runtime.OutOfMemory",
                "Runtime exited with error: signal: killed".to_owned(),
            ),
            (None, Some(status)) => ("Runtime.ExitError", describe(status)),
            (None, None) => (
                "Runtime.ExitError",
                "Runtime exited without providing a reason".to_owned(),
            ),
        };
        let object = json!({
            "errorType": kind,
            "errorMessage": format!("RequestId: {request_id} Error: {what}"),
        });
        (kind, object.to_string().into_bytes())
    }

    /// One line for the log, of what `error` leaves out.
    pub fn detail(&self) -> Option<String> {
        if let Some(limit) = self.memory_limit_mib {
            return Some(format!("the memory limit of {limit} MB was reached"));
        }
        self.fault.clone().or_else(|| self.failed.clone())
    }
}

/// `exit status 3`, `signal: segmentation fault`, as Lambda's runtime supervisor says it.
fn describe(status: Status) -> String {
    if let Some(signal) = status.signal() {
        return format!("Runtime exited with error: signal: {}", signal_name(signal));
    }
    match status.code() {
        None | Some(0) => "Runtime exited without providing a reason".to_owned(),
        Some(code) => format!("Runtime exited with error: exit status {code}"),
    }
}

fn signal_name(signal: i32) -> String {
    match signal {
        libc::SIGSEGV => "segmentation fault".to_owned(),
        libc::SIGABRT => "aborted".to_owned(),
        libc::SIGKILL => "killed".to_owned(),
        libc::SIGBUS => "bus error".to_owned(),
        libc::SIGFPE => "floating point exception".to_owned(),
        libc::SIGILL => "illegal instruction".to_owned(),
        libc::SIGTRAP => "trace/breakpoint trap".to_owned(),
        libc::SIGTERM => "terminated".to_owned(),
        libc::SIGSYS => "bad system call".to_owned(),
        libc::SIGPIPE => "broken pipe".to_owned(),
        other => format!("signal {other}"),
    }
}

fn clip(text: &str) -> String {
    text.chars().take(1000).collect()
}

/// Lambda's error object for a time-out.
pub fn timed_out(request_id: &str, timeout_s: u64) -> Vec<u8> {
    json!({
        "errorType": "Sandbox.Timedout",
        "errorMessage": format!("RequestId: {request_id} Error: Task timed out after {timeout_s}.00 seconds"),
    })
    .to_string()
    .into_bytes()
}

/// An error object as the guest wrote it, made to have what Lambda's has.
pub fn complete(body: &[u8], request_id: Option<&str>) -> Vec<u8> {
    let mut object: Map<String, Value> = match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => object,
        _ => Map::from_iter([(
            "errorMessage".to_owned(),
            json!(String::from_utf8_lossy(
                body.get(..body.len().min(1000)).unwrap_or_default()
            )),
        )]),
    };
    for (key, value) in [("errorMessage", json!("")), ("errorType", json!("Error"))] {
        if !object.get(key).is_some_and(Value::is_string) {
            object.insert(key.to_owned(), value);
        }
    }
    if let Some(id) = request_id {
        object.entry("requestId").or_insert_with(|| json!(id));
    }
    if !object.get("stackTrace").is_some_and(Value::is_array) {
        object.insert("stackTrace".to_owned(), json!([]));
    }
    Value::Object(object).to_string().into_bytes()
}

/// Why an instance is not there.
#[derive(Clone, Debug)]
pub enum StartFailure {
    /// The function's fault: Lambda's error object (JSON).
    Function(Vec<u8>),
    /// The snapshot cannot be used.
    Refused(String),
    /// The node's.
    Node(String),
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn message(ending: &Ending) -> String {
        let (kind, body) = ending.error("r-1");
        let value: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(value["errorType"], kind);
        value["errorMessage"].as_str().unwrap().to_owned()
    }

    #[test]
    fn endings_are_described_as_lambda_does() {
        let mut ending = Ending::default();
        ending.note_exit(Status(3 << 8));
        assert_eq!(
            message(&ending),
            "RequestId: r-1 Error: Runtime exited with error: exit status 3"
        );
        let mut ending = Ending::default();
        ending.note_exit(Status((128 + libc::SIGSEGV) << 8));
        assert_eq!(
            message(&ending),
            "RequestId: r-1 Error: Runtime exited with error: signal: segmentation fault"
        );
        let mut ending = Ending::default();
        ending.note(&Event::Exit {
            status: libc::SIGABRT,
        });
        ending.note_exit(Status((128 + libc::SIGABRT) << 8));
        assert!(message(&ending).ends_with("signal: aborted"));
        ending.note(&Event::MemoryLimit { limit_mib: 256 });
        assert_eq!(ending.error("r").0, "Runtime.OutOfMemory");
        assert!(message(&ending).ends_with("signal: killed"));
        let mut ending = Ending::default();
        ending.note_exit(Status(0));
        assert!(message(&ending).ends_with("without providing a reason"));
        let mut ending = Ending::default();
        ending.note_exit(Status(125 << 8));
        assert!(ending.refused.is_some());
    }

    #[test]
    fn error_objects_are_completed() {
        let value: Value = serde_json::from_slice(&complete(b"rubbish", Some("r"))).unwrap();
        assert_eq!(value["errorMessage"], "rubbish");
        assert_eq!(
            (&value["requestId"], &value["stackTrace"]),
            (&json!("r"), &json!([]))
        );
        let own = br#"{"errorMessage":"m","errorType":"T","stackTrace":["x"],"requestId":"q"}"#;
        let value: Value = serde_json::from_slice(&complete(own, Some("r"))).unwrap();
        assert_eq!(
            (&value["requestId"], &value["stackTrace"]),
            (&json!("q"), &json!(["x"]))
        );
    }
}
