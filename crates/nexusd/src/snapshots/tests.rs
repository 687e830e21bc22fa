#![allow(clippy::unwrap_used)]
use super::admit::Step;
use super::*;
use std::os::unix::fs::PermissionsExt;

struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("nexusd-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn names(&self, part: &str) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.0.join("snapshots").join(part))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for entry in fs::read_dir(self.0.join("snapshots/content"))
            .into_iter()
            .flatten()
            .flatten()
        {
            admit::unseal(&entry.path());
        }
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn written(snapshots: &Snapshots, content: &str) -> Pending {
    let pending = snapshots.pending().unwrap();
    fs::write(pending.path().join(METADATA), content).unwrap();
    fs::write(pending.path().join(PAGES), "pages").unwrap();
    pending
}

#[test]
fn what_is_taken_in_is_read_only_and_named_by_its_content() {
    let place = Place::new("admit");
    let snapshots = Snapshots::open(&place.0).unwrap();
    let kept = snapshots.admit(&written(&snapshots, "a")).unwrap();
    assert!(is_digest(&kept.digest));
    assert_eq!(snapshots.check(&kept.path), Ok(()));
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&kept.path), 0o555);
    assert_eq!(mode(&kept.path.join(METADATA)), 0o444);
    assert_eq!(mode(&kept.path.join(PAGES)), 0o444);
    let same = snapshots.admit(&written(&snapshots, "a")).unwrap();
    let other = snapshots.admit(&written(&snapshots, "b")).unwrap();
    assert_eq!(same.path, kept.path);
    assert_ne!(other.path, kept.path);
    assert_eq!(place.names("pending"), [""; 0]);
    for file in [METADATA, PAGES] {
        let path = kept.path.join(file);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let sound = fs::read(&path).unwrap();
        fs::write(&path, "x").unwrap();
        assert!(snapshots.check(&kept.path).is_err());
        fs::write(&path, sound).unwrap();
    }
    assert_eq!(snapshots.check(&kept.path), Ok(()));
}

#[test]
fn what_no_vmm_writes_is_not_taken_in() {
    let place = Place::new("strange");
    let snapshots = Snapshots::open(&place.0).unwrap();
    let refused = |change: &dyn Fn(&Path)| {
        let pending = written(&snapshots, "a");
        change(pending.path());
        snapshots.admit(&pending).is_err()
    };
    assert!(!refused(&|_| {}));
    assert!(refused(&|at| fs::write(at.join("more"), "").unwrap()));
    assert!(refused(&|at| {
        fs::remove_file(at.join(PAGES)).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", at.join(PAGES)).unwrap();
    }));
    assert!(refused(&|at| {
        fs::remove_file(at.join(PAGES)).unwrap();
        fs::create_dir(at.join(PAGES)).unwrap();
    }));
}

/// The disk as a crash before each step leaves it: behind the next start there is the whole snapshot or nothing.
#[test]
fn a_crash_between_any_two_steps_leaves_nothing_half() {
    for step in [Step::Seal, Step::Name, Step::Settle] {
        let place = Place::new("crash");
        let snapshots = Snapshots::open(&place.0).unwrap();
        let pending = written(&snapshots, "a");
        let crashed = snapshots.admit_stepwise(&pending, &mut |next| {
            if next == step {
                return Err(io::Error::other("crash"));
            }
            Ok(())
        });
        assert!(crashed.is_err());
        // A process that is gone cleans nothing up.
        std::mem::forget(pending);
        let snapshots = Snapshots::open(&place.0).unwrap();
        assert_eq!(place.names("pending"), [""; 0], "{step:?}");
        let named = place.names("content");
        assert_eq!(named.len(), usize::from(step == Step::Settle), "{step:?}");
        for digest in &named {
            assert_eq!(snapshots.check(&snapshots.path(digest)), Ok(()));
        }
        // Nobody was told of it.
        snapshots.collect(&HashSet::new());
        assert_eq!(place.names("content"), [""; 0]);
        snapshots.admit(&written(&snapshots, "a")).unwrap();
        assert_eq!(place.names("content").len(), 1);
    }
}

#[test]
fn what_nobody_refers_to_is_collected_and_nothing_else() {
    let place = Place::new("collect");
    let snapshots = Snapshots::open(&place.0).unwrap();
    let admit = |content: &str| snapshots.admit(&written(&snapshots, content)).unwrap();
    let (held, referenced, gone) = (admit("held"), admit("referenced"), admit("gone"));
    let set = |kept: &Kept| snapshots.working_set(&kept.path);
    fs::write(set(&referenced), "[]").unwrap();
    fs::write(set(&gone), "[]").unwrap();
    let names = HashSet::from([referenced.digest.clone()]);
    drop((referenced, gone));
    snapshots.collect(&names);
    let mut expected = vec![held.digest.clone(), names.iter().next().unwrap().clone()];
    expected.sort();
    assert_eq!(place.names("content"), expected);
    assert_eq!(place.names("working-sets").len(), 1);
    drop(held);
    snapshots.collect(&HashSet::new());
    assert_eq!(place.names("content"), [""; 0]);
}

#[test]
fn a_base_is_kept_while_something_rests_on_it_and_a_few_beyond() {
    let place = Place::new("bases");
    let snapshots = Snapshots::open(&place.0).unwrap();
    let base = snapshots.admit(&written(&snapshots, "base")).unwrap();
    snapshots.set_base("key", &base).unwrap();
    assert_eq!(snapshots.base("key").as_deref(), Some(base.path.as_path()));
    assert_eq!(snapshots.base("other"), None);
    let pending = written(&snapshots, "function");
    snapshots.rest_on(&pending, &base.path).unwrap();
    let function = snapshots.admit(&pending).unwrap();
    let kept = base;
    let base = kept.path.clone();
    drop(kept);
    for number in 0..2 * SPARE_BASES {
        let spare = written(&snapshots, &number.to_string());
        let spare = snapshots.admit(&spare).unwrap();
        snapshots.set_base(&number.to_string(), &spare).unwrap();
    }
    snapshots.collect(&HashSet::new());
    assert!(base.is_dir());
    assert_eq!(place.names("bases").len(), SPARE_BASES + 1);
    assert_eq!(place.names("content").len(), SPARE_BASES + 2);
    // The base can go: what rests on it has its pages.
    snapshots.forget_base("key");
    snapshots.collect(&HashSet::new());
    assert!(!base.is_dir());
    assert_eq!(snapshots.check(&function.path), Ok(()));
}
