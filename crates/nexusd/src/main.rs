//! The node daemon. `nexusd --config FILE` serves until SIGTERM.

mod clock;
mod config;
mod deploy;
mod ingress;
mod logs;
mod node;
mod probe;
mod process;
mod registry;
mod scheduler;
mod snapshots;
mod state;
mod timings;

use anyhow::{Context, bail};
use config::Config;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use node::Node;
use process::cgroup::Group;
use process::spawner::Spawner;
use registry::store::Store;
use snapshots::Snapshots;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

const USAGE: &str = "usage: nexusd --config FILE\n       nexusd --version";

/// Turns of tasks between two looks at what has come in from guests and servers. With tokio's own 61 a small operation waits, at
/// each of its steps, for that many pieces of a greedy neighbour's bodies (tests/network/test_fairness.py).
const EVENT_INTERVAL: u32 = 4;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let config = match arguments(std::env::args().skip(1)) {
        Ok(Some(path)) => path,
        Ok(None) => {
            println!("nexusd {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("nexusd: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let result = Config::load(&config).and_then(|config| {
        start_log();
        state::raise_file_limit();
        tokio::runtime::Builder::new_multi_thread()
            .event_interval(EVENT_INTERVAL)
            .enable_all()
            .build()
            .context("cannot start the event loop")?
            .block_on(run(config))
    });
    match result {
        // Not by returning: what still runs is to be cut off, and instances have ended.
        Ok(()) => std::process::exit(0),
        Err(error) => {
            eprintln!("nexusd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn arguments(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Option<PathBuf>> {
    match (
        arguments.next().as_deref(),
        arguments.next(),
        arguments.next(),
    ) {
        (Some("--version"), None, None) => Ok(None),
        (Some("--config"), Some(path), None) => Ok(Some(path.into())),
        _ => bail!("the arguments are not understood"),
    }
}

/// Logs go to standard error; `NEXUS_LOG` filters, `NEXUS_LOG_FORMAT=json` makes them JSON.
fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("NEXUS_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if std::env::var("NEXUS_LOG_FORMAT").is_ok_and(|f| f == "json") {
        log.json().init();
    } else {
        log.with_ansi(false).init();
    }
}

async fn run(mut config: Config) -> anyhow::Result<()> {
    let state = state::State::open(&config.state)?;
    // Before anything is served: a signal must find its handler.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let metrics = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &BUCKETS)?
        .install_recorder()
        .context("cannot start the metrics")?;
    let machine = probe::probe(&config).await;
    tracing::info!(isolation = ?machine.isolation, reason = machine.reason, "machine");
    let backend = probe::backend(&config)?;
    let journal = config.state.join("journal");
    backend
        .open_journal(&journal)
        .await
        .with_context(|| format!("cannot use the journal {}", journal.display()))?;
    let group = config.cgroups.then(|| {
        Group::make(Path::new("/proc/self/cgroup"), Path::new("/sys/fs/cgroup"))
            .inspect_err(|error| tracing::warn!(%error, "instances get no control group"))
    });
    let group = group.and_then(Result::ok);
    let spawner = Spawner::start(group).context("cannot start the spawning thread")?;
    let store = Store::open(&config.state)?;
    let snapshots = Snapshots::open(&config.state)?;
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen on {}", config.listen))?;
    config.listen = listener.local_addr()?;
    let address = config.listen;
    let drain = Duration::from_secs(config.drain_s);
    let node = Node::new(
        config,
        machine,
        backend,
        spawner,
        (store, snapshots),
        metrics.clone(),
    );
    deploy::load(&node)?;
    let known = Arc::clone(&node);
    node.backend
        .resume_writes(move |name| Some(known.functions.get(name)?.identity(&known.config)));
    tokio::spawn(async move {
        loop {
            sleep(Duration::from_secs(5)).await;
            metrics.run_upkeep();
        }
    });
    if node.machine.isolation == Some(config::Isolation::Kvm) {
        let node = Arc::clone(&node);
        tokio::spawn(async move {
            let base = || node.bases.for_shells();
            node.shells.keep(&node.config, &node.spawner, base).await;
        });
    }
    let (close, closing) = watch::channel(false);
    tokio::spawn(ingress::serve(Arc::clone(&node), listener, closing));
    state.announce(address)?;
    tracing::info!(%address, "serving");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("ending");
    state.withdraw();
    node.scheduler.close();
    let _ = close.send(true);
    let deadline = Instant::now() + drain;
    while node.scheduler.unfinished() > 0 && Instant::now() < deadline {
        sleep(Duration::from_millis(5)).await;
    }
    let left = node.scheduler.unfinished();
    if left > 0 {
        tracing::warn!(
            left,
            "instances, or invocations whose writes are pending, are cut off"
        );
    }
    // The last answers are on their way to their sockets.
    sleep(Duration::from_millis(20)).await;
    Ok(())
}

/// Seconds; from a warm empty handler to Lambda's longest.
const BUCKETS: [f64; 16] = [
    0.000_25, 0.000_5, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 3.0, 10.0,
    60.0, 900.0,
];
