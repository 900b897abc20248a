//! Taking credentials out of what is shown. Texts come from evidence: addresses, paths, errors.

/// `scheme://user:password@host` loses what stands before the `@`.
#[must_use]
pub fn without_credentials(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("://") {
        let (before, after) = rest.split_at(start + 3);
        out.push_str(before);
        let end = after
            .find(|c: char| c.is_whitespace() || "/?#\"'".contains(c))
            .unwrap_or(after.len());
        rest = after[..end].rfind('@').map_or(after, |at| &after[at + 1..]);
    }
    out.push_str(rest);
    out
}
