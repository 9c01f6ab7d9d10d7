//! Looks for a secret in whatever a process wrote, however it is encoded. It shares nothing with the product's redactor, and works the
//! other way round: that one knows the forms of a value, this one decodes everything that could be decoded, again and again.
#![allow(dead_code, reason = "each test binary uses some of it")]

use std::collections::{BTreeSet, HashMap, VecDeque};

/// As many bytes of a secret in a row are a leak, too.
const PIECE: usize = 12;
/// Layers that are taken off: of escapes, and of encodings that turn text into bytes.
const ESCAPES: usize = 4;
const ENCODINGS: usize = 2;
/// Shorter runs of base64 or hexadecimal digits are words: no piece of a secret fits in.
const RUN: usize = 16;

type Decode = fn(&[u8]) -> Vec<Vec<u8>>;

const OF_ESCAPES: &[(&str, Decode)] = &[("escaped", unescape), ("percent", percent), ("entities", entities)];
const OF_ENCODINGS: &[(&str, Decode)] = &[("base64", base64), ("hex", hex), ("numbers", numbers)];

/// The ways in which `text` holds the secret or a piece of it: the layers to take off, outermost first, as `escaped escaped` or `base64`;
/// `raw` for none. A way stands here if more of the secret is to be seen after its last layer than before.
pub fn find(text: &[u8], secret: &[u8]) -> BTreeSet<String> {
    let mut search = Search { needles: Needles::of(secret), seen: HashMap::new(), found: BTreeSet::new(), left: VecDeque::new() };
    let whole =
        Text { bytes: text.to_vec(), layers: Vec::new(), escapes: ESCAPES, encodings: ENCODINGS, known: Counts::default() };
    search.left.push_back(whole);
    // Those with fewer layers first: what can be reached in two ways is named by the shorter one.
    while let Some(text) = search.left.pop_front() {
        search.look(text);
    }
    search.found
}

/// A text with some layers taken off.
struct Text {
    bytes: Vec<u8>,
    layers: Vec<&'static str>,
    /// How many more may be.
    escapes: usize,
    encodings: usize,
    /// How much was seen before the last.
    known: Counts,
}

/// Pieces of the secret in a text: as they are, and in UTF-16.
type Counts = [usize; 2];

struct Search {
    needles: Needles,
    /// By hash, the layers that could still be taken off texts that were looked at: many ways lead to the same one.
    seen: HashMap<u64, Vec<(usize, usize)>>,
    found: BTreeSet<String>,
    left: VecDeque<Text>,
}

impl Search {
    fn look(&mut self, text: Text) {
        if text.bytes.len() < PIECE || self.was_seen(&text) {
            return;
        }
        let counts = self.needles.count(&text.bytes);
        for (form, name) in ["raw", "utf-16"].into_iter().enumerate().filter(|(form, _)| counts[*form] > text.known[*form]) {
            let plain = form == 0 && !text.layers.is_empty();
            let names = text.layers.iter().copied().chain((!plain).then_some(name));
            self.found.insert(names.collect::<Vec<_>>().join(" "));
        }
        for (layer, decode) in OF_ESCAPES.iter().filter(|_| text.escapes > 0) {
            // What needs no unescaping is still there after it.
            let known = std::array::from_fn(|form| counts[form].max(text.known[form]));
            self.go_on(&text, layer, decode(&text.bytes), (text.escapes - 1, text.encodings), known);
        }
        for (layer, decode) in OF_ENCODINGS.iter().filter(|_| text.encodings > 0) {
            self.go_on(&text, layer, decode(&text.bytes), (text.escapes, text.encodings - 1), Counts::default());
        }
    }

    fn go_on(&mut self, text: &Text, layer: &'static str, decoded: Vec<Vec<u8>>, more: (usize, usize), known: Counts) {
        let layers = [&text.layers[..], &[layer]].concat();
        let (escapes, encodings) = more;
        self.left.extend(decoded.into_iter().map(|bytes| Text { bytes, layers: layers.clone(), escapes, encodings, known }));
    }

    fn was_seen(&mut self, text: &Text) -> bool {
        let seen = self.seen.entry(hash(&text.bytes)).or_default();
        let more = seen.iter().any(|(escapes, encodings)| *escapes >= text.escapes && *encodings >= text.encodings);
        seen.extend((!more).then_some((text.escapes, text.encodings)));
        more
    }
}

fn hash(text: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// The pieces of a secret, in UTF-8 and UTF-16, and which two bytes they begin with.
struct Needles {
    pieces: [Vec<Vec<u8>>; 2],
    begins: Vec<bool>,
}

impl Needles {
    fn of(secret: &[u8]) -> Self {
        let units: Vec<u16> = std::str::from_utf8(secret).unwrap_or_default().encode_utf16().collect();
        let wide = |to_bytes: fn(u16) -> [u8; 2]| units.iter().flat_map(|unit| to_bytes(*unit)).collect::<Vec<u8>>();
        let cut = |bytes: &[u8], length: usize| bytes.windows(length).map(<[u8]>::to_vec).collect::<Vec<_>>();
        let utf_16 = [cut(&wide(u16::to_le_bytes), 2 * PIECE), cut(&wide(u16::to_be_bytes), 2 * PIECE)].concat();
        let pieces = [cut(secret, PIECE), utf_16];
        assert!(!pieces[0].is_empty(), "a secret that is shorter than a piece of one");
        let mut begins = vec![false; 1 << 16];
        for piece in pieces.iter().flatten() {
            begins[two(piece)] = true;
        }
        Self { pieces, begins }
    }

    fn count(&self, text: &[u8]) -> Counts {
        let candidates: Vec<_> = (0..text.len() - 1).filter(|at| self.begins[two(&text[*at..])]).collect();
        let holds = |pieces: &[Vec<u8>], at: usize| pieces.iter().any(|piece| text[at..].starts_with(piece));
        std::array::from_fn(|form| candidates.iter().filter(|at| holds(&self.pieces[form], **at)).count())
    }
}

fn two(bytes: &[u8]) -> usize {
    usize::from(bytes[0]) << 8 | usize::from(bytes[1])
}

/// Takes one layer of backslashes off: JSON's, and those of C, Python and Rust.
fn unescape(text: &[u8]) -> Vec<Vec<u8>> {
    if !text.contains(&b'\\') {
        return Vec::new();
    }
    let mut out = Vec::with_capacity(text.len());
    let (mut at, mut high) = (0, None);
    while at < text.len() {
        let (b, next) = (text[at], text.get(at + 1).copied());
        let digits = |from: usize, n: usize| text.get(from..from + n).and_then(hex_number);
        (at, high) = match (b, next) {
            (b'\\', Some(b'u' | b'U')) if digits(at + 2, 4).is_some() => {
                (at + 6, unit(digits(at + 2, 4).unwrap_or(0), high, &mut out))
            }
            (b'\\', Some(b'x')) if digits(at + 2, 2).is_some() => {
                out.push(digits(at + 2, 2).unwrap_or(0) as u8);
                (at + 4, None)
            }
            (b'\\', Some(letter)) => {
                out.push(simple(letter));
                (at + 2, None)
            }
            _ => {
                out.push(b);
                (at + 1, None)
            }
        };
    }
    vec![out]
}

fn simple(letter: u8) -> u8 {
    match letter {
        b'n' => b'\n',
        b't' => b'\t',
        b'r' => b'\r',
        b'b' => 8,
        b'f' => 12,
        b'0' => 0,
        other => other,
    }
}

/// Writes one UTF-16 unit; a high surrogate waits for its other half.
fn unit(unit: u32, high: Option<u32>, out: &mut Vec<u8>) -> Option<u32> {
    let point = match (high, unit) {
        (_, 0xd800..0xdc00) => return Some(unit),
        (Some(high), 0xdc00..0xe000) => 0x10000 + ((high - 0xd800) << 10) + (unit - 0xdc00),
        _ => unit,
    };
    push_char(point, out);
    None
}

fn push_char(point: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(char::from_u32(point).unwrap_or('\u{fffd}').encode_utf8(&mut [0; 4]).as_bytes());
}

fn hex_number(digits: &[u8]) -> Option<u32> {
    let all = digits.iter().all(u8::is_ascii_hexdigit);
    u32::from_str_radix(std::str::from_utf8(digits).ok().filter(|_| all)?, 16).ok()
}

/// Percent-encoding, with `+` as it is and as the space that forms make of it.
fn percent(text: &[u8]) -> Vec<Vec<u8>> {
    if !text.contains(&b'%') {
        return Vec::new();
    }
    let mut out = Vec::with_capacity(text.len());
    let mut spaced = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let encoded = (text[at] == b'%').then(|| text.get(at + 1..at + 3).and_then(hex_number)).flatten();
        let byte = encoded.map_or(text[at], |byte| byte as u8);
        out.push(byte);
        spaced.push(if encoded.is_none() && byte == b'+' { b' ' } else { byte });
        at += if encoded.is_some() { 3 } else { 1 };
    }
    vec![out, spaced]
}

/// The entities of XML and HTML: by number, and the names that an ASCII or Latin-1 key can need.
fn entities(text: &[u8]) -> Vec<Vec<u8>> {
    if !text.contains(&b'&') {
        return Vec::new();
    }
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let end = text[at..].iter().take(12).position(|b| *b == b';').filter(|_| text[at] == b'&');
        match end.and_then(|end| Some((end, entity(&text[at + 1..at + end])?))) {
            Some((end, point)) => {
                push_char(point, &mut out);
                at += end + 1;
            }
            None => {
                out.push(text[at]);
                at += 1;
            }
        }
    }
    vec![out]
}

fn entity(name: &[u8]) -> Option<u32> {
    let named =
        [("amp", '&'), ("lt", '<'), ("gt", '>'), ("quot", '"'), ("apos", '\''), ("sol", '/'), ("bsol", '\\'), ("plus", '+')];
    let more = [("equals", '='), ("eacute", 'é'), ("lowbar", '_'), ("nbsp", '\u{a0}')];
    match name {
        [b'#', b'x' | b'X', digits @ ..] => hex_number(digits),
        [b'#', digits @ ..] => std::str::from_utf8(digits).ok()?.parse().ok(),
        _ => named.iter().chain(&more).find(|(known, _)| known.as_bytes() == name).map(|(_, char)| u32::from(*char)),
    }
}

/// Every run of base64 digits, of either alphabet, decoded from each of four places, for a secret begins anywhere in one. Then the same
/// with all white space taken out, as base64 is wrapped.
fn base64(text: &[u8]) -> Vec<Vec<u8>> {
    let unwrapped: Vec<u8> = text.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
    let from = |text: &[u8], skip: usize| runs(text, |b| digit_64(b).is_some(), |run| bits(&run[skip..], 6, digit_64));
    [text, &unwrapped].into_iter().flat_map(|text| (0..4).map(move |skip| from(text, skip))).collect()
}

fn digit_64(b: u8) -> Option<u32> {
    Some(u32::from(match b {
        b'A'..=b'Z' => b - b'A',
        b'a'..=b'z' => b - b'a' + 26,
        b'0'..=b'9' => b - b'0' + 52,
        b'+' | b'-' => 62,
        b'/' | b'_' => 63,
        _ => return None,
    }))
}

/// Every run of hexadecimal digits, from both places. Then the same without what is written between or before bytes.
fn hex(text: &[u8]) -> Vec<Vec<u8>> {
    let mut bare = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let mark = matches!(text[at..], [b'0' | b'\\', b'x', ..]);
        bare.extend((!mark && !b" :,-\t\r\n".contains(&text[at])).then_some(text[at]));
        at += if mark { 2 } else { 1 };
    }
    let is_digit = |b: u8| b.is_ascii_hexdigit();
    let from = |text: &[u8], skip: usize| runs(text, is_digit, |run| bits(&run[skip..], 4, |b| char::from(b).to_digit(16)));
    [text, &bare].into_iter().flat_map(|text| (0..2).map(move |skip| from(text, skip))).collect()
}

/// What `decode` makes of each long enough run of such bytes, with a byte between that ends what it has begun.
fn runs(text: &[u8], is_one: impl Fn(u8) -> bool, decode: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let long = text.split(|b| !is_one(*b)).filter(|run| run.len() >= RUN);
    long.flat_map(|run| [decode(run), vec![0]].concat()).collect()
}

fn bits(run: &[u8], width: u32, digit: impl Fn(u8) -> Option<u32>) -> Vec<u8> {
    let (mut held, mut count, mut out) = (0_u32, 0, Vec::with_capacity(run.len()));
    for value in run.iter().filter_map(|b| digit(*b)) {
        (held, count) = (held << width | value, count + width);
        if count >= 8 {
            count -= 8;
            out.push((held >> count) as u8);
            held &= (1 << count) - 1;
        }
    }
    out
}

/// Lists of the numbers of bytes, as debuggers and JSON print buffers.
fn numbers(text: &[u8]) -> Vec<Vec<u8>> {
    let (mut out, mut number) = (Vec::new(), None::<u32>);
    for b in text.iter().chain(b" ") {
        match (b, number) {
            (b'0'..=b'9', so_far) => number = Some((so_far.unwrap_or(0) * 10 + u32::from(b - b'0')).min(1000)),
            (_, Some(done)) => {
                out.push(u8::try_from(done).unwrap_or(0));
                number = None;
            }
            (b' ' | b',' | b'\n' | b'\r' | b'\t' | b';', None) => {}
            (_, None) if out.last() != Some(&0) => out.push(0),
            (_, None) => {}
        }
    }
    vec![out]
}
