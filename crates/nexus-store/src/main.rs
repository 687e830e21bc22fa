//! `nexus-store`: an S3 server for development, durable, in a process of its own.

mod body;
mod index;
mod meta;
mod service;
mod store;
mod versions;

use anyhow::{Context as _, bail, ensure};
use hyper::header::{CONNECTION, EXPECT, HeaderValue};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};

const USAGE: &str = "usage: nexus-store --listen ADDRESS:PORT --directory DIR --credentials FILE [--address-file FILE]";
/// Connections served at once; more wait in the listener's queue.
const MAX_CONNECTIONS: usize = 1024;
/// How long a request's head may take to arrive, and how long the end of the process waits for those under way.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(serde::Deserialize)]
struct Credentials {
    access_key_id: String,
    secret_access_key: String,
}

struct Arguments {
    listen: String,
    directory: PathBuf,
    credentials: PathBuf,
    address_file: Option<PathBuf>,
}

fn arguments() -> anyhow::Result<Arguments> {
    let mut given = BTreeMap::new();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if !matches!(
            word.as_str(),
            "--listen" | "--directory" | "--credentials" | "--address-file"
        ) {
            bail!("unknown option {word}; {USAGE}");
        }
        let value = words
            .next()
            .with_context(|| format!("{word} needs a value; {USAGE}"))?;
        given.insert(word, value);
    }
    let mut need = |name: &str| {
        given
            .remove(name)
            .with_context(|| format!("{name} is missing; {USAGE}"))
    };
    Ok(Arguments {
        listen: need("--listen")?,
        directory: need("--directory")?.into(),
        credentials: need("--credentials")?.into(),
        address_file: given.remove("--address-file").map(PathBuf::from),
    })
}

fn read_credentials(path: &Path) -> anyhow::Result<Credentials> {
    let shown = path.display();
    let mode = std::fs::metadata(path)
        .with_context(|| format!("{shown}"))?
        .permissions()
        .mode();
    ensure!(
        mode & 0o077 == 0,
        "{shown} can be read by others: chmod 600 {shown}"
    );
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {shown}"))?;
    serde_json::from_str(&text).map_err(|_| {
        anyhow::anyhow!("{shown}: expected {{\"access_key_id\": ..., \"secret_access_key\": ...}}")
    })
}

/// Write the address atomically, for whoever started this process.
fn publish(path: &Path, address: &str) -> anyhow::Result<()> {
    let temporary = path.with_extension("new");
    let mut file =
        std::fs::File::create(&temporary).with_context(|| format!("{}", temporary.display()))?;
    let text = serde_json::json!({"address": address, "pid": std::process::id()});
    writeln!(file, "{text}")?;
    std::fs::rename(&temporary, path).with_context(|| format!("{}", path.display()))
}

/// Answer a request. botocore asks before it sends a body; refused, it sends none and uses the connection again, where the next
/// request's first bytes would be read as that body. So such a connection ends.
async fn answer(
    service: S3Service,
    request: hyper::Request<hyper::body::Incoming>,
) -> Result<hyper::Response<s3s::Body>, s3s::HttpError> {
    let asks = request.headers().contains_key(EXPECT);
    let mut response = service.call(request.map(s3s::Body::from)).await?;
    if asks && !response.status().is_success() {
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

async fn serve(listener: TcpListener, service: S3Service, mut stop: watch::Receiver<bool>) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let socket = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => socket,
                Err(error) => {
                    tracing::warn!("accept: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            _ = stop.changed() => break,
        };
        let _ = socket.set_nodelay(true);
        let (service, mut stop) = (service.clone(), stop.clone());
        tokio::spawn(async move {
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .half_close(false);
            let service = service_fn(|request| answer(service.clone(), request));
            let connection = http.serve_connection(TokioIo::new(socket), service);
            tokio::pin!(connection);
            tokio::select! {
                _ = connection.as_mut() => {}
                _ = stop.changed() => {
                    connection.as_mut().graceful_shutdown();
                    let _ = connection.await;
                }
            }
            drop(permit);
        });
    }
    // All permits back: every connection has ended.
    let all = u32::try_from(MAX_CONNECTIONS).unwrap_or(u32::MAX);
    let _ = tokio::time::timeout(PATIENCE, room.acquire_many(all)).await;
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let credentials = read_credentials(&arguments.credentials)?;
    let store = store::Store::open(&arguments.directory)
        .with_context(|| format!("opening the store in {}", arguments.directory.display()))?;
    let mut builder = S3ServiceBuilder::new(service::Service::new(store));
    builder.set_auth(SimpleAuth::from_single(
        credentials.access_key_id,
        credentials.secret_access_key,
    ));
    let service = builder.build();
    let listener = TcpListener::bind(&arguments.listen)
        .await
        .with_context(|| {
            format!(
                "listening on {}: is another server running there?",
                arguments.listen
            )
        })?;
    let address = listener.local_addr()?.to_string();
    tracing::info!("serving {} at {address}", arguments.directory.display());
    if let Some(path) = &arguments.address_file {
        publish(path, &address)?;
    }
    let (stop, stopped) = watch::channel(false);
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let serving = tokio::spawn(serve(listener, service, stopped));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let _ = stop.send(true);
    Ok(serving.await?)
}

fn main() -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| "nexus_store=info".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let arguments = arguments()?;
    // Small requests are seen between the pieces of large ones.
    tokio::runtime::Builder::new_multi_thread()
        .event_interval(4)
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(run(arguments))
}
