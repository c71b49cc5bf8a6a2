use super::*;

fn place(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn passed(source: &str, destination: &str) -> Result<Header, HeaderFault> {
    Ok(Header::Passed { source: place(source), destination: place(destination) })
}

#[test]
fn versions_are_told_apart_by_their_first_bytes() {
    assert_eq!(version(b"\r\n\r\n\0\r\nQUIT\n"), Ok(ProxyVersion::V2));
    assert_eq!(version(b"PROXY TCP4 1"), Ok(ProxyVersion::V1));
    assert_eq!(version(b"GET / HTTP/1"), Err(HeaderFault::NoHeader));
    assert_eq!(version(b"PROXYTCP4 19"), Err(HeaderFault::NoHeader));
}

#[test]
fn a_line_names_both_ends_or_none() {
    assert_eq!(
        parse_v1(b"PROXY TCP4 192.0.2.1 203.0.113.80 40000 443\r\n"),
        passed("192.0.2.1:40000", "203.0.113.80:443")
    );
    assert_eq!(
        parse_v1(b"PROXY TCP6 2001:db8::1 2001:db8::80 0 65535\r\n"),
        passed("[2001:db8::1]:0", "[2001:db8::80]:65535")
    );
    assert_eq!(parse_v1(b"PROXY UNKNOWN\r\n"), Ok(Header::Own));
    assert_eq!(parse_v1(b"PROXY UNKNOWN what ever\r\n"), Ok(Header::Own));
}

#[test]
fn a_line_that_is_not_as_it_should_be_is_refused() {
    let lines = [
        "PROXY TCP4 192.0.2.1 203.0.113.80 40000 443\n",
        "PROXY TCP4 192.0.2.1 203.0.113.80 40000 443",
        "PROXY TCP4  192.0.2.1 203.0.113.80 40000 443\r\n",
        "PROXY TCP4 192.0.2.1 203.0.113.80 40000 443 \r\n",
        "PROXY TCP4 192.0.2.1 203.0.113.80 40000\r\n",
        "PROXY TCP4 192.0.2.01 203.0.113.80 40000 443\r\n",
        "PROXY TCP4 2001:db8::1 2001:db8::80 40000 443\r\n",
        "PROXY TCP6 192.0.2.1 203.0.113.80 40000 443\r\n",
        "PROXY TCP4 192.0.2.1 203.0.113.80 040000 443\r\n",
        "PROXY TCP4 192.0.2.1 203.0.113.80 +4000 443\r\n",
        "PROXY TCP4 192.0.2.1 203.0.113.80 40000 65536\r\n",
        "PROXY UDP4 192.0.2.1 203.0.113.80 40000 443\r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY \r\n",
        "proxy UNKNOWN\r\n",
    ];
    for line in lines {
        assert_eq!(parse_v1(line.as_bytes()), Err(HeaderFault::Line), "{line:?}");
    }
}

/// A header of version 2 with its length.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).expect("a length").to_be_bytes();
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, family], &length, rest].concat()
}

const ENDS: [u8; 12] = [192, 0, 2, 1, 203, 0, 113, 80, 0x9c, 0x40, 0x01, 0xbb];

#[test]
fn a_binary_header_names_both_ends_or_none() {
    let expected = passed("192.0.2.1:40000", "203.0.113.80:443");
    assert_eq!(parse_v2(&v2(0x21, 0x11, &ENDS)), expected);
    // TLVs: ALPN `h2`, then four bytes of nothing (PP2_TYPE_NOOP).
    let tlvs = [&ENDS[..], &[0x01, 0, 2, b'h', b'2', 0x04, 0, 1, 0]].concat();
    assert_eq!(parse_v2(&v2(0x21, 0x11, &tlvs)), expected);
    let (source, destination): (Ipv6Addr, Ipv6Addr) =
        ("2001:db8::1".parse().expect("an address"), "2001:db8::80".parse().expect("an address"));
    let ends = [&source.octets()[..], &destination.octets(), &[0x9c, 0x40, 0x01, 0xbb]].concat();
    assert_eq!(parse_v2(&v2(0x21, 0x21, &ends)), passed("[2001:db8::1]:40000", "[2001:db8::80]:443"));
    for (command, family, rest) in [
        (0x20, 0x00, &[][..]),
        // What a LOCAL header carries is passed over, whatever it is.
        (0x20, 0x11, &ENDS[..3]),
        (0x21, 0x00, &[1, 2, 3]),
        (0x21, 0x31, &[0; 216]),
    ] {
        assert_eq!(parse_v2(&v2(command, family, rest)), Ok(Header::Own), "{command:#x} {family:#x}");
    }
}

#[test]
fn a_binary_header_that_is_not_as_it_should_be_is_refused() {
    let whole = v2(0x21, 0x11, &ENDS);
    let mut other_length = whole.clone();
    other_length[15] += 1;
    let cases = [
        whole[..15].to_vec(),
        whole[..27].to_vec(),
        other_length,
        v2(0x11, 0x11, &ENDS),
        v2(0x22, 0x11, &ENDS),
        v2(0x21, 0x12, &ENDS),
        v2(0x21, 0x41, &ENDS),
        v2(0x21, 0x11, &ENDS[..11]),
        v2(0x21, 0x21, &ENDS),
        // TLVs that end too early: in their head and in their value.
        v2(0x21, 0x11, &[&ENDS[..], &[0x01, 0]].concat()),
        v2(0x21, 0x11, &[&ENDS[..], &[0x01, 0, 2, b'h']].concat()),
        v2(0x21, 0x11, &[&ENDS[..], &[0x03, 0, 2, 0, 0]].concat()),
    ];
    for case in cases {
        assert_eq!(parse_v2(&case), Err(HeaderFault::Binary), "{case:x?}");
    }
    let fixed = |length: u16| {
        let mut fixed = [0; V2_FIXED_BYTES];
        fixed[14..].copy_from_slice(&length.to_be_bytes());
        v2_rest_bytes(&fixed)
    };
    assert_eq!((fixed(4_096), fixed(4_097)), (Ok(4_096), Err(HeaderFault::TooLong)));
}

#[test]
fn a_checksum_is_that_of_the_whole_header() {
    let rest = |checksum: u32| [&ENDS[..], &[0x04, 0, 1, 9, 0x03, 0, 4], &checksum.to_be_bytes()].concat();
    // The CRC32c (RFC 3720 §B.4) of the header with zeros in the checksum's place, computed bit by bit.
    let zeroed = v2(0x21, 0x11, &rest(0));
    let crc = !zeroed.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
    });
    assert_eq!(parse_v2(&v2(0x21, 0x11, &rest(crc))), passed("192.0.2.1:40000", "203.0.113.80:443"));
    assert_eq!(parse_v2(&v2(0x21, 0x11, &rest(crc ^ 1))), Err(HeaderFault::Checksum));
}

#[test]
fn what_is_written_is_read_back() {
    let (v4, v6) = (
        (place("192.0.2.1:40000"), place("203.0.113.80:443")),
        (place("[2001:db8::1]:1"), place("[2001:db8::80]:80")),
    );
    for (source, destination) in [v4, v6] {
        let expected = Ok(Header::Passed { source, destination });
        assert_eq!(parse_v1(&header(ProxyVersion::V1, source, destination)), expected);
        assert_eq!(parse_v2(&header(ProxyVersion::V2, source, destination)), expected);
    }
    assert_eq!(header(ProxyVersion::V1, v4.0, v4.1), b"PROXY TCP4 192.0.2.1 203.0.113.80 40000 443\r\n");
    assert_eq!(header(ProxyVersion::V2, v4.0, v4.1), v2(0x21, 0x11, &ENDS));
    assert_eq!(parse_v1(&header(ProxyVersion::V1, v4.0, v6.1)), Ok(Header::Own));
    assert_eq!(parse_v2(&header(ProxyVersion::V2, v4.0, v6.1)), Ok(Header::Own));
}
