//! Changes to a text, by the bytes that they replace, and how they look as a unified diff.

use std::{fmt::Write, ops::Range};

/// These bytes become this text.
#[derive(Debug, Clone)]
pub struct Edit {
    pub range: Range<usize>,
    pub text: String,
}

impl Edit {
    pub fn new(range: Range<usize>, text: impl Into<String>) -> Self {
        Self { range, text: text.into() }
    }

    pub fn cut(range: Range<usize>) -> Self {
        Self::new(range, "")
    }
}

/// The text with the changes made. They do not overlap.
pub fn apply(text: &str, edits: &[Edit]) -> String {
    let mut edits: Vec<_> = edits.iter().collect();
    edits.sort_by_key(|edit| (edit.range.start, edit.range.end));
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for edit in edits {
        out.push_str(&text[at..edit.range.start.max(at)]);
        out.push_str(&edit.text);
        at = edit.range.end.max(at);
    }
    out.push_str(&text[at..]);
    out
}

/// How many unchanged lines are shown around a change.
const AROUND: usize = 3;

/// A unified diff, with every line through `shown`, which takes out what must not be seen. Empty where nothing differs.
pub fn diff(names: (&str, &str), old: &str, new: &str, shown: impl Fn(&str) -> String) -> String {
    let (a, b): (Vec<&str>, Vec<&str>) = (lines(old), lines(new));
    let mut out = String::new();
    for hunk in hunks(&same_lines(&a, &b), a.len(), b.len()) {
        if out.is_empty() {
            let _ = writeln!(out, "--- {}\n+++ {}", names.0, names.1);
        }
        let place = |lines: &Range<usize>| match lines.len() {
            0 => format!("{},0", lines.start),
            count => format!("{},{count}", lines.start + 1),
        };
        let _ = writeln!(out, "@@ -{} +{} @@", place(&hunk.old), place(&hunk.new));
        let mut line = |sign: char, text: &str| {
            let whole = text.strip_suffix('\n');
            let _ = writeln!(out, "{sign}{}", shown(whole.unwrap_or(text).trim_end_matches('\r')));
            if whole.is_none() {
                out.push_str("\\ No newline at end of file\n");
            }
        };
        let (mut i, mut j) = (hunk.old.start, hunk.new.start);
        for &(x, y) in hunk.same.iter().chain([&(hunk.old.end, hunk.new.end)]) {
            a[i..x].iter().for_each(|text| line('-', text));
            b[j..y].iter().for_each(|text| line('+', text));
            if x < hunk.old.end {
                line(' ', a[x]);
            }
            (i, j) = (x + 1, y + 1);
        }
    }
    out
}

fn lines(text: &str) -> Vec<&str> {
    text.split_inclusive('\n').collect()
}

struct Hunk {
    old: Range<usize>,
    new: Range<usize>,
    /// Pairs of lines in it that are the same.
    same: Vec<(usize, usize)>,
}

fn hunks(same: &[(usize, usize)], old: usize, new: usize) -> Vec<Hunk> {
    let mut hunks: Vec<Hunk> = Vec::new();
    let mut before: Option<(usize, usize)> = None;
    // Where a run of the same lines is longer than twice the context, one hunk ends and another begins.
    let end = (old, new);
    let mut gaps: Vec<(Range<usize>, Range<usize>)> = Vec::new();
    for &pair in same.iter().chain([&end]) {
        let (i, j) = before.map_or((0, 0), |(x, y)| (x + 1, y + 1));
        if pair.0 > i || pair.1 > j {
            gaps.push((i..pair.0, j..pair.1));
        }
        before = Some(pair);
    }
    for (a, b) in gaps {
        match hunks.last_mut() {
            Some(last) if a.start <= last.old.end + 2 * AROUND => (last.old.end, last.new.end) = (a.end, b.end),
            _ => hunks.push(Hunk { old: a, new: b, same: Vec::new() }),
        }
    }
    for hunk in &mut hunks {
        let lead = hunk.old.start.min(hunk.new.start).min(AROUND);
        (hunk.old.start, hunk.new.start) = (hunk.old.start - lead, hunk.new.start - lead);
        let tail = (old - hunk.old.end).min(new - hunk.new.end).min(AROUND);
        (hunk.old.end, hunk.new.end) = (hunk.old.end + tail, hunk.new.end + tail);
        hunk.same = same.iter().copied().filter(|(x, y)| hunk.old.contains(x) && hunk.new.contains(y)).collect();
    }
    hunks
}

/// The most steps that are worth the smallest diff; past them what differs is shown as replaced whole.
const MOST: usize = 4_000_000;

/// Pairs of lines that are the same in both, in order: the longest such sequence, within what stands between a common start and end.
fn same_lines(a: &[&str], b: &[&str]) -> Vec<(usize, usize)> {
    let head = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let tail = a[head..].iter().rev().zip(b[head..].iter().rev()).take_while(|(x, y)| x == y).count();
    let (mid_a, mid_b) = (&a[head..a.len() - tail], &b[head..b.len() - tail]);
    let mut same: Vec<_> = (0..head).map(|at| (at, at)).collect();
    let width = mid_b.len() + 1;
    if mid_a.len().saturating_mul(width) <= MOST {
        let mut longest = vec![0_u32; (mid_a.len() + 1) * width];
        for i in (0..mid_a.len()).rev() {
            for j in (0..mid_b.len()).rev() {
                longest[i * width + j] = match mid_a[i] == mid_b[j] {
                    true => longest[(i + 1) * width + j + 1] + 1,
                    false => longest[(i + 1) * width + j].max(longest[i * width + j + 1]),
                };
            }
        }
        let (mut i, mut j) = (0, 0);
        while i < mid_a.len() && j < mid_b.len() {
            if mid_a[i] == mid_b[j] {
                same.push((head + i, head + j));
                (i, j) = (i + 1, j + 1);
            } else if longest[(i + 1) * width + j] >= longest[i * width + j + 1] {
                i += 1;
            } else {
                j += 1;
            }
        }
    }
    same.extend((0..tail).rev().map(|back| (a.len() - 1 - back, b.len() - 1 - back)));
    same
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_made_where_they_belong() {
        let edits = [Edit::new(4..5, "E"), Edit::new(0..1, "A"), Edit::cut(2..3), Edit::new(6..6, "!")];
        assert_eq!(apply("abcdef", &edits), "AbdEf!");
    }

    #[test]
    fn a_diff_reads_as_one() {
        let old = (1..=20).map(|n| format!("{n}\n")).collect::<String>();
        let new = old.replace("\n5\n", "\nfive\n").replace("\n18\n", "\n");
        let diff = diff(("old", "new"), &old, &new, str::to_owned);
        let expected = "--- old\n+++ new\n@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n@@ -15,6 +15,5 @@\n 15\n 16\n 17\n-18\n 19\n 20\n";
        assert_eq!(diff, expected);
        assert_eq!(super::diff(("a", "b"), "", "x\n", str::to_owned), "--- a\n+++ b\n@@ -0,0 +1,1 @@\n+x\n");
        assert_eq!(super::diff(("a", "b"), "x", "y", str::to_owned).matches("No newline").count(), 2);
        assert_eq!(super::diff(("a", "b"), "x", "x", str::to_owned), "");
    }
}
