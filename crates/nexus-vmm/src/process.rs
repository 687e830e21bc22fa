//! `isolation=process`: the same guest program as a jailed process of the host.

use crate::config::Serve;
use crate::jail::files::Rules;
use crate::jail::{self, filter, privileges};
use crate::report::{Event, Report, now};
use std::convert::Infallible;
use std::ffi::{CString, OsStr};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Beyond the function's limit: the interpreter's own mappings that a microVM would not charge either.
const DATA_SLACK: u64 = 64 << 20;
const OPEN_FILES: u64 = 1024;
const SYSTEM_FILES: [&str; 9] = [
    "/usr", "/lib", "/lib64", "/bin", "/sbin", "/etc", "/opt", "/proc", "/dev",
];
const WRITABLE_FILES: [&str; 6] = [
    "/tmp",
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/tty",
    "/dev/shm",
];

/// Jail this process and become the program.
///
/// # Errors
/// Why it could not: a sentence.
pub fn run(config: &Serve, report: &Report, started: Duration) -> Result<Infallible, String> {
    let text = |s: &[u8]| {
        CString::new(s).map_err(|_| "a NUL byte in program, argument or environment".to_owned())
    };
    let path = text(config.program.path.as_bytes())?;
    let argv = strings(config.program.argv.iter().map(String::as_bytes))?;
    let mut env = config.program.env.clone();
    let mut keep: Vec<RawFd> = report.fd().into_iter().collect();
    if let Some(device) = config.device {
        let completion = device.completion.ok_or("`device.completion` is missing")?;
        let descriptors = [device.arena, device.doorbell, completion];
        keep.extend(descriptors);
        for fd in descriptors {
            // SAFETY: descriptor flags of an inherited descriptor: the program inherits it in turn.
            if unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } != 0 {
                return Err(format!("device descriptor {fd} is not open"));
            }
        }
        let list = format!("{},{},{}", device.arena, device.doorbell, completion);
        env.insert(nexus_abi::device::PROCESS_ENV.to_owned(), list);
    }
    let env: Vec<String> = env
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let env = strings(env.iter().map(String::as_bytes))?;

    std::env::set_current_dir(&config.program.cwd)
        .map_err(|e| format!("working directory {}: {e}", config.program.cwd))?;
    confine(config, &keep).map_err(|e| e.to_string())?;
    report.send(&Event::Ready {
        isolation: "process",
        machine: "none",
        stages: &[],
        us: (now() - started).as_micros().try_into().unwrap_or(u64::MAX),
    });
    let (argv, env) = (pointers(&argv), pointers(&env));
    // SAFETY: NUL-terminated strings in lists that end with a null pointer, all alive.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    let error = std::io::Error::last_os_error();
    Err(format!("executing {}: {error}", config.program.path))
}

fn strings<'a>(list: impl Iterator<Item = &'a [u8]>) -> Result<Vec<CString>, String> {
    list.map(|s| {
        CString::new(s).map_err(|_| "a NUL byte in an argument or the environment".to_owned())
    })
    .collect()
}

fn pointers(list: &[CString]) -> Vec<*const libc::c_char> {
    list.iter()
        .map(|s| s.as_ptr())
        .chain([std::ptr::null()])
        .collect()
}

fn confine(config: &Serve, keep: &[RawFd]) -> Result<(), jail::Error> {
    privileges::close_others(keep)?;
    privileges::limit(Some((config.memory_mib << 20) + DATA_SLACK), OPEN_FILES)?;
    privileges::drop_all(config.jail.uid)?;
    if config.jail.landlock {
        let readable = readable(config);
        let readable = readable.iter().map(|path| (path.as_path(), false));
        let writable = WRITABLE_FILES.map(|path| (Path::new(path), true));
        let rules = (readable.chain(writable))
            .try_fold(Rules::new()?, |rules, (path, writable)| {
                rules.beneath(path, writable)
            })?;
        rules.restrict()?;
    }
    filter::confine_process()
}

/// What the program needs to read: the system's libraries, the interpreter's prefix, and where its modules are.
fn readable(config: &Serve) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = SYSTEM_FILES.iter().map(PathBuf::from).collect();
    let program = Path::new(&config.program.path);
    let real = program
        .canonicalize()
        .unwrap_or_else(|_| program.to_path_buf());
    for path in [program, &real] {
        // PREFIX/bin/python
        paths.extend(path.parent().and_then(Path::parent).map(Path::to_path_buf));
    }
    paths.push(PathBuf::from(&config.program.cwd));
    for name in ["PYTHONPATH", "NEXUS_MODULE_PATH"] {
        if let Some(modules) = config.program.env.get(name) {
            paths.extend(std::env::split_paths(OsStr::from_bytes(modules.as_bytes())));
        }
    }
    // A program at the root would otherwise open everything.
    paths.retain(|path| path.is_absolute() && path != Path::new("/"));
    paths
}
