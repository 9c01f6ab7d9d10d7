//! Who calls over the network, asked before any service sees the call: nobody is anonymous, not even to ask how the daemon is.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use http::header::AUTHORIZATION;
use tonic::{Status, body::Body};
use tower::Layer;
use tower_service::Service;
use zeroize::Zeroizing;

use super::{
    idle::{Calls, Counted},
    pace::{Guest, Pace},
    remote_places::Failures,
    status,
};
use crate::{
    attest::{Attested, Desk, Unproven, Visitor, Wire},
    broker::{Broker, Refused},
    peer::{Remote, Sha256, Witness},
};

/// What each request of a connection over the network carries.
#[derive(Clone)]
pub struct Arrival {
    pub wire: Arc<Wire>,
    /// Whom the certificate names.
    pub by_certificate: Option<Attested>,
    pub pace: Arc<Pace>,
    pub calls: Arc<Calls>,
    /// The last token that was taken on this connection, by its digest: most connections come with one alone.
    pub last: Arc<Mutex<Option<(Sha256, Attested)>>>,
}

/// Lets nobody pass who is not proven to be someone.
#[derive(Clone)]
pub struct LoginLayer {
    pub desk: Desk,
    pub broker: Arc<Broker>,
    pub failures: Failures,
}

impl<S> Layer<S> for LoginLayer {
    type Service = LoggedIn<S>;

    fn layer(&self, inner: S) -> LoggedIn<S> {
        LoggedIn { inner, asks: self.clone() }
    }
}

/// A service that knows who calls it.
#[derive(Clone)]
pub struct LoggedIn<S> {
    inner: S,
    asks: LoginLayer,
}

type Answer = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

impl<S> Service<http::Request<Body>> for LoggedIn<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Answer {
        let Some(arrival) = request.extensions().get::<Arrival>().cloned() else {
            return Box::pin(async { Ok(Status::internal("this connection carries no caller").into_http()) });
        };
        // The one that was asked whether it is ready.
        let next = self.inner.clone();
        let (mut inner, asks) = (std::mem::replace(&mut self.inner, next), self.asks.clone());
        Box::pin(async move {
            let under_way = arrival.calls.begin();
            // Here it ends: nothing behind this has any use for it.
            let authorization = request.headers_mut().remove(AUTHORIZATION);
            let answer = match asks.login(&arrival, authorization).await {
                Ok(caller) => {
                    request.extensions_mut().insert(Guest { caller, pace: arrival.pace.clone() });
                    inner.call(request).await?
                }
                Err(unproven) => {
                    asks.refused(&arrival, unproven);
                    status::refused(&Refused::not_authenticated()).into_http()
                }
            };
            Ok(answer.map(|body| Counted::body(body, under_way)))
        })
    }
}

impl LoginLayer {
    async fn login(&self, arrival: &Arrival, authorization: Option<http::HeaderValue>) -> Result<Attested, Unproven> {
        let Some(authorization) = authorization else {
            return arrival.by_certificate.clone().ok_or(Unproven::Anonymous);
        };
        let text = Zeroizing::new(authorization.to_str().map_err(|_| Unproven::NoBearer)?.to_owned());
        // RFC 6750, 2.1; the scheme's name in any case (RFC 9110, 11.1).
        let token = match text.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() => token,
            _ => return Err(Unproven::NoBearer),
        };
        if let Some(known) = arrival.known(token) {
            return Ok(known);
        }
        let visitor = self.desk.prove(&arrival.wire, token).await?;
        let caller = Attested::Visitor(Arc::new(visitor));
        *arrival.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((digest(token), caller.clone()));
        Ok(caller)
    }

    fn refused(&self, arrival: &Arrival, unproven: Unproven) {
        arrival.pace.charge();
        let address = arrival.wire.address();
        self.failures.add(address.ip());
        let certificate = arrival.wire.certificate().map(|verified| verified.certificate().clone());
        self.broker.login_refused(Remote { address, certificate, token: None }, unproven.reason(), &unproven.to_string());
    }
}

impl Arrival {
    /// Of a connection whose handshake is done.
    pub fn new(wire: Arc<Wire>) -> Self {
        let by_certificate = Visitor::by_certificate(&wire).map(|visitor| Attested::Visitor(Arc::new(visitor)));
        Self { wire, by_certificate, pace: Arc::default(), calls: Arc::default(), last: Arc::default() }
    }

    /// Whose token this is, where it was the last that was taken here and is still good.
    fn known(&self, token: &str) -> Option<Attested> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, caller) = last.as_ref()?;
        let same = aws_lc_rs::constant_time::verify_slices_are_equal(&known.0, &digest(token).0).is_ok();
        let caller = caller.clone();
        drop(last);
        (same && caller.recheck().is_ok()).then_some(caller)
    }
}

fn digest(token: &str) -> Sha256 {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.as_ref());
    Sha256(bytes)
}
