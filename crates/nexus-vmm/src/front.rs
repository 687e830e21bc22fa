//! `nexus-vmm run`: any program in a microVM of its own, by hand.

use crate::config::{Jail, Mode, Serve};
use crate::serve;
use nexus_personality::config::{Program, Root};
use std::path::PathBuf;

/// What an ordinary program needs of the host, shown read-only at the same paths.
const SYSTEM: [&str; 12] = [
    "/usr",
    "/lib",
    "/lib64",
    "/bin",
    "/sbin",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/ssl",
    "/etc/alternatives",
    "/etc/python3",
];

/// Parse `[--memory MIB] [--threads N] [--ro DIR]... [--rw DIR]... [--env K=V]... [--cwd DIR] -- PROGRAM ARGS` and run it.
///
/// # Errors
/// What is wrong with the arguments.
pub fn run(arguments: &[&str]) -> Result<i32, String> {
    Ok(serve::run(&configuration(arguments)?))
}

fn configuration(arguments: &[&str]) -> Result<Serve, String> {
    let mut config = Serve {
        version: 1,
        mode: Mode::Run,
        memory_mib: 512,
        max_threads: 64,
        tmp_mib: 512,
        cpus: 1,
        hostname: "nexus".into(),
        roots: SYSTEM
            .iter()
            .filter(|path| std::fs::metadata(path).is_ok())
            .map(|path| root(path, false))
            .collect(),
        program: Program {
            cwd: "/".into(),
            ..Program::default()
        },
        device: None,
        report: None,
        snapshot: None,
        base: None,
        working_set: None,
        likely: Vec::new(),
        record: false,
        tidy_ms: None,
        jail: Jail {
            uid: None,
            landlock: true,
        },
    };
    let mut words = arguments.iter().copied();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word {
            "--memory" => config.memory_mib = number(word, value()?)?,
            "--threads" => config.max_threads = number(word, value()?)?,
            "--ro" => config.roots.push(root(value()?, false)),
            "--rw" => config.roots.push(root(value()?, true)),
            "--cwd" => config.program.cwd = value()?.into(),
            "--env" => {
                let pair = value()?;
                let (name, text) = pair
                    .split_once('=')
                    .ok_or_else(|| format!("--env {pair}: not NAME=VALUE"))?;
                config.program.env.insert(name.into(), text.into());
            }
            "--" => {
                config.program.argv = words.by_ref().map(str::to_owned).collect();
            }
            other => return Err(format!("{other} is not an option of `run`")),
        }
    }
    let program = config
        .program
        .argv
        .first()
        .ok_or("no program: put it behind `--`")?;
    let host = find(program).ok_or_else(|| format!("{program}: not found"))?;
    config.program.path = host.to_string_lossy().into_owned();
    if !config.roots.iter().any(|r| host.starts_with(&r.guest)) {
        // A place of its own: the guest's /tmp, /proc and /dev are not the host's.
        let name = host.file_name().unwrap_or_default().to_string_lossy();
        let guest = format!("/opt/program/{name}");
        config.roots.push(Root {
            guest: guest.clone(),
            host,
            writable: false,
        });
        config.program.path = guest;
    }
    Ok(config)
}

fn number<T: std::str::FromStr>(option: &str, text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| format!("{option} {text}: not a number"))
}

fn root(path: &str, writable: bool) -> Root {
    Root {
        guest: path.into(),
        host: path.into(),
        writable,
    }
}

/// The program's absolute path: as given, or by PATH.
fn find(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return std::path::absolute(program).ok().filter(|p| p.is_file());
    }
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}
