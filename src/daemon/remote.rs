//! What serves callers over the network: a runtime of its own, so that whatever happens there takes no time from tools on this host.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    runtime::{Builder, Runtime},
    sync::watch,
    task::JoinHandle,
};
use tracing::{error, info, warn};

use super::{assemble::Captured, places};
use crate::{
    attest::{Desk, IssuerOptions, Issuers, KeySource, Tls, TlsFiles, Tokens, WorkloadApi},
    broker::Broker,
    config::{ClientCertificates, Config, IssuerSettings, KeysFrom, OwnCertificate, RemoteSettings},
    delivery::{self, Health, Host, RemoteListener, RemoteRoom},
};

/// Bound, and not served yet.
pub struct RemotePlane {
    runtime: Runtime,
    listener: RemoteListener,
    tls: Arc<Tls>,
    agent: Option<WorkloadApi>,
    desk: Desk,
    admin: bool,
}

/// Where callers over the network connect.
pub struct RemotePort {
    address: SocketAddr,
    tls: Arc<Tls>,
}

impl RemotePort {
    pub fn facts(&self) -> delivery::RemoteFacts {
        let certificate_until = self.tls.until();
        delivery::RemoteFacts { address: self.address, certificate_until, spiffe_id: self.tls.spiffe_id() }
    }
}

/// How often the files are looked at for a change.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Threads for handshakes and for all that is served over the network.
const THREADS: usize = 2;

impl RemotePlane {
    /// Binds, where configuration says so. What is wrong is said in one go.
    pub fn open(config: &Config, captured: &Captured, broker: &Arc<Broker>) -> Result<Option<Self>, Vec<String>> {
        let Some(settings) = &config.remote else { return Ok(None) };
        let mut reasons = Vec::new();
        let tls = note(&mut reasons, tls(settings, config, captured));
        let tokens = note(&mut reasons, tokens_file().and_then(Tokens::open).map(Arc::new));
        let issuers = note(&mut reasons, issuers(config, captured).map(Arc::new));
        let (Some(tls), Some(tokens), Some(issuers)) = (tls, tokens, issuers) else { return Err(reasons) };
        let mut builder = Builder::new_multi_thread();
        let builder = builder.worker_threads(THREADS).thread_name("valetkeyd-remote").enable_all();
        let runtime = builder.build().map_err(|error| vec![format!("cannot start threads: {error}")])?;
        let bound = runtime.block_on(RemoteListener::bind(settings.listen, tls.clone(), room(settings), broker.clone()));
        let listener = bound.map_err(|error| vec![format!("cannot listen at {} for [remote]: {error}", settings.listen)])?;
        let agent = match &settings.own {
            OwnCertificate::Files { .. } => None,
            OwnCertificate::WorkloadApi { socket, id } => Some(WorkloadApi { socket: socket.clone(), id: id.clone() }),
        };
        let admin = config.policy.roles().has_remote();
        Ok(Some(Self { runtime, listener, tls, agent, desk: Desk { tokens, issuers }, admin }))
    }

    /// Where it is, and what it shows of the daemon.
    pub fn port(&self) -> RemotePort {
        RemotePort { address: self.listener.address(), tls: self.tls.clone() }
    }

    /// The tokens that operators issue.
    pub fn tokens(&self) -> Arc<Tokens> {
        self.desk.tokens.clone()
    }

    /// Serves until `stop`, and keeps certificates and keys fresh meanwhile.
    pub fn serve(
        self,
        broker: Arc<Broker>,
        host: Arc<dyn Host>,
        health: Health,
        stop: watch::Receiver<bool>,
    ) -> (Runtime, JoinHandle<()>) {
        let Self { runtime, listener, tls, agent, desk, admin } = self;
        info!(address = %listener.address(), operators = admin, "listening for callers over the network");
        let issuers = desk.issuers.clone();
        runtime.spawn(async move { issuers.keep_fresh().await });
        if let Some(agent) = agent {
            let (tls, broker) = (tls.clone(), broker.clone());
            runtime.spawn(async move { agent.follow(&tls, || broker.policy().authorities()).await });
        }
        runtime.spawn(keep_fresh(tls, broker.clone()));
        let remote = delivery::Remote { listener, desk, broker, health, host: admin.then_some(host) };
        let served = runtime.spawn(async move {
            let mut stop = stop;
            let stopped = async move { drop(stop.wait_for(|stop| *stop).await) };
            if let Err(error) = delivery::serve_remote(remote, stopped).await {
                error!(%error, "serving callers over the network failed");
            }
        });
        (runtime, served)
    }
}

fn note<T>(reasons: &mut Vec<String>, made: Result<T, String>) -> Option<T> {
    made.map_err(|reason| reasons.push(format!("[remote]: {reason}"))).ok()
}

fn tls(settings: &RemoteSettings, config: &Config, captured: &Captured) -> Result<Arc<Tls>, String> {
    let own = match &settings.own {
        OwnCertificate::Files { certificate, key } => Some((certificate.clone(), captured.file(key)?)),
        OwnCertificate::WorkloadApi { .. } => None,
    };
    let files = TlsFiles {
        own,
        client_ca: settings.client_ca_file.clone(),
        crl: settings.crl_file.clone(),
        required: settings.client_certificates == ClientCertificates::Required,
        tls_1_2: settings.tls_1_2,
    };
    Tls::load(files, &config.policy.authorities()).map(Arc::new)
}

/// Beside the audit log.
fn tokens_file() -> Result<PathBuf, String> {
    use std::os::unix::fs::DirBuilderExt;
    let directory = places::state_dir();
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
    made.map_err(|error| format!("{}: {error}", directory.display()))?;
    Ok(directory.join("tokens.json"))
}

fn issuers(config: &Config, captured: &Captured) -> Result<Issuers, String> {
    let made = config.issuers.iter().map(|(name, settings)| {
        let IssuerSettings { issuer, keys, audience, algorithms, leeway, max_lifetime } = settings.clone();
        let options = IssuerOptions::new(name.to_string(), issuer.clone(), audience, &algorithms, leeway, max_lifetime);
        let options = options.ok_or_else(|| format!("issuer {name}: an algorithm that cannot be checked here"))?;
        let (source, every) = match keys {
            KeysFrom::File(file) => (KeySource::File(captured.file(&file)?), Duration::ZERO),
            KeysFrom::Discovery { ca_file, refresh_every } => (KeySource::Discovery { issuer, ca_file }, refresh_every),
        };
        Ok((options, source, every))
    });
    made.collect::<Result<Vec<_>, String>>().map(Issuers::new)
}

fn room(settings: &RemoteSettings) -> RemoteRoom {
    RemoteRoom {
        connections: settings.max_connections as usize,
        per_address: settings.max_connections_per_address as usize,
        failures_per_minute: settings.failures_per_minute,
        handshake: settings.handshake_timeout,
        first_call: settings.request_timeout,
        idle: settings.idle_timeout,
    }
}

/// Takes in what changes on disk. No connection is dropped for it; who is not vouched for any more gets nothing more.
async fn keep_fresh(tls: Arc<Tls>, broker: Arc<Broker>) {
    let mut every = tokio::time::interval(LOOK_EVERY);
    let mut trouble = None;
    loop {
        every.tick().await;
        let (tls, more) = (tls.clone(), broker.policy().authorities());
        match tokio::task::spawn_blocking(move || tls.reload(&more)).await {
            Ok(Ok(false)) | Err(_) => {}
            Ok(Ok(true)) => {
                trouble = None;
                info!("certificates for callers over the network were read again");
            }
            Ok(Err(why)) if trouble.as_ref() == Some(&why) => {}
            Ok(Err(why)) => {
                warn!("certificates have changed and cannot be used, so those before stay in force: {why}");
                trouble = Some(why);
            }
        }
    }
}
