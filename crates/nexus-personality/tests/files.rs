//! Files: nothing outside of the root table can be reached, and /tmp behaves as a file system.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Guest, config};
use std::os::unix::fs::symlink;

const ENOENT: i64 = -2;
const EACCES: i64 = -13;
const EEXIST: i64 = -17;
const ENOTDIR: i64 = -20;
const EISDIR: i64 = -21;
const EMFILE: i64 = -24;
const ENOSPC: i64 = -28;
const EROFS: i64 = -30;
const ENOTEMPTY: i64 = -39;
const ELOOP: i64 = -40;

/// A host directory with a secret beside the root, and links of all kinds that try to reach it.
fn with_links() -> (tempfile::TempDir, Guest) {
    let host = tempfile::tempdir().unwrap();
    let (root, other) = (host.path().join("root"), host.path().join("other"));
    std::fs::create_dir_all(root.join("sub")).unwrap();
    std::fs::create_dir_all(&other).unwrap();
    std::fs::write(host.path().join("secret"), "secret").unwrap();
    std::fs::write(root.join("file"), "content").unwrap();
    std::fs::write(other.join("there"), "other root").unwrap();
    symlink("../../secret", root.join("sub/up")).unwrap();
    symlink(host.path().join("secret"), root.join("absolute")).unwrap();
    symlink("/proc/self/root", root.join("magic")).unwrap();
    symlink("file", root.join("relative")).unwrap();
    symlink("/other/there", root.join("across")).unwrap();
    symlink("loop", root.join("loop")).unwrap();
    let status = std::process::Command::new("mkfifo")
        .arg(root.join("fifo"))
        .status()
        .unwrap();
    assert!(status.success());
    let g = Guest::new(config(&[("/data", &root), ("/other", &other)]));
    (host, g)
}

#[test]
fn files_of_a_root_can_be_read_and_links_within_it_followed() {
    let (_host, mut g) = with_links();
    assert_eq!(g.read_file("/data/file").unwrap(), b"content");
    assert_eq!(g.read_file("/data/relative").unwrap(), b"content");
    assert_eq!(g.read_file("/data/sub/../file").unwrap(), b"content");
    assert_eq!(g.read_file("//data//./file").unwrap(), b"content");
}

#[test]
fn an_absolute_link_means_the_guests_root_so_it_may_cross_into_another() {
    let (_host, mut g) = with_links();
    assert_eq!(g.read_file("/data/across").unwrap(), b"other root");
}

#[test]
fn no_path_leads_out_of_the_root_table() {
    let (host, mut g) = with_links();
    let secret = host.path().join("secret").display().to_string();
    for path in [
        "/data/../secret",
        "/data/sub/up",
        "/data/sub/../../secret",
        "/data/absolute",
        "/data/magic/etc/passwd",
        "/data/../../../../etc/gshadow",
        secret.as_str(),
        "/proc/1/root/etc/gshadow",
        "/proc/self/fd/3",
        "/etc/gshadow",
    ] {
        assert!(
            matches!(g.read_file(path), Err(ENOENT | ENOTDIR)),
            "{path}: {:?}",
            g.read_file(path)
        );
    }
    assert_eq!(g.read_file("/data/loop"), Err(ELOOP));
}

#[test]
fn what_is_neither_file_nor_directory_is_refused_without_blocking() {
    let (_host, mut g) = with_links();
    assert_eq!(g.read_file("/data/fifo"), Err(EACCES));
}

#[test]
fn a_root_is_read_only() {
    let (host, mut g) = with_links();
    assert_eq!(g.write_file("/data/file", b"changed"), EROFS);
    assert_eq!(g.write_file("/data/new", b"changed"), EROFS);
    let path = g.text("/data/file");
    assert_eq!(g.call("unlink", &[path]), EROFS);
    assert_eq!(g.call("chmod", &[path, 0o777]), EROFS);
    let to = g.text("/tmp/stolen");
    assert_eq!(g.call("rename", &[path, to]), EROFS);
    assert_eq!(
        std::fs::read(host.path().join("root/file")).unwrap(),
        b"content"
    );
}

#[test]
fn tmp_keeps_names_contents_and_order_of_things() {
    let mut g = Guest::plain();
    assert_eq!(g.write_file("/tmp/a", b"one"), 3);
    assert_eq!(g.read_file("/tmp/a").unwrap(), b"one");
    let (a, b, d) = (g.text("/tmp/a"), g.text("/tmp/b"), g.text("/tmp/d"));
    assert_eq!(g.call("rename", &[a, b]), 0);
    assert_eq!(g.read_file("/tmp/a"), Err(ENOENT));
    assert_eq!(g.read_file("/tmp/b").unwrap(), b"one");
    assert_eq!(g.call("mkdir", &[d, 0o755]), 0);
    assert_eq!(g.call("mkdir", &[d, 0o755]), EEXIST);
    assert_eq!(g.write_file("/tmp/d/x", b"deep"), 4);
    assert_eq!(g.call("rmdir", &[d]), ENOTEMPTY);
    assert_eq!(g.call("unlink", &[d]), EISDIR);
    let x = g.text("/tmp/d/x");
    assert_eq!(g.call("unlink", &[x]), 0);
    assert_eq!(g.call("rmdir", &[d]), 0);
    assert_eq!(g.open("/tmp/d", 0), ENOENT);
    assert_eq!(g.write_file("/tmp/b/c", b""), ENOTDIR);
}

#[test]
fn an_unlinked_file_lives_as_long_as_its_descriptor() {
    let mut g = Guest::plain();
    g.write_file("/tmp/a", b"still here");
    let fd = g.open("/tmp/a", 0).cast_unsigned();
    let a = g.text("/tmp/a");
    assert_eq!(g.call("unlink", &[a]), 0);
    let buffer = g.memory(4096);
    assert_eq!(g.call("read", &[fd, buffer, 100]), 10);
    assert_eq!(g.peek(buffer, 10), b"still here");
}

#[test]
fn tmp_is_counted() {
    let mut g = Guest::plain();
    let fd = g
        .open("/tmp/big", libc::O_CREAT | libc::O_RDWR)
        .cast_unsigned();
    assert_eq!(g.call("ftruncate", &[fd, 7 << 20]), 0);
    assert_eq!(g.call("ftruncate", &[fd, 9 << 20]), ENOSPC);
    assert_eq!(g.call("ftruncate", &[fd, 0]), 0);
    assert_eq!(g.call("ftruncate", &[fd, 7 << 20]), 0, "space comes back");
    assert_eq!(g.call("close", &[fd]), 0);
    let path = g.text("/tmp/big");
    assert_eq!(g.call("unlink", &[path]), 0);
    assert_eq!(g.write_file("/tmp/other", &vec![1; 1 << 20]), 1 << 20);
}

#[test]
fn duplicates_share_a_position_and_appending_goes_to_the_end() {
    let mut g = Guest::plain();
    g.write_file("/tmp/a", b"0123456789");
    let fd = g.open("/tmp/a", 0).cast_unsigned();
    let copy = g.call("dup", &[fd]).cast_unsigned();
    let buffer = g.memory(4096);
    assert_eq!(g.call("read", &[fd, buffer, 4]), 4);
    assert_eq!(g.call("read", &[copy, buffer, 2]), 2);
    assert_eq!(g.peek(buffer, 2), b"45");
    let end = g
        .open("/tmp/a", libc::O_WRONLY | libc::O_APPEND)
        .cast_unsigned();
    g.poke(buffer, b"!");
    assert_eq!(g.call("write", &[end, buffer, 1]), 1);
    assert_eq!(g.read_file("/tmp/a").unwrap(), b"0123456789!");
}

#[test]
fn descriptors_are_bounded_and_the_lowest_is_taken() {
    let mut g = Guest::plain();
    let mut last = 0;
    loop {
        match g.open("/dev/null", 0) {
            EMFILE => break,
            fd => last = fd,
        }
    }
    assert_eq!(last, 1023);
    assert_eq!(g.call("close", &[500]), 0);
    assert_eq!(g.open("/dev/null", 0), 500);
}

#[test]
fn made_up_files_tell_of_the_guest_alone() {
    let mut g = Guest::plain();
    let meminfo = String::from_utf8(g.read_file("/proc/meminfo").unwrap()).unwrap();
    assert!(meminfo.contains(&format!("{}", 128 * 1024)));
    let hosts_release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_ne!(
        g.read_file("/proc/sys/kernel/osrelease").unwrap(),
        hosts_release.as_bytes()
    );
    assert_eq!(g.read_file("/etc/hostname").unwrap(), b"guest\n");
}

#[test]
fn fstat_of_a_directory_is_its_lstat() {
    let mut g = Guest::plain();
    let path = g.text("/tmp");
    let fd = g.open("/tmp", libc::O_DIRECTORY).cast_unsigned();
    let to = g.memory(4096);
    assert_eq!(g.call("lstat", &[path, to]), 0);
    assert_eq!(g.call("fstat", &[fd, to + 512]), 0);
    assert_eq!(g.peek(to, 16), g.peek(to + 512, 16), "device and inode");
}
