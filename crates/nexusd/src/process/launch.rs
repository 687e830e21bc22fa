//! The configuration a VMM is started with, and the environment of its guest.

use super::numbers;
use super::spawner::Launch;
use crate::config::Config;
use crate::registry::Version;
use crate::registry::deployment::Offload;
use crate::registry::names::LATEST;
use nexus_abi::operation::{PLACEHOLDER_KEY_ID, PLACEHOLDER_SECRET, S3_ENDPOINT_ENV};
use nexus_backend::GuestDescriptors;
use serde::Serialize;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::io::{self, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const TASK_ROOT: &str = "/var/task";
const LAYERS: &str = "/opt/layers";
const RUNTIME: &str = "/opt/nexus";
/// Where a function's modules are.
const MODULE_PATH: &str = "NEXUS_MODULE_PATH";

/// What the VMM is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    Initialise,
    Restore,
    Process,
}

#[derive(Serialize)]
struct VmmConfig<'a> {
    version: u32,
    mode: Mode,
    memory_mib: u64,
    max_threads: u32,
    tmp_mib: u64,
    cpus: u32,
    hostname: &'a str,
    roots: Vec<Root<'a>>,
    program: Program<'a>,
    device: Device,
    report: i32,
    snapshot: Option<&'a Path>,
    base: Option<&'a Path>,
    working_set: Option<&'a Path>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    likely: &'a [PathBuf],
    record: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    tidy_ms: Option<u64>,
    jail: Jail,
}

#[derive(Serialize)]
struct Root<'a> {
    guest: String,
    host: std::borrow::Cow<'a, Path>,
    writable: bool,
}

#[derive(Serialize)]
struct Program<'a> {
    path: &'a Path,
    argv: [&'a str; 4],
    env: BTreeMap<String, String>,
    cwd: &'a str,
}

#[derive(Serialize)]
struct Device {
    arena: i32,
    doorbell: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    completion: Option<i32>,
    network: Option<i32>,
}

#[derive(Serialize)]
struct Jail {
    uid: Option<u32>,
    landlock: bool,
}

/// The snapshots that a VMM has to do with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Places<'a> {
    /// Where to write or to read one.
    pub at: Option<&'a Path>,
    /// What to initialise from.
    pub base: Option<&'a Path>,
    /// What is known of the use of the one to read.
    pub working_set: Option<&'a Path>,
    /// For a shell: the same of those that rest on it and that it may become.
    pub likely: &'a [PathBuf],
}

/// The document for `nexus-vmm serve`. `record`: the VMM is to be ready to record its guest's working set.
pub fn vmm_config(
    config: &Config,
    version: &Version,
    mode: Mode,
    places: Places<'_>,
    record: bool,
) -> Vec<u8> {
    let d = &version.deployment;
    let in_vm = mode != Mode::Process;
    // What `python -m` is started in comes first on its module path: so the runtime is found, whatever the function
    // brings. It works in the task root from then on.
    let cwd = if in_vm {
        RUNTIME
    } else {
        // The paths were checked to be UTF-8 when they were deployed.
        d.runtime.to_str().unwrap_or("/")
    };
    let document = VmmConfig {
        version: 1,
        mode,
        memory_mib: d.memory_mib,
        max_threads: 64,
        tmp_mib: d.tmp_mib,
        cpus: 1,
        hostname: "nexus",
        roots: if in_vm { roots(version) } else { Vec::new() },
        program: Program {
            path: &d.python,
            // The whole path: CPython finds its library by argv[0], through PATH where that has no slash.
            argv: [
                d.python.to_str().unwrap_or("python3"),
                "-B",
                "-m",
                "nexus.guest.runtime",
            ],
            env: environment(config, version, in_vm),
            cwd,
        },
        device: Device {
            arena: numbers::ARENA,
            doorbell: numbers::DOORBELL,
            completion: (!in_vm).then_some(numbers::COMPLETION),
            network: in_vm.then_some(numbers::NETWORK),
        },
        report: numbers::REPORT,
        snapshot: places.at,
        base: places.base,
        working_set: places.working_set,
        likely: places.likely,
        record,
        tidy_ms: (mode == Mode::Restore && config.tidy_ms > 0).then_some(config.tidy_ms),
        jail: Jail {
            uid: config
                .instance_uid()
                .filter(|_| in_vm || others_may_read(version)),
            landlock: true,
        },
    };
    // Paths and strings only: serialising cannot fail; an empty document is refused by the VMM.
    serde_json::to_vec(&document).unwrap_or_default()
}

/// Whether another user can reach what a process instance runs. A microVM is given open directories
/// instead, so it always can.
fn others_may_read(version: &Version) -> bool {
    let d = &version.deployment;
    let reach = |path: &Path| {
        path.canonicalize().is_ok_and(|path| {
            path.ancestors().all(|part| {
                std::fs::metadata(part).is_ok_and(|m| m.permissions().mode() & 0o001 != 0)
            })
        })
    };
    let reachable = [&d.code, &d.runtime, &d.python]
        .into_iter()
        .chain(&d.layers)
        .all(|path| reach(path));
    if !reachable {
        tracing::warn!(
            function = %version.name,
            "runs as root: its files are not open to other users"
        );
    }
    reachable
}

fn roots(version: &Version) -> Vec<Root<'_>> {
    let d = &version.deployment;
    let root = |guest: String, host: &'_ Path| Root {
        guest,
        host: host.to_path_buf().into(),
        writable: false,
    };
    let mut roots = vec![root(RUNTIME.to_owned(), &d.runtime)];
    if !d.is_base() {
        roots.push(root(TASK_ROOT.to_owned(), &d.code));
    }
    for (index, layer) in d.layers.iter().enumerate() {
        roots.push(root(format!("{LAYERS}/{index}"), layer));
    }
    for host in &d.roots {
        roots.push(root(host.to_string_lossy().into_owned(), host));
    }
    roots
}

/// The environment of a function, as AWS Lambda sets it.
fn environment(config: &Config, version: &Version, in_vm: bool) -> BTreeMap<String, String> {
    let d = &version.deployment;
    let display = |p: &Path| p.to_string_lossy().into_owned();
    let task_root = if in_vm {
        TASK_ROOT.to_owned()
    } else {
        display(&d.code)
    };
    let runtime = if in_vm {
        RUNTIME.to_owned()
    } else {
        display(&d.runtime)
    };
    let mut path = vec![task_root.clone()];
    path.extend(d.layers.iter().enumerate().map(|(index, layer)| {
        if in_vm {
            format!("{LAYERS}/{index}")
        } else {
            display(layer)
        }
    }));
    path.push(runtime.clone());
    let mut at_start = runtime.clone();

    let mut env: BTreeMap<String, String> = [
        ("PATH", "/usr/local/bin:/usr/bin:/bin:/opt/bin"),
        ("LANG", "en_US.UTF-8"),
        ("TZ", ":UTC"),
        ("HOME", "/tmp"),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .collect();
    for (service, url) in &config.endpoints {
        let service: String = service
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() {
                    c.to_ascii_uppercase()
                } else {
                    '_'
                }
            })
            .collect();
        env.insert(format!("AWS_ENDPOINT_URL_{service}"), url.clone());
    }
    for (name, value) in &d.environment {
        if name == "PYTHONPATH" {
            path.insert(0, value.clone());
            at_start = format!("{value}:{runtime}");
        } else {
            env.insert(name.clone(), value.clone());
        }
    }
    let snap_start = if in_vm { "snap-start" } else { "on-demand" };
    let ours = [
        // As on Lambda, the task root and the layers come with the handler: what the interpreter and the runtime import
        // at their start is the standard library's. The runtime makes the one variable of the other.
        ("PYTHONPATH", at_start),
        (MODULE_PATH, path.join(":")),
        ("AWS_LAMBDA_FUNCTION_NAME", version.name.to_string()),
        ("AWS_LAMBDA_FUNCTION_VERSION", LATEST.to_owned()),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", d.memory_mib.to_string()),
        (
            "AWS_LAMBDA_LOG_GROUP_NAME",
            format!("/aws/lambda/{}", version.name),
        ),
        (
            "AWS_LAMBDA_LOG_STREAM_NAME",
            format!("{}[{LATEST}]", version.name),
        ),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", snap_start.to_owned()),
        ("AWS_EXECUTION_ENV", "AWS_Lambda_python3".to_owned()),
        ("AWS_REGION", config.region.clone()),
        ("AWS_DEFAULT_REGION", config.region.clone()),
        ("LAMBDA_TASK_ROOT", task_root),
        ("LAMBDA_RUNTIME_DIR", runtime),
        ("_HANDLER", d.handler.clone()),
        ("NEXUS_OFFLOAD", d.offload.as_str().to_owned()),
        (
            S3_ENDPOINT_ENV,
            config.endpoints.get("s3").cloned().unwrap_or_default(),
        ),
    ];
    if d.offload == Offload::Coupled {
        env.insert(
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI".to_owned(),
            "/nexus".to_owned(),
        );
    } else {
        for (name, value) in [
            ("AWS_ACCESS_KEY_ID", PLACEHOLDER_KEY_ID),
            ("AWS_SECRET_ACCESS_KEY", PLACEHOLDER_SECRET),
        ] {
            env.insert(name.to_owned(), value.to_owned());
        }
    }
    env.extend(ours.map(|(name, value)| (name.to_owned(), value)));
    env
}

/// The descriptors of one instance that its VMM inherits.
pub struct Ends {
    pub device: GuestDescriptors,
    /// Write end: standard output and error.
    pub log: OwnedFd,
    /// Write end.
    pub report: OwnedFd,
}

/// Everything the spawner needs for one VMM.
///
/// # Errors
/// Out of descriptors or memory; a path with a NUL.
pub fn launch(config: &Config, document: &[u8], ends: Ends) -> io::Result<Launch> {
    let text = |s: String| CString::new(s).map_err(io::Error::from);
    let log = ends.log.as_fd().try_clone_to_owned()?;
    let null = std::fs::File::open("/dev/null")?;
    let device = ends.device;
    let completion = device.completion.map(|end| (end, numbers::COMPLETION));
    let mut descriptors = vec![
        (null.into(), 0),
        (log, 1),
        (ends.log, 2),
        (device.arena, numbers::ARENA),
        (device.doorbell, numbers::DOORBELL),
        (device.network, numbers::NETWORK),
        (ends.report, numbers::REPORT),
    ];
    descriptors.extend(completion);
    descriptors.push((document_fd(document)?, numbers::CONFIG));
    let (program, environment) = vmm(config)?;
    Ok(Launch {
        arguments: vec![
            program.clone(),
            c"serve".to_owned(),
            c"--config-fd".to_owned(),
            text(numbers::CONFIG.to_string())?,
        ],
        program,
        environment,
        descriptors,
    })
}

/// Everything the spawner needs for one shell, which listens on `control`; `base`: the document that its base is restored with.
///
/// # Errors
/// As [`launch`].
pub fn shell(config: &Config, control: OwnedFd, base: Option<&[u8]>) -> io::Result<Launch> {
    let (program, environment) = vmm(config)?;
    let null = OwnedFd::from(std::fs::File::open("/dev/null")?);
    let number = |number: i32| CString::new(number.to_string()).map_err(io::Error::from);
    let mut arguments = vec![
        program.clone(),
        c"shell".to_owned(),
        c"--control-fd".to_owned(),
        number(numbers::CONTROL)?,
    ];
    if let Some(uid) = config.instance_uid() {
        let uid = CString::new(uid.to_string()).map_err(io::Error::from)?;
        arguments.extend([c"--uid".to_owned(), uid]);
    }
    let mut descriptors = vec![
        (null.try_clone()?, 0),
        (null, 1),
        // What it says before it belongs to a function is the node's.
        (io::stderr().as_fd().try_clone_to_owned()?, 2),
        (control, numbers::CONTROL),
    ];
    if let Some(base) = base {
        arguments.extend([c"--base-fd".to_owned(), number(numbers::CONFIG)?]);
        descriptors.push((document_fd(base)?, numbers::CONFIG));
    }
    Ok(Launch {
        program,
        arguments,
        environment,
        descriptors,
    })
}

/// The VMM's program and environment.
fn vmm(config: &Config) -> io::Result<(CString, Vec<CString>)> {
    let program = CString::new(config.vmm.as_os_str().as_bytes())?;
    let mut environment = std::env::vars_os()
        .filter(|(name, _)| name.as_bytes().starts_with(b"NEXUS_VMM_") || name == "RUST_BACKTRACE")
        .map(|(name, value)| {
            CString::new([name.as_bytes(), b"=", value.as_bytes()].concat())
                .map_err(io::Error::from)
        })
        .collect::<io::Result<Vec<_>>>()?;
    // Pieces that each thread keeps for itself lie all over a heap, and keep its pages in use: measured, 70 of 190 KiB.
    environment.push(c"GLIBC_TUNABLES=glibc.malloc.tcache_count=0".to_owned());
    Ok((program, environment))
}

/// A memfd that holds `document`, to be read from its start.
///
/// # Errors
/// Out of descriptors or memory.
pub fn document_fd(document: &[u8]) -> io::Result<OwnedFd> {
    // SAFETY: a NUL-terminated name and no pointers beyond it.
    let fd = unsafe { libc::memfd_create(c"nexus-vmm-config".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, owned by nobody else.
    let mut file = unsafe { std::fs::File::from_raw_fd(fd) };
    file.write_all(document)?;
    io::Seek::rewind(&mut file)?;
    Ok(file.into())
}
