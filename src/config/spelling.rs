//! Did you mean ...?

/// The known word that a mistyped one most likely stands for.
pub(super) fn nearest<'w>(text: &str, known: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    if text.len() > 128 {
        return None;
    }
    let close = known.map(|word| (distance(text, word), word)).min()?;
    (close.0 <= (close.1.len() / 3).clamp(1, 3) && close.0 < close.1.len()).then_some(close.1)
}

/// Insertions, deletions, replacements and swaps of neighbours between two words (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            if i == 0 || j == 0 {
                rows[i][j] = i + j;
                continue;
            }
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            rows[i][j] = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                rows[i][j] = rows[i][j].min(rows[i - 2][j - 2] + 1);
            }
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_near() {
        let keys = ["run-as", "secrets", "limits", "description"];
        for (typed, meant) in
            [("run_as", Some("run-as")), ("secerts", Some("secrets")), ("limit", Some("limits")), ("zzz", None), ("", None)]
        {
            assert_eq!(nearest(typed, keys.into_iter()), meant, "{typed}");
        }
    }
}
