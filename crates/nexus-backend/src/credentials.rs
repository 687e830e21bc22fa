//! Whose requests the node makes. Secrets are in this process's memory and nowhere else.

use serde::Deserialize;
use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// How often a file is looked at for changes.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Largest credentials file.
const MAX_FILE: u64 = 64 << 10;

pub struct Credentials {
    pub access_key_id: String,
    secret: Zeroizing<String>,
    session_token: Option<Zeroizing<String>>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("access_key_id", &self.access_key_id)
            .finish_non_exhaustive()
    }
}

impl Credentials {
    pub fn new(access_key_id: &str, secret: &str, session_token: Option<&str>) -> Self {
        Self {
            access_key_id: access_key_id.to_owned(),
            secret: Zeroizing::new(secret.to_owned()),
            session_token: session_token.map(|token| Zeroizing::new(token.to_owned())),
        }
    }

    pub fn secret(&self) -> &str {
        &self.secret
    }

    pub fn session_token(&self) -> Option<&str> {
        self.session_token.as_ref().map(|token| token.as_str())
    }
}

/// Where credentials come from.
#[derive(Debug)]
enum Source {
    /// JSON (docs/protocols.md).
    Json(PathBuf),
    Fixed,
    /// AWS's shared credentials file.
    Shared(PathBuf),
    Nowhere,
}

#[derive(Debug)]
struct State {
    current: Option<Arc<Credentials>>,
    looked: Instant,
    /// Inode, modification time and size of what was read.
    version: Option<(u64, i64, i64, u64)>,
}

/// The node's credentials, read again when their file changes.
#[derive(Debug)]
pub struct Store {
    source: Source,
    state: Mutex<State>,
}

impl Store {
    /// The file if there is one, else the environment, else `~/.aws/credentials`.
    ///
    /// # Errors
    /// A file that cannot be used, and why.
    pub fn new(file: Option<&Path>) -> Result<Self, String> {
        let environment = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
        let (source, current, version) = if let Some(path) = file {
            let (current, version) = read(path, parse_json)?;
            (Source::Json(path.to_owned()), Some(current), Some(version))
        } else if let (Some(id), Some(secret)) = (
            environment("AWS_ACCESS_KEY_ID"),
            environment("AWS_SECRET_ACCESS_KEY"),
        ) {
            let token = environment("AWS_SESSION_TOKEN");
            let fixed = Credentials::new(&id, &secret, token.as_deref());
            (Source::Fixed, Some(fixed), None)
        } else {
            let path = environment("AWS_SHARED_CREDENTIALS_FILE")
                .map(PathBuf::from)
                .or_else(|| Some(PathBuf::from(environment("HOME")?).join(".aws/credentials")));
            match path.filter(|path| path.exists()) {
                None => (Source::Nowhere, None, None),
                Some(path) => {
                    let (current, version) = read(&path, parse_shared)?;
                    (Source::Shared(path), Some(current), Some(version))
                }
            }
        };
        Ok(Self {
            source,
            state: Mutex::new(State {
                current: current.map(Arc::new),
                looked: Instant::now(),
                version,
            }),
        })
    }

    /// What to sign with now.
    pub fn current(&self) -> Option<Arc<Credentials>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (path, parse): (&Path, Parse) = match &self.source {
            Source::Json(path) => (path, parse_json),
            Source::Shared(path) => (path, parse_shared),
            Source::Fixed | Source::Nowhere => return state.current.clone(),
        };
        if state.looked.elapsed() >= LOOK_EVERY {
            state.looked = Instant::now();
            if version(path).ok() != state.version {
                match read(path, parse) {
                    Ok((fresh, version)) => {
                        state.current = Some(Arc::new(fresh));
                        state.version = Some(version);
                    }
                    // A file that is just being replaced: what was read last stays in use.
                    Err(reason) => tracing::warn!(%reason, "credentials not read again"),
                }
            }
        }
        state.current.clone()
    }
}

type Parse = fn(&str) -> Result<Credentials, String>;
type Version = (u64, i64, i64, u64);

fn version(path: &Path) -> Result<Version, String> {
    let about = std::fs::metadata(path).map_err(|e| format!("{}: {e}", path.display()))?;
    if about.mode() & 0o077 != 0 {
        return Err(format!(
            "{} can be read by others: chmod 600 it",
            path.display()
        ));
    }
    if about.len() > MAX_FILE {
        return Err(format!("{} is too large", path.display()));
    }
    Ok((about.ino(), about.mtime(), about.mtime_nsec(), about.len()))
}

fn read(path: &Path, parse: Parse) -> Result<(Credentials, Version), String> {
    let version = version(path)?;
    let text = std::fs::read_to_string(path)
        .map(Zeroizing::new)
        .map_err(|e| format!("{}: {e}", path.display()))?;
    let credentials = parse(&text).map_err(|what| format!("{}: {what}", path.display()))?;
    Ok((credentials, version))
}

fn parse_json(text: &str) -> Result<Credentials, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        access_key_id: String,
        secret_access_key: Zeroizing<String>,
        session_token: Option<Zeroizing<String>>,
    }
    // serde's message could quote a value: only the place is told.
    let file: File = serde_json::from_str(text).map_err(|error| {
        format!(
            "not {{\"access_key_id\", \"secret_access_key\", \"session_token\"?}} (line {}, column {})",
            error.line(),
            error.column()
        )
    })?;
    checked(Credentials {
        access_key_id: file.access_key_id,
        secret: file.secret_access_key,
        session_token: file.session_token,
    })
}

fn parse_shared(text: &str) -> Result<Credentials, String> {
    let profile = std::env::var("AWS_PROFILE").unwrap_or_else(|_| "default".to_owned());
    let mut inside = false;
    let mut values = HashMap::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            inside = name.trim() == profile;
        } else if inside && let Some((name, value)) = line.split_once('=') {
            values.insert(name.trim(), value.trim());
        }
    }
    match (
        values.get("aws_access_key_id"),
        values.get("aws_secret_access_key"),
    ) {
        (Some(id), Some(secret)) => checked(Credentials::new(
            id,
            secret,
            values.get("aws_session_token").copied(),
        )),
        _ => Err(format!("no key in the profile {profile}")),
    }
}

/// What goes into headers must not end them.
fn checked(credentials: Credentials) -> Result<Credentials, String> {
    let sound = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    if sound(&credentials.access_key_id)
        && !credentials.secret.is_empty()
        && credentials.session_token().is_none_or(sound)
    {
        Ok(credentials)
    } else {
        Err("a value is empty or has characters that no key has".to_owned())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn file(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("credentials.json");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (directory, path)
    }

    const GOOD: &str = r#"{"access_key_id": "AKID", "secret_access_key": "hush/hush"}"#;

    #[test]
    fn a_file_is_read_and_read_again() {
        let (_directory, path) = file(GOOD, 0o600);
        let store = Store::new(Some(&path)).unwrap();
        assert_eq!(store.current().unwrap().secret(), "hush/hush");
        std::fs::write(&path, GOOD.replace("AKID", "AKID2")).unwrap();
        store.state.lock().unwrap().looked -= LOOK_EVERY;
        assert_eq!(store.current().unwrap().access_key_id, "AKID2");
        std::fs::write(&path, "{").unwrap();
        store.state.lock().unwrap().looked -= LOOK_EVERY;
        assert_eq!(store.current().unwrap().access_key_id, "AKID2");
    }

    #[test]
    fn files_that_are_refused_without_telling_the_secret() {
        let (_directory, path) = file(GOOD, 0o644);
        assert!(Store::new(Some(&path)).unwrap_err().contains("chmod 600"));
        for text in [
            r#"{"access_key_id": "AKID", "secret_access_key": ["hush"]}"#,
            r#"{"access_key_id": "A\r\nB", "secret_access_key": "hush"}"#,
            r#"{"access_key_id": "AKID", "secret_access_key": "hush", "x": 1}"#,
            "",
        ] {
            let (_directory, path) = file(text, 0o600);
            assert!(!Store::new(Some(&path)).unwrap_err().contains("hush"));
        }
        assert!(Store::new(Some(Path::new("/nonexistent"))).is_err());
    }

    #[test]
    fn the_shared_file() {
        let text = "[other]\naws_access_key_id=X\naws_secret_access_key=Y\n[default]\naws_access_key_id = A\naws_secret_access_key = B=C\n";
        let credentials = parse_shared(text).unwrap();
        assert_eq!(
            (credentials.access_key_id.as_str(), credentials.secret()),
            ("A", "B=C")
        );
        assert!(parse_shared("[default]\n").is_err());
    }

    #[test]
    fn debug_output_has_no_secret() {
        let shown = format!("{:?}", Credentials::new("AKID", "hush", Some("token")));
        assert!(shown.contains("AKID") && !shown.contains("hush") && !shown.contains("token"));
    }
}
