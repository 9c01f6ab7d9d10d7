//! `RotateSecret`: AWS calls the rotation function of the secret, or rotates what it manages itself, and moves `AWSCURRENT` when that is
//! done. The token, written as a UUID, is `ClientRequestToken`, and so the id of the new version: it has `AWSPENDING` until then (API
//! reference of `RotateSecret`), and may keep it. Versions of our own rotations, which do not, have ids without hyphens. What goes wrong in the function AWS tells nobody but its log.

use super::{
    super::{
        SourceError, Wanted, Working,
        rotate::{Rotate, Turn},
        write::{Current, Write},
    },
    AwsSecretsManager, CURRENT,
    write::{PENDING, Way, version},
};
use crate::name::Version;

impl Rotate for AwsSecretsManager {
    fn standing<'a>(&'a self, wanted: &'a Wanted) -> Working<'a, Result<Current, SourceError>> {
        self.look(wanted)
    }

    fn rotate<'a>(&'a self, wanted: &'a Wanted, base: &'a Version, token: &'a str) -> Working<'a, Result<Turn, SourceError>> {
        Box::pin(async move {
            let way = Way::to(self, wanted).await?;
            let stages = way.stages().await?;
            let id = as_uuid(token);
            if stages.has(&id, CURRENT) {
                return Ok(Turn::Done(version(&id)?));
            }
            if stages.of(CURRENT) != Some(base.as_str()) {
                return Ok(Turn::Lost);
            }
            // Turned off while it was at it, too, as whoever ends one that hangs does.
            if !stages.rotates() {
                let words =
                    "AWS rotates it only where its rotation is turned on: aws secretsmanager rotate-secret --rotation-lambda-arn";
                return Ok(Turn::Never(words.into()));
            }
            if stages.has(&id, PENDING) {
                return Ok(Turn::UnderWay);
            }
            way.rotate(&id).await?;
            Ok(Turn::UnderWay)
        })
    }
}

/// 32 hex digits as a UUID has them.
fn as_uuid(token: &str) -> String {
    let groups = [(0, 8), (8, 12), (12, 16), (16, 20), (20, 32)];
    let groups: Vec<_> = groups.iter().filter_map(|(from, to)| token.get(*from..*to)).collect();
    groups.join("-")
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_token_becomes_a_uuid() {
        assert_eq!(super::as_uuid("0123456789abcdef0123456789abcdef"), "01234567-89ab-cdef-0123-456789abcdef");
    }
}
