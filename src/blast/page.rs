//! One page, self-contained: it loads nothing, and its content security policy lets nothing run but what is in it. The data in it is the
//! document's JSON, the same as `--format json` prints; the page counts with the same formula, so a grant can be clicked away.

use std::fmt::Write;

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, engine::general_purpose::STANDARD};

use super::{
    document::{Document, Question},
    picture::escaped,
};

const STYLE: &str = include_str!("page/style.css");
/// The graph and its formula, then what is shown of it.
const SCRIPT: &str = concat!(include_str!("page/model.js"), include_str!("page/draw.js"), include_str!("page/view.js"));
/// Rows for readers without scripts.
const PLAIN_ROWS: usize = 200;

/// The page of a whole document, opened at what `open` asks about.
pub fn html(document: &Document<'_>, open: &Question) -> Result<String, serde_json::Error> {
    let hash = |text: &str| format!("'sha256-{}'", STANDARD.encode(digest(&SHA256, text.as_bytes())));
    let policy = format!(
        "default-src 'none'; script-src {}; style-src {}; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; \
         trusted-types 'none'",
        hash(SCRIPT),
        hash(STYLE)
    );
    let (open, data) = (serde_json::to_string(open)?, serde_json::to_string(document)?);
    let mut page = String::with_capacity(data.len() + SCRIPT.len() + STYLE.len() + 8192);
    page.push_str("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    let _ = writeln!(page, "<meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">");
    page.push_str("<meta name=\"viewport\" content=\"width=device-width\">\n<meta name=\"referrer\" content=\"no-referrer\">\n");
    let host = escaped(document.host);
    let _ = writeln!(page, "<title>Blast radius of {host}</title>\n<style>{STYLE}</style>\n</head>\n<body>");
    let _ = writeln!(page, "<h1>Blast radius of {host}</h1>\n<div id=\"app\"></div>");
    page.push_str(&plain(document));
    for (id, json) in [("open", &open), ("data", &data)] {
        let _ = writeln!(page, "<script type=\"application/json\" id=\"{id}\">{}</script>", inert(json));
    }
    let _ = writeln!(page, "<script>{SCRIPT}</script>\n</body>\n</html>");
    Ok(page)
}

/// JSON in which no character can end a script element or begin a comment: all of these may stand in JSON's strings alone, as escapes.
fn inert(json: &str) -> String {
    let mut inert = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => _ = write!(inert, "\\u{:04x}", u32::from(c)),
            c => inert.push(c),
        }
    }
    inert
}

/// The worst, for readers that run no scripts.
fn plain(document: &Document<'_>) -> String {
    let mut text = String::from("<noscript><table><thead><tr><th>Tool<th>Score<th>Systems<th>Secrets</tr></thead><tbody>\n");
    for tool in document.worst_first().into_iter().take(PLAIN_ROWS) {
        let score = &tool.score;
        let _ =
            writeln!(text, "<tr><td>{}<td>{}<td>{}<td>{}</tr>", escaped(tool.name), score.score, score.systems, score.secrets);
    }
    text + "</tbody></table></noscript>\n"
}
