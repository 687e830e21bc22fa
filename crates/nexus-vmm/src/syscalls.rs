//! `nexus-vmm syscalls`: the system call table as JSON, for `nexus doctor --syscalls` and docs/syscalls.md.

use nexus_personality::table::{self, State};
use nexus_personality::unserved::UNSERVED;
use serde_json::{Value, json};

/// One array, in order of numbers: `number`, `name`, `family`, `state` (full, partial, absent, unserved) and `reason`.
#[must_use]
pub fn json() -> Value {
    let mut rows: Vec<(u64, Value)> = Vec::new();
    for call in table::all() {
        let (state, reason) = match call.state {
            State::Full => ("full", ""),
            State::Partial(reason) => ("partial", reason),
            State::Absent(reason) => ("absent", reason),
        };
        rows.push((
            call.number,
            json!({"number": call.number, "name": call.name, "family": call.family, "state": state, "reason": reason}),
        ));
    }
    for group in UNSERVED {
        for (number, name) in group.calls {
            rows.push((
                *number,
                json!({"number": number, "name": name, "family": null, "state": "unserved", "reason": group.reason}),
            ));
        }
    }
    rows.sort_by_key(|(number, _)| *number);
    rows.into_iter().map(|(_, row)| row).collect()
}
