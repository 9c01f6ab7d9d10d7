//! Every state of the machine in a model of the world around it, with every outcome of every step and a crash at every moment: all
//! reachable states are visited, and each is held to what must always be so.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{End, Event, State, Step};

/// Which value is current at the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Current {
    Old,
    New,
    /// A person, or another tool than ours, has written one.
    Foreign,
}

/// Source and system, and the one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct World {
    /// Is there a hook? Without one there is no system to tell, nothing is staged, and the new value is in memory alone until it is current.
    hooked: bool,
    current: Current,
    staged: bool,
    /// What the system takes.
    takes_old: bool,
    takes_new: bool,
    /// The hook's create has made something in the system that nobody else knows of, to be found by the rotation's id.
    unknown: bool,
    /// The new value is in this process's memory.
    in_memory: bool,
    /// The source remembers the new value as an earlier version.
    remembered: bool,
    /// Somebody may still write to the source by hand.
    meddler: bool,
}

/// How an attempt goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Well,
    /// It fails, and nothing has happened.
    Fails,
    /// It happens, and nobody hears of it: a hang, a connection that breaks, an answer that makes no sense.
    Unheard,
    /// It happens twice.
    Twice,
    CrashBefore,
    /// Half of it has happened, where it has halves.
    CrashWithin,
    CrashAfter,
}

const FATES: [Fate; 7] =
    [Fate::Well, Fate::Fails, Fate::Unheard, Fate::Twice, Fate::CrashBefore, Fate::CrashWithin, Fate::CrashAfter];

impl World {
    const fn new(hooked: bool) -> Self {
        Self {
            hooked,
            current: Current::Old,
            staged: false,
            takes_old: true,
            takes_new: !hooked,
            unknown: false,
            in_memory: false,
            remembered: false,
            meddler: true,
        }
    }

    /// Does what a step does, as the driver does it. `halves`: only the first of two things.
    fn attempt(&mut self, state: State, halves: bool) -> Event {
        match state.step {
            Step::Create => {
                self.in_memory = true;
                if !self.hooked {
                    return Event::Done;
                }
                self.unknown = true;
                if halves {
                    return Event::Failed;
                }
                if self.current != Current::Old {
                    return Event::Lost;
                }
                self.staged = true;
                Event::Done
            }
            Step::Set => {
                self.takes_new = true;
                Event::Done
            }
            Step::Test => {
                assert!(self.takes_new, "what is tested was set");
                Event::Done
            }
            Step::Finish => match self.current {
                Current::New => Event::Done,
                Current::Foreign => Event::Lost,
                Current::Old if self.hooked => {
                    assert!(self.staged, "what becomes current is staged");
                    (self.current, self.remembered) = (Current::New, true);
                    Event::Done
                }
                Current::Old if self.in_memory => {
                    (self.current, self.remembered) = (Current::New, true);
                    Event::Done
                }
                Current::Old => Event::Impossible,
            },
            Step::Overlap | Step::Return => Event::Done,
            Step::Retire => {
                self.takes_old = !self.hooked;
                self.unknown = false;
                if halves {
                    return Event::Failed;
                }
                self.staged = false;
                Event::Done
            }
            Step::Restore => match self.current {
                Current::Old => Event::Done,
                Current::Foreign => Event::Lost,
                Current::New => {
                    self.current = Current::Old;
                    Event::Done
                }
            },
            Step::Undo => {
                self.takes_new = !self.hooked;
                self.unknown = false;
                if halves {
                    return Event::Failed;
                }
                self.staged = false;
                Event::Done
            }
            Step::Over => unreachable!("nothing is tried when all is over"),
        }
    }

    /// What must be so at every moment, whatever was written to disk last.
    fn check(&self, state: State) {
        let works = match self.current {
            Current::Old => self.takes_old,
            Current::New => self.takes_new,
            Current::Foreign => true,
        };
        assert!(works, "a tool that reads the source has no working credential: {state:?} {self:?}");
        if self.hooked && self.takes_new {
            let kept = self.staged || self.remembered;
            assert!(kept, "the system takes a value that nobody has stored: {state:?} {self:?}");
        }
        if self.unknown && state.is_over() {
            panic!("something made for this rotation stays in the system: {self:?}");
        }
    }

    /// What must be so at the end.
    fn check_end(&self, end: End) {
        assert!(!self.staged, "nothing is staged, and so nothing locked: {self:?}");
        if !self.hooked {
            return;
        }
        match end {
            End::Rotated => assert!(!self.takes_old, "the old value is retired: {self:?}"),
            End::Undone | End::Lost | End::RolledBack => {
                assert!(!self.takes_new, "the new value is taken back: {self:?}");
                assert_ne!(self.current, Current::New, "{self:?}");
            }
        }
    }
}

/// One attempt: the world after it, and what is on disk.
fn step(world: World, state: State, fate: Fate) -> (World, State) {
    let mut after = world;
    let crashed = |mut world: World| {
        world.in_memory = false;
        (world, state.next(Event::Resumed))
    };
    match fate {
        Fate::Well => {
            let event = after.attempt(state, false);
            (after, state.next(event))
        }
        Fate::Fails => (after, state.next(Event::Failed)),
        Fate::Unheard => {
            after.attempt(state, false);
            (after, state.next(Event::Failed))
        }
        Fate::Twice => {
            after.attempt(state, false);
            let event = after.attempt(state, false);
            (after, state.next(event))
        }
        Fate::CrashBefore => crashed(after),
        Fate::CrashWithin => {
            after.attempt(state, true);
            crashed(after)
        }
        Fate::CrashAfter => {
            after.attempt(state, false);
            crashed(after)
        }
    }
}

/// All that may come of one state of the world.
fn successors(world: World, state: State) -> Vec<(World, State)> {
    let mut all: Vec<_> = FATES.into_iter().map(|fate| step(world, state, fate)).collect();
    // At the finish it is said only by who has seen that the old value is current.
    if state.step != Step::Finish || world.current == Current::Old {
        all.push((world, state.next(Event::Impossible)));
    }
    if state.may_roll_back() {
        all.push((world, state.next(Event::RollBack)));
    }
    if world.meddler {
        let mut meddled = world;
        (meddled.meddler, meddled.current) = (false, Current::Foreign);
        all.push((meddled, state));
    }
    // How often something failed makes no difference beyond what the machine looks at.
    all.iter_mut().for_each(|(_, state)| state.failed = state.failed.min(super::TRIES));
    all
}

#[test]
fn whatever_happens_all_is_safe() {
    let mut seen = BTreeSet::new();
    let mut ends: BTreeMap<(bool, End), usize> = BTreeMap::new();
    let mut transitions = 0;
    let mut queue: VecDeque<_> = [true, false].map(|hooked| (World::new(hooked), State::BEGIN)).into();
    while let Some((world, state)) = queue.pop_front() {
        if !seen.insert((world, state)) {
            continue;
        }
        world.check(state);
        if state.is_over() {
            let end = state.end.expect("an end has a name");
            world.check_end(end);
            *ends.entry((world.hooked, end)).or_default() += 1;
            continue;
        }
        // From here all ends well as soon as nothing fails any more.
        let (mut later, mut then) = (world, state);
        for _ in 0..20 {
            if then.is_over() {
                break;
            }
            (later, then) = step(later, then, Fate::Well);
            later.check(then);
        }
        assert!(then.is_over(), "it does not come to an end: {state:?} {world:?}");
        later.check_end(then.end.expect("an end has a name"));
        let next = successors(world, state);
        transitions += next.len();
        queue.extend(next);
    }
    println!("{} states, {transitions} transitions, ends (with a hook, which: in how many states): {ends:?}", seen.len());
    assert!(seen.len() > 100 && transitions > 800, "the walk went through it all");
    for end in [End::Rotated, End::Undone, End::Lost, End::RolledBack] {
        assert!(ends.contains_key(&(true, end)), "{end:?} is reached");
    }
}

/// The table of `docs/rotation.md`: one fault at each step of a rotation with a hook, and then nothing more.
#[test]
fn one_fault_at_each_step_ends_as_documented() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/rotation.md")).unwrap();
    let path = [Step::Create, Step::Set, Step::Test, Step::Finish, Step::Overlap, Step::Retire];
    for at in path {
        let ends = FATES.map(|fate| {
            let (mut world, mut state) = (World::new(true), State::BEGIN);
            while state.step != at {
                (world, state) = step(world, state, Fate::Well);
            }
            (world, state) = step(world, state, fate);
            while !state.is_over() {
                world.check(state);
                (world, state) = step(world, state, Fate::Well);
            }
            world.check_end(state.end.unwrap());
            state.end.unwrap().word()
        });
        let row = format!("| {} | {} |", at.word(), ends.join(" | "));
        assert!(page.contains(&row), "docs/rotation.md has no row: {row}");
    }
}

#[test]
fn a_hook_that_never_works_is_given_up_before_the_finish_and_not_after() {
    for (at, ends) in [(Step::Set, true), (Step::Test, true), (Step::Finish, false), (Step::Retire, false), (Step::Undo, false)] {
        let mut state = State { step: at, failed: 0, end: Some(End::Undone) };
        for _ in 0..100 {
            state = state.next(Event::Failed);
        }
        assert_eq!(state.step == Step::Undo && at != Step::Undo, ends, "{at:?}: {state:?}");
    }
}
