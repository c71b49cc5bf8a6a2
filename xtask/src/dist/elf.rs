//! Whether a program needs others' files to start.

/// `PT_INTERP` (elf(5)): the program header that names the loader of shared libraries.
const PT_INTERP: u32 = 3;

/// Whether a 64-bit little-endian ELF file asks for no loader; what is no such file is not.
pub(super) fn is_static(file: &[u8]) -> bool {
    headers(file).is_some_and(|mut kinds| kinds.all(|kind| kind != PT_INTERP))
}

/// The kinds of the program headers: their table's offset is at 0x20 of the file, the size of each at 0x36, their number
/// at 0x38.
fn headers(file: &[u8]) -> Option<impl Iterator<Item = u32>> {
    file.starts_with(b"\x7fELF\x02\x01").then_some(())?;
    let offset = usize::try_from(u64::from_le_bytes(*file.get(0x20..)?.first_chunk()?)).ok()?;
    let size = usize::from(u16::from_le_bytes(*file.get(0x36..)?.first_chunk()?));
    let count = usize::from(u16::from_le_bytes(*file.get(0x38..)?.first_chunk()?));
    let table = file.get(offset..offset.checked_add(size.checked_mul(count)?)?)?;
    let kinds = table.chunks_exact(size.max(4)).filter_map(|header| header.first_chunk());
    Some(kinds.map(|bytes| u32::from_le_bytes(*bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with program headers of these kinds.
    fn file(kinds: &[u32]) -> Vec<u8> {
        let mut file = vec![0; 0x40];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[0x20] = 0x40;
        file[0x36] = 56;
        file[0x38] = kinds.len() as u8;
        for kind in kinds {
            let mut header = [0; 56];
            header[..4].copy_from_slice(&kind.to_le_bytes());
            file.extend(header);
        }
        file
    }

    #[test]
    fn a_program_with_a_loader_is_not_static() {
        assert!(is_static(&file(&[1, 2, 6])));
        assert!(!is_static(&file(&[6, 3, 1])));
        assert!(!is_static(b"#!/bin/sh"));
        assert!(!is_static(&file(&[6, 1])[..100]));
    }
}
