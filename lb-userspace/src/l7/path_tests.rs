use super::*;

fn normal(raw: &str) -> Result<String, PathFault> {
    NormalPath::of(raw).map(|path| path.as_str().to_owned())
}

/// The rows of the table in `docs/url-maps.md` that give a path.
const KEPT: [(&str, &str); 38] = [
    ("/", "/"),
    ("/foo", "/foo"),
    ("/foo/", "/foo/"),
    ("/Foo", "/Foo"),
    // The query is no part of it.
    ("/foo?a=/../b%00#", "/foo"),
    ("/?", "/"),
    // Dots (RFC 3986 §5.2.4).
    ("/a/./b", "/a/b"),
    ("/a/../b", "/b"),
    ("/a/b/..", "/a/"),
    ("/a/b/.", "/a/b/"),
    ("/.", "/"),
    ("/a/..", "/"),
    ("/a/b/c/./../../g", "/a/g"),
    ("/...", "/..."),
    ("/.a/..b/c..", "/.a/..b/c.."),
    // Escaped dots are dots.
    ("/a/%2e%2e/b", "/b"),
    ("/a/%2E./b", "/b"),
    ("/a/%2e/b", "/a/b"),
    // Slashes are joined.
    ("//", "/"),
    ("//a", "/a"),
    ("/a//b///c", "/a/b/c"),
    ("/a//", "/a/"),
    ("/a/.//b", "/a/b"),
    // Unreserved characters are read, all else keeps its escape in upper case.
    ("/%7euser/%41%5f%2d", "/~user/A_-"),
    ("/a%3bb", "/a%3Bb"),
    ("/a%3Fb", "/a%3Fb"),
    ("/a%23b", "/a%23b"),
    ("/a%20b", "/a%20b"),
    // An escaped percent sign is a percent sign: nothing is read twice.
    ("/%252e%252e/%252f", "/%252e%252e/%252f"),
    ("/%2541", "/%2541"),
    // Text in other scripts is escaped, and the same as when it came escaped.
    ("/caf\u{e9}", "/caf%C3%A9"),
    ("/caf%c3%a9", "/caf%C3%A9"),
    // What browsers send though it may not stand there.
    ("/a|b\"<>^`{}[]", "/a%7Cb%22%3C%3E%5E%60%7B%7D%5B%5D"),
    // Parameters are part of their element.
    ("/a;v=1/b", "/a;v=1/b"),
    ("/a;/b", "/a;/b"),
    ("/;/b", "/;/b"),
    ("/a;.", "/a;."),
    ("/!$&'()*+,;=:@", "/!$&'()*+,;=:@"),
];

/// The rows that refuse one.
const REFUSED: [(&str, PathFault); 37] = [
    ("", PathFault::NotAbsolute),
    ("*", PathFault::NotAbsolute),
    ("foo", PathFault::NotAbsolute),
    ("?a=/b", PathFault::NotAbsolute),
    ("\\a", PathFault::NotAbsolute),
    ("http://a.example/", PathFault::NotAbsolute),
    ("/a#b", PathFault::Fragment),
    ("/%", PathFault::BadEscape),
    ("/%2", PathFault::BadEscape),
    ("/%2g", PathFault::BadEscape),
    ("/%+1", PathFault::BadEscape),
    ("/%u002e", PathFault::BadEscape),
    ("/a%00", PathFault::Control),
    ("/a%00.png", PathFault::Control),
    ("/a%0d%0aHost:b", PathFault::Control),
    ("/a%7f", PathFault::Control),
    ("/a b", PathFault::Control),
    ("/a\tb", PathFault::Control),
    ("/a\u{0}b", PathFault::Control),
    ("/a\u{7f}", PathFault::Control),
    ("/a%2Fb", PathFault::Separator),
    ("/a%2f..%2fb", PathFault::Separator),
    ("/a%5cb", PathFault::Separator),
    ("/a\\..\\b", PathFault::Separator),
    ("/..", PathFault::AboveRoot),
    ("/a/../../b", PathFault::AboveRoot),
    ("/%2e%2e/b", PathFault::AboveRoot),
    ("/a//../b", PathFault::DotsAfterEmpty),
    ("//..", PathFault::DotsAfterEmpty),
    ("/a/..;/b", PathFault::DotsWithParameters),
    ("/a/%2e%2e;x=1/b", PathFault::DotsWithParameters),
    ("/a/.;/b", PathFault::DotsWithParameters),
    // A slash, a dot and a euro sign in too many bytes; half a character; one of UTF-16.
    ("/%c0%af", PathFault::NotUtf8),
    ("/%c0%ae%c0%ae/", PathFault::NotUtf8),
    ("/%f0%82%82%ac", PathFault::NotUtf8),
    ("/caf%e9", PathFault::NotUtf8),
    ("/%ed%a0%80", PathFault::NotUtf8),
];

#[test]
fn paths_have_one_normal_form() {
    for (raw, expected) in KEPT {
        assert_eq!(normal(raw).as_deref(), Ok(expected), "{raw}");
    }
}

#[test]
fn a_normal_form_is_its_own_and_borrowed() {
    for (raw, expected) in KEPT {
        let again = NormalPath::of(expected).expect("a path");
        assert_eq!(again.as_str(), expected);
        assert!(again.is_as_sent(), "{expected}");
        assert_eq!(
            NormalPath::of(raw).expect("a path").is_as_sent(),
            raw.split('?').next() == Some(expected),
            "{raw}"
        );
    }
}

#[test]
fn what_servers_read_in_two_ways_is_refused() {
    for (raw, fault) in REFUSED {
        assert_eq!(normal(raw), Err(fault), "{raw:?}");
    }
}

#[test]
fn a_path_has_a_bound_also_once_it_is_escaped() {
    let longest = format!("/{}", "a".repeat(PATH_BYTES_MAX - 1));
    assert_eq!(normal(&longest).as_deref(), Ok(longest.as_str()));
    assert_eq!(normal(&format!("{longest}a")), Err(PathFault::TooLong));
    assert_eq!(normal(&format!("/{}", "|".repeat(PATH_BYTES_MAX / 3 + 1))), Err(PathFault::TooLong));
    assert!(normal(&format!("/?{}", "a".repeat(PATH_BYTES_MAX))).is_ok(), "a query is not counted");
}

#[test]
fn every_row_of_the_operators_table_holds() {
    let page = include_str!("../../../docs/url-maps.md");
    let (_, table) = page.split_once("<!-- path table -->").expect("the table's mark");
    let rows =
        table.lines().skip_while(|line| !line.starts_with("| `")).take_while(|line| line.starts_with('|'));
    let mut count = 0;
    for row in rows {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let unquoted = |cell: &str| cell.trim_matches('`').to_owned();
        let (raw, outcome) = (unquoted(cells[1]), cells[2]);
        match normal(&raw) {
            Ok(path) => assert_eq!(unquoted(outcome), path, "{row}"),
            Err(_) => assert_eq!(outcome, "400", "{row}"),
        }
        count += 1;
    }
    assert!(count >= 20, "{count} rows");
}
