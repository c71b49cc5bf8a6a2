use super::*;

/// Scans whole, and then byte by byte: both must come out alike.
fn scan(bytes: &[u8]) -> Result<Stage, Fault> {
    let mut whole = Scanner::new();
    let result = whole.scan(bytes).map(|()| whole.stage()).map_err(|refused| refused.fault);
    let mut single = Scanner::new();
    let mut one_by_one = Ok(());
    for byte in bytes {
        one_by_one = single.scan(std::slice::from_ref(byte));
        if one_by_one.is_err() {
            break;
        }
    }
    assert_eq!(one_by_one.map(|()| single.stage()).map_err(|refused| refused.fault), result, "byte by byte");
    result
}

#[test]
fn plain_requests_pass() {
    let requests: [&[u8]; 7] = [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nab\nGET / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n3;x=y\r\nab\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding:chunked\r\n\r\n0\r\nX-Sum: 1\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length:\t1 \r\n\r\nx",
    ];
    for request in requests {
        assert_eq!(scan(request), Ok(Stage::Between), "{}", String::from_utf8_lossy(request));
    }
}

#[test]
fn the_stage_follows_the_bytes() {
    assert_eq!(scan(b""), Ok(Stage::Between));
    assert_eq!(scan(b"G"), Ok(Stage::Head));
    assert_eq!(scan(b"GET / HTTP/1.1\r\nHo"), Ok(Stage::Head));
    assert_eq!(scan(b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nab"), Ok(Stage::Body));
    assert_eq!(scan(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"), Ok(Stage::Body));
    assert_eq!(scan(b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"), Ok(Stage::Upgrade));
}

#[test]
fn what_two_readers_could_read_differently_is_refused() {
    let cases: [(&[u8], Fault); 28] = [
        (b"GET / HTTP/1.1\nHost: a\r\n\r\n", Fault::LineEnd),
        (b"GET / HTTP/1.1\r\nHost: a\n\r\n", Fault::LineEnd),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\n", Fault::LineEnd),
        (b"GET / HTTP/1.1\r\nX: a\rb\r\n\r\n", Fault::LineEnd),
        (b"GET / HTTP/1.1\r\nX: a\r\r\n\r\n", Fault::LineEnd),
        (b"GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n", Fault::Fold),
        (b"GET / HTTP/1.1\r\n\tX: a\r\n\r\n", Fault::Fold),
        (b"\r\n\r\nGET / HTTP/1.1\r\n\r\n", Fault::EmptyLines),
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", Fault::Length),
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n", Fault::Length),
        (b"POST / HTTP/1.1\r\nContent-Length: 3, 3\r\n\r\n", Fault::Length),
        (b"POST / HTTP/1.1\r\nContent-Length: +3\r\n\r\n", Fault::Length),
        (b"POST / HTTP/1.1\r\nContent-Length: -3\r\n\r\n", Fault::Length),
        (b"POST / HTTP/1.1\r\nContent-Length: 0x3\r\n\r\n", Fault::Length),
        (b"POST / HTTP/1.1\r\nContent-Length:\r\n\r\n", Fault::Length),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", Fault::Length),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Fault::Coding),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: identity\r\n\r\n", Fault::Coding),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: \x0bchunked\r\n\r\n", Fault::Coding),
        (
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            Fault::Coding,
        ),
        (
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
            Fault::LengthAndCoding,
        ),
        (
            b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            Fault::LengthAndCoding,
        ),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3 \r\nabc", Fault::Chunk),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\nabc", Fault::Chunk),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd", Fault::Chunk),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc", Fault::LineEnd),
        (
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 3\r\n\r\n",
            Fault::Trailer,
        ),
        (b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\nx", Fault::Early),
    ];
    for (request, fault) in cases {
        assert_eq!(scan(request), Err(fault), "{}", String::from_utf8_lossy(request));
    }
}

#[test]
fn bytes_before_the_refused_ones_are_told() {
    let good = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut bytes = good.to_vec();
    bytes.extend_from_slice(b"GET / HTTP/1.1\nHost: a\r\n\r\n");
    assert_eq!(Scanner::new().scan(&bytes), Err(Refused { at: good.len(), fault: Fault::LineEnd }));
}

#[test]
fn after_an_upgrade_that_was_not_had_requests_go_on() {
    let mut scanner = Scanner::new();
    scanner.scan(b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n").expect("a request");
    scanner.resume();
    assert_eq!(scanner.stage(), Stage::Between);
    scanner.scan(b"GET / HTTP/1.1\r\n\r\n").expect("another");
}

#[test]
fn a_chunk_of_any_size_does_not_overflow() {
    let head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    let request = |size: &str| [&head[..], size.as_bytes(), b"\r\n"].concat();
    assert_eq!(scan(&request("fffffffffffffff")), Ok(Stage::Body));
    assert_eq!(scan(&request("ffffffffffffffff")), Err(Fault::Chunk));
}
