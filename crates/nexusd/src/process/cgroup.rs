//! A control group for the node's instances, beneath the one that the daemon itself is in: a second wall for memory, and less weight
//! on the CPU than the daemon has. In it each instance has a group of its own with equal weight, so that one with many threads
//! takes no more of a busy CPU than one with a single thread.
//!
//! Memory has one group for all: what one instance may use is the hypervisor's account; this keeps them all together from taking
//! the host's last memory. With cgroup v1 the spawning thread enters, and what it starts begins there. With v2 a process is in
//! one group as a whole, so each child enters before it executes.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};

/// Of the host's memory, what instances may have together.
const SHARE: (u64, u64) = (7, 8);
/// The default is 1024 shares (v1), a weight of 100 (v2).
const CPU_SHARES: &str = "512";
const CPU_WEIGHT: &str = "50";
/// Of a group, before the daemon's process id.
const NAME: &str = "nexus-instances-";

/// The group of all. It is removed when dropped or by the next daemon, which fails silently as long as somebody is in it.
#[derive(Debug)]
pub struct Group {
    directories: Vec<PathBuf>,
    /// v1: where a thread enters.
    tasks: Vec<PathBuf>,
    /// Where each instance has its own; `None`: the controllers are not there for it.
    places: Option<PathBuf>,
    version: Version,
    /// Those made so far.
    count: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// The group of one instance, to be removed when that has ended.
#[derive(Debug)]
pub struct Place {
    directory: PathBuf,
    /// v2: what the child writes "0" to before it executes.
    procs: Option<File>,
}

impl Place {
    #[must_use]
    pub fn procs(&self) -> Option<RawFd> {
        self.procs.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// The child has entered.
    pub fn taken(&mut self) {
        self.procs = None;
    }

    /// Remove it, or give it back: somebody is in it still, as the spawning thread is in the one that it made last (v1).
    ///
    /// # Errors
    /// The place.
    pub fn remove(self) -> Result<(), Self> {
        match fs::remove_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Err(self),
            _ => Ok(()),
        }
    }
}

impl Group {
    /// Make it. `proc` and `mounts` are `/proc/self/cgroup` and `/sys/fs/cgroup`.
    ///
    /// # Errors
    /// Neither version can be had here; the reason.
    pub fn make(proc: &Path, mounts: &Path) -> io::Result<Self> {
        let own = fs::read_to_string(proc)?;
        let limit = total_memory()? / SHARE.1 * SHARE.0;
        let name = format!("{NAME}{}", std::process::id());
        let mut group = Self {
            directories: Vec::new(),
            tasks: Vec::new(),
            places: None,
            version: Version::One,
            count: 0,
        };
        let unified = mounts.join("cgroup.controllers");
        if unified.exists() {
            group.version = Version::Two;
            group.unified(&own, mounts, &name, limit)?;
        } else {
            let parent = |controller| beneath(mounts, controller, &own);
            group.old(
                &parent("memory")?.join(&name),
                "memory.limit_in_bytes",
                &limit.to_string(),
            )?;
            let cpu = parent("cpu")?.join(&name);
            group.old(&cpu, "cpu.shares", CPU_SHARES)?;
            group.places = Some(cpu);
        }
        Ok(group)
    }

    fn old(&mut self, directory: &Path, key: &str, value: &str) -> io::Result<()> {
        self.directory(directory)?;
        fs::write(directory.join(key), value)?;
        self.tasks.push(directory.join("tasks"));
        Ok(())
    }

    /// A group that distributes controllers has no processes of its own, so the daemon moves down beside its instances.
    fn unified(&mut self, own: &str, mounts: &Path, name: &str, limit: u64) -> io::Result<()> {
        let path = own.lines().find_map(|line| line.strip_prefix("0::"));
        let path =
            path.ok_or_else(|| io::Error::other("this process is in no group of cgroup v2"))?;
        let parent = mounts.join(path.trim_start_matches('/'));
        let (daemon, instances) = (parent.join("nexusd"), parent.join(name));
        self.directory(&instances)?;
        if !daemon.exists() {
            self.directory(&daemon)?;
        }
        fs::write(daemon.join("cgroup.procs"), "0")?;
        fs::write(parent.join("cgroup.subtree_control"), "+memory +cpu")?;
        fs::write(instances.join("memory.max"), limit.to_string())?;
        fs::write(instances.join("cpu.weight"), CPU_WEIGHT)?;
        // A group that distributes a controller has no processes of its own: each instance has to have one.
        fs::write(instances.join("cgroup.subtree_control"), "+cpu")?;
        self.places = Some(instances);
        Ok(())
    }

    fn directory(&mut self, path: &Path) -> io::Result<()> {
        // Groups of daemons that are gone: a daemon that ends is in its own.
        for left in path.parent().into_iter().flat_map(fs::read_dir).flatten() {
            let left = left?;
            if is_abandoned(&left.file_name().to_string_lossy()) {
                remove(&left.path());
            }
        }
        fs::create_dir(path)
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
        self.directories.push(path.to_path_buf());
        Ok(())
    }

    /// Put the calling thread, and so what it starts, into the group (v1).
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn enter(&self) -> io::Result<()> {
        for tasks in &self.tasks {
            File::options().write(true).open(tasks)?.write_all(b"0")?;
        }
        Ok(())
    }

    /// A group for what is started next. With v1 the calling thread enters it.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn place(&mut self) -> io::Result<Option<Place>> {
        let Some(places) = &self.places else {
            return Ok(None);
        };
        self.count += 1;
        let directory = places.join(self.count.to_string());
        fs::create_dir(&directory)?;
        let entered = match self.version {
            Version::One => fs::write(directory.join("tasks"), "0").map(|()| None),
            Version::Two => File::options()
                .write(true)
                .open(directory.join("cgroup.procs"))
                .map(Some),
        };
        match entered {
            Ok(procs) => Ok(Some(Place { directory, procs })),
            Err(error) => {
                let _ = fs::remove_dir(&directory);
                Err(error)
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for directory in self.directories.iter().rev() {
            remove(directory);
        }
    }
}

/// Whether a directory of this name is the group of a daemon that is gone. One that runs may have a group that is empty for
/// the moment. Our own process id is a former daemon's here: we have no group yet.
fn is_abandoned(name: &str) -> bool {
    let daemon = name
        .strip_prefix(NAME)
        .and_then(|id| id.parse::<u32>().ok());
    daemon.is_some_and(|id| id == std::process::id() || !Path::new(&format!("/proc/{id}")).exists())
}

/// Remove a group and those in it, where nobody is in them.
fn remove(directory: &Path) {
    for inner in fs::read_dir(directory).into_iter().flatten().flatten() {
        if inner.file_type().is_ok_and(|kind| kind.is_dir()) {
            let _ = fs::remove_dir(inner.path());
        }
    }
    let _ = fs::remove_dir(directory);
}

/// This process's directory of one controller (v1).
fn beneath(mounts: &Path, controller: &str, own: &str) -> io::Result<PathBuf> {
    let path = own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let controllers = fields.next()?;
        controllers
            .split(',')
            .any(|c| c == controller)
            .then_some(fields.next()?)
    });
    let path =
        path.ok_or_else(|| io::Error::other(format!("no cgroup controller {controller}")))?;
    Ok(mounts.join(controller).join(path.trim_start_matches('/')))
}

fn total_memory() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|number| number.trim().parse::<u64>().ok());
    Ok(kib.ok_or_else(|| io::Error::other("/proc/meminfo has no MemTotal"))? << 10)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A tree of plain files where the kernel's would be.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str, own: &str, directories: &[&str]) -> (Self, PathBuf) {
            let path = std::env::temp_dir().join(format!("nexus-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            for directory in directories {
                fs::create_dir_all(path.join(directory)).unwrap();
            }
            let proc = path.join("own");
            fs::write(&proc, own).unwrap();
            (Self(path), proc)
        }

        fn path(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_old_version_has_one_group_for_each_controller() {
        let own = "4:memory:/a/b\n2:cpuacct,cpu:/\n0::/\n";
        let (mounts, proc) = Tree::new("v1", own, &["memory/a/b", "cpu"]);
        let group = Group::make(&proc, mounts.path()).unwrap();
        let name = format!("nexus-instances-{}", std::process::id());
        let limit = fs::read_to_string(
            mounts
                .path()
                .join(format!("memory/a/b/{name}/memory.limit_in_bytes")),
        )
        .unwrap();
        let total = total_memory().unwrap();
        assert!((total / 2..total).contains(&limit.parse::<u64>().unwrap()));
        assert_eq!(
            fs::read_to_string(mounts.path().join(format!("cpu/{name}/cpu.shares"))).unwrap(),
            CPU_SHARES
        );
        assert_eq!(group.tasks.len(), 2);
    }

    #[test]
    fn groups_of_daemons_that_run_are_left_alone() {
        // A process that is there, one that cannot be, and our own.
        let own = std::process::id();
        assert!(!is_abandoned(&format!("{NAME}1")));
        assert!(is_abandoned(&format!("{NAME}{}", u32::MAX)));
        assert!(is_abandoned(&format!("{NAME}{own}")));
        assert!(!is_abandoned(NAME) && !is_abandoned("another"));
    }

    #[test]
    fn each_instance_has_a_place_that_goes_with_it() {
        let own = "4:memory:/\n2:cpu:/\n";
        let (mounts, proc) = Tree::new("places", own, &["memory", "cpu"]);
        let mut group = Group::make(&proc, mounts.path()).unwrap();
        let (first, second) = (group.place().unwrap(), group.place().unwrap());
        let (first, second) = (first.unwrap(), second.unwrap());
        assert_ne!(first.directory, second.directory);
        assert_eq!(
            fs::read_to_string(second.directory.join("tasks")).unwrap(),
            "0"
        );
        // The kernel's files go with their directory.
        fs::remove_file(first.directory.join("tasks")).unwrap();
        let gone = first.directory.clone();
        first.remove().unwrap();
        assert!(!gone.exists());
        // Left behind, as by a daemon that was killed: the next one's to remove.
        fs::remove_file(second.directory.join("tasks")).unwrap();
        let (left, all) = (second.directory.clone(), group.directories.clone());
        std::mem::forget(group);
        for directory in &all {
            for file in ["memory.limit_in_bytes", "cpu.shares"] {
                let _ = fs::remove_file(directory.join(file));
            }
        }
        assert!(left.exists());
        let group = Group::make(&proc, mounts.path()).unwrap();
        assert!(!left.exists() && all.iter().all(|directory| directory.exists()));
        drop(group);
    }

    #[test]
    fn the_new_version_moves_the_daemon_beside_its_instances() {
        let (mounts, proc) = Tree::new(
            "v2",
            "0::/system.slice/nexus.service\n",
            &["system.slice/nexus.service"],
        );
        fs::write(mounts.path().join("cgroup.controllers"), "cpu memory").unwrap();
        let own = mounts.path().join("system.slice/nexus.service");
        let name = format!("nexus-instances-{}", std::process::id());
        // The kernel would have made this one with the directory.
        fs::create_dir(own.join("nexusd")).unwrap();
        let mut group = Group::make(&proc, mounts.path()).unwrap();
        assert!(
            group.place().is_err(),
            "a plain directory has no cgroup.procs"
        );
        assert!(!own.join(&name).join("1").exists(), "nothing is left of it");
        assert_eq!(
            fs::read_to_string(own.join("nexusd/cgroup.procs")).unwrap(),
            "0"
        );
        assert_eq!(
            fs::read_to_string(own.join("cgroup.subtree_control")).unwrap(),
            "+memory +cpu"
        );
        assert_eq!(
            fs::read_to_string(own.join(&name).join("cpu.weight")).unwrap(),
            CPU_WEIGHT
        );
        assert_eq!(
            fs::read_to_string(own.join(name).join("cgroup.subtree_control")).unwrap(),
            "+cpu"
        );
    }

    #[test]
    fn without_controllers_the_reason_is_told() {
        let (mounts, proc) = Tree::new("none", "0::/\n", &[]);
        let error = Group::make(&proc, mounts.path()).unwrap_err().to_string();
        assert!(error.contains("memory"), "{error}");
    }
}
