//! What a launcher asks for: a session for the process that it starts, and a place to report what that process wrote.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use super::{
    Broker, Refused,
    redactions::{Channel, Find, Kind},
};
use crate::{
    limits::{Limit, Rate, Reached, RetryAfter, Tally, Whose},
    name::{SecretName, ToolName, Version},
    peer::{Peer, Witness},
    policy::{Decision, Plan, Request, Scope},
    redact::{self, Form, Redactor, lines::Hit},
    session::Session,
};

/// What a launcher says that it found.
#[derive(Debug)]
pub struct Report<'a> {
    pub secret: &'a str,
    pub version: &'a str,
    pub channel: Channel,
    pub encoding: &'a str,
    pub count: u64,
    pub stopped: bool,
}

/// Words of a command.
const MOST_WORDS: usize = 1000;
/// Finds in one report. A launcher sums up what comes at once; more is nonsense.
const MOST_FINDS: u64 = 1_000_000;
/// Kibibytes of text a minute that the daemon cleans for one tool, over all its calls. Who asks what a text turns into can test guesses
/// at values: this bounds how many.
const CLEANED_PER_MINUTE: u32 = 16 * 1024;

/// Reports in a second, and at once, that are heard without delay.
const REPORTS: Rate = Rate::new(10_000, Duration::from_secs(1), 20_000);

/// Texts that are cleaned for one tool at one time: each may hold a line that has no end yet.
const CLEANED_AT_ONCE: u64 = 8;

const FORMS: [Form; 8] =
    [Form::Raw, Form::Escaped, Form::Percent, Form::Hex, Form::Base64, Form::Bytes, Form::Utf16, Form::Shape];

impl Broker {
    /// What policy delivers to a process that is launched as this tool.
    pub(super) fn accept_launch(&self, peer: &Peer, tool: &ToolName, command: &[String]) -> Result<(Scope, Plan), Refused> {
        if command.len() > MOST_WORDS
            || command.iter().any(|word| word.contains('\0'))
            || command.first().is_some_and(String::is_empty)
        {
            return Err(Refused::bad_request(format!("a command is a program and at most {MOST_WORDS} words, without NUL")));
        }
        let policy = self.policy();
        let (scope, plan) = match policy.decide(peer, &Request::Launch { tool, command }) {
            Decision::AllowLaunch(scope, plan) => (scope, *plan),
            Decision::Deny(denial) => return Err(Refused::denied(&policy, &denial)),
            Decision::AllowSession(_) | Decision::Allow(_) => unreachable!("policy answers the question it is asked"),
        };
        Ok((scope, plan))
    }

    /// Nothing is launched of which a secret is not to be had.
    pub(super) fn all_there(&self, peer: &Peer, scope: &Scope) -> Result<(), Refused> {
        let policy = self.policy();
        for secret in scope.secrets() {
            let Decision::Allow(grant) = policy.decide(peer, &Request::Get { scope, secret: secret.as_str() }) else {
                // A reload has just taken it away.
                return Err(Refused::unavailable(secret));
            };
            // One that is made for the session is made once there is one.
            if policy.is_per_session(secret) {
                continue;
            }
            if let Err(absent) = self.store.read(&grant) {
                let why = format!("not launched, because a secret is not to be had: {secret}: {absent}");
                return Err(Refused::unavailable(secret).because(why, Some(secret.clone())));
            }
        }
        Ok(())
    }

    /// A launcher found a value in what its tool wrote.
    pub fn redacted(&self, witness: &dyn Witness, session: &Session, report: &Report<'_>) -> Result<(), Refused> {
        self.told(session.into(), self.try_redacted(witness, session, report))
    }

    /// The same for reports, which take nothing of the tool's allowance: that it leaks must not keep its secrets from it. Far more than a
    /// launcher sends, which sums up.
    pub fn slow_down_reports(&self, session: &Session) -> Option<Duration> {
        let owed = session.tally.reports.charge(&REPORTS, 1, Duration::from_secs(1), self.uptime());
        (!owed.is_zero()).then_some(owed)
    }

    fn try_redacted(&self, witness: &dyn Witness, session: &Session, report: &Report<'_>) -> Result<(), Refused> {
        self.still(witness, session)?;
        if session.plan.is_none() {
            return Err(Refused::bad_request("only a launcher reports what was found: this session has none"));
        }
        let form = FORMS.into_iter().find(|form| form.as_str() == report.encoding);
        let form = form.ok_or_else(|| Refused::bad_request("an encoding is one of the words of the contract"))?;
        if !(1..=MOST_FINDS).contains(&report.count) {
            return Err(Refused::bad_request(format!("a report tells of 1 to {MOST_FINDS} finds")));
        }
        let (secret, version) = match form {
            Form::Shape => (None, None),
            _ => (Some(in_scope(session, report.secret)?), Some(version(report.version)?)),
        };
        self.count_find(session, secret, version, report.channel, form, report.count, report.stopped);
        Ok(())
    }

    /// What cleans a text for the process of this session, and counts as one request of its tool.
    pub fn cleaning(&self, witness: &dyn Witness, session: &Session) -> Result<(Redactor, Cleaning), Refused> {
        self.request(witness, session)?;
        let place = Cleaning::begin(&session.tally).ok_or_else(|| {
            let reached = Reached { limit: Limit::TextsAtOnce, of: Whose::Tool, value: CLEANED_AT_ONCE };
            Refused::limit(reached, Some(Duration::from_secs(1)), "")
        });
        let place = self.told(session.into(), place)?;
        Ok((self.store.redactor().clone(), place))
    }

    /// Takes the cost of cleaning this much text, or says how long it must wait.
    pub fn take_cleaning(&self, session: &Session, bytes: usize) -> Result<(), Duration> {
        let rate = Rate::new(CLEANED_PER_MINUTE, Duration::from_secs(60), CLEANED_PER_MINUTE / 6);
        let taken = session.tally.cleaned.take(&rate, bytes.div_ceil(1024) as u64, self.uptime());
        taken.map_err(|RetryAfter(wait)| wait)
    }

    /// What was found in a text that the process of this session had cleaned.
    pub fn found_in_text(&self, session: &Session, hits: &[Hit]) {
        for hit in hits {
            self.count_find(session, secret_of(&hit.secret, hit.form), hit.version.clone(), Channel::Text, hit.form, 1, false);
        }
    }

    /// The same for an operator's text.
    pub fn found_in_operators_text(&self, hits: &[Hit]) {
        for hit in hits {
            self.count_own(&hit.secret, hit.version.clone(), Channel::Text, hit.form, 1);
        }
    }

    /// What was found in the daemon's own log.
    pub(super) fn found_in_log(&self, hits: Vec<redact::Hit>) {
        for hit in hits {
            self.count_own(&hit.name, hit.version, Channel::Log, hit.form, hit.count);
        }
    }

    /// A find that is no tool's.
    fn count_own(&self, name: &SecretName, version: Option<Version>, channel: Channel, form: Form, count: u64) {
        let secret = secret_of(name, form);
        let canary = secret.as_ref().is_some_and(|secret| self.policy().is_canary(secret));
        let kind = Kind { tool: None, secret, channel, encoding: form.as_str() };
        self.found(&Find { kind, session: None, version, stopped: false, canary }, count);
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one event")]
    fn count_find(
        &self,
        session: &Session,
        secret: Option<SecretName>,
        version: Option<Version>,
        channel: Channel,
        form: Form,
        count: u64,
        stopped: bool,
    ) {
        session.tally.redactions.fetch_add(count, Relaxed);
        let canary = secret.as_ref().is_some_and(|secret| self.policy().is_canary(secret));
        let kind = Kind { tool: Some(session.tool().clone()), secret, channel, encoding: form.as_str() };
        self.found(&Find { kind, session: Some(session.id), version, stopped, canary }, count);
    }
}

/// None for a shape: its name is no secret's.
fn secret_of(name: &SecretName, form: Form) -> Option<SecretName> {
    (form != Form::Shape).then(|| name.clone())
}

/// A text that is being cleaned for a tool, until it is dropped.
pub struct Cleaning(Arc<Tally>);

impl Cleaning {
    fn begin(tally: &Arc<Tally>) -> Option<Self> {
        tally.cleaning.take(CLEANED_AT_ONCE).then(|| Self(tally.clone()))
    }
}

impl Drop for Cleaning {
    fn drop(&mut self) {
        self.0.cleaning.free();
    }
}

/// Only names of the scope are counted and told, or who makes names up would fill memory and log.
fn in_scope(session: &Session, secret: &str) -> Result<SecretName, Refused> {
    let named = session.scope.secrets().find(|name| name.as_str() == secret);
    named.cloned().ok_or_else(|| Refused::bad_request("a report names a secret of the session's scope"))
}

fn version(text: &str) -> Result<Version, Refused> {
    text.parse().map_err(|bad| Refused::bad_request(format!("in a report, {bad}")))
}
