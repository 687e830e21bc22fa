//! Where snapshots are kept, tried from inside a VMM's jail.
#![allow(clippy::unwrap_used)]

use nexus_vmm::config::Serve;
use nexus_vmm::jail::{close_inherited, confine_microvm};
use serde_json::json;
use std::ffi::CString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Numbers of the calls that would change something beneath a directory, each made with paths of the store.
fn attempts(store: &Path) -> Vec<(&'static str, i64)> {
    let text = |path: &Path| CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
    let (kept, file, new) = (
        text(store),
        text(&store.join("pages")),
        text(&store.join("new")),
    );
    let at = libc::AT_FDCWD;
    let mut done = Vec::new();
    for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_WRONLY | libc::O_TRUNC] {
        let how = [flags as u64, 0, 0];
        // SAFETY: `how` is an open_how; the paths are live.
        let result =
            unsafe { libc::syscall(libc::SYS_openat2, at, file.as_ptr(), how.as_ptr(), 24) };
        done.push(("open for writing", result));
    }
    let how = [(libc::O_CREAT | libc::O_WRONLY) as u64, 0o644, 0];
    // SAFETY: as above.
    unsafe {
        let created = libc::syscall(libc::SYS_openat2, at, new.as_ptr(), how.as_ptr(), 24);
        done.extend([
            ("create", created),
            (
                "open",
                libc::syscall(libc::SYS_open, file.as_ptr(), libc::O_WRONLY),
            ),
            (
                "openat",
                libc::syscall(libc::SYS_openat, at, file.as_ptr(), libc::O_WRONLY),
            ),
            (
                "truncate",
                libc::syscall(libc::SYS_truncate, file.as_ptr(), 0),
            ),
            (
                "unlink",
                libc::syscall(libc::SYS_unlinkat, at, file.as_ptr(), 0),
            ),
            (
                "rename",
                libc::syscall(libc::SYS_renameat2, at, file.as_ptr(), at, new.as_ptr(), 0),
            ),
            (
                "link",
                libc::syscall(libc::SYS_linkat, at, file.as_ptr(), at, new.as_ptr(), 0),
            ),
            (
                "symlink",
                libc::syscall(libc::SYS_symlinkat, file.as_ptr(), at, new.as_ptr()),
            ),
            (
                "mkdir",
                libc::syscall(libc::SYS_mkdirat, at, new.as_ptr(), 0o755),
            ),
            (
                "chmod",
                libc::syscall(libc::SYS_fchmodat, at, kept.as_ptr(), 0o777),
            ),
            (
                "chown",
                libc::syscall(libc::SYS_fchownat, at, kept.as_ptr(), 65534, 65534, 0),
            ),
        ]);
    }
    done
}

#[test]
fn a_vmm_changes_nothing_where_snapshots_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("content");
    fs::create_dir(&store).unwrap();
    fs::write(store.join("pages"), "kept").unwrap();
    // Open to all, so that it is the jail that decides.
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(&store, fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(store.join("pages"), fs::Permissions::from_mode(0o666)).unwrap();
    let document = json!({
        "version": 1, "mode": "restore", "memory_mib": 64, "max_threads": 4, "tmp_mib": 8, "cpus": 1,
        "hostname": "nexus", "roots": [{"guest": "/usr", "host": "/usr", "writable": false}],
        "device": null, "report": null, "snapshot": store, "jail": {"uid": null, "landlock": true}
    });
    let config = Serve::parse(document.to_string().as_bytes()).unwrap();
    assert!(
        attempts(&store)
            .iter()
            .filter(|(_, result)| *result >= 0)
            .count()
            > 5,
        "outside they succeed"
    );
    let _ = fs::remove_file(store.join("new"));
    fs::write(store.join("pages"), "kept").unwrap();
    // SAFETY: the child only calls what a single-threaded process may, and ends by _exit.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        let confined = close_inherited(&config, None).and_then(|()| confine_microvm(&config));
        let status = match confined {
            Ok(()) => i32::from(attempts(&store).iter().any(|(_, result)| *result >= 0)),
            Err(_) => 2,
        };
        // SAFETY: no preconditions.
        unsafe { libc::_exit(status) };
    }
    let mut status = 0;
    // SAFETY: our child.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(
        status, 0,
        "wait status (256: something succeeded; 512: the jail failed)"
    );
    assert_eq!(fs::read(store.join("pages")).unwrap(), b"kept");
    assert!(!store.join("new").exists());
}
