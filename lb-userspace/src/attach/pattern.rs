//! Shell-like patterns for interface names: `*` is any run of characters, `?` is one.
use std::fmt;
use std::str::FromStr;

/// A pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// Whether it covers a name.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        covers(self.0.as_bytes(), name.as_bytes())
    }
}

fn covers(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), None) => covers(rest, name),
        (Some((b'*', rest)), Some((_, tail))) => covers(rest, name) || covers(pattern, tail),
        (Some((b'?', rest)), Some((_, tail))) => covers(rest, tail),
        (Some((wanted, rest)), Some((found, tail))) => wanted == found && covers(rest, tail),
        (None, Some(_)) | (Some(_), None) => false,
    }
}

impl FromStr for Pattern {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err("an empty pattern covers no interface");
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn star_and_question_mark_cover_what_a_shell_would() {
        let covers = |pattern: &str, name: &str| Pattern::from_str(pattern).unwrap().matches(name);
        assert!(covers("veth*", "veth0a1b"));
        assert!(covers("*", "eth0"));
        assert!(covers("cali*a?", "cali12ab"));
        assert!(covers("eth0", "eth0"));
        assert!(!covers("eth0", "eth01"));
        assert!(!covers("veth?", "veth"));
        assert!(!covers("veth*", "eveth0"));
    }
}
