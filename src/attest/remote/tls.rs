//! The daemon's certificate, and who vouches for callers. Files are read again when they change, and what a SPIFFE agent gives is taken
//! in as it comes; a change that cannot be used leaves what was there in force, and is said. Connections that are open stay: each
//! hand-out on them asks what is in force now.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::SystemTime,
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem::PemObject},
    server::NoServerSessionStorage,
    version,
};

use super::{
    authorities::{Authorities, Unlisted},
    spiffe::{Identity, ends},
};
use crate::{peer::Authority, source::key_file};

/// Where all of it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The daemon's certificate and its key. `None`: a SPIFFE agent gives it both.
    pub own: Option<(PathBuf, PathBuf)>,
    pub client_ca: Option<Arc<Path>>,
    pub crl: Option<PathBuf>,
    /// Must each caller have a certificate?
    pub required: bool,
    pub tls_1_2: bool,
}

/// TLS as it is in force.
pub struct Tls {
    files: TlsFiles,
    now: RwLock<Arc<Loaded>>,
    /// Held while what is in force is replaced.
    changing: Mutex<()>,
    generation: AtomicU64,
}

/// One reading of the files, and what an agent had given by then.
struct Loaded {
    own: Option<Own>,
    authorities: Arc<Authorities>,
    identity: Option<Arc<Identity>>,
    /// What was read, to see when it changes.
    stamps: BTreeMap<PathBuf, Stamp>,
}

/// What the daemon shows of itself.
struct Own {
    server: Arc<ServerConfig>,
    until: SystemTime,
}

type Stamp = Option<(u64, u64, i64, i64)>;

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).field("generation", &self.generation).finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads everything. `more` are files of authorities that selectors ask for.
    ///
    /// # Errors
    /// In words, with the file: it cannot be read, the key is another certificate's, the key is open to others.
    pub fn load(files: TlsFiles, more: &[PathBuf]) -> Result<Self, String> {
        let loaded = Loaded::read(&files, more, None)?;
        Ok(Self { files, now: RwLock::new(Arc::new(loaded)), changing: Mutex::default(), generation: AtomicU64::new(1) })
    }

    /// Reads again what has changed. `true`: something had, and the new is in force.
    ///
    /// # Errors
    /// As [`load`](Self::load); then all stays as it was, and the next change is tried again.
    pub fn reload(&self, more: &[PathBuf]) -> Result<bool, String> {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.now();
        if before.stamps == stamps(&self.files, more) {
            return Ok(false);
        }
        self.replace(Loaded::read(&self.files, more, before.identity.clone())?);
        Ok(true)
    }

    /// Takes in who the daemon is by a SPIFFE agent, and whom that one believes. `true`: it is not what was there before.
    ///
    /// # Errors
    /// As [`load`](Self::load), and for a key that is another certificate's; then all stays as it was.
    pub fn identify(&self, identity: Identity, more: &[PathBuf]) -> Result<bool, String> {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.now().identity.as_deref() == Some(&identity) {
            return Ok(false);
        }
        self.replace(Loaded::read(&self.files, more, Some(Arc::new(identity)))?);
        Ok(true)
    }

    fn replace(&self, loaded: Loaded) {
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(loaded);
        self.generation.fetch_add(1, Relaxed);
    }

    fn now(&self) -> Arc<Loaded> {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// For the next handshake. `None`: the daemon's agent has given it no identity, or none that is still good.
    pub fn server(&self) -> Option<Arc<ServerConfig>> {
        self.now().own().map(|own| own.server.clone())
    }

    /// When the daemon's certificate ends. `None`: it has none to show.
    pub fn until(&self) -> Option<SystemTime> {
        self.now().own().map(|own| own.until)
    }

    /// Who the daemon is by its agent.
    pub fn spiffe_id(&self) -> Option<String> {
        self.now().identity.as_ref().map(|identity| identity.id.clone())
    }

    /// Which reading of the files is in force.
    pub fn generation(&self) -> u64 {
        self.generation.load(Relaxed)
    }

    /// Who vouches for callers at this moment.
    pub fn authorities(&self) -> Arc<Authorities> {
        self.now().authorities.clone()
    }
}

impl Loaded {
    /// A file is what the operator wants to be shown. An identity that has ended is one that was not renewed, which may be on purpose.
    fn own(&self) -> Option<&Own> {
        let ended = |own: &&Own| self.identity.is_some() && own.until <= SystemTime::now();
        self.own.as_ref().filter(|own| !ended(own))
    }

    fn read(files: &TlsFiles, more: &[PathBuf], identity: Option<Arc<Identity>>) -> Result<Self, String> {
        // Before reading: what changes meanwhile is read again.
        let stamps = stamps(files, more);
        let provider = Arc::new(aws_lc_rs::default_provider());
        let lists = files.crl.as_deref().map(revocations).transpose()?.unwrap_or_default();
        let mut authorities = Authorities::default();
        for file in files.client_ca.iter().cloned().chain(more.iter().map(|file| Arc::from(file.as_path()))) {
            let roots = roots(certificates(&file)?).map_err(|why| format!("{}: {why}", file.display()))?;
            let added = authorities.add(Authority::File(file.clone()), roots, &lists, Unlisted::Refused, &provider);
            added.map_err(|why| format!("{}: {why}", file.display()))?;
        }
        for (domain, bundle) in identity.iter().flat_map(|identity| &identity.bundles) {
            let bad = |why: String| format!("the bundle of {domain}: {why}");
            let lists = &identity.as_ref().map(|identity| identity.lists.clone()).unwrap_or_default();
            let roots = roots(bundle.clone()).map_err(bad)?;
            authorities.add(Authority::TrustDomain(domain.clone()), roots, lists, Unlisted::Taken, &provider).map_err(bad)?;
        }
        let authorities = Arc::new(authorities);
        let (chain, key, whose) = match (&files.own, &identity) {
            (Some((certificate, key)), _) => {
                let pem = key_file::read(key).map_err(|error| error.to_string())?;
                let read = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| unusable(key, "private key in PEM"))?;
                (certificates(certificate)?, read, format!("{} and {}", certificate.display(), key.display()))
            }
            (None, Some(identity)) => {
                (identity.chain.clone(), identity.key(), format!("the certificate and the key of {}", identity.id))
            }
            (None, None) => return Ok(Self { own: None, authorities, identity, stamps }),
        };
        let until = ends(&chain[0]).ok_or_else(|| format!("{whose}: when the certificate ends cannot be read"))?;
        let versions: &[_] = if files.tls_1_2 { &[&version::TLS13, &version::TLS12] } else { &[&version::TLS13] };
        let server = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions);
        let server = server.map_err(|error| error.to_string())?;
        let server = server.with_client_cert_verifier(authorities.at_handshakes(files.required, &provider));
        let mut server = server.with_single_cert(chain, key).map_err(|error| format!("{whose} do not go together: {error}"))?;
        server.alpn_protocols = vec![b"h2".to_vec()];
        // Each connection proves itself anew: a resumed one would be believed for what was true at the first.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Self { own: Some(Own { server: Arc::new(server), until }), authorities, identity, stamps })
    }
}

fn roots(certificates: Vec<CertificateDer<'static>>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    Ok(roots)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = text(file)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    found.ok().filter(|found| !found.is_empty()).ok_or_else(|| unusable(file, "certificate in PEM"))
}

fn revocations(file: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let text = text(file)?;
    let found: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&text).collect();
    found.ok().filter(|found| !found.is_empty()).ok_or_else(|| unusable(file, "list of revoked certificates in PEM"))
}

fn unusable(file: &Path, what: &str) -> String {
    format!("{} holds no {what} that can be used", file.display())
}

/// Far more than any of them is.
const LARGEST: u64 = 32 << 20;

/// A file that decides whom the daemon believes: nobody else may write it.
fn text(file: &Path) -> Result<Vec<u8>, String> {
    let fails = |error: std::io::Error| format!("cannot read {}: {error}", file.display());
    let facts = fs::metadata(file).map_err(fails)?;
    if !facts.is_file() || facts.len() > LARGEST {
        return Err(format!("{} is no file, or a very large one", file.display()));
    }
    if facts.mode() & 0o022 != 0 {
        return Err(format!("{} can be written by others: chmod go-w", file.display()));
    }
    fs::read(file).map_err(fails)
}

fn stamps(files: &TlsFiles, more: &[PathBuf]) -> BTreeMap<PathBuf, Stamp> {
    let own = files.own.iter().flat_map(|(certificate, key)| [&**certificate, &**key]);
    let named = [files.client_ca.as_deref(), files.crl.as_deref()];
    let all = own.chain(named.into_iter().flatten()).chain(more.iter().map(PathBuf::as_path));
    let stamp = |file: &Path| fs::metadata(file).ok().map(|facts| (facts.ino(), facts.size(), facts.mtime(), facts.mtime_nsec()));
    all.map(|file| (file.to_owned(), stamp(file))).collect()
}
