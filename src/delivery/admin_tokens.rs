//! Tokens, as operators issue, list and revoke them. No token comes by here: who issues one makes it, and tells its digest.

use std::time::Duration;

use tonic::{Request, Response, Status};
use tracing::info;

use super::admin::AdminService;
use crate::{
    attest::{BadToken, IssuedToken, NewToken, Tokens},
    broker::Deed,
    peer::{Sha256, Witness},
    policy::Role,
    proto::v1,
};

impl AdminService {
    pub(super) fn issue_a_token(
        &self,
        request: &Request<v1::IssueTokenRequest>,
    ) -> Result<Response<v1::IssueTokenResponse>, Status> {
        let operator = self.operator(request, Role::Owner)?;
        let tokens = self.tokens()?;
        let new = new(request.get_ref())?;
        let issued = blocking(|| tokens.issue(&new));
        let detail = format!("token {} of {}", new.id, new.name);
        self.broker().operated(
            operator.peer(),
            &Deed { action: "issue-token", detail: Some(&detail), failed: issued.is_err(), ..Deed::default() },
        );
        let issued = issued.map_err(|bad| refused(&bad))?;
        info!(operator = %operator.peer().seat(), token = new.id, name = %new.name, "a token was issued");
        Ok(Response::new(v1::IssueTokenResponse { token: Some(token(new.id, &issued)) }))
    }

    pub(super) fn list_all_tokens(
        &self,
        request: &Request<v1::ListTokensRequest>,
    ) -> Result<Response<v1::ListTokensResponse>, Status> {
        self.operator(request, Role::Security)?;
        let tokens = self.tokens()?.list().into_iter().map(|(id, issued)| token(id, &issued)).collect();
        Ok(Response::new(v1::ListTokensResponse { tokens }))
    }

    pub(super) fn revoke_a_token(
        &self,
        request: &Request<v1::RevokeTokenRequest>,
    ) -> Result<Response<v1::RevokeTokenResponse>, Status> {
        let operator = self.operator(request, Role::Security)?;
        let which = &request.get_ref().id_or_name;
        let revoked = blocking(|| self.tokens()?.revoke(which).map_err(|bad| refused(&bad)));
        let count = revoked.as_ref().map_or(0, Vec::len) as u64;
        // Ids alone: what somebody typed may be a token.
        let detail = revoked.as_ref().map(|ids| format!("tokens {}", ids.join(" "))).unwrap_or_default();
        let deed =
            Deed { action: "revoke-token", count: Some(count), detail: Some(&detail), failed: count == 0, ..Deed::default() };
        self.broker().operated(operator.peer(), &deed);
        let revoked = revoked?;
        if revoked.is_empty() {
            return Err(Status::not_found("no token of this id or name is good"));
        }
        info!(operator = %operator.peer().seat(), tokens = revoked.join(" "), "tokens were revoked");
        Ok(Response::new(v1::RevokeTokenResponse { revoked }))
    }

    fn tokens(&self) -> Result<&Tokens, Status> {
        let none =
            || Status::failed_precondition("nobody can call over the network, so tokens are good for nothing: set [remote]");
        self.host().tokens().ok_or_else(none)
    }
}

/// What is written to disk and synced holds up no other operator.
fn blocking<T>(work: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(work)
}

fn new(asked: &v1::IssueTokenRequest) -> Result<NewToken, Status> {
    let wrong = |what: &str| Status::invalid_argument(format!("{what} of the token is malformed"));
    let digest = |bytes: &[u8], what: &str| bytes.try_into().map(Sha256).map_err(|_| wrong(what));
    let lifetime = asked.lifetime.as_ref().and_then(|lifetime| Duration::try_from(*lifetime).ok());
    Ok(NewToken {
        id: asked.id.clone(),
        name: asked.name.parse().map_err(|bad: crate::name::BadName| Status::invalid_argument(bad.to_string()))?,
        sha256: digest(&asked.sha256, "the digest")?,
        lifetime: lifetime.ok_or_else(|| wrong("the lifetime"))?,
        certificate: match asked.certificate_sha256.as_slice() {
            [] => None,
            bytes => Some(digest(bytes, "the certificate's digest")?),
        },
    })
}

fn refused(bad: &BadToken) -> Status {
    match bad {
        BadToken::Id | BadToken::Lifetime => Status::invalid_argument(bad.to_string()),
        BadToken::TooMany => Status::resource_exhausted(bad.to_string()),
        BadToken::Disk(_) => Status::internal(bad.to_string()),
    }
}

fn token(id: String, issued: &IssuedToken) -> v1::Token {
    v1::Token {
        id,
        name: issued.name.clone(),
        issued: Some(issued.issued_at().into()),
        expires: Some(issued.expires_at().into()),
        certificate_sha256: issued.certificate.clone().unwrap_or_default(),
        state: issued.state().into(),
    }
}
