use std::sync::Arc;

use super::*;
use crate::{
    audit::{
        Event, Kind, Outcome, Who,
        disk::faulty::FaultyDisk,
        journal::{Journal, Rules},
        key::SigningKey,
        line::{Clock, begin_body},
    },
    name::{SecretName, ToolName},
};

const START: u64 = 1_800_000_000;

fn at(second: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(START + second)
}

fn append(journal: &mut Journal, number: u64) {
    let tool: ToolName = ["billing", "search"][number as usize % 2].parse().unwrap();
    let secret: SecretName = format!("s/{}", number % 3).parse().unwrap();
    let who = Who::new(Some(&tool), None, None);
    let kind = if number.is_multiple_of(10) { Kind::SecretDenied } else { Kind::SecretHandedOut };
    let outcome = if number.is_multiple_of(10) { Outcome::Denied } else { Outcome::Success };
    let event = Event {
        who: Some(&who),
        secret: Some(&secret),
        count: Some(number),
        detail: Some(",\"tool\":\"other\""),
        ..Event::new(kind, outcome)
    };
    let mut body = Vec::new();
    event.write(&mut begin_body(&mut Clock::default(), at(number), &mut body));
    let end = body.len();
    journal.commit(&body, &[end]).unwrap();
}

/// A hundred records, one a second, in several files.
fn log() -> (FaultyDisk, Journal) {
    let disk = FaultyDisk::default();
    let rules = Rules { file_bytes: 4000, ..Rules::default() };
    let mut journal = Journal::new(Arc::new(disk.clone()), SigningKey::generate().unwrap(), rules);
    journal.take_up(0, at(0)).unwrap();
    for number in 0..100 {
        append(&mut journal, number);
        journal.roll(at(number)).unwrap();
    }
    (disk, journal)
}

fn counts(disk: &FaultyDisk, filter: &Filter) -> Vec<u64> {
    let mut text = Vec::new();
    let summary = query(disk, filter, Wanted::Records, 2, &mut |lines| {
        text.extend_from_slice(lines);
        Ok(())
    });
    let records: Vec<serde_json::Value> =
        text.split(|b| *b == b'\n').filter(|line| !line.is_empty()).map(|line| serde_json::from_slice(line).unwrap()).collect();
    assert_eq!(summary.unwrap().records, records.len() as u64);
    records.iter().filter_map(|record| record["count"].as_u64()).collect()
}

#[test]
fn a_query_tells_what_fits_in_order() {
    let (disk, _) = log();
    assert!(files::list(&disk).unwrap().len() > 5);
    let all = Filter { event: Some("secret.handed-out".into()), ..Filter::default() };
    assert_eq!(counts(&disk, &all), (0..100).filter(|n| n % 10 != 0).collect::<Vec<_>>());
    let some = Filter { tool: Some("search".into()), secret: Some("s/1".into()), ..Filter::default() };
    assert_eq!(counts(&disk, &some), (0..100).filter(|n| n % 2 == 1 && n % 3 == 1).collect::<Vec<_>>());
    let then = Filter {
        since: Some(at(20)),
        until: Some(at(30)),
        outcome: Some("success".into()),
        tool: Some("billing".into()),
        ..Filter::default()
    };
    assert_eq!(counts(&disk, &then), [22, 24, 26, 28]);
    assert!(counts(&disk, &Filter { tool: Some("other".into()), ..Filter::default() }).is_empty(), "a text is no field");
}

#[test]
fn a_summary_counts() {
    let (disk, _) = log();
    let summary =
        query(&disk, &Filter { since: Some(at(0)), ..Filter::default() }, Wanted::Counts, 2, &mut |_| panic!()).unwrap();
    assert_eq!(summary.tools, [("billing".into(), 50), ("search".into(), 50)].into());
    assert_eq!(summary.outcomes["denied"], 10);
    assert_eq!(summary.secrets["s/0"], 34);
    assert_eq!(summary.events["secret.handed-out"], 90);
    assert!(summary.first < summary.last);
}

#[test]
fn who_follows_sees_each_record_once_over_the_ends_of_files() {
    let (disk, mut journal) = log();
    let mut seen = Vec::new();
    let mut tell = |line: &[u8]| {
        let record: serde_json::Value = serde_json::from_slice(line).unwrap();
        seen.extend(record["count"].as_u64().filter(|_| record["event"].as_str().unwrap().starts_with("secret.")));
    };
    let mut follow = Follow::from_end(&disk, 3).unwrap();
    for number in 100..140 {
        append(&mut journal, number);
        if number % 3 == 0 {
            follow.read_on(&mut tell).unwrap();
        }
        journal.roll(at(number)).unwrap();
    }
    follow.read_on(&mut tell).unwrap();
    follow.read_on(&mut tell).unwrap();
    let from = seen[0];
    assert!((97..=100).contains(&from), "{seen:?}");
    assert_eq!(seen, (from..140).collect::<Vec<_>>());
    let mut late = Vec::new();
    Follow::from_end(&disk, 0).unwrap().read_on(&mut |line| late.push(line.to_vec())).unwrap();
    assert!(late.is_empty());
    Follow::from_end(&disk, 100_000).unwrap().read_on(&mut |line| late.push(line.to_vec())).unwrap();
    assert!(late.len() > 140);
}

#[test]
fn what_is_left_of_a_failed_write_is_not_told() {
    let (disk, mut journal) = log();
    let name = files::list(&disk).unwrap().last().unwrap().to_string();
    disk.kill();
    let mut text = disk.get(&name).unwrap();
    let whole = text.clone();
    // A record that was written, but not after one that was.
    let copy = whole.split_inclusive(|b| *b == b'\n').next().unwrap().to_vec();
    text.extend_from_slice(b"\0\0\0\n");
    text.extend_from_slice(&copy);
    disk.put(&name, text);
    journal = {
        drop(journal);
        Journal::new(Arc::new(disk.clone()), SigningKey::generate().unwrap(), Rules::default())
    };
    journal.take_up(0, at(200)).unwrap();
    let opened = Filter { event: Some("audit.file-opened".into()), ..Filter::default() };
    let summary = query(&disk, &opened, Wanted::Counts, 1, &mut |_| panic!()).unwrap();
    assert_eq!(summary.records, files::list(&disk).unwrap().len() as u64 - 1, "the last file begins with audit.recovered");
}
