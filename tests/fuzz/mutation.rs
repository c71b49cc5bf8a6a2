//! Inputs changed as a fuzzer changes them: by bits, bytes and pieces, and by pieces of other inputs.
use lb_tests::packet::Random;

/// Most changes of one input.
const CHANGES_MAX: usize = 6;
/// Longest piece that is copied, removed or repeated.
const PIECE_BYTES_MAX: usize = 32;
/// An input does not grow beyond this.
const INPUT_BYTES_MAX: usize = 16 * 1024;

/// Values at which lengths and counters go wrong.
const BOUNDARIES: [u8; 8] = [0, 1, b'\n', b'%', b'/', 0x7f, 0x80, 0xff];

/// Changes an input, with pieces of another.
pub(crate) fn mutate(input: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=random.below(CHANGES_MAX) {
        change(&mut bytes, other, random);
    }
    bytes.truncate(INPUT_BYTES_MAX);
    bytes
}

fn change(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    if bytes.is_empty() {
        bytes.push(random.byte());
    }
    let at = random.below(bytes.len());
    match random.below(8) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = *random.pick(&BOUNDARIES),
        2 => bytes[at] = random.byte(),
        3 => bytes.truncate(at),
        4 => drop(bytes.drain(piece(at, bytes.len(), random))),
        5 => {
            let repeated = bytes[piece(at, bytes.len(), random)].to_vec();
            bytes.splice(at..at, repeated);
        }
        6 => bytes.insert(at, *random.pick(&BOUNDARIES)),
        _ => {
            let from = random.below(other.len());
            let taken = other[piece(from, other.len(), random)].to_vec();
            bytes.splice(at..at, taken);
        }
    }
}

/// A piece that begins there.
fn piece(from: usize, length: usize, random: &mut Random) -> std::ops::Range<usize> {
    from..(from + random.below(PIECE_BYTES_MAX)).min(length)
}
