//! Files: nothing outside of the root table can be reached, and /tmp behaves as a file system.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Guest, config};
use std::os::unix::fs::{MetadataExt, symlink};
use std::sync::Barrier;

const ENOENT: i64 = -2;
const ENOMEM: i64 = -12;
const EACCES: i64 = -13;
const EFAULT: i64 = -14;
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

const CWD: u64 = 0xffff_ff9c;

fn size_of_file(g: &mut Guest, path: &str) -> u64 {
    let (path, to) = (g.text(path), g.memory(4096));
    assert_eq!(g.call("stat", &[path, to]), 0);
    u64::from_le_bytes(g.peek(to + 48, 8).try_into().unwrap())
}

#[test]
fn of_what_two_append_nothing_is_lost() {
    let mut g = Guest::plain();
    let (path, line) = (g.text("/tmp/log"), g.text("a line.\n"));
    g.by_two(|_, caller| {
        let flags = (libc::O_CREAT | libc::O_WRONLY | libc::O_APPEND) as u64;
        let fd = caller.call("open", &[path, flags, 0o600]).cast_unsigned();
        for _ in 0..20_000 {
            assert_eq!(caller.call("write", &[fd, line, 8]), 8);
        }
        0
    });
    assert_eq!(size_of_file(&mut g, "/tmp/log"), 2 * 20_000 * 8);
}

#[test]
fn what_two_write_beyond_the_end_is_all_there() {
    let mut g = Guest::plain();
    g.write_file("/tmp/a", b"");
    let (path, byte) = (g.text("/tmp/a"), g.text("x"));
    let together = Barrier::new(2);
    let lost = g.by_two(|which, caller| {
        let fd = caller
            .call("open", &[path, libc::O_RDWR as u64])
            .cast_unsigned();
        let mut lost = 0;
        for _ in 0..10_000 {
            together.wait();
            assert_eq!(caller.call("pwrite64", &[fd, byte, 1, which * 4096]), 1);
            together.wait();
            if which == 0 {
                lost += u64::from(caller.call("lseek", &[fd, 0, libc::SEEK_END as u64]) != 4097);
                assert_eq!(caller.call("ftruncate", &[fd, 0]), 0);
            }
        }
        lost
    });
    assert_eq!(lost, 0);
}

#[test]
fn what_two_truncate_is_given_back_once() {
    let mut g = Guest::plain();
    g.write_file("/tmp/a", b"");
    let path = g.text("/tmp/a");
    let ballast = g
        .open("/tmp/b", libc::O_CREAT | libc::O_RDWR)
        .cast_unsigned();
    assert_eq!(g.call("ftruncate", &[ballast, 4 << 20]), 0);
    let together = Barrier::new(2);
    g.by_two(|which, caller| {
        for _ in 0..10_000 {
            together.wait();
            assert_eq!(caller.call("truncate", &[path, 0]), 0);
            together.wait();
            if which == 0 {
                assert_eq!(caller.call("truncate", &[path, 1 << 20]), 0);
            }
        }
        0
    });
    assert_eq!(g.call("truncate", &[path, 4 << 20]), 0);
    assert_eq!(g.call("truncate", &[path, (4 << 20) + 1]), ENOSPC);
    assert_eq!(g.call("truncate", &[path, 0]), 0);
    assert_eq!(g.call("ftruncate", &[ballast, 8 << 20]), 0);
    assert_eq!(g.call("ftruncate", &[ballast, (8 << 20) + 1]), ENOSPC);
}

#[test]
fn a_file_that_two_create_is_opened_by_both_or_made_by_one() {
    let mut g = Guest::plain();
    let path = g.text("/tmp/a");
    let together = Barrier::new(2);
    for (extra, opened) in [(0, 2), (libc::O_EXCL, 1)] {
        let flags = (libc::O_CREAT | libc::O_WRONLY | extra) as u64;
        let count = g.by_two(|which, caller| {
            let mut count = 0;
            for _ in 0..4000 {
                together.wait();
                let fd = caller.call("open", &[path, flags, 0o600]);
                if fd >= 0 {
                    count += 1;
                    caller.call("close", &[fd.cast_unsigned()]);
                } else {
                    assert_eq!(fd, EEXIST);
                }
                together.wait();
                if which == 0 {
                    assert_eq!(caller.call("unlink", &[path]), 0);
                }
            }
            count
        });
        assert_eq!(count, 4000 * opened);
    }
}

#[test]
fn of_two_that_rename_a_file_one_does() {
    let mut g = Guest::plain();
    let from = g.text("/tmp/job");
    let to = [g.text("/tmp/one"), g.text("/tmp/two")];
    let together = Barrier::new(2);
    let done = g.by_two(|which, caller| {
        let mut done = 0;
        for _ in 0..4000 {
            if which == 0 {
                assert_eq!(caller.call("symlink", &[from, from]), 0);
            }
            together.wait();
            match caller.call("rename", &[from, to[which as usize]]) {
                0 => done += 1,
                error => assert_eq!(error, ENOENT),
            }
            together.wait();
        }
        done
    });
    assert_eq!(done, 4000);
}

#[test]
fn of_two_that_read_from_one_description_each_gets_what_the_other_does_not() {
    let mut g = Guest::plain();
    g.write_file("/tmp/a", &vec![1; 1 << 20]);
    let fd = g.open("/tmp/a", 0).cast_unsigned();
    let buffers = [g.memory(4096), g.memory(4096)];
    let read = g.by_two(|which, caller| {
        let mut sum = 0;
        loop {
            match caller.call("read", &[fd, buffers[which as usize], 16]) {
                0 => return sum,
                got => sum += got.cast_unsigned(),
            }
        }
    });
    assert_eq!(read, 1 << 20);
}

#[test]
fn a_file_grows_by_what_was_written() {
    let mut g = Guest::plain();
    let fd = g
        .open("/tmp/a", libc::O_CREAT | libc::O_RDWR)
        .cast_unsigned();
    let memory = g.memory(8192);
    assert_eq!(g.call("mprotect", &[memory + 4096, 4096, 0]), 0);
    assert_eq!(g.call("write", &[fd, memory + 4096, 4096]), EFAULT);
    assert_eq!(g.call("pwrite64", &[fd, memory, 0, 5000]), 0);
    assert_eq!(size_of_file(&mut g, "/tmp/a"), 0);
    assert_eq!(g.call("write", &[fd, memory + 4000, 200]), 96);
    assert_eq!(size_of_file(&mut g, "/tmp/a"), 96);
    assert_eq!(g.call("lseek", &[fd, 0, libc::SEEK_CUR as u64]), 96);
    // What was not written is not counted.
    assert_eq!(g.call("ftruncate", &[fd, 8 << 20]), 0);
}

#[test]
fn a_full_tmp_leaves_what_is_made_up() {
    let mut g = Guest::plain();
    let fd = g
        .open("/tmp/a", libc::O_CREAT | libc::O_RDWR)
        .cast_unsigned();
    assert_eq!(g.call("ftruncate", &[fd, 8 << 20]), 0);
    assert_eq!(g.write_file("/tmp/b", b"x"), ENOSPC);
    assert!(g.read_file("/etc/passwd").is_ok());
    assert!(g.read_file("/proc/self/status").is_ok());
}

#[test]
fn listings_of_open_directories_take_the_guests_memory() {
    let mut g = Guest::new(nexus_personality::config::Config {
        memory_mib: 2,
        ..config(&[])
    });
    let (first, name) = (g.text("/tmp/first"), g.memory(4096));
    assert_eq!(g.call("symlink", &[first, first]), 0);
    for n in 0..1000 {
        g.poke(name, format!("/tmp/{n:0>200}\0").as_bytes());
        assert_eq!(g.call("link", &[first, name]), 0);
    }
    let buffer = g.memory(4096);
    let result = (0..200).find_map(|_| {
        let fd = g.open("/tmp", libc::O_DIRECTORY).cast_unsigned();
        Some(g.call("getdents64", &[fd, buffer, 4096])).filter(|got| *got < 0)
    });
    assert_eq!(result, Some(ENOMEM));
}

#[test]
fn what_epoll_watches_takes_the_guests_memory() {
    let mut g = Guest::new(nexus_personality::config::Config {
        memory_mib: 1,
        ..config(&[])
    });
    let watched: Vec<u64> = (0..100)
        .map(|_| g.call("eventfd2", &[0, 0]).cast_unsigned())
        .collect();
    let event = g.memory(4096);
    let result = (0..100).find_map(|_| {
        let epoll = g.call("epoll_create1", &[0]).cast_unsigned();
        let add = libc::EPOLL_CTL_ADD as u64;
        let results: Vec<i64> = (watched.iter())
            .map(|fd| g.call("epoll_ctl", &[epoll, add, *fd, event]))
            .collect();
        results.into_iter().find(|result| *result < 0)
    });
    assert_eq!(result, Some(ENOSPC));
}

#[test]
fn a_listing_tells_the_numbers_that_stat_does_and_not_the_hosts() {
    let (host, mut g) = with_links();
    let fd = g.open("/data", libc::O_DIRECTORY).cast_unsigned();
    let (buffer, to) = (g.memory(8192), g.memory(4096));
    let got = usize::try_from(g.call("getdents64", &[fd, buffer, 8192])).unwrap();
    let records = g.peek(buffer, got);
    let (mut rest, mut seen) = (records.as_slice(), 0);
    while !rest.is_empty() {
        let number = u64::from_le_bytes(rest[..8].try_into().unwrap());
        let length = usize::from(u16::from_le_bytes(rest[16..18].try_into().unwrap()));
        let name = rest[19..length].split(|b| *b == 0).next().unwrap();
        let name = String::from_utf8(name.to_vec()).unwrap();
        rest = &rest[length..];
        if name == ".." {
            continue;
        }
        let real = std::fs::symlink_metadata(host.path().join("root").join(&name)).unwrap();
        assert_ne!(number, real.ino());
        let path = g.text(&name);
        let nofollow = libc::AT_SYMLINK_NOFOLLOW as u64;
        assert_eq!(g.call("newfstatat", &[fd, path, to, nofollow]), 0);
        assert_eq!(g.peek(to + 8, 8), number.to_le_bytes(), "{name}");
        seen += 1;
    }
    assert!(seen > 7);
    // One that cannot be handed over is there again.
    assert_eq!(g.call("lseek", &[fd, 0, 0]), 0);
    let memory = g.memory(8192);
    assert_eq!(g.call("mprotect", &[memory, 4096, 0]), 0);
    assert_eq!(g.call("getdents64", &[fd, memory, 4096]), EFAULT);
    assert_eq!(g.call("getdents64", &[fd, buffer, 8192]), got as i64);
}

#[test]
fn a_path_that_grew_step_by_step_has_an_end() {
    let mut g = Guest::plain();
    let (tmp, name) = (g.text("/tmp"), g.text(&"n".repeat(255)));
    assert_eq!(g.call("chdir", &[tmp]), 0);
    let result = (0..1000).find_map(|_| {
        let made = g.call("mkdir", &[name, 0o700]);
        let gone = if made < 0 {
            made
        } else {
            g.call("chdir", &[name])
        };
        Some(gone).filter(|result| *result < 0)
    });
    assert_eq!(result, Some(-36), "ENAMETOOLONG");
    let long = g.text(&format!("/tmp/{}", "n".repeat(256)));
    assert_eq!(
        g.call("openat", &[CWD, long, (libc::O_CREAT) as u64, 0o600]),
        -36
    );
}
