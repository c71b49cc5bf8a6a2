use super::*;

const ID: &[u8] = b"7";

fn manner() -> Manner<'static> {
    Manner { is_head: false, id: ID, is_last: false }
}

/// An answer's head as its client gets it, its framing and whether its connection is kept.
fn passed(answer: &str, manner: Manner<'_>) -> Option<(String, Framing, bool)> {
    let mut out = Vec::new();
    match pass(answer.as_bytes(), manner, &mut out) {
        Ok(Read::Head(head)) => Some((String::from_utf8(out).expect("text"), head.body, head.is_kept)),
        Ok(Read::Part | Read::Interim(_)) | Err(Unreadable) => None,
    }
}

fn head(fields: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nDate: now\r\n{fields}\r\n")
}

#[test]
fn bodies_end_as_their_fields_say() {
    let framing = |fields: &str, manner| passed(&head(fields), manner).map(|(_, body, kept)| (body, kept));
    assert!(matches!(framing("Content-Length: 5\r\n", manner()), Some((Framing::Length(5), true))));
    assert!(matches!(framing("Transfer-Encoding: Chunked\r\n", manner()), Some((Framing::Chunks(_), true))));
    assert!(matches!(framing("", manner()), Some((Framing::Close, false))));
    // The coding framed it, so the length is wrong (RFC 9112 §6.3).
    let both = "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n";
    assert!(matches!(framing(both, manner()), Some((Framing::Chunks(_), true))));
    assert!(!passed(&head(both), manner()).expect("a head").0.contains("content-length"));
    let to_head = Manner { is_head: true, ..manner() };
    let (text, body, _) = passed(&head("Content-Length: 5\r\n"), to_head).expect("a head");
    assert!(matches!(body, Framing::Length(0)) && text.contains("content-length: 5\r\n"));
    assert!(matches!(framing("", to_head), Some((Framing::Length(0), true))));
}

#[test]
fn framing_that_two_readers_could_read_differently_is_refused() {
    let fields = [
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: \r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    ];
    for fields in fields {
        assert!(passed(&head(fields), manner()).is_none(), "{fields}");
    }
    let old = head("Transfer-Encoding: chunked\r\n").replace("HTTP/1.1", "HTTP/1.0");
    assert!(passed(&old, manner()).is_none());
    assert!(passed("HTTP/1.1 101 Switching\r\n\r\n", manner()).is_none(), "nobody asked for it");
    assert!(passed("HTTP/1.1 200 OK\r\nA: b\r\n", manner()).is_none(), "half of a head");
}

#[test]
fn connections_are_kept_as_their_version_and_fields_say() {
    let is_kept = |answer: &str| passed(answer, manner()).expect("a head").2;
    let answer = head("Connection: X\r\nContent-Length: 0\r\n");
    assert!(is_kept(&answer));
    assert!(!is_kept(&answer.replace(": X", ": Close, keep-alive")));
    let old = answer.replace("HTTP/1.1", "HTTP/1.0");
    assert!(!is_kept(&old));
    assert!(is_kept(&old.replace(": X", ": Keep-Alive")));
}

#[test]
fn a_client_gets_what_is_for_it() {
    let fields = "Connection: x-hop, via\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nServer: a\r\nVia: 1.1 b\r\n\
        X-Request-Id: 9\r\nContent-Length: 5\r\n";
    let expected = "HTTP/1.1 200 OK\r\ndate: now\r\nserver: a\r\nvia: 1.1 b, 1.1 podway\r\nx-request-id: 7\r\n\
        content-length: 5\r\n";
    let (text, ..) = passed(&head(fields), manner()).expect("a head");
    assert_eq!(text, format!("{expected}\r\n"));
    let (text, ..) = passed(&head(fields), Manner { is_last: true, ..manner() }).expect("a head");
    assert_eq!(text, format!("{expected}connection: close\r\n\r\n"));
    let undated = head(fields).replace("Date: now\r\n", "");
    assert!(passed(&undated, manner()).expect("a head").0.contains("\r\ndate: "));
}

#[test]
fn a_body_is_taken_to_its_end_and_not_beyond() {
    let chunks = || Framing::Chunks(Box::new(Scanner::of_chunks()));
    let cases: [(Framing, &[&str], &str, bool); 6] = [
        (Framing::Length(5), &["abc"], "abc", false),
        (Framing::Length(5), &["abc", "defg"], "abcde", true),
        (Framing::Close, &["abc", "", "0123456789abcdef"], "3\r\nabc\r\n10\r\n0123456789abcdef\r\n", false),
        (chunks(), &["3\r\nabc\r\n"], "3\r\nabc\r\n", false),
        (chunks(), &["3\r\na", "bc\r", "\n0", "\r\n\r\nHTTP"], "3\r\nabc\r\n0\r\n\r\n", true),
        (chunks(), &["0\r\nA: b", "\r\nC: d\r\n", "\r\n"], "0\r\n\r\n", true),
    ];
    for (mut body, pieces, expected, is_done) in cases {
        let mut out = Vec::new();
        for piece in pieces {
            let Passed { taken, data, .. } = body.pass(piece.as_bytes(), &mut out).expect("a body");
            assert!(data <= taken, "{piece}");
            assert_eq!(taken < piece.len(), piece.ends_with("HTTP") || piece.ends_with('g'), "{piece}");
        }
        assert_eq!((String::from_utf8(out).expect("text").as_str(), body.is_done()), (expected, is_done));
    }
    assert_eq!(chunks().pass(b"3\r\nabcd", &mut Vec::new()), Err(Unreadable));
    let whole = b"3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nX-A: b\r\n\r\n";
    let passed = Passed { taken: whole.len(), data: 13, lent: 0 };
    assert_eq!(chunks().pass(whole, &mut Vec::new()), Ok(passed), "only the body's own bytes are counted");
}

#[test]
fn many_bytes_are_not_copied_unless_something_is_written_after_them() {
    let much = vec![b'x'; COPIED_BYTES_MAX + 1];
    let lent = |mut body: Framing, bytes: &[u8]| {
        let mut out = Vec::new();
        let passed = body.pass(bytes, &mut out).expect("a body");
        (passed.lent, out.len(), body.is_done())
    };
    let length = Framing::Length;
    assert_eq!(lent(length(1 << 20), &much), (much.len(), 0, false));
    assert_eq!(lent(length(1 << 20), &much[1..]), (0, COPIED_BYTES_MAX, false));
    // What is the body's, and not what comes after it.
    assert_eq!(lent(length(much.len() as u64), &[&*much, b"HTTP"].concat()), (much.len(), 0, true));
    assert_eq!(lent(length(5), &much), (0, 5, true));
    let chunk = [format!("{:x}\r\n", much.len()).as_bytes(), &much, b"\r\n"].concat();
    let chunks = || Framing::Chunks(Box::new(Scanner::of_chunks()));
    assert_eq!(lent(chunks(), &chunk), (chunk.len(), 0, false));
    let whole = [&*chunk, b"0\r\nA: b\r\n\r\n"].concat();
    assert_eq!(lent(chunks(), &whole), (0, chunk.len() + "0\r\n\r\n".len(), true));
}
