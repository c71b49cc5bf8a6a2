//! The path of a request in its normal form, which chooses the rule and is what the endpoint gets.
//!
//! RFC 3986 §6.2.2 says which paths are the same: escapes of unreserved characters (`%7e`, `~`), the case of an
//! escape's digits, and dots that RFC 3986 §5.2.4 takes away. Beyond that, many servers join slashes and some read
//! `%2F`, `\` or `..;` as they would `/` and `..`. Such a server would answer another path than the one that was
//! routed. So slashes are joined before a rule is chosen, and the rest is refused.
use std::borrow::Cow;

/// Longest path, bytes, before and after it is made normal; what is longer is refused.
pub const PATH_BYTES_MAX: usize = 8_192;

/// Why a path is refused; the answer is 400, and 414 for [`PathFault::TooLong`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathFault {
    /// It does not begin with `/`.
    #[error("the path does not begin with a slash")]
    NotAbsolute,
    /// Longer than [`PATH_BYTES_MAX`].
    #[error("the path is longer than {PATH_BYTES_MAX} bytes")]
    TooLong,
    /// `%` without two hexadecimal digits.
    #[error("the path has a `%` without two hexadecimal digits")]
    BadEscape,
    /// A control character or a blank, or an escaped control character.
    #[error("the path has a control character or a blank")]
    Control,
    /// `#`: a fragment is the client's own (RFC 9110 §7.1).
    #[error("the path has a `#`")]
    Fragment,
    /// Escapes that are not UTF-8, overlong forms among them.
    #[error("the path is not UTF-8 once its escapes are read")]
    NotUtf8,
    /// `\`, `%5C` or `%2F`: some servers take it for a slash.
    #[error("the path has a backslash or an escaped slash or backslash")]
    Separator,
    /// `..` above the root.
    #[error("the path leads above the root")]
    AboveRoot,
    /// `..` right after an empty element: servers disagree on what it takes away.
    #[error("the path has `..` after an empty element")]
    DotsAfterEmpty,
    /// `.;` or `..;`: some servers take the parameter away and follow the dots.
    #[error("the path has `.` or `..` with parameters")]
    DotsWithParameters,
}

/// A path in its normal form: it begins with `/`, has no empty element but at its end, no `.` and no `..`;
/// unreserved characters stand as they are, and what may not stand in a path is escaped in upper case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NormalPath<'a>(Cow<'a, str>);

impl<'a> NormalPath<'a> {
    /// Of a request target in origin form (RFC 9112 §3.2.1); a query is cut off.
    ///
    /// # Errors
    /// Servers would disagree on which path it is, or it is none. The request is refused.
    pub fn of(raw: &'a str) -> Result<Self, PathFault> {
        let path = raw.split_once('?').map_or(raw, |(path, _)| path);
        if !path.starts_with('/') {
            return Err(PathFault::NotAbsolute);
        }
        if path.len() > PATH_BYTES_MAX {
            return Err(PathFault::TooLong);
        }
        if is_plain(path) {
            return Ok(Self(Cow::Borrowed(path)));
        }
        let escaped = escapes(path)?;
        check_utf8(&escaped)?;
        let text = resolved(&escaped)?;
        if text.len() > PATH_BYTES_MAX {
            return Err(PathFault::TooLong);
        }
        Ok(if text == path { Self(Cow::Borrowed(path)) } else { Self(Cow::Owned(text)) })
    }

    /// The path; what is forwarded.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the request had these very bytes.
    #[must_use]
    pub const fn is_as_sent(&self) -> bool {
        matches!(self.0, Cow::Borrowed(_))
    }
}

/// Whether a path needs no second look: pchars (RFC 3986 §3.3) without escapes, and after no slash a slash or a dot.
fn is_plain(path: &str) -> bool {
    let mut is_after_slash = false;
    path.bytes().all(|byte| {
        let is_suspect = is_after_slash && matches!(byte, b'/' | b'.');
        is_after_slash = byte == b'/';
        !is_suspect && (byte == b'/' || is_pchar(byte))
    })
}

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// What may stand in an element as it is (RFC 3986 §3.3).
const fn is_pchar(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(
            byte,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@'
        )
}

/// Whether what follows a path is a query that every server reads as it stands (RFC 3986 §3.4), or nothing.
pub(super) fn is_plain_query(query: &str) -> bool {
    let is_in_query = |byte| matches!(byte, b'/' | b'?' | b'%') || is_pchar(byte);
    query.is_empty() || query.starts_with('?') && query.bytes().all(is_in_query)
}

/// The path with each byte escaped or not as its normal form has it.
fn escapes(path: &str) -> Result<String, PathFault> {
    let mut out = String::with_capacity(path.len() + 16);
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let digits = (bytes.next().and_then(hex), bytes.next().and_then(hex));
                let (Some(high), Some(low)) = digits else { return Err(PathFault::BadEscape) };
                match high << 4 | low {
                    0..=0x1f | 0x7f => return Err(PathFault::Control),
                    b'/' | b'\\' => return Err(PathFault::Separator),
                    byte if is_unreserved(byte) => out.push(char::from(byte)),
                    byte => push_escape(&mut out, byte),
                }
            }
            b'\\' => return Err(PathFault::Separator),
            b'#' => return Err(PathFault::Fragment),
            0..=0x20 | 0x7f => return Err(PathFault::Control),
            byte if byte == b'/' || is_pchar(byte) => out.push(char::from(byte)),
            byte => push_escape(&mut out, byte),
        }
    }
    Ok(out)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

fn push_escape(out: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(char::from(DIGITS[usize::from(byte >> 4)]));
    out.push(char::from(DIGITS[usize::from(byte & 15)]));
}

/// Looks at what all escapes say together. Rust's reader refuses overlong forms, as RFC 3629 §3 asks.
fn check_utf8(escaped: &str) -> Result<(), PathFault> {
    let mut read = Vec::with_capacity(escaped.len());
    let mut bytes = escaped.bytes();
    while let Some(byte) = bytes.next() {
        let digits =
            if byte == b'%' { bytes.next().and_then(hex).zip(bytes.next().and_then(hex)) } else { None };
        read.push(digits.map_or(byte, |(high, low)| high << 4 | low));
    }
    std::str::from_utf8(&read).map(|_| ()).map_err(|_| PathFault::NotUtf8)
}

/// Follows dots and joins slashes. The order of the two makes no difference, since `..` takes no empty element away.
fn resolved(path: &str) -> Result<String, PathFault> {
    let mut elements: Vec<&str> = Vec::new();
    let mut last = "";
    for element in path.split('/').skip(1) {
        last = element;
        match element {
            "." => {}
            ".." => match elements.pop() {
                None => return Err(PathFault::AboveRoot),
                Some("") => return Err(PathFault::DotsAfterEmpty),
                Some(_) => {}
            },
            _ if element.starts_with(".;") || element.starts_with("..;") => {
                return Err(PathFault::DotsWithParameters);
            }
            _ => elements.push(element),
        }
    }
    let mut out = String::with_capacity(path.len());
    for element in elements.iter().filter(|element| !element.is_empty()) {
        out.push('/');
        out.push_str(element);
    }
    if out.is_empty() || matches!(last, "" | "." | "..") {
        out.push('/');
    }
    Ok(out)
}

#[cfg(test)]
#[path = "path_tests.rs"]
mod tests;
