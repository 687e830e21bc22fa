//! Files that runtimes read and that tell of the guest alone: `/proc`, some of `/sys` and of `/etc`.

use super::names::Node;
use crate::config::Config;
use crate::syscall::info::RELEASE;

/// What they tell.
#[derive(Clone)]
pub struct Facts {
    program: Vec<u8>,
    cpus: u32,
    memory_mib: u64,
    hostname: String,
    device: bool,
    network: bool,
}

/// Files of `/proc/self` that are written when they are opened (`syscall/proc.rs`).
const OF_PROCESS: [&str; 9] = [
    "/proc/self/cmdline",
    "/proc/self/comm",
    "/proc/self/environ",
    "/proc/self/limits",
    "/proc/self/maps",
    "/proc/self/smaps",
    "/proc/self/stat",
    "/proc/self/statm",
    "/proc/self/status",
];

/// The others.
const FIXED: [&str; 32] = [
    "/proc/self/exe",
    "/proc/self/cwd",
    "/proc/self/cgroup",
    "/proc/self/mounts",
    "/proc/self/mountinfo",
    "/proc/self/oom_score_adj",
    "/proc/mounts",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/loadavg",
    "/proc/uptime",
    "/proc/version",
    "/proc/filesystems",
    "/proc/net/if_inet6",
    "/proc/sys/kernel/osrelease",
    "/proc/sys/kernel/pid_max",
    "/proc/sys/kernel/ngroups_max",
    "/proc/sys/kernel/cap_last_cap",
    "/proc/sys/kernel/threads-max",
    "/proc/sys/fs/pipe-max-size",
    "/proc/sys/vm/overcommit_memory",
    "/sys/devices/system/cpu/online",
    "/sys/devices/system/cpu/possible",
    "/sys/devices/system/cpu/present",
    "/etc/passwd",
    "/etc/group",
    "/etc/shadow",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/resolv.conf",
];

/// Services that programs look up by name.
const SERVICES: &str = "/etc/services";

/// All paths of made-up files.
pub fn made_up_paths<'a>() -> impl Iterator<Item = &'a [u8]> {
    FIXED
        .iter()
        .chain(&OF_PROCESS)
        .chain([&"/proc/self/fd", &SERVICES])
        .map(|p| p.as_bytes())
}

impl Facts {
    /// Of a guest.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        Self {
            program: config.program.path.clone().into_bytes(),
            cpus: config.cpus,
            memory_mib: config.memory_mib,
            hostname: config.hostname.clone(),
            device: config.device.is_some(),
            network: config.device.is_some_and(|d| d.network.is_some()),
        }
    }

    /// The same for another program, without a device.
    #[must_use]
    pub fn for_program(&self, program: &str) -> Self {
        Self {
            program: program.as_bytes().to_vec(),
            device: false,
            ..self.clone()
        }
    }

    /// Whether there is a `/dev/nexus`.
    #[must_use]
    pub fn has_device(&self) -> bool {
        self.device
    }

    /// The made-up file or directory of this path.
    #[must_use]
    pub fn node(&self, path: &[u8]) -> Option<Node> {
        let path = std::str::from_utf8(path).ok()?;
        if matches!(path, "/proc" | "/proc/self" | "/proc/self/fd") {
            return Some(Node::Synthetic);
        }
        if path == "/proc/self/exe" {
            return Some(Node::Link(self.program.clone()));
        }
        if let Some(number) = path.strip_prefix("/proc/self/fd/") {
            return number.parse().ok().map(Node::Descriptor);
        }
        if let Some(found) = OF_PROCESS.iter().find(|p| **p == path) {
            return found.strip_prefix("/proc/self/").map(Node::Process);
        }
        if path == "/etc/shadow" {
            return Some(Node::Shadow);
        }
        if path == "/proc/self/cwd" {
            return Some(Node::Process("cwd"));
        }
        self.text(path).map(|text| Node::MadeUp(text.into_bytes()))
    }

    fn text(&self, path: &str) -> Option<String> {
        let last = self.cpus.saturating_sub(1);
        Some(match path {
            "/proc/self/cgroup" => "0::/\n".to_owned(),
            "/proc/self/oom_score_adj" => "0\n".to_owned(),
            "/proc/self/mounts" | "/proc/mounts" => {
                let line =
                    |at: &str, kind: &str, how: &str| format!("{kind} {at} {kind} {how} 0 0\n");
                line("/", "rootfs", "ro")
                    + &line("/tmp", "tmpfs", "rw,nosuid,nodev")
                    + &line("/dev", "devtmpfs", "ro,nosuid")
                    + &line("/dev/shm", "tmpfs", "rw,nosuid,nodev")
                    + &line("/proc", "proc", "ro")
            }
            "/proc/self/mountinfo" => {
                let line = |id, at: &str, kind: &str, how: &str| {
                    format!("{id} 1 0:{id} / {at} {how} - {kind} {kind} {how}\n")
                };
                line(1, "/", "rootfs", "ro")
                    + &line(2, "/tmp", "tmpfs", "rw")
                    + &line(3, "/dev", "devtmpfs", "ro")
                    + &line(5, "/dev/shm", "tmpfs", "rw")
                    + &line(6, "/proc", "proc", "ro")
            }
            "/proc/cpuinfo" => (0..self.cpus)
                .map(|n| {
                    format!(
                        "processor\t: {n}\nmodel name\t: Nexus\ncpu cores\t: {}\n\n",
                        self.cpus
                    )
                })
                .collect(),
            "/proc/meminfo" => {
                let kib = self.memory_mib * 1024;
                format!(
                    "MemTotal: {kib:>14} kB\nMemFree: {kib:>15} kB\nMemAvailable: {kib:>10} kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n"
                )
            }
            "/proc/stat" => (0..self.cpus).fold("cpu  0 0 0 0 0 0 0 0 0 0\n".to_owned(), |s, n| {
                s + &format!("cpu{n} 0 0 0 0 0 0 0 0 0 0\n")
            }),
            "/proc/loadavg" => "0.00 0.00 0.00 1/1 1\n".to_owned(),
            "/proc/uptime" => "1.00 1.00\n".to_owned(),
            "/proc/version" => format!("Linux version {RELEASE}\n"),
            "/proc/filesystems" => "nodev\ttmpfs\n".to_owned(),
            // Address, interface, prefix, scope, flags, name: Java looks here whether there is IPv6.
            "/proc/net/if_inet6" => {
                "00000000000000000000000000000001 01 80 10 80       lo\n".to_owned()
            }
            "/proc/sys/kernel/osrelease" => format!("{RELEASE}\n"),
            "/proc/sys/kernel/pid_max" => "32768\n".to_owned(),
            "/proc/sys/kernel/ngroups_max" => "65536\n".to_owned(),
            "/proc/sys/kernel/cap_last_cap" => "40\n".to_owned(),
            "/proc/sys/kernel/threads-max" => "1024\n".to_owned(),
            "/proc/sys/fs/pipe-max-size" => "1048576\n".to_owned(),
            "/proc/sys/vm/overcommit_memory" => "1\n".to_owned(),
            "/sys/devices/system/cpu/online"
            | "/sys/devices/system/cpu/possible"
            | "/sys/devices/system/cpu/present" => format!("0-{last}\n"),
            "/etc/passwd" => {
                "root:x:0:0:root:/:/bin/sh\nuser:x:1000:1000:user:/tmp:/bin/sh\n".to_owned()
            }
            "/etc/group" => "root:x:0:\nuser:x:1000:\n".to_owned(),
            "/etc/hostname" => format!("{}\n", self.hostname),
            "/etc/hosts" => format!(
                "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.0.1 {}\n",
                self.hostname
            ),
            "/etc/nsswitch.conf" => {
                let dns = if self.network { " dns" } else { "" };
                format!("passwd: files\ngroup: files\nhosts: files{dns}\nservices: files\n")
            }
            "/etc/resolv.conf" => {
                let address = std::net::Ipv4Addr::from(nexus_abi::network::RESOLVER);
                format!("nameserver {address}\n")
            }
            SERVICES => {
                [
                    "echo\t7/tcp",
                    "echo\t7/udp",
                    "discard\t9/tcp",
                    "daytime\t13/tcp",
                    "ftp\t21/tcp",
                    "ssh\t22/tcp",
                    "telnet\t23/tcp",
                    "smtp\t25/tcp",
                    "time\t37/tcp",
                    "domain\t53/tcp",
                    "domain\t53/udp",
                    "http\t80/tcp",
                    "pop3\t110/tcp",
                    "nntp\t119/tcp",
                    "ntp\t123/udp",
                    "imap2\t143/tcp",
                    "https\t443/tcp",
                    "imaps\t993/tcp",
                    "pop3s\t995/tcp",
                ]
                .join("\n")
                    + "\n"
            }
            _ => return None,
        })
    }
}
