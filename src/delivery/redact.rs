//! The `Redact` calls: a text comes in pieces, and goes out clean, line by line. The work is done off the threads that serve hand-outs.

use std::{collections::BTreeMap, pin::Pin, sync::Arc, time::Duration};

use futures_core::Stream;
use futures_util::stream;
use tonic::{Status, Streaming};
use zeroize::Zeroizing;

use super::status;
use crate::{
    broker::{Broker, Cleaning, Refused},
    name::SecretName,
    proto::v1::{RedactRequest, RedactResponse, Redacted},
    redact::{
        Form, Redactor,
        lines::{Clean, Hit, Lines},
    },
    session::Session,
};

pub type Answers = Pin<Box<dyn Stream<Item = Result<RedactResponse, Status>> + Send>>;

/// Who has the text cleaned.
pub enum Asks {
    /// A tool, in a session: secrets outside its scope are not named, and it cleans no more than it may.
    Tool { session: Arc<Session>, _place: Cleaning },
    /// An operator, who may know every name.
    Operator,
}

/// How long a text may be silent. Otherwise who says nothing would keep its place for ever.
const SILENCE: Duration = Duration::from_secs(600);
/// How much is cleaned in one go.
const AT_ONCE: usize = 64 * 1024;

/// Cleans what follows. `first` is the request that named the session, where there is one.
pub fn serve(
    broker: Arc<Broker>,
    asks: Asks,
    redactor: Redactor,
    first: Option<RedactRequest>,
    requests: Streaming<RedactRequest>,
) -> Answers {
    let scope: Option<Vec<SecretName>> = match &asks {
        Asks::Tool { session, .. } => Some(session.scope.secrets().cloned().collect()),
        Asks::Operator => None,
    };
    let named = move |name: &SecretName| scope.as_ref().is_none_or(|scope| scope.contains(name));
    let shapes = first.as_ref().is_some_and(|first| first.shapes);
    let lines = Lines::new(&redactor, shapes, named.clone());
    let begun = first.is_some();
    let text = Text { broker, asks, redactor, lines: Some(lines), begun, named: Arc::new(named), requests };
    let begin = first.map_or(Step::Next, |first| Step::Piece(Zeroizing::new(first.text)));
    Box::pin(stream::try_unfold((text, begin), |(mut text, step)| async move {
        let piece = match step {
            Step::Piece(piece) => Some(piece),
            Step::Next => text.next().await?,
            Step::Over => return Ok(None),
        };
        let after = if piece.is_some() { Step::Next } else { Step::Over };
        let answer = text.clean(piece).await?;
        Ok(Some((answer, (text, after))))
    }))
}

enum Step {
    Piece(Zeroizing<Vec<u8>>),
    Next,
    Over,
}

struct Text {
    broker: Arc<Broker>,
    asks: Asks,
    redactor: Redactor,
    /// The first request has come.
    begun: bool,
    /// Elsewhere while it works.
    lines: Option<Lines>,
    named: Arc<dyn Fn(&SecretName) -> bool + Send + Sync>,
    requests: Streaming<RedactRequest>,
}

impl Text {
    async fn next(&mut self) -> Result<Option<Zeroizing<Vec<u8>>>, Status> {
        let next = tokio::select! {
            next = tokio::time::timeout(SILENCE, self.requests.message()) => next,
            ended = over(&self.broker, &self.asks) => return Err(status::refused(&ended)),
        };
        let next = next.map_err(|_| Status::deadline_exceeded("no text came for ten minutes"))??;
        match next {
            Some(request) if !request.session.is_empty() || (self.begun && request.shapes) => {
                Err(status::bad_request("the session and what is looked for are named in the first request, and only there"))
            }
            Some(request) => {
                if request.shapes {
                    let named = self.named.clone();
                    self.lines = Some(Lines::new(&self.redactor, true, move |name| named(name)));
                }
                self.begun = true;
                Ok(Some(Zeroizing::new(request.text)))
            }
            None => Ok(None),
        }
    }

    /// Cleans a piece; at the end of the text what waits.
    async fn clean(&mut self, piece: Option<Zeroizing<Vec<u8>>>) -> Result<RedactResponse, Status> {
        let Some(mut lines) = self.lines.take() else { return Err(Status::internal("the text is cleaned already")) };
        let mut all = Clean::default();
        match piece {
            None => all = lines.finish(),
            Some(piece) => {
                let mut piece = piece;
                for at in (0..piece.len()).step_by(AT_ONCE) {
                    let length = AT_ONCE.min(piece.len() - at);
                    self.wait_for_room(length).await?;
                    let (lines_back, piece_back, clean) = work(lines, piece, at..at + length).await?;
                    (lines, piece) = (lines_back, piece_back);
                    all.text.extend(clean.text);
                    all.hits.extend(clean.hits);
                }
            }
        }
        self.lines = Some(lines);
        self.tell(&all.hits);
        Ok(RedactResponse { text: all.text, found: self.found(&all.hits) })
    }

    /// A tool that has more cleaned than it may is slowed down, not refused.
    async fn wait_for_room(&self, bytes: usize) -> Result<(), Status> {
        let Asks::Tool { session, .. } = &self.asks else { return Ok(()) };
        loop {
            if let Some(end) = session.ended() {
                return Err(status::refused(&Refused::ended(session, end)));
            }
            match self.broker.take_cleaning(session, bytes) {
                Ok(()) => return Ok(()),
                Err(wait) => tokio::time::sleep(wait.min(Duration::from_secs(1))).await,
            }
        }
    }

    fn tell(&self, hits: &[Hit]) {
        match &self.asks {
            Asks::Tool { session, .. } => self.broker.found_in_text(session, hits),
            Asks::Operator => self.broker.found_in_operators_text(hits),
        }
    }

    /// Finds of one kind in one line as one. What may not be named has no version and no encoding either: they tell of the secret.
    fn found(&self, hits: &[Hit]) -> Vec<Redacted> {
        let mut counts: BTreeMap<(u64, &str, &str, &str), u64> = BTreeMap::new();
        for hit in hits {
            let version = hit.version.as_ref().map_or("", |version| version.as_str());
            let kind = match hit.form == Form::Shape || (self.named)(&hit.secret) {
                true => (hit.line, hit.secret.as_str(), version, hit.form.as_str()),
                false => (hit.line, "", "", ""),
            };
            *counts.entry(kind).or_default() += 1;
        }
        let told = |((line, name, version, encoding), count): ((u64, &str, &str, &str), u64)| Redacted {
            name: name.into(),
            version: version.into(),
            encoding: encoding.into(),
            count,
            line,
            ..Redacted::default()
        };
        counts.into_iter().map(told).collect()
    }
}

/// Resolves when nothing is cleaned any more: the session ended, or the daemon stops.
async fn over(broker: &Broker, asks: &Asks) -> Refused {
    let ended = async {
        let Asks::Tool { session, .. } = asks else { return std::future::pending().await };
        let mut news = session.watch();
        loop {
            if let Some(end) = session.ended() {
                return Refused::ended(session, end);
            }
            if news.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    };
    tokio::select! {
        ended = ended => ended,
        () = broker.stopped() => Refused::shutting_down(),
    }
}

async fn work(
    mut lines: Lines,
    piece: Zeroizing<Vec<u8>>,
    range: std::ops::Range<usize>,
) -> Result<(Lines, Zeroizing<Vec<u8>>, Clean), Status> {
    let done = tokio::task::spawn_blocking(move || {
        let clean = lines.push(&piece[range]);
        (lines, piece, clean)
    });
    let (lines, piece, clean) = done.await.map_err(|_| Status::internal("cleaning failed inside; the daemon's log says why"))?;
    Ok((lines, piece, clean.map_err(|too_long| status::bad_request(&too_long.to_string()))?))
}
