//! `isolation=process`: the program runs as on the host, but the jail holds.
#![allow(clippy::unwrap_used)]

use serde_json::json;
use std::io::{Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

const CONFIG_FD: i32 = 7;
const REPORT_FD: i32 = 6;

/// Run `script` with the host's python3, jailed; its output and the report.
fn python(script: &str) -> (Output, String) {
    let config = json!({
        "version": 1, "mode": "process", "memory_mib": 128, "max_threads": 8, "tmp_mib": 8, "cpus": 1,
        "hostname": "nexus", "roots": [],
        "program": {"path": "/usr/bin/python3", "argv": ["python3", "-S", "-c", script],
                    "env": {"COLOUR": "blue"}, "cwd": "/"},
        "device": null, "report": REPORT_FD, "snapshot": null, "jail": {"uid": null, "landlock": true}
    });
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(config.to_string().as_bytes()).unwrap();
    file.rewind().unwrap();
    let (mut lines, report) = std::io::pipe().unwrap();
    let (config_fd, report_fd) = (file.as_raw_fd(), report.as_raw_fd());
    let mut command = Command::new(env!("CARGO_BIN_EXE_nexus-vmm"));
    command
        .args(["serve", "--config-fd", "7"])
        .stdin(Stdio::null());
    // SAFETY: only dup2 between fork and exec.
    unsafe {
        command.pre_exec(move || {
            // First out of each other's way: a source may have the other's number.
            let (a, b) = (libc::dup(config_fd), libc::dup(report_fd));
            let (c, d) = (
                libc::fcntl(a, libc::F_DUPFD, 20),
                libc::fcntl(b, libc::F_DUPFD, 20),
            );
            libc::dup2(c, CONFIG_FD);
            libc::dup2(d, REPORT_FD);
            Ok(())
        });
    }
    let output = command.output().unwrap();
    drop((command, report, file));
    let mut text = String::new();
    lines.read_to_string(&mut text).unwrap();
    (output, text)
}

#[test]
fn the_program_runs_with_its_environment_and_status() {
    let (output, report) = python("import os, sys; print(os.environ['COLOUR']); sys.exit(7)");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "blue\n",
        "{output:?}"
    );
    assert_eq!(output.status.code(), Some(7));
    assert!(
        report.contains(r#""event":"ready","isolation":"process""#),
        "{report}"
    );
}

#[test]
fn the_network_is_out_of_reach_and_local_sockets_work() {
    let script = "
import socket
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK):
    try:
        socket.socket(family)
    except PermissionError:
        print('denied')
a, b = socket.socketpair()
a.send(b'x')
print(b.recv(1))
";
    let (output, _) = python(script);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "denied\ndenied\ndenied\nb'x'\n",
        "{output:?}"
    );
}

#[test]
fn files_outside_the_jail_cannot_be_read_or_written() {
    let secret = tempfile::Builder::new().tempfile_in("/var/tmp").unwrap();
    let path = secret.path().display();
    let script = format!(
        "
for path, mode in (({path:?}, 'r'), ('/usr/nexus-test', 'w')):
    try:
        open(path, mode)
    except PermissionError:
        print('denied')
",
        path = path.to_string()
    );
    let (output, _) = python(&script);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "denied\ndenied\n",
        "{output:?}"
    );
}

#[test]
fn threads_start_and_no_privilege_is_left() {
    let script = "
import threading
t = threading.Thread(target=lambda: print('thread')); t.start(); t.join()
status = dict(line.split(':', 1) for line in open('/proc/self/status'))
print(status['CapEff'].strip(), status['CapBnd'].strip(), status['NoNewPrivs'].strip(), status['Seccomp'].strip())
";
    let (output, _) = python(script);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "thread\n0000000000000000 0000000000000000 1 2\n",
        "{output:?}"
    );
}
