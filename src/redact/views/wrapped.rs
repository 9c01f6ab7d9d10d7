//! Base64 and hex that were broken into lines, as MIME, PEM, `base64` and `xxd -p` do it, put together again.
//!
//! Within a JSON string, where the line ends are escapes, a run of 16 characters before one is enough: it costs a look, no
//! more. A line end of the text itself is another matter, as the end of a wrapped line has to be held back until the next
//! line shows whether a value goes on in it, and somebody may wait for that line. So there the line must be all base64 and
//! have 32 characters, or end in 57 that are not all hex: what wraps base64 makes lines of 60, 64 or 76, and what stands
//! at the end of a log line is a digest in hex.

use memchr::memchr_iter;

use super::{NEAR, Newline, View};

const ESCAPED_RUN: usize = 16;
const WHOLE_LINE: usize = 32;
const END_OF_LINE: usize = 57;

/// Deeper indentation is not looked through.
const INDENT: usize = 64;

/// Both alphabets, and the colon of hex that is written in pairs.
fn is_encoded(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'-' | b'_' | b':')
}

/// `kind` says what the newline at a place is.
pub(super) fn unwrap(source: &[u8], goes_on: bool, kind: &dyn Fn(usize) -> Newline) -> Option<View> {
    let mut view: Option<View> = None;
    let mut from = 0;
    for newline in memchr_iter(b'\n', source) {
        let Some(end) = run_before(source, newline, &|| kind(newline)) else { continue };
        let next = newline + 1 + source[newline + 1..].iter().take(INDENT).take_while(|b| matches!(b, b' ' | b'\t')).count();
        let open = next == source.len() && goes_on;
        if !open && !source.get(next).is_some_and(|b| is_encoded(*b)) {
            continue;
        }
        let view = view.get_or_insert_with(|| View::empty(source.len() - from, NEAR));
        view.copy(source, from..end);
        if open {
            return Some(std::mem::replace(view, View::empty(0, NEAR)));
        }
        view.escape(end, next - end, b"");
        from = next;
    }
    // Half a line end.
    if let Some(end) = source.len().checked_sub(1).filter(|at| goes_on && source[*at] == b'\r' && from <= *at)
        && run_before(source, end, &|| Newline::Escape).is_some()
    {
        let view = view.get_or_insert_with(|| View::empty(source.len() - from, NEAR));
        view.copy(source, from..end);
        from = source.len();
    }
    let mut view = view?;
    view.copy(source, from..source.len());
    Some(view)
}

/// Where the encoded text before the newline ends, if it is such that it may go on in the next line.
fn run_before(source: &[u8], newline: usize, kind: &dyn Fn() -> Newline) -> Option<usize> {
    let end = newline - usize::from(newline > 0 && source[newline - 1] == b'\r');
    let before = &source[..end];
    // Nearly every line ends here.
    let run = before.iter().rev().take(END_OF_LINE).take_while(|b| is_encoded(**b)).count();
    if run < ESCAPED_RUN {
        return None;
    }
    let enough = match kind() {
        Newline::Gap => false,
        Newline::Escape => true,
        Newline::Text => may_be_broken(before),
    };
    enough.then_some(end)
}

/// May the line of the text that ends here be one of many?
fn may_be_broken(before: &[u8]) -> bool {
    let run = before.iter().rev().take_while(|b| is_encoded(**b)).count();
    let (before, run) = before.split_at(before.len() - run);
    let line = before.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    let whole = before[line..].iter().all(|b| matches!(b, b' ' | b'\t'));
    if whole { run.len() >= WHOLE_LINE } else { run.len() >= END_OF_LINE && !run.iter().all(u8::is_ascii_hexdigit) }
}
