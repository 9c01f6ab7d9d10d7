use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::*;
use crate::audit::{
    disk::faulty::FaultyDisk,
    event::{Event, Kind, Outcome},
    journal::{Journal, Rules},
    key::SigningKey,
    line::{Clock, Link, begin_body},
    retain::Keep,
};

struct Log {
    disk: FaultyDisk,
    keys: Vec<PublicKey>,
}

/// A closed log of several files, of which some were pruned.
fn log() -> Log {
    let key = SigningKey::generate().unwrap();
    let keys = vec![key.public()];
    let disk = FaultyDisk::default();
    let keep = Keep { age: Duration::from_secs(86_400), bytes: 14_000 };
    let mut journal = Journal::new(Arc::new(disk.clone()), key, Rules { file_bytes: 3000, file_age: Duration::MAX, keep });
    let mut now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    journal.take_up(0, now).unwrap();
    for at in 0..20 {
        let (mut bodies, mut ends) = (Vec::new(), Vec::new());
        for of in 0..4 {
            let event = Event { count: Some(at * 4 + of), ..Event::new(Kind::SecretHandedOut, Outcome::Success) };
            event.write(&mut begin_body(&mut Clock::default(), now, &mut bodies));
            ends.push(bodies.len());
        }
        journal.commit(&bodies, &ends).unwrap();
        now += Duration::from_secs(1);
        journal.roll(now).unwrap();
    }
    let (gone, _) = journal.prune(now).unwrap();
    assert!(!gone.is_empty());
    journal.seal(now).unwrap();
    Log { disk, keys }
}

fn check(disk: &FaultyDisk, keys: &[PublicKey]) -> Verified {
    verify(disk, &How { keys, threads: 1, anchor: None, progress: &|_| {} }).unwrap()
}

/// splitmix64
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % below as u64) as usize
    }
}

type Lines = Vec<Vec<u8>>;

fn lines(disk: &FaultyDisk, name: &str) -> Lines {
    disk.get(name).unwrap().split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect()
}

fn seq(line: &[u8]) -> u64 {
    Link::of(&line[..line.len() - 1]).unwrap().seq
}

/// What someone without the key can do: number and hash everything from a record on anew.
fn chain_anew(all: &mut [(String, Lines)]) {
    let mut tip: Option<Tip> = None;
    for line in all.iter_mut().flat_map(|(_, lines)| lines) {
        let body = {
            let link = Link::of(&line[..line.len() - 1]).unwrap();
            let before = *tip.get_or_insert(Tip { seq: link.seq - 1, hash: link.prev });
            let text = String::from_utf8(line.clone()).unwrap();
            let from = text.find(",\"time\":").unwrap();
            let to = text.rfind(",\"prev\":").unwrap();
            (before, text[from..to].as_bytes().to_vec())
        };
        line.clear();
        tip = Some(crate::audit::line::push_line(&body.1, body.0, line));
    }
}

fn all(disk: &FaultyDisk) -> Vec<(String, Lines)> {
    let names: Vec<_> = files::list(disk).unwrap().iter().map(FileName::to_string).collect();
    names.into_iter().map(|name| (name.clone(), lines(disk, &name))).collect()
}

/// Files are named by their first record.
fn put_all(disk: &FaultyDisk, all: &[(String, Lines)]) {
    all.iter().for_each(|(name, _)| _ = disk.remove(name));
    for (_, lines) in all.iter().filter(|(_, lines)| !lines.is_empty()) {
        let name = FileName { first: seq(&lines[0]), attempt: 0 }.to_string();
        disk.put(&name, lines.concat());
    }
}

/// Does something to the log that is not nothing, and says what, and which record it is about where that is one.
fn mutate(disk: &FaultyDisk, dice: &mut Dice) -> (&'static str, Option<u64>) {
    let names = files::list(disk).unwrap();
    let name = names[dice.roll(names.len())].to_string();
    let mut text = disk.get(&name).unwrap();
    let mut of_file = lines(disk, &name);
    let at = dice.roll(of_file.len());
    let here = seq(&of_file[at]);
    match dice.roll(15) {
        0 => {
            let byte = dice.roll(text.len());
            text[byte] ^= 1 << dice.roll(8);
            disk.put(&name, text);
            ("a bit", None)
        }
        1 => {
            let digit = dice.roll(of_file[at].len() - 1);
            of_file[at][digit] = if of_file[at][digit] == b'7' { b'8' } else { b'7' };
            disk.put(&name, of_file.concat());
            ("a byte of a record", Some(here))
        }
        2 => {
            of_file.remove(at);
            disk.put(&name, of_file.concat());
            ("a record deleted", Some(here))
        }
        3 => {
            let other = (at + 1 + dice.roll(of_file.len() - 1)) % of_file.len();
            of_file.swap(at, other);
            disk.put(&name, of_file.concat());
            ("two records swapped", Some(here.min(seq(&of_file[at]))))
        }
        4 => {
            let copy = of_file[at].clone();
            let to = dice.roll(of_file.len() + 1);
            of_file.insert(to, copy);
            disk.put(&name, of_file.concat());
            ("a record copied", None)
        }
        5 => {
            text.truncate(dice.roll(text.len()));
            disk.put(&name, text);
            ("cut at a byte", None)
        }
        6 => {
            of_file.truncate(at);
            disk.put(&name, of_file.concat());
            // Where nothing is left of a file, it is the file that is missed.
            ("cut at a record", (at > 0).then_some(here))
        }
        7 => {
            disk.remove(&name).unwrap();
            ("a file removed", None)
        }
        8 => {
            let from = dice.roll(text.len());
            let to = (from + 1 + dice.roll(2000)).min(text.len());
            text.drain(from..to);
            disk.put(&name, text);
            ("bytes removed", None)
        }
        9 => {
            let from = dice.roll(text.len());
            let to = (from + 1 + dice.roll(2000)).min(text.len());
            text[from..to].fill(0);
            disk.put(&name, text);
            ("bytes made zero", None)
        }
        10 => {
            let from = dice.roll(text.len() + 1);
            let some: Vec<u8> = (0..=dice.roll(300)).map(|_| dice.roll(256) as u8).collect();
            text.splice(from..from, some);
            disk.put(&name, text);
            ("bytes inserted", None)
        }
        11 => {
            let mut head = disk.get(files::HEAD).unwrap();
            match dice.roll(4) {
                0 => disk.remove(files::HEAD).unwrap(),
                _ => {
                    let byte = dice.roll(head.len());
                    head[byte] ^= 1 << dice.roll(8);
                    disk.put(files::HEAD, head);
                }
            }
            ("the head", None)
        }
        how => {
            let mut files = all(disk);
            let of = files.iter().position(|(file, _)| *file == name).unwrap();
            let lines = &mut files[of].1;
            match how {
                12 => {
                    let text = String::from_utf8(lines[at].clone()).unwrap();
                    lines[at] = text.replace("\"outcome\":\"", "\"outcome\":\"x").into_bytes();
                }
                13 => _ = lines.remove(at),
                _ => {
                    let copy = lines[at].clone();
                    lines.insert(at, copy);
                }
            }
            chain_anew(&mut files[of..]);
            put_all(disk, &files);
            ("written anew from a record on", None)
        }
    }
}

#[test]
fn ten_thousand_changes_are_each_found() {
    let log = log();
    let whole = check(&log.disk, &log.keys);
    assert!(whole.is_sealed() && whole.files > 3 && whole.pruned > 0, "{whole:?}");
    let original = all(&log.disk);
    let head = log.disk.get(files::HEAD).unwrap();
    let mut dice = Dice(5);
    for round in 0..10_000 {
        let disk = log.disk.copy();
        let (what, about) = mutate(&disk, &mut dice);
        if all_text(&disk) == original.concat_text() && disk.get(files::HEAD) == Some(head.clone()) {
            // A cut at the end of a file, two records that are the same: nothing was changed.
            continue;
        }
        let found = check(&disk, &log.keys);
        assert!(!found.is_sealed(), "round {round}: {what} was not found");
        if let Some(seq) = about {
            let broken = found.broken.unwrap_or_else(|| panic!("round {round}: {what}: no more than unsealed"));
            assert!(broken.seq.abs_diff(seq) <= 1, "round {round}: {what} {seq}, found at {broken}");
        }
    }
}

trait Text {
    fn concat_text(&self) -> Vec<(String, Vec<u8>)>;
}

impl Text for Vec<(String, Lines)> {
    fn concat_text(&self) -> Vec<(String, Vec<u8>)> {
        self.iter().map(|(name, lines)| (name.clone(), lines.concat())).collect()
    }
}

fn all_text(disk: &FaultyDisk) -> Vec<(String, Vec<u8>)> {
    let names: Vec<_> = files::list(disk).unwrap().iter().map(FileName::to_string).collect();
    names.into_iter().map(|name| (name.clone(), disk.get(&name).unwrap())).collect()
}

fn first_file(log: &Log) -> (String, Lines) {
    let name = files::list(&log.disk).unwrap()[1].to_string();
    (name.clone(), lines(&log.disk, &name))
}

#[test]
fn each_kind_of_change_is_named() {
    let log = log();
    let named = |change: &dyn Fn(&mut Lines)| {
        let disk = log.disk.copy();
        let (name, mut lines) = first_file(&log);
        change(&mut lines);
        disk.put(&name, lines.concat());
        let broken = check(&disk, &log.keys).broken.unwrap();
        assert_eq!(broken.file, name);
        (broken.what, broken.line)
    };
    let edit = |line: &mut Vec<u8>| {
        let text = String::from_utf8(std::mem::take(line)).unwrap();
        *line = text.replace("success", "denied").into_bytes();
    };
    assert_eq!(named(&|lines| edit(&mut lines[3])), (What::Changed, 4));
    assert_eq!(named(&|lines| _ = lines.remove(3)), (What::Dropped, 4));
    assert_eq!(named(&|lines| lines.swap(3, 5)), (What::Reordered, 4));
    assert_eq!(
        named(&|lines| {
            let copy = lines[3].clone();
            lines.insert(6, copy)
        }),
        (What::Inserted, 7)
    );
    assert_eq!(named(&|lines| lines[3] = b"hello\n".to_vec()), (What::Changed, 4));
}

#[test]
fn a_missing_file_and_a_cut_end_are_named() {
    let log = log();
    let names = files::list(&log.disk).unwrap();
    let disk = log.disk.copy();
    disk.remove(&names[1].to_string()).unwrap();
    assert_eq!(check(&disk, &log.keys).broken.unwrap().what, What::MissingFile);
    let disk = log.disk.copy();
    disk.remove(&names[0].to_string()).unwrap();
    assert_eq!(check(&disk, &log.keys).broken.unwrap().what, What::MissingFile);
    let disk = log.disk.copy();
    disk.remove(&names.last().unwrap().to_string()).unwrap();
    assert_eq!(check(&disk, &log.keys).broken.unwrap().what, What::Truncated);
}

#[test]
fn a_log_by_another_key_is_not_this_log() {
    let (log, other) = (log(), SigningKey::generate().unwrap());
    assert_eq!(check(&log.disk, &[other.public()]).broken.unwrap().what, What::UnknownKey);
    assert!(check(&log.disk, &[other.public(), log.keys[0]]).is_sealed());
}

#[test]
fn an_older_copy_is_told_by_what_is_known_from_elsewhere() {
    let log = log();
    let whole = check(&log.disk, &log.keys);
    let anchored = |anchor| {
        let how = How { keys: &log.keys, threads: 2, anchor: Some(anchor), progress: &|_| {} };
        verify(&log.disk, &how).unwrap().broken.map(|broken| broken.what)
    };
    assert_eq!(anchored(whole.last), None);
    assert_eq!(anchored(Tip { seq: whole.last.seq + 1, ..whole.last }), Some(What::Truncated));
    assert_eq!(anchored(Tip { seq: whole.last.seq - 1, ..whole.last }), Some(What::Truncated));
}

#[test]
fn nothing_at_all_is_no_log() {
    let found = check(&FaultyDisk::default(), &log().keys);
    assert_eq!(found.broken.unwrap().what, What::HeadMissing);
}
