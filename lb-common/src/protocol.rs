//! IP protocol numbers that Podway forwards (IANA "Assigned Internet Protocol Numbers").

/// Transmission Control Protocol.
pub const TCP: u8 = 6;
/// User Datagram Protocol.
pub const UDP: u8 = 17;
