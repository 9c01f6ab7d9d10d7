//! The daemon's certificate, and who vouches for callers. Files are read again when they change; a change that cannot be used leaves what
//! was there in force, and is said. Connections that are open stay: each hand-out on them asks what is in force now.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
    version,
};

use super::Unproven;
use crate::source::key_file;

/// Where all of it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
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
    generation: AtomicU64,
}

/// One reading of the files.
struct Loaded {
    server: Arc<ServerConfig>,
    authorities: Authorities,
    /// What was read, to see when it changes.
    stamps: BTreeMap<PathBuf, Stamp>,
}

type Authorities = BTreeMap<Arc<Path>, Arc<dyn ClientCertVerifier>>;
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
        let loaded = Loaded::read(&files, more)?;
        Ok(Self { files, now: RwLock::new(Arc::new(loaded)), generation: AtomicU64::new(1) })
    }

    /// Reads again what has changed. `true`: something had, and the new is in force.
    ///
    /// # Errors
    /// As [`load`](Self::load); then all stays as it was, and the next change is tried again.
    pub fn reload(&self, more: &[PathBuf]) -> Result<bool, String> {
        let before = self.now();
        if before.stamps == stamps(&self.files, more) {
            return Ok(false);
        }
        let loaded = Arc::new(Loaded::read(&self.files, more)?);
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = loaded;
        self.generation.fetch_add(1, Relaxed);
        Ok(true)
    }

    fn now(&self) -> Arc<Loaded> {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// For the next handshake.
    pub fn server(&self) -> Arc<ServerConfig> {
        self.now().server.clone()
    }

    /// Which reading of the files is in force.
    pub fn generation(&self) -> u64 {
        self.generation.load(Relaxed)
    }

    /// The files of authorities that vouch for these certificates at this moment.
    pub fn vouched_by(&self, chain: &[CertificateDer<'_>]) -> Result<BTreeSet<Arc<Path>>, Unproven> {
        let now = self.now();
        let Some((own, between)) = chain.split_first() else { return Err(Unproven::CertificateMissing) };
        let mut why = Unproven::CertificateOfUnknownAuthority;
        let mut vouched_by = BTreeSet::new();
        for (file, authority) in &now.authorities {
            match authority.verify_client_cert(own, between, UnixTime::now()) {
                Ok(_) => _ = vouched_by.insert(file.clone()),
                Err(rustls::Error::InvalidCertificate(error)) => {
                    // That one does not know it says less than what another has against it.
                    let other = Unproven::of_certificate(&error);
                    why = if why == Unproven::CertificateOfUnknownAuthority { other } else { why };
                }
                Err(_) => why = Unproven::CertificateBad,
            }
        }
        if vouched_by.is_empty() { Err(why) } else { Ok(vouched_by) }
    }
}

impl Loaded {
    fn read(files: &TlsFiles, more: &[PathBuf]) -> Result<Self, String> {
        // Before reading: what changes meanwhile is read again.
        let stamps = stamps(files, more);
        let provider = Arc::new(aws_lc_rs::default_provider());
        let chain = certificates(&files.certificate)?;
        let key = key_file::read(&files.key).map_err(|error| error.to_string())?;
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(|_| unusable(&files.key, "private key in PEM"))?;
        let lists = files.crl.as_deref().map(revocations).transpose()?.unwrap_or_default();
        let mut authorities = Authorities::new();
        let mut all = RootCertStore::empty();
        for file in files.client_ca.iter().cloned().chain(more.iter().map(|file| Arc::from(file.as_path()))) {
            let roots = roots(&file)?;
            all.roots.extend(roots.roots.iter().cloned());
            authorities.insert(
                file.clone(),
                verifier(roots, &lists, &provider, true).map_err(|why| format!("{}: {why}", file.display()))?,
            );
        }
        let callers = match all.is_empty() {
            true => WebPkiClientVerifier::no_client_auth(),
            false => verifier(all, &lists, &provider, files.required)?,
        };
        let versions: &[_] = if files.tls_1_2 { &[&version::TLS13, &version::TLS12] } else { &[&version::TLS13] };
        let server = ServerConfig::builder_with_provider(provider).with_protocol_versions(versions);
        let server = server.map_err(|error| error.to_string())?.with_client_cert_verifier(callers);
        let mut server = server.with_single_cert(chain, key).map_err(|error| {
            format!("{} and {} do not go together: {error}", files.certificate.display(), files.key.display())
        })?;
        server.alpn_protocols = vec![b"h2".to_vec()];
        // Each connection proves itself anew: a resumed one would be believed for what was true at the first.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Self { server: Arc::new(server), authorities, stamps })
    }
}

/// Every certificate of the chain is looked up in the lists, and what no list knows, or only one that is outdated, is refused.
fn verifier(
    roots: RootCertStore,
    lists: &[CertificateRevocationListDer<'static>],
    provider: &Arc<CryptoProvider>,
    required: bool,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let builder = builder.with_crls(lists.iter().cloned()).enforce_revocation_expiration();
    let builder = if required { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(|error| error.to_string())
}

fn roots(file: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots.add(certificate).map_err(|error| format!("{}: {error}", file.display()))?;
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
    let named = [Some(&*files.certificate), Some(&*files.key), files.client_ca.as_deref(), files.crl.as_deref()];
    let all = named.into_iter().flatten().chain(more.iter().map(PathBuf::as_path));
    let stamp = |file: &Path| fs::metadata(file).ok().map(|facts| (facts.ino(), facts.size(), facts.mtime(), facts.mtime_nsec()));
    all.map(|file| (file.to_owned(), stamp(file))).collect()
}
