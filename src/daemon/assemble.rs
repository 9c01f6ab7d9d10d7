//! From settings to sources, and to the plan of a load.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::places;
use crate::{
    alarm::{self, Alarms},
    config::{
        AlarmSettings, AwsRole, AwsSettings, AwsStsSettings, Config, FileRef, LastGoodSettings, RoleId, SealedFileSettings,
        SourceSettings, VaultAuth, VaultSettings, WebhookAddress, WebhookTarget,
    },
    name::SourceName,
    refresh::{LastGood, Plan, Planned},
    secret::SecretValue,
    source::{
        Source, Wanted, aws,
        aws_secrets_manager::AwsSecretsManager,
        aws_sts::{self, AwsSts},
        environment::{self, Environment},
        sealed_file::{self, Sealed},
        vault::{self, Vault},
    },
    store::Keeper,
};

/// The sources of a configuration, ready to be read, each with the settings that it was made from.
pub type Sources = BTreeMap<SourceName, (SourceSettings, Arc<dyn Source>)>;

/// What the daemon took out of its environment at its start. Later loads read from here.
pub struct Captured {
    values: Arc<dyn Source>,
    names: Vec<String>,
    /// `$CREDENTIALS_DIRECTORY`: where systemd puts what the unit loads.
    credentials: Option<PathBuf>,
    /// What Vault sources could read only once, for those that are made anew.
    secret_ids: vault::SecretIds,
}

/// Takes every variable that is a secret, through `take`, which must leave none behind. Those that no tool may have are dropped: they
/// are secrets all the same, and do not stay where `/proc/PID/environ` shows them.
pub fn capture(config: &Config, take: impl Fn(&str) -> Option<SecretValue>) -> Captured {
    let granted = config.policy.granted();
    let from_environment = |source: &SourceName| matches!(config.sources.get(source), Some(SourceSettings::Environment));
    // Two secrets may be fields of one variable, and it can be taken once.
    let mut variables: BTreeMap<&str, bool> = BTreeMap::new();
    for (name, secret) in config.secrets.iter().filter(|(_, secret)| from_environment(&secret.source)) {
        *variables.entry(&secret.path).or_default() |= granted.contains(name);
    }
    let taken = variables.into_iter().map(|(variable, keep)| (variable, keep, take(variable)));
    let values: HashMap<_, _> =
        taken.filter_map(|(variable, keep, value)| Some((variable.to_owned(), value.filter(|_| keep)?))).collect();
    let names = values.keys().cloned().collect();
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    let values = Arc::new(Environment::new(environment::Settings { values }));
    Captured { values, names, credentials, secret_ids: vault::SecretIds::default() }
}

impl Captured {
    /// Was this variable there at the start?
    pub fn has(&self, variable: &str) -> bool {
        self.names.iter().any(|name| name == variable)
    }

    /// Where a file is that may be a credential of systemd.
    pub fn file(&self, file: &FileRef) -> Result<PathBuf, String> {
        file.resolve(self.credentials.as_deref()).ok_or_else(|| {
            "it names a systemd credential, and this daemon was given none: add LoadCredential= to its unit, or give a path"
                .into()
        })
    }
}

/// Builds every source, and says why those that cannot be are not. One whose settings are as before goes on with its login.
pub fn sources(config: &Config, captured: &Captured, before: &Sources) -> (Sources, Vec<String>) {
    let mut sources = Sources::new();
    let mut reasons = Vec::new();
    for (name, settings) in &config.sources {
        let unchanged = before.get(name).filter(|(before, _)| before == settings).map(|(_, source)| Ok(source.clone()));
        match unchanged.unwrap_or_else(|| source(settings, captured, config.daemon.load_concurrency as usize)) {
            Ok(source) => _ = sources.insert(name.clone(), (settings.clone(), source)),
            Err(reason) => reasons.push(format!("source {name}: {reason}")),
        }
    }
    (sources, reasons)
}

/// The sources of one that are not in the other.
pub fn only_in(one: &Sources, other: &Sources) -> Vec<Arc<dyn Source>> {
    let kept = |source: &Arc<dyn Source>| other.values().any(|(_, other)| Arc::ptr_eq(source, other));
    one.values().map(|(_, source)| source).filter(|source| !kept(source)).cloned().collect()
}

fn source(settings: &SourceSettings, captured: &Captured, concurrency: usize) -> Result<Arc<dyn Source>, String> {
    Ok(match settings {
        SourceSettings::AwsSecretsManager(settings) => {
            Arc::new(say(AwsSecretsManager::new(aws_settings(settings, captured, concurrency)?))?)
        }
        SourceSettings::AwsParameterStore(settings) => parameter_store(aws_settings(settings, captured, concurrency)?)?,
        SourceSettings::AwsSts(AwsStsSettings { account, role, session_policy, life }) => {
            let session_policy = session_policy.as_ref().map(|file| captured.file(file)).transpose()?;
            let account = aws_settings(account, captured, concurrency)?;
            Arc::new(say(AwsSts::new(aws_sts::Settings { account, role: aws_role(role), session_policy, life: *life }))?)
        }
        SourceSettings::Vault(settings) => Arc::new(say(Vault::new(vault_settings(settings, captured, concurrency)?))?),
        SourceSettings::SealedFile(SealedFileSettings { file, identity_file, .. }) => {
            let (path, identity_file) = (captured.file(file)?, captured.file(identity_file)?);
            Arc::new(say(Sealed::new(sealed_file::Settings { path, identity_file }))?)
        }
        SourceSettings::Environment => captured.values.clone(),
    })
}

/// Starts what watches for alarms, where configuration wants it.
pub fn alarms(config: &Config, captured: &Captured) -> Result<Option<Arc<Alarms>>, String> {
    let Some(AlarmSettings { rules, hook, webhook, state_file, contain }) = config.alarm.clone() else { return Ok(None) };
    let webhook = webhook.map(|WebhookTarget { address, token_file, ca_file }| {
        let file = |file: Option<FileRef>| file.map(|file| captured.file(&file)).transpose();
        let address = match address {
            WebhookAddress::Url(url) => alarm::Address::Url(url),
            WebhookAddress::File(path) => alarm::Address::File(captured.file(&path)?),
        };
        Ok::<_, String>(alarm::WebhookSettings { address, token_file: file(token_file)?, ca_file: file(ca_file)? })
    });
    let state_file = match state_file {
        Some(file) => file,
        None => default_state_file().map_err(|error| format!("[alarm]: {}: {error}", places::state_dir().display()))?,
    };
    let settings = alarm::Settings { hook, webhook: webhook.transpose()?, state_file: Some(state_file), contain };
    Alarms::start(rules, settings).map(Some).map_err(|problem| format!("[alarm]: {problem}"))
}

fn default_state_file() -> std::io::Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    let directory = places::state_dir();
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
    Ok(directory.join("alarm.json"))
}

fn say<T>(built: Result<T, crate::source::SourceError>) -> Result<T, String> {
    built.map_err(|error| error.to_string())
}

#[cfg(feature = "aws-parameter-store")]
fn parameter_store(settings: aws::Settings) -> Result<Arc<dyn Source>, String> {
    Ok(Arc::new(say(crate::source::aws_parameter_store::AwsParameterStore::new(settings))?))
}

/// Configuration refuses it before.
#[cfg(not(feature = "aws-parameter-store"))]
fn parameter_store(_: aws::Settings) -> Result<Arc<dyn Source>, String> {
    Err("this build is without aws-parameter-store".into())
}

/// An account of AWS, with files where they are.
pub fn aws_settings(settings: &AwsSettings, captured: &Captured, concurrency: usize) -> Result<aws::Settings, String> {
    let role = settings.role.as_ref().map(aws_role);
    Ok(aws::Settings {
        region: settings.region.clone(),
        endpoint: settings.endpoint.clone(),
        profile: settings.profile.clone(),
        credentials_file: settings.credentials_file.as_ref().map(|file| captured.file(file)).transpose()?,
        watched: shared_aws_files(),
        role,
        concurrency,
    })
}

fn aws_role(role: &AwsRole) -> aws::Role {
    let AwsRole { arn, external_id, sts_endpoint } = role.clone();
    aws::Role { arn, external_id, sts_endpoint }
}

/// Where the AWS SDK looks for profiles and their keys.
fn shared_aws_files() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let file = |variable: &str, name: &str| {
        std::env::var_os(variable).map(PathBuf::from).or_else(|| Some(home.as_ref()?.join(".aws").join(name)))
    };
    [file("AWS_SHARED_CREDENTIALS_FILE", "credentials"), file("AWS_CONFIG_FILE", "config")].into_iter().flatten().collect()
}

fn vault_settings(settings: &VaultSettings, captured: &Captured, concurrency: usize) -> Result<vault::Settings, String> {
    let certificate = settings.client_certificate.as_ref();
    Ok(vault::Settings {
        address: settings.address.clone(),
        namespace: settings.namespace.clone(),
        login: vault_login(&settings.auth, captured)?,
        mount: settings.mount.clone(),
        engine: if settings.kv_version == 1 { vault::Engine::V1 } else { vault::Engine::V2 },
        ca_file: settings.ca_file.as_ref().map(|file| captured.file(file)).transpose()?,
        client_certificate: certificate
            .map(|(certificate, key)| Ok::<_, String>((captured.file(certificate)?, captured.file(key)?)))
            .transpose()?,
        concurrency,
        secret_ids: captured.secret_ids.clone(),
    })
}

fn vault_login(auth: &VaultAuth, captured: &Captured) -> Result<vault::Login, String> {
    Ok(match auth {
        VaultAuth::TokenFile(file) => vault::Login::TokenFile(captured.file(file)?),
        VaultAuth::AppRole { role_id, secret_id, mount, wrapped, delete_after_read } => vault::Login::AppRole {
            mount: mount.clone(),
            role_id: match role_id {
                RoleId::Inline(id) => id.clone(),
                RoleId::File(file) => read_line(&captured.file(file)?)?,
            },
            secret_id_file: captured.file(secret_id)?,
            wrapped: *wrapped,
            delete_after_read: *delete_after_read,
        },
        VaultAuth::Jwt { role, token_file, mount } => {
            vault::Login::Jwt { mount: mount.clone(), role: role.clone(), token_file: captured.file(token_file)? }
        }
        VaultAuth::Kubernetes { role, token_file, mount } => {
            vault::Login::Kubernetes { mount: mount.clone(), role: role.clone(), token_file: captured.file(token_file)? }
        }
        VaultAuth::Certificate { role, mount } => vault::Login::Certificate { mount: mount.clone(), role: role.clone() },
    })
}

/// A role id is a name, not a credential: it may be read once and kept.
fn read_line(path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    Ok(text.trim().to_owned())
}

/// Only secrets that some tool may use are loaded: the daemon practises least privilege too.
pub fn plan(config: &Config, sources: &Sources) -> Plan {
    let mut plan = Plan { timeout: config.daemon.load_timeout, ..Plan::default() };
    for name in config.policy.granted() {
        // What is made for each session is read when one asks.
        let Some(secret) = config.secrets.get(name).filter(|secret| !secret.per_session) else { continue };
        let Some((_, source)) = sources.get(&secret.source) else { continue };
        let freshness = config.sources.get(&secret.source).and_then(SourceSettings::freshness);
        let wanted =
            Wanted { secret: name.clone(), path: secret.path.clone(), field: secret.field.clone(), stage: secret.stage.clone() };
        let planned = plan.sources.entry(secret.source.clone()).or_insert_with(|| Planned {
            source: source.clone(),
            refresh_every: freshness.map(|freshness| freshness.refresh_every),
            wanted: Vec::new(),
            max_stale: BTreeMap::new(),
            places: BTreeMap::new(),
        });
        planned
            .places
            .extend(config.sources.get(&secret.source).and_then(|source| Some((name.clone(), place(source, &wanted)?))));
        planned.wanted.push(wanted);
        if let Some(freshness) = freshness {
            planned.max_stale.insert(name.clone(), secret.max_stale.unwrap_or(freshness.max_stale));
        }
        if secret.required {
            plan.required.insert(name.clone());
        }
    }
    plan
}

/// Where a secret comes from, for the sealed copy on disk: a value that came from one place must never stand in for another's. How the
/// daemon logs in there is no part of it. `None`: from this host itself, so no copy is kept.
fn place(source: &SourceSettings, Wanted { path, field, stage, .. }: &Wanted) -> Option<Arc<str>> {
    let within = (path, field, stage);
    let place = match source {
        SourceSettings::AwsSecretsManager(aws) | SourceSettings::AwsParameterStore(aws) => {
            // A role says whose account it is.
            let role = aws.role.as_ref().map(|role| &role.arn);
            serde_json::to_string(&(source.kind(), (&aws.region, &aws.endpoint, &aws.profile, role), within))
        }
        SourceSettings::Vault(VaultSettings { address, namespace, mount, kv_version, .. }) => {
            serde_json::to_string(&(source.kind(), (address, namespace, mount, kv_version), within))
        }
        SourceSettings::AwsSts(_) | SourceSettings::SealedFile(_) | SourceSettings::Environment => return None,
    };
    place.ok().map(Arc::from)
}

/// The sealed copy of the last good values, where one is configured.
pub fn last_good(config: &Config, captured: &Captured, keeper: &Arc<Keeper>) -> Result<Option<Arc<LastGood>>, String> {
    let Some(LastGoodSettings { file, identity_file }) = &config.daemon.last_good else { return Ok(None) };
    let last_good = captured.file(identity_file).and_then(|identity| say(LastGood::new(file.clone(), identity, keeper.clone())));
    last_good.map(|last_good| Some(Arc::new(last_good))).map_err(|reason| format!("last-good: {reason}"))
}
