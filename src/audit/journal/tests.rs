use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::audit::{
    disk::faulty::{Fault, FaultyDisk},
    event::{Event, Kind, Outcome},
    key::PublicKey,
    line::{Clock, begin_body},
    verify::{How, Verified, verify},
};

fn rules() -> Rules {
    Rules { file_bytes: 6000, ..Rules::default() }
}

struct Run {
    disk: FaultyDisk,
    key: SigningKey,
    key_file: std::path::PathBuf,
    _dir: tempfile::TempDir,
    journal: Journal,
    now: SystemTime,
    rules: Rules,
    /// The next record's mark, and those that were acknowledged.
    next: u64,
    acknowledged: BTreeSet<u64>,
}

impl Run {
    fn new(rules: Rules) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key_file = dir.path().join("key");
        let key = SigningKey::read_or_make(&key_file).unwrap();
        let disk = FaultyDisk::default();
        let journal = Journal::new(Arc::new(disk.clone()), SigningKey::read(&key_file).unwrap(), rules);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        Self { disk, key, key_file, _dir: dir, journal, now, rules, next: 1, acknowledged: BTreeSet::new() }
    }

    fn restart(&mut self) {
        let key = SigningKey::read(&self.key_file).unwrap();
        self.journal = Journal::new(Arc::new(self.disk.clone()), key, self.rules);
    }

    fn append(&mut self, count: u64) {
        if !self.journal.is_up() {
            return;
        }
        let (mut bodies, mut ends) = (Vec::new(), Vec::new());
        let marks: Vec<_> = (self.next..self.next + count).collect();
        self.next += count;
        for mark in &marks {
            let event = Event { count: Some(*mark), ..Event::new(Kind::SecretHandedOut, Outcome::Success) };
            event.write(&mut begin_body(&mut Clock::default(), self.now, &mut bodies));
            ends.push(bodies.len());
        }
        if self.journal.commit(&bodies, &ends).is_ok() {
            self.acknowledged.extend(marks);
        }
    }

    fn public(&self) -> Vec<PublicKey> {
        vec![self.key.public()]
    }

    fn verify(&self) -> Verified {
        let keys = self.public();
        let how = How { keys: &keys, threads: 1, anchor: None, progress: &|_| {} };
        verify(&self.disk, &how).unwrap()
    }

    /// The marks of all records in the log.
    fn on_record(&self) -> BTreeSet<u64> {
        let text: Vec<u8> = self
            .disk
            .names()
            .iter()
            .filter(|n| n.ends_with("jsonl"))
            .flat_map(|n| [self.disk.get(n).unwrap(), b"\n".to_vec()].concat())
            .collect();
        let records = text.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice::<serde_json::Value>(line).ok());
        records.filter(|record| record["event"] == "secret.handed-out").filter_map(|record| record["count"].as_u64()).collect()
    }

    fn check(&self) {
        if self.disk.names().is_empty() {
            // The power was cut before there was a log.
            return assert!(self.acknowledged.is_empty());
        }
        let found = self.verify();
        assert_eq!(found.broken, None, "{:?}", self.disk.names());
        let on_record = self.on_record();
        let lost: Vec<_> = self.acknowledged.difference(&on_record).collect();
        assert!(lost.is_empty(), "acknowledged, and not on record: {lost:?}");
    }
}

#[derive(Debug, Clone)]
enum Step {
    Append(u64),
    Seal,
    Roll,
    Fault(Fault),
    Mend,
    TakeUp,
    Kill,
    CutPower(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let fault = prop_oneof![
        (0..3000usize).prop_map(|after| Fault::Full { after }),
        Just(Fault::Short),
        Just(Fault::WriteError),
        Just(Fault::SyncError),
        Just(Fault::ReadOnly),
        Just(Fault::DirectoryError),
    ];
    let step = prop_oneof![
        8 => (1..8u64).prop_map(Step::Append),
        2 => Just(Step::Seal),
        3 => Just(Step::Roll),
        4 => fault.prop_map(Step::Fault),
        4 => Just(Step::Mend),
        6 => Just(Step::TakeUp),
        1 => Just(Step::Kill),
        2 => any::<u64>().prop_map(Step::CutPower),
    ];
    prop::collection::vec(step, 1..60)
}

fn dice(mut seed: u64) -> impl FnMut() -> u64 {
    move || {
        // splitmix64
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn run(steps: Vec<Step>) {
    let mut run = Run::new(rules());
    for step in steps {
        run.now += Duration::from_millis(10);
        let now = run.now;
        match step {
            Step::Append(count) => run.append(count),
            Step::Seal if run.journal.is_up() => _ = run.journal.seal(now),
            Step::Roll => _ = run.journal.roll(now),
            Step::Fault(fault) => run.disk.fail(Some(fault)),
            Step::Mend => run.disk.fail(None),
            Step::TakeUp if !run.journal.is_up() => _ = run.journal.take_up(0, now),
            Step::Kill => {
                run.disk.kill();
                run.restart();
            }
            Step::CutPower(seed) => {
                run.disk.cut_power(dice(seed));
                run.restart();
                run.check();
            }
            Step::Seal | Step::TakeUp => {}
        }
    }
    run.disk.kill();
    run.restart();
    run.journal.take_up(0, run.now).unwrap();
    run.append(3);
    run.journal.seal(run.now).unwrap();
    run.check();
    assert!(run.verify().is_sealed());
    // And what is durable is that: a power cut changes nothing.
    run.disk.cut_power(dice(7));
    run.check();
    // The head may be an older one then, so that the last seal itself is covered by none.
    let found = run.verify();
    assert!(found.unsigned() <= 1 && found.open_bytes == 0, "{found:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever fails, and whenever the process ends: what was acknowledged is on record, and verifying says the truth.
    #[test]
    fn nothing_acknowledged_is_lost(steps in steps()) {
        run(steps);
    }
}

#[test]
fn a_log_goes_on_where_it_was_left() {
    let mut run = Run::new(rules());
    assert_eq!(run.journal.take_up(0, run.now).unwrap(), TakenUp { trouble: None, torn_bytes: 0, next: 1 });
    run.append(5);
    run.journal.seal(run.now).unwrap();
    run.disk.kill();
    run.restart();
    assert_eq!(run.journal.take_up(0, run.now).unwrap().trouble, None);
    run.append(5);
    assert_eq!(run.disk.names().iter().filter(|name| name.ends_with("jsonl")).count(), 1);
    let found = run.verify();
    assert_eq!((found.broken, found.last.seq, found.signed), (None, 13, 8), "opened, sealed, 5, sealed, 5");
}

#[test]
fn a_torn_tail_is_declared_and_no_more_than_that() {
    let mut run = Run::new(rules());
    run.journal.take_up(0, run.now).unwrap();
    run.append(3);
    let name = FileName { first: 1, attempt: 0 }.to_string();
    let mut torn = run.disk.get(&name).unwrap();
    torn.extend_from_slice(b"{\"v\":1,\"seq\":6,\"ti\0\0\0");
    run.disk.kill();
    run.disk.put(&name, torn.clone());
    assert_eq!((run.verify().broken, run.verify().open_bytes), (None, 21));
    run.restart();
    let taken = run.journal.take_up(0, run.now).unwrap();
    assert_eq!((taken.trouble, taken.torn_bytes), (Some(Trouble::Torn), 21));
    run.append(1);
    assert_eq!(run.disk.get(&name).unwrap(), torn, "the file is left as it was");
    let found = run.verify();
    assert_eq!((&found.broken, found.torn, found.torn_bytes), (&None, 1, 21));
    // Not a byte of it may change from then on.
    torn[run.disk.get(&name).unwrap().len() - 1] ^= 1;
    run.disk.put(&name, torn);
    assert!(!run.verify().is_whole());
}

#[test]
fn what_is_cut_off_is_not_covered_up_by_a_restart() {
    let mut run = Run::new(rules());
    run.journal.take_up(0, run.now).unwrap();
    run.append(5);
    run.journal.seal(run.now).unwrap();
    run.disk.kill();
    let name = FileName { first: 1, attempt: 0 }.to_string();
    let text = run.disk.get(&name).unwrap();
    let lines: Vec<_> = text.split_inclusive(|b| *b == b'\n').collect();
    run.disk.put(&name, lines[..4].concat());
    assert!(!run.verify().is_whole());
    run.restart();
    assert_eq!(run.journal.take_up(0, run.now).unwrap().trouble, Some(Trouble::RecordsMissing));
    run.append(1);
    run.journal.seal(run.now).unwrap();
    let broken = run.verify().broken.unwrap();
    assert!(broken.detail.contains("records 5 to 8"), "{broken}");
}

#[test]
fn a_head_that_is_taken_away_is_on_record_for_good() {
    let mut run = Run::new(rules());
    run.journal.take_up(0, run.now).unwrap();
    run.append(5);
    run.disk.kill();
    run.disk.remove(HEAD).unwrap();
    run.restart();
    assert_eq!(run.journal.take_up(0, run.now).unwrap().trouble, Some(Trouble::HeadMissing));
    run.journal.seal(run.now).unwrap();
    let broken = run.verify().broken.unwrap();
    assert!(broken.detail.contains("head-missing"), "{broken}");
}

#[test]
fn old_files_go_and_the_log_says_so_first() {
    let mut run = Run::new(Rules { file_bytes: 2000, keep: Keep { age: Duration::from_secs(3600), bytes: u64::MAX }, ..rules() });
    run.journal.take_up(0, run.now).unwrap();
    for _ in 0..10 {
        run.append(10);
        run.now += Duration::from_secs(1000);
        run.journal.roll(run.now).unwrap();
    }
    let before = run.disk.names().len();
    let (gone, held) = run.journal.prune(run.now).unwrap();
    assert!(!held && (4..8).contains(&gone.len()), "{gone:?}");
    assert_eq!(run.disk.names().len(), before - gone.len());
    run.journal.seal(run.now).unwrap();
    let found = run.verify();
    assert!(found.is_sealed() && found.first > 1, "{found:?}");
    assert_eq!(found.pruned, gone.len() as u64);
    // One more is not covered by that.
    let next = run.disk.names().into_iter().find(|name| name.starts_with("audit-")).unwrap();
    run.disk.remove(&next).unwrap();
    assert!(!run.verify().is_whole());
}

#[test]
fn a_full_disk_is_survived_in_a_new_file() {
    let mut run = Run::new(rules());
    run.journal.take_up(0, run.now).unwrap();
    run.append(5);
    run.disk.fail(Some(Fault::Full { after: 700 }));
    run.append(5);
    assert!(!run.journal.is_up());
    assert_eq!(run.acknowledged.len(), 5);
    for _ in 0..5 {
        assert!(run.journal.take_up(5, run.now).is_err());
    }
    run.disk.fail(None);
    assert_eq!(run.journal.take_up(5, run.now).unwrap().trouble, Some(Trouble::WriteFailed));
    run.append(2);
    run.journal.seal(run.now).unwrap();
    run.check();
    let files: Vec<_> = run.disk.names().into_iter().filter(|name| name.ends_with("jsonl")).collect();
    assert_eq!(files.len(), 2, "no file of the attempts is left: {files:?}");
}
