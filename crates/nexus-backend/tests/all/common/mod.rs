//! Plays both neighbours of the backend: a guest over the descriptors, and a server over TCP.

pub mod guest;
pub mod server;
pub mod store;
pub mod world;

use guest::Guest;
use nexus_backend::{
    Backend, Config, FunctionIdentity, PolicyDocument, PolicyRules, RuntimeMessage, Statistics,
    Wake,
};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub const KEY_ID: &str = "AKIDREALREALREAL";
pub const SECRET: &str = "a-secret-that-no-guest-ever-sees-0123456789";

/// A backend with one instance, whose S3 is at `endpoint`.
pub struct Node {
    pub guest: Guest,
    /// Ends with the first message of the runtime.
    pub message: JoinHandle<(RuntimeMessage, Statistics)>,
    stop: Option<oneshot::Sender<()>>,
    _files: Arc<tempfile::TempDir>,
}

pub fn node(endpoint: &str) -> Node {
    node_under(endpoint, &PolicyDocument::default())
}

pub fn node_under(endpoint: &str, policy: &PolicyDocument) -> Node {
    nodes(endpoint, [identity("f", policy)]).remove(0)
}

/// Instances of these functions, with one backend.
pub fn nodes(endpoint: &str, identities: impl IntoIterator<Item = FunctionIdentity>) -> Vec<Node> {
    let (backend, files) = backend(endpoint);
    let files = Arc::new(files);
    let instance = |identity| instance(&backend, identity, Arc::clone(&files));
    identities.into_iter().map(instance).collect()
}

/// A backend with credentials, and the folder they lie in.
pub fn backend(endpoint: &str) -> (Arc<Backend>, tempfile::TempDir) {
    let files = tempfile::tempdir().unwrap();
    let path = files.path().join("credentials.json");
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&path)
        .unwrap();
    write!(
        file,
        r#"{{"access_key_id": "{KEY_ID}", "secret_access_key": "{SECRET}"}}"#
    )
    .unwrap();
    let backend = Backend::new(Config {
        region: "us-east-1".to_owned(),
        endpoints: [("s3".to_owned(), endpoint.to_owned())].into(),
        credentials_file: Some(path),
    })
    .unwrap();
    (backend, files)
}

/// Of a function that may reach what it may by default, or by a policy.
pub fn identity(function: &str, policy: &PolicyDocument) -> FunctionIdentity {
    let rules = Arc::new(PolicyRules::new(function, policy).unwrap());
    FunctionIdentity::new(function, "us-east-1", rules)
}

/// Run a guest's part on a thread of its own, as a guest would.
pub async fn play<T: Send + 'static>(
    guest: &mut Guest,
    part: impl FnOnce(&mut Guest) -> T + Send + 'static,
) -> T {
    let mut taken = std::mem::replace(guest, Guest::gone());
    let (taken, result) = tokio::task::spawn_blocking(move || {
        let result = part(&mut taken);
        (taken, result)
    })
    .await
    .unwrap();
    *guest = taken;
    result
}

fn instance(
    backend: &Arc<Backend>,
    identity: FunctionIdentity,
    files: Arc<tempfile::TempDir>,
) -> Node {
    let (mut channel, descriptors) = backend.open(identity, 8 << 20, Wake::Eventfd).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let message = tokio::spawn(async move {
        let message = tokio::select! {
            message = channel.receive() => message,
            _ = stopped => RuntimeMessage::Next(None),
        };
        (message, channel.statistics())
    });
    Node {
        guest: Guest::new(descriptors),
        message,
        stop: Some(stop),
        _files: files,
    }
}

impl Node {
    /// Drop the channel, as at the end of an instance.
    pub fn end(&mut self) {
        drop(self.stop.take());
    }

    pub async fn play<T: Send + 'static>(
        &mut self,
        part: impl FnOnce(&mut Guest) -> T + Send + 'static,
    ) -> T {
        play(&mut self.guest, part).await
    }
}
