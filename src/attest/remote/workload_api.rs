//! The SPIFFE Workload API: asks an agent on this host who the daemon is, and follows what it says from then on.

use std::{
    error::Error,
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use hyper_util::rt::TokioIo;
use tokio::{
    net::UnixStream,
    time::{sleep, timeout},
};
use tonic::{
    Code, Request, Status,
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};
use tower::service_fn;
use tracing::{info, warn};

use super::{spiffe::Identity, tls::Tls};
use crate::{
    measure::rough,
    proto::spiffe::{X509svidRequest, spiffe_workload_api_client::SpiffeWorkloadApiClient},
    source::directory::open_to_others,
};

/// Where the agent is, and which of the identities it gives is the daemon's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadApi {
    pub socket: PathBuf,
    /// `None`: the first, which is the default one (Workload API, 5.3).
    pub id: Option<String>,
}

/// As the specification advises, the pause grows with each failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Until an agent takes the connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Until it has said who the daemon is, or that it does not know.
const FIRST_ANSWER_WITHIN: Duration = Duration::from_secs(10);

impl WorkloadApi {
    /// Takes in every identity that the agent gives, and asks again when it goes away. What was given stays until it ends.
    pub async fn follow(&self, tls: &Tls, more: impl Fn() -> Vec<PathBuf>) {
        let (mut pause, mut trouble) = (FIRST_PAUSE, None);
        loop {
            let why = self.watch(tls, &more, &mut pause, &mut trouble).await;
            if trouble.as_ref() != Some(&why) {
                warn!(
                    "SPIFFE Workload API at {}: {why}; it is asked again, and what it gave before stays until it ends",
                    self.socket.display()
                );
                trouble = Some(why);
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Until the stream ends. Says why it has.
    async fn watch(
        &self,
        tls: &Tls,
        more: &impl Fn() -> Vec<PathBuf>,
        pause: &mut Duration,
        trouble: &mut Option<String>,
    ) -> String {
        let mut request = Request::new(X509svidRequest {});
        // Without it an agent refuses: a browser or a proxy that was tricked into asking would not send it (Workload Endpoint, 3).
        request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
        let mut agent = match self.connect().await {
            Ok(channel) => SpiffeWorkloadApiClient::new(channel),
            Err(why) => return why,
        };
        let first = async {
            let mut answers = agent.fetch_x509svid(request).await?.into_inner();
            Ok::<_, Status>((answers.message().await?, answers))
        };
        // Later it says something when there is something to say; at first, at once.
        let (mut next, mut answers) = match timeout(FIRST_ANSWER_WITHIN, first).await {
            Ok(Ok((first, answers))) => (Ok(first), answers),
            Ok(Err(status)) => return refused(&status),
            Err(_) => return format!("no answer within {} s", FIRST_ANSWER_WITHIN.as_secs()),
        };
        loop {
            let answer = match next {
                Ok(Some(answer)) => answer,
                Ok(None) => return "it has ended the stream".into(),
                Err(status) => return refused(&status),
            };
            let taken = Identity::of(answer, self.id.as_deref()).and_then(|identity| {
                let words = format!(
                    "{}, with the bundles of {}",
                    identity.id,
                    identity.bundles.keys().map(|name| &**name).collect::<Vec<_>>().join(", ")
                );
                let left = identity.until.duration_since(SystemTime::now()).unwrap_or_default();
                Ok((tls.identify(identity, &more())?, words, left))
            });
            match taken {
                Ok((changed, words, left)) => {
                    if changed || trouble.is_some() {
                        info!("this daemon is {words}, for {}", rough(left));
                    }
                    (*pause, *trouble) = (FIRST_PAUSE, None);
                }
                Err(why) => {
                    if trouble.as_ref() != Some(&why) {
                        warn!(
                            "SPIFFE Workload API at {}: what it gives cannot be used, so what was there before stays: {why}",
                            self.socket.display()
                        );
                        *trouble = Some(why);
                    }
                }
            }
            next = answers.message().await;
        }
    }

    async fn connect(&self) -> Result<Channel, String> {
        // Whoever may put a socket there says who the daemon is, and whom it believes. One that is not there cannot be connected to either.
        let directory = self.socket.parent().unwrap_or(Path::new("/"));
        if let Ok(Some(open)) = open_to_others(directory) {
            return Err(format!("others may write {}, and put a socket of theirs in its place: chmod go-w", open.display()));
        }
        let socket = self.socket.clone();
        let connector = service_fn(move |_| {
            let socket = socket.clone();
            async move { io::Result::Ok(TokioIo::new(UnixStream::connect(socket).await?)) }
        });
        let endpoint = Endpoint::from_static("http://localhost").connect_timeout(CONNECT_WITHIN);
        endpoint.connect_with_connector(connector).await.map_err(|error| match cause(&error) {
            Some(error) => format!("cannot connect: {error}"),
            None => "it does not take the connection".into(),
        })
    }
}

/// What the operating system said.
fn cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a io::Error> {
    std::iter::successors(Some(error), |&error| error.source()).find_map(|error| error.downcast_ref::<io::Error>())
}

fn refused(status: &Status) -> String {
    let message: String = status.message().chars().filter(|c| !c.is_control()).take(200).collect();
    match status.code() {
        Code::PermissionDenied => {
            format!("the agent knows no identity for this daemon: register one for its user or its unit ({message})")
        }
        code => format!("{code:?}: {message}"),
    }
}
