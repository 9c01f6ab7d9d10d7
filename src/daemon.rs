//! `valetkeyd`: config, build, bind, serve, drain. The only place that knows everything.
#![expect(clippy::print_stderr, reason = "what is wrong before there is a log must be said too")]

mod assemble;
mod audit;
mod host;
mod log;
mod places;
mod remote;
mod seen;
mod sockets;
#[cfg(feature = "otel")]
mod traces;
mod units;
mod watchdog;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::Parser;
use sd_notify::NotifyState;
use tokio::{
    runtime::{Builder, Handle, Runtime},
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};
use tracing::{error, field, info, warn};

pub use audit::{directory as audit_directory, public_key_file as audit_public_key_file};
pub use places::{DEFAULT_CONFIG, default_socket};
pub use units::{ROTATED, STOP};

use crate::{
    attest::{self, Attestor},
    broker::{self, Broker},
    config::{self, Config, MemoryProtection, OnUnreachable},
    delivery::{self, Health, Metrics, Room},
    export::Exports,
    redact::Redactor,
    secret::{self, Protection},
    source::environment::take_from_environment,
    store,
};
use assemble::{Captured, Sources};
use host::{Operations, Parts};
use remote::RemotePlane;
use sockets::{Passed, Sockets};

/// The daemon of Valetkey: loads secrets at boot and hands each MCP tool only what its scope and policy both allow
#[derive(Debug, Parser)]
#[command(name = "valetkeyd", version, max_term_width = 100)]
#[command(
    after_help = "Signals: SIGTERM and SIGINT stop it when every call is done; SIGHUP reads configuration and sources again.\n\n\
    Example:\n  valetkeyd --config ./valetkey.toml"
)]
pub struct Args {
    /// The main file; a file for each tool may stand in tools.d/ beside it
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
}

/// Runs the daemon until it is told to stop.
pub fn main() -> ExitCode {
    run(&Args::parse())
}

/// The story, in order.
pub fn run(args: &Args) -> ExitCode {
    let hardening = secret::harden_process();
    // SAFETY: no thread has been started yet, and nobody holds a pointer into the environment.
    let passed = match unsafe { Passed::take() } {
        Ok(passed) => passed,
        Err(problem) => return refuse(&[problem]),
    };
    let config = match config::load(&args.config) {
        Ok(config) => config,
        Err(problems) => return refuse(&problems),
    };
    if let Err(problem) = protect(&config) {
        return refuse(&[problem]);
    }
    // SAFETY: no thread has been started yet, and nobody holds a pointer into the environment.
    let captured = assemble::capture(&config, |name| unsafe { take_from_environment(name) });
    let redactor = match Redactor::new() {
        Ok(redactor) => redactor,
        Err(error) => return refuse(&[format!("no random numbers to key the log filter with: {error}")]),
    };
    // Until the end: the last spans go out with it.
    let _log = match log::start(&config.daemon, &redactor) {
        Ok(log) => log,
        Err(problem) => return refuse(&[problem]),
    };
    info!(version = env!("CARGO_PKG_VERSION"), config = %args.config.display(), %hardening, "starting");
    say_what_the_host_lacks(hardening.is_complete());
    config.problems.iter().for_each(|problem| warn!("{problem}"));
    match build(config, captured, redactor, passed).and_then(Daemon::serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reasons) => {
            reasons.iter().for_each(|reason| error!("{reason}"));
            error!("not started: {} reasons above", reasons.len());
            ExitCode::FAILURE
        }
    }
}

fn refuse(problems: &[impl std::fmt::Display]) -> ExitCode {
    problems.iter().for_each(|problem| eprintln!("{problem}"));
    eprintln!("valetkeyd: not started: {} problems above; `valetkey check` shows them as well", problems.len());
    ExitCode::FAILURE
}

/// Maps the memory for values, as good as configuration requires.
fn protect(config: &Config) -> Result<(), String> {
    let at_least = match config.daemon.memory_protection {
        MemoryProtection::RequiredMemfdSecret => Protection::MemfdSecret,
        MemoryProtection::RequiredLocked => Protection::Locked,
        MemoryProtection::Best => Protection::Plain,
    };
    let settings = secret::Settings { at_least, ..secret::Settings::default() };
    secret::set_up(settings).map(drop).map_err(|unprotected| format!("memory-protection: {unprotected}"))
}

fn say_what_the_host_lacks(hardened: bool) {
    let memory = secret::protection();
    info!(protection = %memory.kind, locked_bytes = memory.locked_bytes, "memory for values");
    if let Some(lost) = memory.lost {
        warn!("{lost}; {}", memory.remedy.unwrap_or("`valetkey doctor` says more"));
    }
    if !hardened {
        warn!("the kernel refused some of the process hardening; `valetkey doctor` says which");
    }
}

/// For what is left of the audit log to reach those that it is sent to, when the daemon stops.
const EXPORT_WITHIN: Duration = Duration::from_secs(2);

/// Everything that serves, built and bound.
struct Daemon {
    config: Arc<Config>,
    broker: Arc<Broker>,
    operations: Arc<Operations>,
    attestor: Attestor,
    health: Health,
    /// Serves tools, on this thread alone: on few cores that is faster than sharing, and hand-outs never wait for a load.
    tools_plane: Runtime,
    /// Loads from sources and serves operators.
    control_plane: Runtime,
    sockets: Sockets,
    /// Serves callers over the network, where there may be any.
    remote: Option<RemotePlane>,
    hangup: Signal,
}

fn build(config: Config, captured: Captured, redactor: Redactor, passed: Passed) -> Result<Daemon, Vec<String>> {
    let one = |reason: String| vec![reason];
    let runtime =
        |mut builder: Builder| builder.enable_all().build().map_err(|error| one(format!("cannot start threads: {error}")));
    let tools_plane = runtime(Builder::new_current_thread())?;
    // From here on, not from when all is loaded: until it is caught, SIGHUP kills.
    let hangup = catch(&tools_plane, SignalKind::hangup())?;
    let control_plane = {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(2).thread_name("valetkeyd-control");
        runtime(builder)?
    };
    let settings = attest::Settings { executable: config.policy.needs_executable(), ..Default::default() };
    let attestor =
        Attestor::new(settings).map_err(|refusal| one(format!("callers cannot be attested on this host: {refusal}")))?;
    info!(method = %attestor.method(), "callers are attested: {}", attestor.method().proves());

    // Bound before the load, so that a second daemon fails at once; served after it, so that nobody is told "not yet".
    let sockets = Sockets::open(passed, &config, &tools_plane, &control_plane)?;

    let (sources, mut reasons) = assemble::sources(&config, &captured, &Sources::new());
    reasons.extend(seen::unseen_accounts(&config));
    let (keeper, store) = store::new(redactor);
    let keeper = Arc::new(keeper);
    let last_good = assemble::last_good(&config, &captured, &keeper).unwrap_or_else(|reason| {
        reasons.push(reason);
        None
    });
    // With its first record it is known whether anything can be on record at all.
    let log = audit::open(&config.audit, &captured).map_err(one)?;
    let Config { policy, .. } = &config;
    let settings =
        broker::Settings { max_sessions: config.daemon.max_sessions, session_lifetime: config.daemon.session_lifetime };
    let alarms = {
        let _inside = control_plane.enter();
        assemble::alarms(&config, &captured)
    };
    let alarms = alarms.unwrap_or_else(|reason| {
        reasons.push(reason);
        None
    });
    let broker = Arc::new(Broker::new(settings, policy.clone(), store, log).with_alarms(alarms));
    broker.started(&format!("valetkeyd {}, configuration {}", env!("CARGO_PKG_VERSION"), config.file.display()));
    let exports = {
        let _inside = control_plane.enter();
        audit::export(&config.audit, &captured, &broker)
    };
    let exports = exports.unwrap_or_else(|reason| {
        reasons.push(reason);
        Exports::default()
    });
    let remote = RemotePlane::open(&config, &captured, &broker).unwrap_or_else(|wrong| {
        reasons.extend(wrong);
        None
    });
    let config = Arc::new(config);
    let method = attestor.method().to_string();
    let tokens = remote.as_ref().map(RemotePlane::tokens);
    let port = remote.as_ref().map(RemotePlane::port);
    let parts = Parts { config: config.clone(), captured, sources, keeper, last_good, exports, tokens, remote: port, method };
    let operations = Arc::new(Operations::new(parts, broker.clone(), control_plane.handle().clone()));
    operations.host_refresh();
    operations.host_rotations();
    operations.host_leases().map_err(one)?;
    operations.host_containments().map_err(one)?;
    if config.daemon.on_unreachable == OnUnreachable::Fail || !reasons.is_empty() {
        // All of them in one go: whoever mends one should not find the next at the next start.
        match control_plane.block_on(operations.first_load()) {
            Ok(lacking) => reasons.extend(lacking.unwrap_or_default()),
            Err(lacking) => reasons.extend(lacking),
        }
        if !reasons.is_empty() {
            control_plane.block_on(operations.close());
            return Err(reasons);
        }
        // Before anything is served: whoever sees that the daemon serves must not be told that it does not yet.
        broker.ready();
    }
    let health = Health::default();
    Ok(Daemon { config, broker, operations, attestor, health, tools_plane, control_plane, sockets, remote, hangup })
}

fn catch(runtime: &Runtime, kind: SignalKind) -> Result<Signal, Vec<String>> {
    let _inside = runtime.enter();
    signal(kind).map_err(|error| vec![format!("signals cannot be caught: {error}")])
}

impl Daemon {
    /// Serves until a signal says stop, then drains.
    fn serve(self) -> Result<(), Vec<String>> {
        let Self { config, broker, operations, attestor, health, tools_plane, control_plane, sockets, remote, hangup } = self;
        let Sockets { tools, admin, credentials, metrics } = sockets;
        // Before systemd is told that the daemon is ready: what it sends then must find someone who listens.
        let [terminate, interrupt] = [SignalKind::terminate(), SignalKind::interrupt()].map(|kind| catch(&tools_plane, kind));
        let signals = Signals { hangup, terminate: terminate?, interrupt: interrupt? };
        let (stop, stopping) = watch::channel(false);
        let stopped = |mut stopping: watch::Receiver<bool>| async move { drop(stopping.wait_for(|stop| *stop).await) };
        let daemon = &config.daemon;
        let room = Room { connections: daemon.max_connections as usize, per_peer: daemon.max_connections_per_peer as usize };
        let for_systemd = credentials.as_ref().map(|listener| field::display(listener.path().display()));
        info!(tools = %tools.path().display(), admin = %admin.path().display(), credentials = for_systemd, "listening");
        if let Some(listener) = metrics {
            let metrics = Metrics::new(broker.clone(), operations.clone(), tools.connections(), admin.connections());
            control_plane.spawn(delivery::serve_metrics(listener, metrics, stopped(stopping.clone())));
        }
        let admin_serves = control_plane.spawn(delivery::serve_admin(
            admin.incoming(attestor.clone(), Room { connections: 64, per_peer: 32 }, |_| true, stopped(stopping.clone())),
            broker.clone(),
            operations.clone(),
            health.clone(),
        ));
        let remote = remote.map(|plane| {
            let host: Arc<dyn delivery::Host> = operations.clone();
            plane.serve(broker.clone(), host, health.clone(), stopping.clone())
        });
        let known = broker.clone();
        let incoming = tools.incoming(attestor.clone(), room, move |peer| known.knows(peer), stopped(stopping.clone()));
        let tools_serve = delivery::serve_tools(incoming, broker.clone(), health.clone());
        let ask = credentials.map(|listener| delivery::serve_credentials(listener, attestor, broker.clone(), stopped(stopping)));
        let drain = daemon.drain_timeout;
        let ended = tools_plane.block_on(async {
            let recording = {
                let broker = broker.clone();
                tokio::spawn(async move { broker.audit().dispatch().await })
            };
            let expiring = tokio::spawn(expire(broker.clone(), health.clone()));
            let control = control_plane.handle().clone();
            let orders =
                tokio::spawn(follow_orders(signals, operations.clone(), broker.clone(), health.clone(), stop, control.clone()));
            let announcing = control.spawn(announce_changes(broker.clone()));
            let watching = control.spawn(watchdog::watch(broker.clone(), Handle::current()));
            let alarming = control.spawn(settle_alarms(broker.clone()));
            let units = control.spawn(units::watch(broker.clone()));
            health.tools(false).await;
            health.admin(true).await;
            let mut loading = control.spawn(load_until_ready(operations.clone(), broker.clone(), health.clone()));
            let serving = async {
                tokio::pin!(tools_serve);
                tokio::select! {
                    served = &mut tools_serve => return served.map_err(|error| vec![format!("serving tools failed: {error}")]),
                    loaded = &mut loading => loaded.map_err(|error| vec![format!("loading failed: {error}")])??,
                }
                // Not before: what systemd asks for while all is loaded waits in the socket's queue, and outlives this daemon there.
                let asked = ask.map(tokio::spawn);
                let served = tools_serve.await.map_err(|error| vec![format!("serving tools failed: {error}")]);
                if let Some(asked) = asked {
                    let _ = asked.await;
                }
                served
            };
            let ended = tokio::select! {
                ended = serving => ended,
                () = too_long(&broker, drain) => Ok(()),
            };
            [expiring, orders, announcing, watching, alarming, units, recording].iter().for_each(tokio::task::JoinHandle::abort);
            loading.abort();
            ended
        });
        if let Some((plane, served)) = remote {
            // Its sessions were told with the others; their connections had the same time to end.
            let _ = plane.block_on(async { tokio::time::timeout(Duration::from_millis(200), served).await });
            plane.shutdown_timeout(Duration::from_millis(500));
        }
        // The operators' side drains in the time that is left; then everything goes, and values with it.
        let _ = tools_plane.block_on(async { tokio::time::timeout(Duration::from_millis(200), admin_serves).await });
        control_plane.block_on(operations.close());
        broker.finish();
        units::settle(&broker);
        if let Some(alarms) = broker.alarms() {
            control_plane.block_on(alarms.close());
        }
        broker.ended();
        // With its last record in it.
        control_plane.block_on(operations.exports().close(EXPORT_WITHIN));
        control_plane.shutdown_timeout(Duration::from_millis(500));
        info!("stopped");
        ended
    }
}

/// Loads, for as long as it takes and may still succeed; then everyone is told that the daemon is ready.
async fn load_until_ready(operations: Arc<Operations>, broker: Arc<Broker>, health: Health) -> Result<(), Vec<String>> {
    let mut wait = Duration::from_secs(1);
    extend_start(&operations);
    while let Some(lacking) = operations.first_load().await? {
        lacking.iter().for_each(|lacking| warn!("{lacking}"));
        warn!(seconds = wait.as_secs(), "waiting: {} secrets cannot be had yet", lacking.len());
        let status = format!("waiting for sources: {} secrets cannot be had yet", lacking.len());
        notify(&[NotifyState::Status(&status)]);
        extend_start(&operations);
        let _ = tokio::time::timeout(wait, operations.loaded()).await;
        wait = (wait * 2).min(Duration::from_secs(30));
    }
    broker.ready();
    operations.begin_rotations();
    health.tools(true).await;
    notify(&[NotifyState::Ready, NotifyState::Status("ready")]);
    info!("ready");
    Ok(())
}

/// Asks systemd for more patience than the next try can take: a start that waits is not one that hangs.
fn extend_start(operations: &Operations) {
    let time = operations.load_timeout() * 2 + Duration::from_secs(60);
    notify(&[NotifyState::ExtendTimeoutUsec(u32::try_from(time.as_micros()).unwrap_or(u32::MAX))]);
}

/// Tells sessions of every change of the store.
async fn announce_changes(broker: Arc<Broker>) {
    let mut changes = broker.store().changes();
    while changes.changed().await.is_ok() {
        broker.announce_changes();
    }
}

/// Resolves when draining has taken longer than it may.
async fn too_long(broker: &Broker, drain: Duration) {
    broker.stopped().await;
    tokio::time::sleep(drain).await;
    warn!(after_seconds = drain.as_secs_f32(), "calls were still under way when drain-timeout passed");
}

/// What each second brings.
async fn expire(broker: Arc<Broker>, health: Health) {
    let mut every = tokio::time::interval(Duration::from_secs(1));
    let mut up = true;
    loop {
        every.tick().await;
        broker.expire();
        // Where nothing can be on record nothing is handed out, and whoever asks how the daemon is should hear it.
        let now = broker.audit().is_up();
        if std::mem::replace(&mut up, now) != now && broker.is_ready() {
            health.tools(now).await;
        }
    }
}

/// Off the thread that serves tools: what alarms remember goes to disk.
async fn settle_alarms(broker: Arc<Broker>) {
    let mut every = tokio::time::interval(Duration::from_secs(1));
    while let Some(alarms) = broker.alarms().cloned() {
        every.tick().await;
        drop(tokio::task::spawn_blocking(move || alarms.settle()).await);
    }
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

/// SIGHUP reloads; SIGTERM and SIGINT stop.
async fn follow_orders(
    mut signals: Signals,
    operations: Arc<Operations>,
    broker: Arc<Broker>,
    health: Health,
    stop: watch::Sender<bool>,
    control: Handle,
) {
    loop {
        tokio::select! {
            _ = signals.hangup.recv() => {
                let operations = operations.clone();
                control.spawn(async move { drop(operations.reload().await) });
            }
            _ = signals.terminate.recv() => break,
            _ = signals.interrupt.recv() => break,
        }
    }
    info!("stopping");
    notify(&[NotifyState::Stopping]);
    health.tools(false).await;
    health.admin(false).await;
    broker.stop();
    let _ = stop.send(true);
}

/// Tells systemd, where it listens.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "systemd asked to be told how it goes, and cannot be");
    }
}

/// Does this file exist for the daemon? For hints.
pub fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
