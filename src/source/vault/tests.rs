//! A year in the life of a token, in time that passes as fast as it is slept.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::{runtime::Handle, time::sleep};

use super::{
    super::{Cause, SourceError},
    life::{LONGEST_PAUSE, Step, Terms},
    login::Stamp,
    token::{Granted, Tokens, Upstream},
};
use crate::secret::SecretValue;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Chance that is the same each time: xorshift.
#[derive(Debug)]
struct Dice(Mutex<u64>);

impl Dice {
    fn roll(&self) -> f64 {
        let mut state = self.0.lock().unwrap();
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        (*state >> 11) as f64 / (1u64 << 53) as f64
    }

    fn between(&self, least: Duration, most: Duration) -> Duration {
        least + (most - least).mul_f64(self.roll())
    }
}

/// How the server grants tokens.
#[derive(Debug, Clone, Copy)]
struct Rules {
    ttl: Duration,
    /// `None`: a periodic token, which can be renewed for ever.
    longest: Option<Duration>,
    renewable: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weather {
    Fine,
    /// Nobody answers, each time after a while.
    Out,
    /// Every login is refused.
    Closed,
}

#[derive(Debug)]
struct Server {
    rules: Rules,
    dice: Dice,
    in_flight: AtomicU32,
    state: Mutex<Books>,
}

#[derive(Debug)]
struct Books {
    /// Changes of the weather, in order.
    ahead: VecDeque<(Instant, Weather)>,
    weather: Weather,
    since: Instant,
    /// The token: when it was first granted, and when it ends. `None`: there is none, or it was revoked.
    token: Option<(Instant, Instant)>,
    /// What is expected next: from when to when, and what.
    window: Option<(Instant, Instant, Step)>,
    logins: u64,
    renewals: u64,
    /// Calls in a row that failed in this spell of bad weather.
    failed: u32,
    trouble: Vec<String>,
}

impl Server {
    fn new(rules: Rules, seed: u64, length: Duration) -> Self {
        let dice = Dice(Mutex::new(seed));
        let (start, mut at, mut ahead) = (now(), now(), VecDeque::new());
        loop {
            at += dice.between(HOUR, 6 * DAY);
            if at > start + length {
                break;
            }
            let weather = if dice.roll() < 0.7 { Weather::Out } else { Weather::Closed };
            ahead.push_back((at, weather));
            // From a minute to some hours, short ones more often.
            at += dice.between(MINUTE, 5 * MINUTE).mul_f64(1.0 + dice.roll().powi(4) * 100.0);
            ahead.push_back((at, Weather::Fine));
        }
        let state = Books {
            ahead,
            weather: Weather::Fine,
            since: start,
            token: None,
            window: None,
            logins: 0,
            renewals: 0,
            failed: 0,
            trouble: Vec::new(),
        };
        Self { rules, dice, in_flight: AtomicU32::new(0), state: Mutex::new(state) }
    }

    /// Counts the call, and lets it take its time. The weather it meets.
    async fn call(&self, step: Step) -> Result<(), SourceError> {
        struct InFlight<'a>(&'a AtomicU32);
        impl Drop for InFlight<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Relaxed);
            }
        }
        assert_eq!(self.in_flight.fetch_add(1, Relaxed), 0, "two attempts at one time");
        let _in_flight = InFlight(&self.in_flight);
        let weather = {
            let mut books = self.state.lock().unwrap();
            books.pass();
            books.judge(step);
            if books.weather == Weather::Fine {
                books.failed = 0
            } else {
                books.failed += 1
            }
            books.weather
        };
        let slow = weather == Weather::Out && self.dice.roll() < 0.3;
        sleep(if slow {
            Duration::from_secs(30)
        } else {
            self.dice.between(Duration::from_millis(1), Duration::from_millis(40))
        })
        .await;
        match weather {
            Weather::Out => Err(SourceError::new(Cause::Unreachable, "no answer")),
            Weather::Closed if step == Step::LogIn => Err(SourceError::new(Cause::Refused, "no")),
            _ => Ok(()),
        }
    }
}

impl Books {
    fn pass(&mut self) {
        while self.ahead.front().is_some_and(|(at, _)| *at <= now()) {
            let Some((at, weather)) = self.ahead.pop_front() else { break };
            (self.weather, self.since) = (weather, at);
            // Bad weather upsets the plan: what is due in it is tried again and again.
            self.window = None;
        }
    }

    /// Is a call made when it should be?
    fn judge(&mut self, step: Step) {
        let Some((from, to, wanted)) = self.window.take() else { return };
        let slack = Duration::from_millis(100);
        if wanted != step || now() + slack < from || now() > to + slack {
            let late = now().saturating_duration_since(to);
            let early = from.saturating_duration_since(now());
            self.trouble.push(format!("{step:?} in place of {wanted:?}, {late:?} late or {early:?} early"));
        }
    }

    fn grant(&mut self, left: Duration, last: bool, renewable: bool) -> Terms {
        let first = self.token.map_or(now(), |(first, _)| first);
        self.token = Some((first, now() + left));
        let (from, to, step) = if renewable && !last { (0.4, 0.5, Step::Renew) } else { (0.6, 0.7, Step::LogIn) };
        let second = Duration::from_secs(1);
        self.window = Some((now() + left.mul_f64(from), now() + left.mul_f64(to).max(second), step));
        Terms { left: Some(left), renewable }
    }
}

impl Upstream for Arc<Server> {
    async fn log_in(&self) -> Result<Granted, SourceError> {
        self.call(Step::LogIn).await?;
        let mut books = self.state.lock().unwrap();
        books.logins += 1;
        books.token = None;
        let terms = books.grant(self.rules.ttl, false, self.rules.renewable);
        Ok(Granted { token: SecretValue::copy_from(b"marker").unwrap(), terms, full: self.rules.ttl })
    }

    async fn renew(&self, _: &SecretValue, increment: Duration) -> Result<Terms, SourceError> {
        self.call(Step::Renew).await?;
        let mut books = self.state.lock().unwrap();
        let refused = || SourceError::new(Cause::Refused, "no such token");
        let Some((first, _)) = books.token.filter(|(_, ends)| *ends > now()) else {
            books.window = None;
            return Err(refused());
        };
        // Revoked by somebody, now and then.
        if self.dice.roll() < 0.001 {
            (books.token, books.window) = (None, Some((now(), now(), Step::LogIn)));
            return Err(refused());
        }
        assert_eq!(increment, self.rules.ttl);
        let rest = self.rules.longest.map_or(increment, |longest| (first + longest).saturating_duration_since(now()));
        // As servers do: whole seconds.
        let left = Duration::from_secs(increment.min(rest).as_secs());
        books.renewals += 1;
        Ok(books.grant(left, left + Duration::from_secs(1) < increment, true))
    }

    async fn is_alive(&self, _: &SecretValue) -> Result<bool, SourceError> {
        Ok(true)
    }

    async fn revoke(&self, _: &SecretValue) {}

    fn stamp(&self) -> Option<Stamp> {
        None
    }

    fn token_is_given(&self) -> bool {
        false
    }

    fn chance(&self) -> f64 {
        self.dice.roll()
    }
}

/// Lives for so long under these rules, with readers that come at any time. The logins and renewals it took.
async fn live(rules: Rules, seed: u64, length: Duration) -> (u64, u64) {
    let tasks = Handle::current().metrics().num_alive_tasks();
    let server = Arc::new(Server::new(rules, seed, length));
    let tokens = Tokens::new(server.clone());
    let end = now() + length;
    let readers = async {
        let mut most_failed = 0;
        while now() < end {
            sleep(server.dice.between(Duration::from_secs(1), (4 * HOUR).min(rules.ttl * 20))).await;
            let held = {
                let mut books = server.state.lock().unwrap();
                books.pass();
                let left = books.token.map(|(_, ends)| ends.saturating_duration_since(now()));
                // Up for longer than the longest pause and the slowest call that it may still wait for: then there is a token.
                let fine =
                    books.weather == Weather::Fine && now() > books.since + LONGEST_PAUSE * 5 + 3 * Duration::from_secs(30);
                most_failed = most_failed.max(books.failed);
                if fine
                    && books.logins > 0
                    && left.is_none_or(|left| left.is_zero())
                    && books.window.is_none_or(|(_, to, _)| to < now())
                {
                    books.trouble.push(format!("the token ran out while the server was there, at {:?}", end - now()));
                }
                left.is_some_and(|left| !left.is_zero())
            };
            let got = tokio::time::timeout(Duration::from_millis(500), tokens.get()).await;
            assert!(!held || matches!(got, Ok(Ok(_))), "a living token is handed out at once");
        }
        most_failed
    };
    let most_failed = tokio::select! {
        () = tokens.keep() => unreachable!(),
        most = readers => most,
    };
    let books = server.state.lock().unwrap();
    assert!(books.trouble.is_empty(), "{} of {:#?}", books.trouble.len(), &books.trouble[..books.trouble.len().min(5)]);
    // The longest bad weather is under 9 hours; at most one try in 45 s beside those of readers and the growing pauses.
    assert!(most_failed < 9 * 3600 / 45 + 200, "{most_failed} calls in one outage");
    assert_eq!(Handle::current().metrics().num_alive_tasks(), tasks, "nothing was spawned");
    assert_eq!(Arc::strong_count(&server), 2, "no attempt is left behind");
    (books.logins, books.renewals)
}

const YEAR: Duration = Duration::from_secs(365 * 86_400);

#[tokio::test(start_paused = true)]
async fn a_year_of_an_hour_at_a_time() {
    let rules = Rules { ttl: HOUR, longest: Some(32 * DAY), renewable: true };
    for seed in [1, 2, 3] {
        let (logins, renewals) = live(rules, seed, YEAR).await;
        assert!((11..100).contains(&logins), "{logins} logins");
        assert!((17_000..23_000).contains(&renewals), "{renewals} renewals");
    }
}

#[tokio::test(start_paused = true)]
async fn a_year_of_the_usual_768_hours() {
    let rules = Rules { ttl: 768 * HOUR, longest: Some(768 * HOUR), renewable: true };
    for seed in [4, 5, 6] {
        let (logins, renewals) = live(rules, seed, YEAR).await;
        assert!((10..40).contains(&logins), "{logins} logins");
        assert!(renewals < 40, "{renewals} renewals");
    }
}

#[tokio::test(start_paused = true)]
async fn a_year_of_twenty_minutes() {
    let rules = Rules { ttl: 20 * MINUTE, longest: Some(DAY), renewable: true };
    let (logins, renewals) = live(rules, 7, YEAR).await;
    assert!((365..600).contains(&logins), "{logins} logins");
    assert!((50_000..70_000).contains(&renewals), "{renewals} renewals");
}

#[tokio::test(start_paused = true)]
async fn a_year_of_a_periodic_token() {
    let rules = Rules { ttl: DAY, longest: None, renewable: true };
    let (logins, renewals) = live(rules, 8, YEAR).await;
    assert!((1..10).contains(&logins), "{logins} logins");
    assert!((700..950).contains(&renewals), "{renewals} renewals");
}

#[tokio::test(start_paused = true)]
async fn a_year_of_what_cannot_be_renewed() {
    let rules = Rules { ttl: HOUR, longest: None, renewable: false };
    let (logins, renewals) = live(rules, 9, YEAR).await;
    assert!((12_000..15_000).contains(&logins), "{logins} logins");
    assert_eq!(renewals, 0);
}

#[tokio::test(start_paused = true)]
async fn two_months_of_a_minute_at_a_time() {
    let rules = Rules { ttl: MINUTE, longest: Some(HOUR), renewable: true };
    // A year of it is two million calls: a minute for the machine too.
    let (logins, renewals) = live(rules, 10, 60 * DAY).await;
    assert!((1_430..1_750).contains(&logins), "{logins} logins");
    assert!(renewals > 170_000, "{renewals} renewals");
}

#[tokio::test(start_paused = true)]
async fn one_who_waits_and_leaves_takes_nothing_along() {
    let server = Arc::new(Server::new(Rules { ttl: HOUR, longest: None, renewable: true }, 11, Duration::ZERO));
    let tokens = Tokens::new(server.clone());
    // Whoever began it leaves: the other one drives it on.
    let mut first = Box::pin(tokens.get());
    assert!(futures_util::poll!(first.as_mut()).is_pending());
    let mut second = Box::pin(tokens.get());
    assert!(futures_util::poll!(second.as_mut()).is_pending());
    drop(first);
    let token = second.await.unwrap();
    assert_eq!((token.generation, server.state.lock().unwrap().logins), (1, 1));
    // When the last one leaves, so does the attempt, and the next one begins anew.
    let server = Arc::new(Server::new(server.rules, 12, Duration::ZERO));
    let tokens = Tokens::new(server.clone());
    for _ in 0..3 {
        let _ = tokio::time::timeout(Duration::from_micros(10), tokens.get()).await;
        assert_eq!((server.in_flight.load(Relaxed), Arc::strong_count(&server)), (0, 2));
    }
    assert_eq!(tokens.get().await.unwrap().generation, 1);
}
