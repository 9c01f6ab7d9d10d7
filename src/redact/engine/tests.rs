use proptest::prelude::*;

use super::*;

fn owner(id: usize) -> Owner {
    Owner { id: id as u64, name: format!("s{id}").parse().unwrap(), version: 1.into() }
}

/// One owner for each pattern, `at_once` of them to a table.
fn engine(keys: &Keys, patterns: &[Vec<u8>], at_once: usize) -> Engine {
    let mut crowd = Crowd::default();
    let mut engine = Engine::default();
    for (batch, some) in patterns.chunks(at_once).enumerate() {
        let parts = some.iter().enumerate().map(|(i, pattern)| {
            let mut prints = Prints::default();
            keys.print(Form::Raw, pattern, &mut crowd, &mut prints);
            (owner(batch * at_once + i), prints)
        });
        engine = engine.with(Table::build(parts.collect::<Vec<_>>()));
    }
    engine
}

/// Which bytes of the text belong to a find of each pattern.
fn found(engine: &Engine, keys: &Keys, text: &[u8], patterns: usize) -> Vec<Vec<bool>> {
    let mut all = Vec::new();
    engine.scan(keys, text, &mut all);
    let mut marked = vec![vec![false; text.len()]; patterns];
    for one in all {
        marked[one.owner.id as usize][one.range].fill(true);
    }
    marked
}

/// The same, the slow way. What is longer than 256 bytes counts in pieces, of which the last ends with the pattern.
fn oracle(patterns: &[Vec<u8>], text: &[u8]) -> Vec<Vec<bool>> {
    let of = |pattern: &Vec<u8>| {
        let mut marked = vec![false; text.len()];
        let mut pieces: Vec<&[u8]> = pattern.chunks_exact(256).collect();
        pieces.extend((!pattern.len().is_multiple_of(256)).then(|| &pattern[pattern.len().saturating_sub(256)..]));
        for piece in pieces {
            for at in (0..text.len()).filter(|at| text[*at..].starts_with(piece)) {
                marked[at..at + piece.len()].fill(true);
            }
        }
        marked
    };
    patterns.iter().map(of).collect()
}

/// Mostly short and middling ones, of an alphabet so small that they overlap each other and themselves.
fn patterns() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let len = prop_oneof![8..16usize, 8..16usize, 14..40usize, 40..300usize];
    let letters = prop_oneof![Just(1u8), Just(2), Just(2), Just(4), Just(255)];
    let pattern = (len, letters).prop_flat_map(|(len, letters)| prop::collection::vec(0..letters, len));
    prop::collection::vec(pattern, 1..7)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn every_match_is_found_and_nothing_else(
        patterns in patterns(),
        at_once in 1..7usize,
        // Which pattern, which part of it, and which byte of that to change.
        pieces in prop::collection::vec((0..7usize, 0..300usize, 0..300usize, prop::option::weighted(0.2, 0..300usize)), 0..8),
        skip in 0..17usize,
        whole in any::<bool>(),
    ) {
        let mut text = Vec::new();
        for (which, from, to, change) in pieces {
            let pattern = &patterns[which % patterns.len()];
            let (from, to) = (from % pattern.len(), to % pattern.len() + 1);
            let start = text.len();
            text.extend_from_slice(if from < to && from % 3 > 0 { &pattern[from..to] } else { pattern });
            if let Some(change) = change {
                let at = start + change % (text.len() - start);
                text[at] ^= 1;
            }
        }
        // Not always at the start of a pattern; and where it is, at any address.
        let text = if whole { [vec![0; skip], text].concat() } else { text };
        let text = &text[skip.min(text.len())..];
        let keys = Keys::random().unwrap();
        let engine = engine(&keys, &patterns, at_once);
        prop_assert_eq!(found(&engine, &keys, text, patterns.len()), oracle(&patterns, text));
    }
}

#[test]
fn a_pattern_is_found_at_every_place_of_a_text_of_every_length() {
    let keys = Keys::random().unwrap();
    for len in (8..48).chain([255, 256, 257, 300]) {
        let pattern: Vec<u8> = (0..len).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let engine = engine(&keys, std::slice::from_ref(&pattern), 1);
        for before in 0..40 {
            for after in 0..12 {
                let text = [&vec![b'.'; before], pattern.as_slice(), &vec![b'.'; after]].concat();
                let marked = &found(&engine, &keys, &text, 1)[0];
                let expected: Vec<bool> = (0..text.len()).map(|at| (before..before + pattern.len()).contains(&at)).collect();
                assert_eq!(*marked, expected, "{len} bytes after {before} before {after}");
            }
        }
    }
}

#[test]
fn many_hits_and_many_finds_are_all_noted() {
    let keys = Keys::random().unwrap();
    let patterns: Vec<Vec<u8>> = (0..300).map(|n| format!("sk_live_{n:03}-abcdefghijk").into_bytes()).collect();
    let engine = engine(&keys, &patterns, 50);
    let text = [&b"-"[..], &patterns.concat(), &patterns.concat()].concat();
    assert_eq!(found(&engine, &keys, &text, patterns.len()), oracle(&patterns, &text));
}

#[test]
fn what_is_forgotten_is_gone_from_every_table() {
    let keys = Keys::random().unwrap();
    let patterns: Vec<Vec<u8>> = (0..40).map(|n| format!("{n:02}-abcdefgh{}", "x".repeat(n % 13)).into_bytes()).collect();
    let engine = engine(&keys, &patterns, 3);
    let text = patterns.concat();
    let kept = engine.without(&(0..20).collect());
    let (all, left) = (found(&engine, &keys, &text, 40), found(&kept, &keys, &text, 40));
    assert!(left[..20].iter().all(|marked| !marked.contains(&true)));
    assert_eq!(left[20..], all[20..]);
    let none = kept.without(&(20..40).collect());
    assert!(none.sizes().is_empty() && none.memory().is_empty());
}

#[test]
fn patterns_of_a_kind_share_no_bucket() {
    let keys = Keys::random().unwrap();
    let mut crowd = Crowd::default();
    let build = |crowd: &mut Crowd, pattern: &str| {
        let mut prints = Prints::default();
        keys.print(Form::Raw, pattern.as_bytes(), crowd, &mut prints);
        prints
    };
    let prefix = "-".repeat(64);
    let parts = (0..1000).map(|n: u32| {
        let unlike = format!("{:08x}", n.wrapping_mul(2_654_435_761));
        // With long windows the last has no room to avoid what all have in common.
        let pattern =
            [format!("{prefix}{unlike}{unlike}"), format!("sk_live_{unlike}{unlike}"), format!("sk_live_{}", &unlike[1..])];
        (owner(n as usize), build(&mut crowd, &pattern[n as usize % 3]))
    });
    let table = Table::build(parts.collect::<Vec<_>>());
    for index in [&table.long, &table.short] {
        let mut marks: Vec<u32> = index.marks().collect();
        marks.sort_unstable();
        let most = marks.chunk_by(|one, other| one == other).map(<[u32]>::len).max().unwrap();
        assert!(most <= 64, "{most} patterns behind one window");
    }
}
