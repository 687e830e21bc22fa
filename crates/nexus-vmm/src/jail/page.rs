//! `nexus-vmm jail`: the page docs/jail.md, made from the tables that the filters are made from.

use super::calls::{ALLOWED, Call, Group, Only, SHELL, of};
use super::filter::REFUSED;
use std::fmt::Write;

const HEAD: &str = "\
# The jail

Made by `make docs` from the tables in `crates/nexus-vmm/src/jail`. It holds for every thread of a `nexus-vmm` from before its guest's
first instruction to its end, so that whoever breaks out of a VM has gained a process that can do next to nothing.
`crates/nexus-vmm/tests/jail.rs` tries the ways out from inside.

| wall | what it leaves |
|---|---|
| descriptors | standard streams, the report, the arena and its two events, the channel for connections, KVM, the roots and the snapshot. All else was closed first |
| user | one without rights (started as root: 65534), no supplementary group |
| capabilities | none, in any set; none can be gained (`no_new_privs`) |
| tracing | not dumpable: other processes of the same user can neither trace it nor read its memory or descriptors |
| parent | it ends when nexusd ends |
| limits | 4,096 descriptors, no locked memory, no core dumps; the first to go when the host runs out of memory |
| Landlock | reading beneath the roots (writing where a root is writable); no TCP; no signal and no abstract socket to the outside |
| seccomp | the calls below |

";

/// The page.
#[must_use]
pub fn markdown() -> String {
    let mut page = HEAD.to_owned();
    let _ = writeln!(
        page,
        "## System calls of a jailed hypervisor\n\n{} of Linux's calls; every other fails with ENOSYS. Calls of another ABI (32-bit) end the process.\n",
        of(ALLOWED).count()
    );
    groups(&mut page, ALLOWED, true);
    let _ = writeln!(
        page,
        "\n## What a shell may do besides\n\nA shell has no function and runs no guest. The thread that will run one has the jail above already, but for Landlock, which names its function's files. These calls are\nanother thread's, which takes up the function and has ended when the guest runs; the arguments of those above are not looked at there.\n"
    );
    groups(&mut page, SHELL, false);
    let _ = writeln!(
        page,
        "\n## `isolation=process`\n\nThe program itself runs behind this filter, so all calls are open but new namespaces, sockets other than AF_UNIX, and {} that\n\
         reach other processes or the kernel's less trodden paths. They fail with EACCES; clone3 with ENOSYS.\n",
        REFUSED.len()
    );
    let numbers: Vec<String> = REFUSED.iter().map(|n| name(*n)).collect();
    let _ = writeln!(page, "{}", numbers.join(", "));
    let _ = writeln!(
        page,
        "\n## What remains\n\nWhoever controls a jailed hypervisor can learn whether a path of the host exists and its metadata, as any process of that user \
         can (Landlock does not\ncover stat, and no filter sees paths), use CPU time, and use memory up to its cgroup's limit where there is one."
    );
    page
}

fn name(number: i64) -> String {
    crate::names::name(number.unsigned_abs()).to_owned()
}

fn groups(page: &mut String, groups: &[Group], with_arguments: bool) {
    let _ = writeln!(page, "| why | calls |\n|---|---|");
    for group in groups {
        let calls: Vec<String> = group.calls.iter().map(|c| one(c, with_arguments)).collect();
        let _ = writeln!(page, "| {} | {} |", group.why, calls.join(", "));
    }
}

fn one(call: &Call, with_arguments: bool) -> String {
    let name = call.name.trim_start_matches("SYS_");
    match call.only {
        _ if !with_arguments => name.to_owned(),
        Only::Any => name.to_owned(),
        Only::OneOf(_, values) => {
            let names: Vec<&str> = values.iter().map(|(_, name)| *name).collect();
            format!("{name} ({} only)", names.join(", "))
        }
        Only::Options(pairs) => {
            let names: Vec<&str> = pairs.iter().map(|(.., name)| *name).collect();
            format!("{name} ({} only)", names.join(", "))
        }
        Only::Bits { meaning, .. } => format!("{name} ({meaning})"),
        Only::Own => format!("{name} (of this process only)"),
    }
}
