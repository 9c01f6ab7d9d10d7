use std::{sync::Arc, time::Duration};

use super::*;
use crate::audit::{
    Event, Keep, Kind, Outcome, Rules, SigningKey,
    disk::faulty::{Fault, FaultyDisk},
    journal::Journal,
    line::{Clock, begin_body},
};

const ALL: Most = Most { records: usize::MAX, bytes: usize::MAX, up_to: u64::MAX };

fn at(second: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000 + second)
}

fn body(number: u64) -> Vec<u8> {
    let event = Event { count: Some(number), ..Event::new(Kind::SecretHandedOut, Outcome::Success) };
    let mut body = Vec::new();
    event.write(&mut begin_body(&mut Clock::default(), at(number), &mut body));
    body
}

fn append(journal: &mut Journal, number: u64) -> io::Result<()> {
    let body = body(number);
    journal.commit(&body, &[body.len()])
}

fn journal(disk: &FaultyDisk, rules: Rules) -> Journal {
    let mut journal = Journal::new(Arc::new(disk.clone()), SigningKey::generate().unwrap(), rules);
    journal.take_up(0, at(0)).unwrap();
    journal
}

fn fill(journal: &mut Journal, numbers: std::ops::Range<u64>) {
    for number in numbers {
        append(journal, number).unwrap();
        journal.roll(at(number)).unwrap();
    }
}

fn seqs(batch: &Batch) -> Vec<u64> {
    batch.records().map(|line| Link::of(line).unwrap().seq).collect()
}

#[test]
fn each_record_is_read_once_in_order_whatever_the_size_of_batches() {
    let disk = FaultyDisk::default();
    let mut journal = journal(&disk, Rules { file_bytes: 3000, ..Rules::default() });
    fill(&mut journal, 0..80);
    for most in [Most { records: 1, ..ALL }, Most { records: 7, ..ALL }, Most { bytes: 900, ..ALL }, ALL] {
        let (mut seen, mut position) = (Vec::new(), None);
        while let Some(batch) = read_on(&disk, position.as_ref(), most).unwrap() {
            assert_eq!((batch.first, batch.missing), (seen.len() as u64 + 1, None));
            assert!(batch.len() <= most.records && (batch.lines().len() <= most.bytes || batch.len() == 1));
            seen.extend(seqs(&batch));
            // As a bookmark brings it back.
            position = Some(serde_json::from_str(&serde_json::to_string(&batch.after).unwrap()).unwrap());
            assert!(is_of_this_log(&disk, position.as_ref().unwrap(), journal.seq()).unwrap());
        }
        assert_eq!(seen, (1..=journal.seq()).collect::<Vec<_>>());
    }
    let some = read_on(&disk, None, Most { up_to: 11, ..ALL }).unwrap().unwrap();
    assert_eq!(some.after.seq, 11);
    assert!(read_on(&disk, Some(&some.after), Most { up_to: 11, ..ALL }).unwrap().is_none());
}

/// Lines of a write whose sync failed are whole, and never were records: their numbers are given again.
#[test]
fn what_a_failed_sync_left_behind_is_never_told() {
    let disk = FaultyDisk::default();
    let mut journal = journal(&disk, Rules::default());
    append(&mut journal, 1).unwrap();
    disk.fail(Some(Fault::SyncError));
    assert!(append(&mut journal, 666).is_err());
    disk.fail(None);
    // Before the log is taken up again: only what is durable.
    let first = read_on(&disk, None, Most { up_to: journal.seq(), ..ALL }).unwrap().unwrap();
    assert!(!String::from_utf8_lossy(first.lines()).contains("\"count\":666"));
    journal.take_up(1, at(2)).unwrap();
    append(&mut journal, 3).unwrap();
    let rest = read_on(&disk, Some(&first.after), Most { up_to: journal.seq(), ..ALL }).unwrap().unwrap();
    assert_eq!(seqs(&rest), (first.after.seq + 1..=journal.seq()).collect::<Vec<_>>());
    assert!(!String::from_utf8_lossy(rest.lines()).contains("\"count\":666"));
}

#[test]
fn what_was_pruned_meanwhile_is_told_exactly() {
    let disk = FaultyDisk::default();
    let keep = Keep { age: Duration::from_secs(30), bytes: u64::MAX };
    let mut journal = journal(&disk, Rules { file_bytes: 3000, keep, ..Rules::default() });
    fill(&mut journal, 0..10);
    let before = read_on(&disk, None, Most { records: 5, ..ALL }).unwrap().unwrap();
    fill(&mut journal, 10..100);
    let (gone, _) = journal.prune(at(100)).unwrap();
    assert!(gone.len() > 2);
    let oldest = files::list(&disk).unwrap()[0].first;
    let after = read_on(&disk, Some(&before.after), ALL).unwrap().unwrap();
    assert_eq!((after.missing, after.first), (Some((6, oldest - 1)), oldest));
    // Nothing is missed by one who was never here.
    assert_eq!(read_on(&disk, None, ALL).unwrap().unwrap().missing, None);
    assert!(is_of_this_log(&disk, &before.after, journal.seq()).unwrap());
}

#[test]
fn another_log_is_known_by_its_hashes() {
    let (disk, other) = (FaultyDisk::default(), FaultyDisk::default());
    let mut first = journal(&disk, Rules::default());
    let mut second = journal(&other, Rules::default());
    fill(&mut first, 0..20);
    fill(&mut second, 0..9);
    let five = read_on(&disk, None, Most { records: 5, ..ALL }).unwrap().unwrap();
    let all = read_on(&disk, None, ALL).unwrap().unwrap();
    assert!(!is_of_this_log(&other, &five.after, second.seq()).unwrap());
    assert!(!is_of_this_log(&other, &all.after, second.seq()).unwrap());
    assert!(is_of_this_log(&disk, &all.after, first.seq()).unwrap());
}
