//! New ports in an SCTP packet. Its checksum is a CRC32c of the whole packet (RFC 9260 §6.8, appendix A),
//! too long to compute again here. But a CRC is linear: what a change of the first four bytes does to it
//! is that change as a polynomial, times `x` to the number of the packet's bits.
use core::hint::black_box;

use crate::header::{ipv4, ipv6, sctp};
use crate::packet::Packet;
use crate::parse::{Family, Parsed};

/// CRC32c's polynomial (Castagnoli), lowest power in the highest bit, as all polynomials here.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// The polynomial 1.
const ONE: u32 = 1 << 31;
/// Bits of a packet's length in bytes.
const LENGTH_BITS: usize = 16;
/// `x` to the powers of 8, 16, 32 … : a factor for each bit of the length.
const FACTORS: [u32; LENGTH_BITS] = {
    let mut factors = [ONE >> 8; LENGTH_BITS];
    let mut index = 1;
    while index < LENGTH_BITS {
        factors[index] = times(factors[index - 1], factors[index - 1]);
        index += 1;
    }
    factors
};

/// The quotient of `x^64` and CRC32c's polynomial, without its highest power.
const RECIPROCAL: u32 = {
    let mut remainder = POLYNOMIAL;
    let mut quotient = 0;
    let mut bit = 32;
    while bit > 0 {
        bit -= 1;
        let is_set = remainder & 1;
        quotient |= is_set << (31 - bit);
        remainder = (remainder >> 1) ^ (POLYNOMIAL * is_set);
    }
    quotient
};

/// Every fourth bit, from the lowest on.
const FOURTHS: u64 = 0x1111_1111_1111_1111;

/// The product of two polynomials: coefficients of `x^63` to `x^32` in the low half, of `x^31` to 1 in the
/// high one. Integer products of numbers with three zeros between their bits: no sum of eight ones carries
/// into the next bit that counts (Pornin, BearSSL, "GHASH"). Loops over bits take the verifier (6.18) 15,000
/// instructions for each use, this takes 3,000. Not inlined, for its stack.
#[inline(never)]
const fn carryless(left: u32, right: u32) -> u64 {
    let (left, right) = (left as u64, right as u64);
    let mut product = 0;
    // From a number that the compiler does not know: it would unroll the loop and want more stack.
    let mut place: u32 = black_box(0);
    while place < 4 {
        let sum = ((left & FOURTHS) * (right & (FOURTHS << place)))
            ^ ((left & (FOURTHS << 1)) * (right & (FOURTHS << (place.wrapping_sub(1) & 3))))
            ^ ((left & (FOURTHS << 2)) * (right & (FOURTHS << (place.wrapping_sub(2) & 3))))
            ^ ((left & (FOURTHS << 3)) * (right & (FOURTHS << (place.wrapping_sub(3) & 3))));
        product |= sum & (FOURTHS << place);
        place += 1;
    }
    product << 1
}

/// The product of two polynomials modulo CRC32c's (Barrett's reduction).
#[inline(always)]
const fn times(left: u32, right: u32) -> u32 {
    let product = carryless(left, right);
    let quotient = product as u32 ^ carryless(product as u32, RECIPROCAL) as u32;
    ((product ^ carryless(quotient, POLYNOMIAL)) >> 32) as u32
}

/// All ones where the lowest bit is set, else zero. The compiler must not see that: it would branch, and
/// the verifier walk what follows for every way through the branches.
#[inline(always)]
fn mask(bit: u32) -> u32 {
    black_box(0u32.wrapping_sub(bit & 1))
}

/// What a change of a packet's first four bytes, read as a little-endian number, does to its CRC32c.
#[must_use]
#[inline(always)]
pub fn effect(change: u32, length_bytes: u16) -> u32 {
    let mut product = change;
    let mut length = length_bytes as u32;
    for factor in &FACTORS {
        let chosen = mask(length);
        product = times(product, (factor & chosen) | (ONE & !chosen));
        length >>= 1;
    }
    product
}

/// Writes the ports. A checksum of zero stays: the kernel, or the card, has yet to compute it over the
/// final bytes (one sound packet of 2^32 has that checksum too; its receiver drops it).
#[inline(never)]
pub(crate) fn write_ports<P: Packet>(packet: &mut P, parsed: &Parsed, ports: [u8; 4]) -> Option<()> {
    let offset = parsed.transport_offset();
    let old: [u8; 4] = packet.load(offset)?;
    let change = u32::from_le_bytes(old) ^ u32::from_le_bytes(ports);
    let checksum = u32::from_le_bytes(packet.load(offset + sctp::CHECKSUM)?);
    if change == 0 {
        return Some(());
    }
    packet.store(offset, ports)?;
    if checksum == 0 {
        return Some(());
    }
    let new = checksum ^ packet.crc_effect(change, length_bytes(packet, parsed)?);
    packet.store(offset + sctp::CHECKSUM, new.to_le_bytes())
}

/// Length of the SCTP packet, as the IP header tells it.
#[inline(always)]
fn length_bytes<P: Packet>(packet: &P, parsed: &Parsed) -> Option<u16> {
    let headers_bytes = (parsed.transport_offset() - parsed.network_offset()) as u16;
    let total_bytes = match parsed.family {
        Family::V4 => u16::from_be_bytes(packet.load(parsed.network_offset() + ipv4::TOTAL_LENGTH)?),
        Family::V6 => u16::from_be_bytes(packet.load(parsed.network_offset() + ipv6::PAYLOAD_LENGTH)?)
            .wrapping_add(ipv6::LENGTH_BYTES as u16),
    };
    Some(total_bytes.wrapping_sub(headers_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_x_are_those_of_the_polynomial() {
        // x^32 is the polynomial without its highest power, and x^31 the lowest bit.
        assert_eq!(times(1, ONE >> 1), POLYNOMIAL);
        assert_eq!(times(ONE >> 5, ONE >> 9), ONE >> 14);
        assert_eq!(times(POLYNOMIAL, ONE), POLYNOMIAL);
    }

    #[test]
    fn product_is_that_of_the_schoolbook() {
        let schoolbook = |left: u32, right: u32| {
            let mut product = 0;
            let mut shifted = right;
            for bit in (0..32).rev() {
                product ^= shifted * ((left >> bit) & 1);
                shifted = (shifted >> 1) ^ (POLYNOMIAL * (shifted & 1));
            }
            product
        };
        let mut number = 1u32;
        for _ in 0..1_000 {
            let other = number.wrapping_mul(0x9e37_79b9) ^ (number >> 7);
            assert_eq!(times(number, other), schoolbook(number, other), "{number:#x} {other:#x}");
            number = other.wrapping_add(0x85eb_ca6b);
        }
    }
}
