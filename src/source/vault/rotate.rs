//! Static roles: an engine keeps the password of one user, changes it by its own clock and when it is asked to, and gives it to whoever may
//! read it (`static-creds` and `rotate-role` in the API's reference of the database engine, `static-cred` in that of LDAP).

use serde_json::json;

use super::{
    super::{
        Cause, SourceError, Wanted, Working,
        field::Json,
        rotate::{RootPath, Rotate, Turn},
        write::Current,
    },
    Vault,
    client::Call,
    errors::Asked,
    lease::fixed,
};
use crate::name::Version;

/// Where a static role that is read at this path (which begins with `/`) is rotated. `None`: it is the path of none.
pub fn rotates_at(path: &str) -> Option<String> {
    let (before, role) = path.strip_prefix('/')?.rsplit_once('/')?;
    let mount = before.strip_suffix("/static-creds").or_else(|| before.strip_suffix("/static-cred"))?;
    (!role.is_empty()).then(|| format!("{mount}/rotate-role/{role}"))
}

impl Vault {
    async fn fixed(&self, wanted: &Wanted) -> Result<Current, SourceError> {
        let path = wanted.path.trim_start_matches('/');
        let asked = Asked::Secret(path);
        let body = self.call("GET other", || Call::get(path), asked).await?;
        let fixed = Json::parse(&body).and_then(|answer| fixed(answer.at("data")?));
        let fixed = fixed.ok_or_else(|| {
            let words = "the answer does not say when it was rotated last: is it a static role?";
            asked.failed(super::errors::Of::Path, Cause::BadAnswer, words).error
        })?;
        Ok(Current { version: fixed.version, created: Some(fixed.rotated), staged: None })
    }
}

impl Rotate for Vault {
    fn standing<'a>(&'a self, wanted: &'a Wanted) -> Working<'a, Result<Current, SourceError>> {
        Box::pin(self.fixed(wanted))
    }

    fn rotate<'a>(&'a self, wanted: &'a Wanted, base: &'a Version, _token: &'a str) -> Working<'a, Result<Turn, SourceError>> {
        Box::pin(async move {
            let Some(path) = rotates_at(&wanted.path) else {
                return Ok(Turn::Never("its path is not one of a static role, such as /database/static-creds/app".into()));
            };
            // By its own clock, by somebody else, or by a call of which nobody heard the end: the old value is good no more.
            let now = self.fixed(wanted).await?.version;
            if now != *base {
                return Ok(Turn::Done(now));
            }
            self.call("POST rotate-role", || Call::post(&*path, json!({})), Asked::Write(&path)).await?;
            match self.fixed(wanted).await?.version {
                now if now != *base => Ok(Turn::Done(now)),
                _ => Ok(Turn::UnderWay),
            }
        })
    }

    fn rotate_root<'a>(&'a self, path: &'a RootPath) -> Working<'a, Result<(), SourceError>> {
        let path = path.as_str();
        Box::pin(async move { self.call("POST rotate-root", || Call::post(path, json!({})), Asked::Write(path)).await.map(drop) })
    }
}

#[cfg(test)]
mod tests {
    use super::rotates_at;

    #[test]
    fn a_static_role_is_told_by_its_path() {
        assert_eq!(rotates_at("/database/static-creds/app").as_deref(), Some("database/rotate-role/app"));
        assert_eq!(rotates_at("/team/ldap/static-cred/app").as_deref(), Some("team/ldap/rotate-role/app"));
        for other in ["/database/creds/app", "database/static-creds/app", "/static-creds/app", "/database/static-creds/", "/"] {
            assert_eq!(rotates_at(other), None, "{other}");
        }
    }
}
