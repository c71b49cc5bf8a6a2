//! The PROXY protocol: a header before all else on a connection says whose it is (HAProxy, "The PROXY protocol",
//! proxy-protocol.txt, versions 1 and 2). Pure.
//!
//! | version 2 | bytes |
//! | --- | --- |
//! | signature | 0..12 |
//! | version 2 and command | 12 |
//! | family and transport | 13 |
//! | bytes that follow | 14..16 |
//! | addresses, ports, TLVs | 16.. |
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::model::ProxyVersion;

/// Bytes by which the versions are told apart; no header is shorter.
pub const PREFIX_BYTES: usize = 12;
/// Longest line of version 1, bytes, with its end (§2.1).
pub const V1_BYTES_MAX: usize = 107;
/// Bytes of a version 2 header before what its length counts (§2.2).
pub const V2_FIXED_BYTES: usize = 16;
/// Most bytes that may follow them; a longer header is refused. A certificate in a TLV fits.
pub const V2_REST_BYTES_MAX: usize = 4_096;

const SIGNATURE: [u8; PREFIX_BYTES] = *b"\r\n\r\n\0\r\nQUIT\n";
const V1_BEGIN: &[u8] = b"PROXY ";
const VERSION_2: u8 = 0x20;
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const UNSPEC: u8 = 0x00;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
const UNIX_STREAM: u8 = 0x31;
/// PP2_TYPE_CRC32C (§2.2.3).
const TLV_CRC32C: u8 = 0x03;
const TLV_FIXED_BYTES: usize = 3;

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// Nothing that could be used: the connection is the sender's own (a health check), or of a kind that has no such
    /// addresses. Those of the socket hold.
    Own,
    /// The connection is passed on.
    Passed {
        /// Who opened it.
        source: SocketAddr,
        /// What was dialled.
        destination: SocketAddr,
    },
}

/// Why a header is refused; the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFault {
    /// The first bytes are of neither version.
    #[error("the connection does not begin with a PROXY header")]
    NoHeader,
    /// It is of the version that was not agreed on.
    #[error("the PROXY header is not of the version that is expected")]
    OtherVersion,
    /// It is longer than may be.
    #[error("the PROXY header is too long")]
    TooLong,
    /// A line of version 1 that cannot be.
    #[error("the PROXY line cannot be read")]
    Line,
    /// A version 2 header that cannot be.
    #[error("the binary PROXY header cannot be read")]
    Binary,
    /// Its checksum is another one.
    #[error("the PROXY header's checksum does not match")]
    Checksum,
}

/// The version of a header that begins with these bytes.
///
/// # Errors
/// It is none.
pub fn version(prefix: &[u8; PREFIX_BYTES]) -> Result<ProxyVersion, HeaderFault> {
    if *prefix == SIGNATURE {
        Ok(ProxyVersion::V2)
    } else if prefix.starts_with(V1_BEGIN) {
        Ok(ProxyVersion::V1)
    } else {
        Err(HeaderFault::NoHeader)
    }
}

/// Reads a line of version 1, with its end.
///
/// # Errors
/// It is not as §2.1 has it.
pub fn parse_v1(line: &[u8]) -> Result<Header, HeaderFault> {
    let line =
        line.strip_suffix(b"\r\n").and_then(|line| line.strip_prefix(V1_BEGIN)).ok_or(HeaderFault::Line)?;
    let text = std::str::from_utf8(line).map_err(|_| HeaderFault::Line)?;
    // What follows UNKNOWN is not looked at.
    if text == "UNKNOWN" || text.starts_with("UNKNOWN ") {
        return Ok(Header::Own);
    }
    let parts: Vec<&str> = text.split(' ').collect();
    let [family, source, destination, source_port, destination_port] = parts[..] else {
        return Err(HeaderFault::Line);
    };
    let address = |text: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let place = |host, port_text| Some(SocketAddr::new(address(host)?, port(port_text)?));
    let passed = place(source, source_port).zip(place(destination, destination_port));
    let (source, destination) = passed.ok_or(HeaderFault::Line)?;
    Ok(Header::Passed { source, destination })
}

/// Digits without a zero in front.
fn port(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_plain)
}

/// How many bytes follow the fixed part of a version 2 header.
///
/// # Errors
/// More than [`V2_REST_BYTES_MAX`].
pub fn v2_rest_bytes(fixed: &[u8; V2_FIXED_BYTES]) -> Result<usize, HeaderFault> {
    let rest = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if rest > V2_REST_BYTES_MAX { Err(HeaderFault::TooLong) } else { Ok(rest) }
}

/// Reads a whole header of version 2. TLVs are passed over, but for the checksum.
///
/// # Errors
/// It is not as §2.2 has it, or its checksum is wrong.
pub fn parse_v2(header: &[u8]) -> Result<Header, HeaderFault> {
    let (fixed, rest) = header.split_first_chunk::<V2_FIXED_BYTES>().ok_or(HeaderFault::Binary)?;
    if fixed[..PREFIX_BYTES] != SIGNATURE
        || fixed[12] & 0xf0 != VERSION_2
        || v2_rest_bytes(fixed)? != rest.len()
    {
        return Err(HeaderFault::Binary);
    }
    let (source, destination, tlvs) = match (fixed[12], fixed[13]) {
        (LOCAL, _) | (PROXY, UNSPEC | UNIX_STREAM) => return Ok(Header::Own),
        (PROXY, TCP4) => {
            let (addresses, tlvs) = rest.split_first_chunk::<12>().ok_or(HeaderFault::Binary)?;
            let [a, b, c, d, e, f, g, h, ports @ ..] = *addresses;
            let (source, destination) = (Ipv4Addr::new(a, b, c, d), Ipv4Addr::new(e, f, g, h));
            let [source_port, destination_port] = two_ports(ports);
            ((source, source_port).into(), (destination, destination_port).into(), tlvs)
        }
        (PROXY, TCP6) => {
            let (source, rest) = rest.split_first_chunk::<16>().ok_or(HeaderFault::Binary)?;
            let (destination, rest) = rest.split_first_chunk::<16>().ok_or(HeaderFault::Binary)?;
            let (ports, tlvs) = rest.split_first_chunk::<4>().ok_or(HeaderFault::Binary)?;
            let [source_port, destination_port] = two_ports(*ports);
            let (source, destination) = (Ipv6Addr::from(*source), Ipv6Addr::from(*destination));
            ((source, source_port).into(), (destination, destination_port).into(), tlvs)
        }
        _ => return Err(HeaderFault::Binary),
    };
    check_tlvs(header, tlvs)?;
    Ok(Header::Passed { source, destination })
}

fn two_ports([a, b, c, d]: [u8; 4]) -> [u16; 2] {
    [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])]
}

/// Whether TLVs fill what is left, and a checksum among them matches: over the whole header, with zeros in its own place
/// (§2.2.3).
fn check_tlvs(header: &[u8], mut tlvs: &[u8]) -> Result<(), HeaderFault> {
    while !tlvs.is_empty() {
        let ([kind, high, low], rest) =
            tlvs.split_first_chunk::<TLV_FIXED_BYTES>().ok_or(HeaderFault::Binary)?;
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, after) = rest.split_at_checked(length).ok_or(HeaderFault::Binary)?;
        if *kind == TLV_CRC32C {
            let told = u32::from_be_bytes(value.try_into().map_err(|_| HeaderFault::Binary)?);
            let begin = header.len() - rest.len();
            let mut zeroed = header.to_vec();
            zeroed[begin..begin + length].fill(0);
            if crc32c::crc32c(&zeroed) != told {
                return Err(HeaderFault::Checksum);
            }
        }
        tlvs = after;
    }
    Ok(())
}

/// The header that passes a connection on.
#[must_use]
pub fn header(version: ProxyVersion, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    match (version, source, destination) {
        (ProxyVersion::V1, SocketAddr::V4(_), SocketAddr::V4(_)) => line("TCP4", source, destination),
        (ProxyVersion::V1, SocketAddr::V6(_), SocketAddr::V6(_)) => line("TCP6", source, destination),
        (ProxyVersion::V1, ..) => b"PROXY UNKNOWN\r\n".to_vec(),
        (ProxyVersion::V2, SocketAddr::V4(from), SocketAddr::V4(to)) => {
            binary(PROXY, TCP4, &[&from.ip().octets(), &to.ip().octets(), &ports(source, destination)])
        }
        (ProxyVersion::V2, SocketAddr::V6(from), SocketAddr::V6(to)) => {
            binary(PROXY, TCP6, &[&from.ip().octets(), &to.ip().octets(), &ports(source, destination)])
        }
        (ProxyVersion::V2, ..) => binary(LOCAL, UNSPEC, &[]),
    }
}

fn line(family: &str, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let (from, to) = (source.ip(), destination.ip());
    format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into_bytes()
}

fn ports(source: SocketAddr, destination: SocketAddr) -> [u8; 4] {
    let ([a, b], [c, d]) = (source.port().to_be_bytes(), destination.port().to_be_bytes());
    [a, b, c, d]
}

fn binary(command: u8, family: u8, parts: &[&[u8]]) -> Vec<u8> {
    let rest = parts.concat();
    // At most 36.
    let length = (rest.len() as u16).to_be_bytes();
    [&SIGNATURE[..], &[command, family], &length, &rest].concat()
}

#[cfg(test)]
#[path = "proxy_protocol_tests.rs"]
mod tests;
