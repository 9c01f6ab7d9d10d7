//! A credential pasted anywhere into the configuration is in no report.

use std::path::Path;

use super::{Etc, files};

/// Could be a name as well as a password. Where it is defined as a name, it is one; anywhere else it stays out of reports.
const A_NAME: &str = "mark3r2";

/// Of the shapes that credentials have.
const PASTED: &[&str] = &[
    "sk_live_51Hq7XmarkerA9q2LmN",
    "AKIAIOSFODNN7MARKER2",
    "wJalrXUtnFEMI/K7MARKER/bPxRfiCYEXAMPLEKEY",
    "d41d8cd98f00b204e9800998ecf8427e",
    "hvs.CAESIJlWh3bFqMarker01",
    "550e8400-e29b-41d4-a716-446655440000",
    "https://user:markerpassword@example.com",
    "http://example.com/?token=marker4711",
    "two words marker",
    "Marker!Passw0rd$",
    A_NAME,
];

/// Every place of the files at which a text or a key begins and ends: what stands between quotes, and each word before `=`.
fn places(text: &str) -> Vec<(usize, usize)> {
    let mut places = Vec::new();
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        if !line.starts_with('#') {
            let quotes: Vec<usize> = line.match_indices('"').map(|(at, _)| offset + at).collect();
            places.extend(quotes.chunks_exact(2).map(|pair| (pair[0], pair[1] + 1)));
            let is_key = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            for (at, _) in line.match_indices(" =") {
                let start = line[..at].rfind(|c| !is_key(c)).map_or(0, |before| before + 1);
                places.extend((start < at).then_some((offset + start, offset + at)));
            }
            for (at, _) in line.match_indices(['.', '[']) {
                let end = at + 1 + line[at + 1..].find(|c| !is_key(c)).unwrap_or(0);
                places.extend((end > at + 1).then_some((offset + at + 1, offset + end)));
            }
        }
        offset += line.len();
    }
    places
}

fn check(etc: &Etc, pasted: &str, place: &str) {
    let report = etc.report();
    assert!(!report.contains(pasted), "{pasted} at {place} is in the report:\n{report}");
    assert!(!report.to_ascii_lowercase().contains("marker"), "a part of {pasted} at {place} is in the report:\n{report}");
}

#[test]
fn a_pasted_credential_is_in_no_report() {
    let originals = files(Path::new("examples/etc-valetkey"));
    let etc = Etc::of(&originals);
    let mut tried = 0;
    for (name, text) in &originals {
        for (start, end) in places(text) {
            let defines = ["[source.", "[secret.", "[tool."].iter().any(|header| text[..start].ends_with(header));
            for pasted in PASTED.iter().filter(|pasted| !(defines && **pasted == A_NAME)) {
                let place = format!("{name}: {}", &text[start..end]);
                let quoted = format!("{}\"{pasted}\"{}", &text[..start], &text[end..]);
                etc.write(name, quoted);
                check(&etc, pasted, &place);
                // Without quotes, as a mistake of syntax.
                etc.write(name, format!("{}{pasted}{}", &text[..start], &text[end..]));
                check(&etc, pasted, &place);
                tried += 1;
            }
        }
        etc.write(name, text);
    }
    assert!(tried > 500, "only {tried} places");
}

/// Also where the same credential stands both as a definition and as a use of it.
#[test]
fn a_credential_used_as_a_name_throughout_is_in_no_report() {
    let originals = files(Path::new("examples/etc-valetkey"));
    let words = ["stripe/api-key", "github/token", "\"prod\"", "source.prod", "tool.billing", "eu-west-1"];
    for word in words {
        for pasted in PASTED.iter().filter(|pasted| **pasted != A_NAME) {
            let replacement = match word.split_once('.') {
                Some((table, _)) => format!("{table}.\"{pasted}\""),
                None if word.starts_with('"') => format!("\"{pasted}\""),
                None => pasted.to_string(),
            };
            let changed: Vec<_> = originals.iter().map(|(name, text)| (name.clone(), text.replace(word, &replacement))).collect();
            check(&Etc::of(&changed), pasted, word);
        }
    }
}
