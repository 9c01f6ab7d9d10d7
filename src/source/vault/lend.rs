//! Leases for one session each: whatever engine makes a credential when it is read.

use std::time::Duration;

use serde_json::json;
use zeroize::Zeroizing;

use super::{
    super::{
        Cause, SourceError, Working,
        field::Json,
        lend::{Extended, Lend, Loan},
    },
    Vault,
    client::{Call, is_true, seconds},
    errors::{Asked, Failed, Of},
    lease::version_of,
    read::value,
};
use crate::{name::ToolName, secret::SecretValue};

impl Vault {
    /// One call with a good token: where that has died by now, with another.
    pub(super) async fn call(
        &self,
        operation: &'static str,
        call: impl Fn() -> Call + Send + Sync,
        asked: Asked<'_>,
    ) -> Result<Zeroizing<Vec<u8>>, SourceError> {
        let mut token = self.tokens.get().await?;
        loop {
            let client = self.access.client(Some(&token.value))?;
            match client.ask(operation, call(), asked).await {
                Ok(body) => return Ok(body),
                Err(Failed { error, of: Of::Token | Of::Policy }) => match self.tokens.suspect(&token).await? {
                    Some(another) => token = another,
                    None => return Err(error),
                },
                Err(failed) => return Err(failed.error),
            }
        }
    }
}

/// What came with an answer: `path` is what was read.
fn loan(body: &[u8], path: &str) -> Result<Loan, SourceError> {
    let failed = |cause, words| Asked::Secret(path).failed(Of::Path, cause, words).error;
    let odd = |words| failed(Cause::BadAnswer, words);
    let answer = Json::parse(body).ok_or_else(|| odd("the answer is not JSON"))?;
    let data = answer.at("data").filter(|data| data.kind() == "an object");
    let data = data.ok_or_else(|| odd("the answer holds no `data` object"))?;
    let life = answer.at("lease_duration").and_then(seconds).filter(|life| !life.is_zero());
    let id = answer.at("lease_id").and_then(Json::leaf).transpose()?;
    let (Some(id), Some(life)) = (id.filter(|id| !id.is_empty()), life) else {
        let unleased = "it comes without a lease: `per-session` is for what an engine makes anew, such as database/creds";
        return Err(failed(Cause::BadField, unleased));
    };
    let version = version_of(&id).ok_or_else(|| odd("its lease has no name"))?;
    let id = id.expose(|id| String::from_utf8_lossy(id).into_owned());
    Ok(Loan { id, version, life, renewable: is_true(answer.at("renewable")), data: SecretValue::copy_from(data.text())? })
}

impl Lend for Vault {
    fn borrow<'a>(&'a self, path: &'a str, _tool: &'a ToolName) -> Working<'a, Result<Loan, SourceError>> {
        let path = path.trim_start_matches('/');
        Box::pin(async move {
            let body = self.call("GET lease", || Call::get(path), Asked::Secret(path)).await?;
            loan(&body, path)
        })
    }

    fn extend(&self, id: &str, by: Duration) -> Working<'_, Result<Extended, SourceError>> {
        let id = id.to_owned();
        Box::pin(async move {
            let call = || Call::post("sys/leases/renew", json!({ "lease_id": id, "increment": by.as_secs() }));
            let body = self.call("POST sys/leases/renew", call, Asked::Lease(prefix(&id))).await?;
            let answer = Json::parse(&body);
            let life = answer.and_then(|answer| seconds(answer.at("lease_duration")?)).unwrap_or_default();
            Ok(Extended { life, renewable: answer.is_some_and(|answer| is_true(answer.at("renewable"))) })
        })
    }

    fn give_back(&self, id: &str) -> Working<'_, Result<(), SourceError>> {
        let id = id.to_owned();
        Box::pin(async move {
            // Waits until the engine has done it: only then is the credential good no more.
            let call = || Call::post("sys/leases/revoke", json!({ "lease_id": id, "sync": true }));
            self.call("POST sys/leases/revoke", call, Asked::Lease(prefix(&id))).await.map(drop)
        })
    }

    fn pick(&self, loan: &Loan, field: Option<&str>) -> Result<SecretValue, SourceError> {
        loan.data.expose(|data| {
            let data = Json::parse(data).ok_or_else(|| SourceError::new(Cause::BadAnswer, "the data are not JSON"))?;
            value(data, field)
        })
    }
}

/// A lease is named after the path that made it, with its own name behind.
fn prefix(id: &str) -> &str {
    id.rsplit_once('/').map_or(id, |(path, _)| path)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_lease_is_told_by_its_path() {
        assert_eq!(super::prefix("database/creds/app/AbC"), "database/creds/app");
    }
}
