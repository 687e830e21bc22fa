//! Whose requests the node makes. Secrets are in this process's memory and nowhere else.

use crate::sigv4::Keys;
use serde::{Deserialize, Serialize};
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
    keys: Keys,
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
            keys: Keys::default(),
        }
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    pub fn secret(&self) -> &str {
        &self.secret
    }

    pub fn session_token(&self) -> Option<&str> {
        self.session_token.as_ref().map(|token| token.as_str())
    }
}

/// Where credentials are to come from.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A JSON file (docs/protocols.md).
    File(PathBuf),
    /// A profile of AWS's shared credentials file.
    Profile(String),
    /// AWS's ordinary chain: the environment, then the shared file.
    #[serde(skip)]
    Chain,
}

/// Where they were found.
#[derive(Debug)]
enum Place {
    Json(PathBuf),
    Fixed,
    Shared(PathBuf, String),
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
    place: Place,
    state: Mutex<State>,
}

impl Store {
    /// # Errors
    /// A file that cannot be used, and why.
    pub fn new(source: &Source) -> Result<Self, String> {
        let fixed = match source {
            Source::Chain => from_environment(),
            _ => None,
        };
        let place = match source {
            Source::File(path) => Place::Json(path.clone()),
            Source::Chain if fixed.is_some() => Place::Fixed,
            Source::Chain => {
                shared_file()
                    .filter(|path| path.exists())
                    .map_or(Place::Nowhere, |path| {
                        let profile = environment("AWS_PROFILE");
                        Place::Shared(path, profile.unwrap_or_else(|| "default".to_owned()))
                    })
            }
            Source::Profile(name) => {
                let path =
                    shared_file().ok_or("there is no home directory to look for profiles in")?;
                Place::Shared(path, name.clone())
            }
        };
        let (current, version) = match read(&place)? {
            Some((current, version)) => (Some(current), Some(version)),
            None => (fixed, None),
        };
        Ok(Self {
            place,
            state: Mutex::new(State {
                current: current.map(Arc::new),
                looked: Instant::now(),
                version,
            }),
        })
    }

    /// None at all: nothing is signed.
    pub fn nothing() -> Self {
        Self {
            place: Place::Nowhere,
            state: Mutex::new(State {
                current: None,
                looked: Instant::now(),
                version: None,
            }),
        }
    }

    /// What to sign with now.
    pub fn current(&self) -> Option<Arc<Credentials>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let path = match &self.place {
            Place::Json(path) | Place::Shared(path, _) => path,
            Place::Fixed | Place::Nowhere => return state.current.clone(),
        };
        if state.looked.elapsed() >= LOOK_EVERY {
            state.looked = Instant::now();
            if version(path).ok() != state.version {
                match read(&self.place) {
                    Ok(Some((fresh, version))) => {
                        state.current = Some(Arc::new(fresh));
                        state.version = Some(version);
                    }
                    Ok(None) => {}
                    // A file that is just being replaced: what was read last stays in use.
                    Err(reason) => tracing::warn!(%reason, "credentials not read again"),
                }
            }
        }
        state.current.clone()
    }
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn from_environment() -> Option<Credentials> {
    let id = environment("AWS_ACCESS_KEY_ID")?;
    let secret = environment("AWS_SECRET_ACCESS_KEY")?;
    let token = environment("AWS_SESSION_TOKEN");
    Some(Credentials::new(&id, &secret, token.as_deref()))
}

fn shared_file() -> Option<PathBuf> {
    environment("AWS_SHARED_CREDENTIALS_FILE")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(environment("HOME")?).join(".aws/credentials")))
}

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

fn read(place: &Place) -> Result<Option<(Credentials, Version)>, String> {
    let path = match place {
        Place::Json(path) | Place::Shared(path, _) => path,
        Place::Fixed | Place::Nowhere => return Ok(None),
    };
    let version = version(path)?;
    let text = std::fs::read_to_string(path)
        .map(Zeroizing::new)
        .map_err(|e| format!("{}: {e}", path.display()))?;
    let credentials = match place {
        Place::Shared(_, profile) => parse_shared(&text, profile),
        _ => parse_json(&text),
    };
    let credentials = credentials.map_err(|what| format!("{}: {what}", path.display()))?;
    Ok(Some((credentials, version)))
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
        keys: Keys::default(),
    })
}

fn parse_shared(text: &str, profile: &str) -> Result<Credentials, String> {
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
        let store = Store::new(&Source::File(path.clone())).unwrap();
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
        let refused = |path: &Path| Store::new(&Source::File(path.to_owned())).unwrap_err();
        assert!(refused(&path).contains("chmod 600"));
        for text in [
            r#"{"access_key_id": "AKID", "secret_access_key": ["hush"]}"#,
            r#"{"access_key_id": "A\r\nB", "secret_access_key": "hush"}"#,
            r#"{"access_key_id": "AKID", "secret_access_key": "hush", "x": 1}"#,
            "",
        ] {
            let (_directory, path) = file(text, 0o600);
            assert!(!refused(&path).contains("hush"));
        }
        refused(Path::new("/nonexistent"));
    }

    #[test]
    fn the_shared_file() {
        let text = "[other]\naws_access_key_id=X\naws_secret_access_key=Y\n[default]\naws_access_key_id = A\naws_secret_access_key = B=C\n";
        let credentials = parse_shared(text, "default").unwrap();
        assert_eq!(
            (credentials.access_key_id.as_str(), credentials.secret()),
            ("A", "B=C")
        );
        assert_eq!(parse_shared(text, "other").unwrap().secret(), "Y");
        assert!(parse_shared("[default]\n", "default").is_err());
    }

    #[test]
    fn debug_output_has_no_secret() {
        let shown = format!("{:?}", Credentials::new("AKID", "hush", Some("token")));
        assert!(shown.contains("AKID") && !shown.contains("hush") && !shown.contains("token"));
    }
}
