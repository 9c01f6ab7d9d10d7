//! What is lent: credentials that an engine makes for us, such as a database's. They live as long as their lease is renewed, and no
//! longer than the token they were got with.

use std::{
    collections::BTreeMap,
    str,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use serde_json::json;

use super::{
    super::{Cause, Checked, Fetched, SourceError, field::Json},
    Vault,
    client::{Call, Client, is_true, seconds},
    errors::{Asked, Failed, Of},
    read::{Asking, Found, Job, LEASE_LOOKUP, Rights, value},
    token::Token,
};
use crate::{name::Version, secret::SecretValue};

/// The leases of a source, by path. Each is held while it is worked on, so that secrets of one path share one.
#[derive(Debug, Default)]
pub(super) struct Leases(Mutex<BTreeMap<String, Slot>>);

type Slot = Arc<tokio::sync::Mutex<Option<Lease>>>;

/// One lease.
#[derive(Debug)]
struct Lease {
    id: SecretValue,
    /// Of the token that it hangs on.
    generation: u64,
    renewable: bool,
    /// When it was granted or renewed, and for how long.
    since: Instant,
    life: Duration,
    /// Its life when it was fresh, and what each renewal asks for.
    full: Duration,
    version: Version,
    /// The object that was lent. Kept so that a user name and its password, which are secrets of their own, come from one lease however far
    /// apart they are asked for.
    data: SecretValue,
}

/// How a lease fares.
enum Fares {
    Well,
    /// It cannot be had any longer.
    Over,
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The shortest time after which anything is to be checked again.
const SHORTEST: Duration = Duration::from_secs(1);
/// Servers count in whole seconds.
const ROUNDED: Duration = Duration::from_secs(1);

impl Leases {
    fn slot(&self, path: &str) -> Slot {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slots.entry(path.to_owned()).or_default().clone()
    }
}

impl Lease {
    fn is_live(&self, token: &Token) -> bool {
        self.generation == token.generation && now() < self.since + self.life
    }

    /// A little before half of its life, which is when it is checked at the latest.
    fn is_due(&self) -> bool {
        now() >= self.since + self.life.mul_f64(0.4)
    }

    /// Renewing would be granted less each time: then a new one is better.
    fn is_last(&self) -> bool {
        self.life + ROUNDED < self.full
    }

    fn renewed(&mut self, life: Duration, renewable: bool) {
        (self.since, self.life, self.renewable) = (now(), life, renewable);
    }

    fn half(&self) -> Duration {
        (self.since + self.life / 2).saturating_duration_since(now())
    }

    fn find(&self, asking: &Asking, check_within: Option<Duration>) -> Result<Checked, SourceError> {
        if asking.known == Some(&self.version) {
            return Ok(Checked::Same { check_within });
        }
        self.data.expose(|data| {
            let data = Json::parse(data).ok_or_else(|| SourceError::new(Cause::BadAnswer, "the data are not JSON"))?;
            let value = value(data, asking.wanted.field.as_deref())?;
            Ok(Checked::Read(Fetched { value, version: self.version.clone(), check_within }))
        })
    }
}

/// The same for the same lease, and says nothing about it.
pub(super) fn version_of(id: &SecretValue) -> Option<Version> {
    let digest = id.expose(|id| aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, id));
    let hex: String = digest.as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    hex.parse().ok()
}

impl Vault {
    /// Reads a path of any engine, or looks after its lease.
    pub(super) async fn visit_other(
        &self,
        client: &Client<'_>,
        token: &Token,
        rights: &Rights,
        job: &Job<'_>,
        path: &str,
    ) -> Result<Vec<Found>, Failed> {
        let slot = self.leases.slot(path);
        let mut slot = slot.lock().await;
        let is_check = job.asked.iter().all(|asking| asking.known.is_some());
        if let Some(lease) = slot.as_mut().filter(|lease| is_check && lease.is_live(token))
            && let Fares::Well = look_after(client, rights, lease, path).await?
        {
            return Ok(self.of_lease(lease, job));
        }
        *slot = None;
        let body = client.ask("GET other", Call::get(path), Asked::Secret(path)).await?;
        let odd = || Asked::Secret(path).failed(Of::Path, Cause::BadAnswer, "the answer holds no `data` object");
        let answer = Json::parse(&body).ok_or_else(odd)?;
        let data = answer.at("data").filter(|data| data.kind() == "an object").ok_or_else(odd)?;
        match lease(answer, data, token).map_err(|error| Failed { error, of: Of::Path })? {
            Some(lease) => Ok(self.of_lease(slot.insert(lease), job)),
            None => {
                // Otherwise there is nothing by which its versions could be told apart that would not tell of the value.
                let fixed = fixed(data);
                let check_within = fixed.as_ref().and_then(|fixed| fixed.left);
                let version = fixed.map_or_else(|| Version::from(1), |fixed| fixed.version);
                Ok(job.each(|asking| {
                    let value = value(data, asking.wanted.field.as_deref())?;
                    Ok(Checked::Read(Fetched { value, version: version.clone(), check_within }))
                }))
            }
        }
    }

    fn of_lease(&self, lease: &Lease, job: &Job<'_>) -> Vec<Found> {
        // It ends with the token it was got with, unless that is renewed meanwhile, which will show half-way.
        let token = self.tokens.left().map(|left| left / 2);
        let within = token.map_or(lease.half(), |token| token.min(lease.half())).max(SHORTEST);
        job.each(|asking| lease.find(asking, Some(within)))
    }
}

/// Renews a lease that is due, and asks after one that is not.
async fn look_after(client: &Client<'_>, rights: &Rights, lease: &mut Lease, path: &str) -> Result<Fares, Failed> {
    let (is_due, may_renew) = (lease.is_due(), lease.renewable && !lease.is_last());
    let id = |bytes: &[u8]| json!({ "lease_id": str::from_utf8(bytes).unwrap_or_default(), "increment": lease.full.as_secs() });
    let asked = match (is_due, may_renew) {
        (true, false) => return Ok(Fares::Over),
        (true, true) => {
            let call = Call::post("sys/leases/renew", lease.id.expose(id));
            client.ask("POST sys/leases/renew", call, Asked::Lease(path)).await
        }
        (false, _) if rights.allow(LEASE_LOOKUP) => {
            let id = |bytes: &[u8]| json!({ "lease_id": str::from_utf8(bytes).unwrap_or_default() });
            let call = Call::post(LEASE_LOOKUP, lease.id.expose(id));
            client.ask("POST sys/leases/lookup", call, Asked::Lease(path)).await
        }
        (false, _) => return Ok(Fares::Well),
    };
    match asked {
        Ok(_) if !is_due => Ok(Fares::Well),
        Ok(body) => {
            let answer = Json::parse(&body);
            let life = answer.and_then(|answer| seconds(answer.at("lease_duration")?)).unwrap_or_default();
            lease.renewed(life, answer.is_some_and(|answer| is_true(answer.at("renewable"))));
            Ok(if life.is_zero() { Fares::Over } else { Fares::Well })
        }
        Err(failed) if failed.error.cause.is_final() => Ok(Fares::Over),
        Err(failed) => Err(failed),
    }
}

/// What a static role says of itself beside its password.
pub(super) struct Fixed {
    /// The moment of its last rotation, as the server writes it.
    pub version: Version,
    pub rotated: SystemTime,
    /// Until the engine rotates it by its own clock, and a moment for that.
    left: Option<Duration>,
}

/// `None`: this is none.
pub(super) fn fixed(data: Json<'_>) -> Option<Fixed> {
    let text = data.at("last_vault_rotation")?.leaf()?.ok()?;
    let text = text.expose(|text| str::from_utf8(text).ok().map(str::to_owned))?;
    let rotated = text.parse::<prost_types::Timestamp>().ok()?.try_into().ok()?;
    let left = data.at("ttl").and_then(seconds).map(|left| left + SHORTEST);
    Some(Fixed { version: text.parse().ok()?, rotated, left })
}

/// The lease that came with an answer.
fn lease(answer: Json<'_>, data: Json<'_>, token: &Token) -> Result<Option<Lease>, SourceError> {
    let (Some(id), Some(life)) = (answer.at("lease_id").and_then(Json::leaf), answer.at("lease_duration").and_then(seconds))
    else {
        return Ok(None);
    };
    let id = id?;
    if id.is_empty() || life.is_zero() {
        return Ok(None);
    }
    let Some(version) = version_of(&id) else { return Ok(None) };
    Ok(Some(Lease {
        id,
        generation: token.generation,
        renewable: is_true(answer.at("renewable")),
        since: now(),
        life,
        full: life,
        version,
        data: SecretValue::copy_from(data.text())?,
    }))
}
