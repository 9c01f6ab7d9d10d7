//! Texts and secrets to measure with: made up, and the same in every run.

/// xorshift64: enough to make text of.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end
    }

    fn of(&mut self, alphabet: &[u8], len: usize) -> String {
        (0..len).map(|_| char::from(alphabet[self.below(alphabet.len())])).collect()
    }
}

const BASE64: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const HEX: &[u8] = b"0123456789abcdef";
const PRINTABLE: &[u8] = b"ABCDEFGHabcdefghijklmn0123456789!#$%&*+-/<=>?@^_~\"\\ ";

pub fn secrets(count: usize) -> Vec<Vec<u8>> {
    let mut random = Random::new(1);
    let one = |n: usize| match n % 7 {
        0 => format!("sk_live_51{}", random.of(LETTERS, 40)),
        1 => format!("ghp_{}", random.of(LETTERS, 36)),
        2 => random.of(BASE64, 40),
        3 => random.of(HEX, 64),
        4 => random.of(PRINTABLE, 24).trim().to_owned() + "#",
        5 => format!("postgres://app:{}@db.internal:5432/main", random.of(LETTERS, 20)),
        _ => format!("xoxb-{}-{}", random.of(b"0123456789", 12), random.of(LETTERS, 24)),
    };
    (0..count).map(one).map(String::into_bytes).collect()
}

const WORDS: [&str; 24] = [
    "the",
    "server",
    "returned",
    "issue",
    "request",
    "branch",
    "commit",
    "user",
    "with",
    "status",
    "for",
    "file",
    "line",
    "in",
    "open",
    "merged",
    "error",
    "timeout",
    "payload",
    "value",
    "is",
    "not",
    "found",
    "https://api.example.com/v1/items/",
];

fn words(random: &mut Random, len: usize) -> String {
    let mut text = String::with_capacity(len + 64);
    while text.len() < len {
        text.push_str(WORDS[random.below(WORDS.len())]);
        text.push(if random.below(12) == 0 { '.' } else { ' ' });
        if random.below(9) == 0 {
            text.push_str(&random.below(1_000_000).to_string());
        }
    }
    text
}

/// Program text, as a tool that reads files returns it: in a JSON string, every line end and quote is an escape.
fn escaped(random: &mut Random, len: usize) -> String {
    let mut text = String::with_capacity(len + 64);
    while text.len() < len {
        let (name, note) = (words(random, 6), words(random, 30));
        text.push_str(&format!("    let {} = read(\\\"{}\\\")?;\\n\\t// {note}\\n", name.trim(), random.of(LETTERS, 8)));
    }
    text
}

fn line(random: &mut Random, kind: usize, len: usize) -> String {
    let id = random.below(10_000);
    let content = match kind {
        0 | 1 => format!(r#"{{"type":"image","data":"{}","mimeType":"image/png"}}"#, random.of(BASE64, len)),
        2 => format!(r#"{{"type":"text","text":"{}"}}"#, escaped(random, len)),
        _ => {
            let mut items = String::new();
            while items.len() < len {
                let (number, title) = (random.below(9_000), words(random, 60));
                let url = random.of(HEX, 40);
                items.push_str(&format!(r#"{{"number":{number},"state":"open","title":"{title}","sha":"{url}","labels":[]}},"#));
            }
            format!(r#"{{"items":[{}],"total":{len}}}"#, items.trim_end_matches(','))
        }
    };
    format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{\"content\":[{content}]}}}}\n")
}

/// Lines of 1 to 100 KB: half images, a quarter escaped text, a quarter ordinary results.
pub fn json_rpc(size: usize) -> Vec<u8> {
    of_lines(size, &[0, 1, 2, 3])
}

/// The same without the escaped text.
pub fn plain_json_rpc(size: usize) -> Vec<u8> {
    of_lines(size, &[0, 1, 3])
}

fn of_lines(size: usize, kinds: &[usize]) -> Vec<u8> {
    let mut random = Random::new(2);
    let mut text = Vec::with_capacity(size + 200_000);
    for n in 0.. {
        if text.len() >= size {
            break;
        }
        let len = 1000 + random.below(99_000);
        text.extend(line(&mut random, kinds[n % kinds.len()], len).bytes());
    }
    text.truncate(size);
    text
}

pub fn logs(size: usize) -> Vec<u8> {
    let mut random = Random::new(3);
    let mut text = Vec::with_capacity(size + 1000);
    while text.len() < size {
        let (second, id, took) = (random.below(60), random.of(HEX, 16), random.below(900));
        let message = words(&mut random, 80);
        text.extend(format!("2026-11-22T10:15:{second:02}.123Z INFO request_id={id} took={took}ms {message}\n").bytes());
    }
    text.truncate(size);
    text
}

/// Patterns one after another; if they are to be misses, with the last byte of each changed.
pub fn back_to_back(size: usize, patterns: &[Vec<u8>], misses: bool) -> Vec<u8> {
    let mut text = Vec::with_capacity(size + 1000);
    for pattern in patterns.iter().cycle() {
        if text.len() >= size {
            break;
        }
        text.extend_from_slice(pattern);
        if let (true, Some(last)) = (misses, text.last_mut()) {
            *last ^= 1;
        }
    }
    text.truncate(size);
    text
}

/// A pattern about every sixty bytes.
pub fn dense(size: usize, patterns: &[Vec<u8>]) -> Vec<u8> {
    let mut random = Random::new(4);
    let mut text = Vec::with_capacity(size + 1000);
    for pattern in patterns.iter().cycle() {
        if text.len() >= size {
            break;
        }
        text.extend_from_slice(pattern);
        let fill = words(&mut random, 60usize.saturating_sub(pattern.len()).max(1));
        text.extend_from_slice(fill.as_bytes());
    }
    text.truncate(size);
    text
}
