use std::{
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Instant as Clock,
};

use super::*;
use crate::{
    redact::Redactor,
    refresh::load,
    secret::SecretValue,
    source::{CheckOutcomes, Outcomes, Source, Working},
    store::{self, Store},
};

const SECOND: Duration = Duration::from_secs(1);

/// A store of ours, that answers each call as it is told to. Calls are counted from 1, the load's is the first.
struct Told<A> {
    calls: AtomicUsize,
    size: usize,
    answer: A,
}

impl<A: Fn(usize, &Wanted) -> Result<u64, SourceError> + Send + Sync> Told<A> {
    fn new(size: usize, answer: A) -> Arc<Self> {
        Arc::new(Self { calls: AtomicUsize::new(0), size, answer })
    }

    fn call(&self, wanted: &Wanted) -> Result<Fetched, SourceError> {
        let call = self.calls.fetch_add(1, Relaxed) + 1;
        (self.answer)(call, wanted).map(|version| Fetched {
            value: SecretValue::copy_from(format!("value-of-version-{version}").as_bytes()).unwrap(),
            version: version.into(),
            check_within: None,
        })
    }
}

impl<A: Fn(usize, &Wanted) -> Result<u64, SourceError> + Send + Sync> Source for Told<A> {
    fn kind(&self) -> &'static str {
        "told"
    }

    fn fetch<'a>(&'a self, wanted: &'a [Wanted], outcomes: Outcomes) -> Working<'a> {
        Box::pin(async move {
            wanted.iter().for_each(|wanted| _ = outcomes.send((wanted.secret.clone(), self.call(wanted))));
        })
    }

    fn check<'a>(&'a self, known: &'a [Known], outcomes: CheckOutcomes) -> Working<'a> {
        Box::pin(async move {
            for known in known {
                let found = self.call(&known.wanted).map(|fetched| match fetched.version == known.version {
                    true => Checked::Same { check_within: None },
                    false => Checked::Read(fetched),
                });
                let _ = outcomes.send((known.wanted.secret.clone(), found));
            }
        })
    }

    fn check_size(&self) -> usize {
        self.size
    }

    /// Which no source should.
    fn keep(&self) -> Working<'_> {
        Box::pin(std::future::ready(()))
    }
}

struct Scene {
    plan: Plan,
    keeper: Arc<Keeper>,
    store: Store,
    states: States,
}

fn source_name() -> SourceName {
    "told".parse().unwrap()
}

fn secret(number: usize) -> SecretName {
    format!("s{number:05}").parse().unwrap()
}

impl Scene {
    fn new(source: Arc<dyn Source>, secrets: usize, every: Duration, max_stale: Duration) -> Self {
        let name = |number| Wanted { secret: secret(number), path: format!("{number:05}"), field: None, stage: None };
        let wanted: Vec<_> = (0..secrets).map(name).collect();
        let max_stale = wanted.iter().map(|wanted| (wanted.secret.clone(), max_stale)).collect();
        let planned = Planned { source, refresh_every: Some(every), wanted, max_stale, places: Default::default() };
        let plan = Plan { sources: BTreeMap::from([(source_name(), planned)]), timeout: SECOND * 5, ..Plan::default() };
        let (keeper, store) = store::new(Redactor::new().unwrap());
        Self { plan, keeper: Arc::new(keeper), store, states: States::default() }
    }

    async fn start(&self) -> Upkeep {
        load(&self.plan, &self.keeper).await.commit(&self.plan, &self.keeper, &self.states);
        Upkeep::start(&self.plan, &self.keeper, &self.states)
    }

    fn version(&self, number: usize) -> Option<String> {
        self.store.version(secret(number).as_str()).map(|(version, _)| version.to_string())
    }

    async fn until(&self, what: &str, done: impl Fn(&Self) -> bool) -> Duration {
        let begun = Clock::now();
        while !done(self) {
            assert!(begun.elapsed() < SECOND * 10, "not within ten seconds: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        begun.elapsed()
    }
}

fn out() -> SourceError {
    SourceError::new(Cause::Unreachable, "nobody is there")
}

#[tokio::test]
async fn a_check_that_panics_is_not_the_end_of_all_checks() {
    let source = Told::new(1, |call, _: &Wanted| match call {
        1 => Ok(1),
        2 | 3 => panic!("a bug in a check"),
        _ => Ok(2),
    });
    let scene = Scene::new(source, 1, SECOND / 5, SECOND * 60);
    let upkeep = scene.start().await;
    scene.until("operators see that it broke down", |scene| scene.states.is_out(&source_name())).await;
    let (refreshed, complete) = upkeep.refresh(None).await;
    assert!(!complete && refreshed.failed.len() == 1, "who asks for what breaks down does not hear that all is well");
    scene.until("the new version", |scene| scene.version(0).as_deref() == Some("2")).await;
    scene.until("that is over", |scene| !scene.states.is_out(&source_name())).await;
}

#[tokio::test]
async fn a_secret_without_an_answer_does_not_make_the_others_stale() {
    let source = Told::new(1, |call, wanted: &Wanted| match (&*wanted.path, call) {
        ("00003", 11..) => Err(out()),
        _ => Ok(1),
    });
    let scene = Scene::new(source, 10, SECOND, SECOND * 4);
    let _upkeep = scene.start().await;
    let sweeping = tokio::spawn(sweep(scene.keeper.clone()));
    scene.until("it is stale", |scene| scene.version(3).is_none()).await;
    tokio::time::sleep(SECOND * 3).await;
    let held: Vec<_> = (0..10).filter(|number| scene.version(*number).is_some()).collect();
    assert_eq!(held, [0, 1, 2, 4, 5, 6, 7, 8, 9]);
    scene.until("it is not taken for an outage", |scene| !scene.states.is_out(&source_name())).await;
    tokio::time::sleep(SECOND * 2).await;
    assert!(!scene.states.is_out(&source_name()));
    assert_eq!(scene.states.problem(&source_name(), &secret(3)), Some(out()));
    assert_eq!(scene.states.problem(&source_name(), &secret(4)), None);
    sweeping.abort();
}

/// The value goes while its source is about to say that it is current.
#[tokio::test]
async fn what_becomes_stale_during_its_check_is_read_at_once() {
    let wipe = Arc::new(std::sync::OnceLock::<Arc<Keeper>>::new());
    let wiping = wipe.clone();
    let source = Told::new(1, move |call, _: &Wanted| {
        if call == 2 {
            let keeper = wiping.get().unwrap();
            assert_eq!(keeper.drop_stale(Moment::now().after(SECOND * 7200)).len(), 1);
        }
        Ok(1)
    });
    let scene = Scene::new(source.clone(), 1, SECOND * 3000, SECOND * 3600);
    wipe.set(scene.keeper.clone()).unwrap();
    let upkeep = scene.start().await;
    upkeep.refresh(None).await;
    scene.until("it is back", |scene| scene.version(0).is_some()).await;
    assert_eq!(source.calls.load(Relaxed), 3);
}

/// What was not required and could not be had is not left until its turn in an hour.
#[tokio::test]
async fn what_a_load_could_not_get_is_tried_soon() {
    // Three tries of the load.
    let source = Told::new(1, |call, wanted: &Wanted| match (&*wanted.path, call) {
        ("00001", ..=5) => Err(out()),
        _ => Ok(1),
    });
    let scene = Scene::new(source, 3, SECOND * 3000, SECOND * 3600);
    let _upkeep = scene.start().await;
    assert_eq!(scene.version(1), None);
    scene.until("it comes", |scene| scene.version(1).is_some()).await;
}

/// A secret that comes and goes: each change is told once, and nothing is told twice.
#[tokio::test]
async fn what_flaps_is_told_of_as_often_as_it_does() {
    let source = Told::new(1, |call, _: &Wanted| match call % 4 {
        0 => Err(SourceError::new(Cause::Refused, "not now")),
        1 | 2 => Ok(1),
        _ => Err(out()),
    });
    let scene = Scene::new(source.clone(), 1, SECOND * 3000, SECOND * 3600);
    let upkeep = scene.start().await;
    let mut changes = scene.store.changes();
    changes.mark_unchanged();
    for call in 2..42 {
        let before = *changes.borrow_and_update();
        let had = scene.version(0).is_some();
        upkeep.refresh(None).await;
        let has = scene.version(0).is_some();
        assert_eq!(has, call % 4 != 0, "at call {call}");
        assert_eq!(*changes.borrow_and_update() - before, u64::from(had != has), "at call {call}");
    }
    let state = scene.states.get(&source_name());
    assert!(state.refused.is_empty() && state.outage.is_none() && state.next_checks.len() == 1);
}

/// Who asks does not wait for the timeout of everything in a store that is out.
#[tokio::test]
async fn a_refresh_of_a_store_that_is_out_ends_soon_and_names_everything() {
    let source = Told::new(1, |call, _: &Wanted| if call <= 500 { Ok(1) } else { Err(out()) });
    let scene = Scene::new(source.clone(), 500, SECOND * 3000, SECOND * 3600);
    let upkeep = scene.start().await;
    let before = source.calls.load(Relaxed);
    let (refreshed, complete) = upkeep.refresh(None).await;
    assert!(complete && refreshed.failed.len() == 500);
    assert!(source.calls.load(Relaxed) - before <= 3, "{} calls", source.calls.load(Relaxed) - before);
    assert_eq!((0..500).filter(|number| scene.version(*number).is_some()).count(), 500, "they are still there");
}

/// Ten thousand secrets, each a group of its own: what one check costs beside the call itself.
#[tokio::test]
async fn what_a_check_costs_does_not_grow_with_what_is_not_checked() {
    let source = Told::new(1, |_, _: &Wanted| Ok(1));
    let scene = Scene::new(source, 10_000, SECOND * 3000, SECOND * 3600);
    let staged = load(&scene.plan, &scene.keeper).await;
    staged.commit(&scene.plan, &scene.keeper, &scene.states);
    let planned = scene.plan.sources[&source_name()].clone();
    let mut one = One::new(source_name(), planned, scene.plan.clone(), scene.keeper.clone(), scene.states.clone());
    let begun = Clock::now();
    one.tell_when(0..10_000);
    let all = begun.elapsed();
    let begun = Clock::now();
    for _ in 0..100 {
        let (group, _) = one.schedule.next().unwrap();
        one.check(group, &|_| true).await;
    }
    let check = begun.elapsed() / 100;
    println!("of 10,000: {all:?} to tell of all, {check:?} for a check of one");
    // A debug build on a busy host; before, each check told of all.
    assert!(check < Duration::from_millis(10), "{check:?}");
}
