//! Kernels of a few instructions, as files that a machine boots.

/// Where the code lies, and is entered.
const ENTRY: u64 = 1 << 20;
/// How long the header of a file is, and that of a segment behind it.
const FILE_HEADER: u16 = 64;
const SEGMENT_HEADER: u16 = 56;

/// An ELF file with nothing but `code`, which is entered in 64-bit mode at its first byte (System V ABI, "Object Files").
#[must_use]
pub fn kernel(code: &[u8]) -> Vec<u8> {
    const EXECUTABLE: u16 = 2;
    const X86_64: u16 = 62;
    const LOADED: u32 = 1;
    const READ_WRITE_EXECUTE: u32 = 7;
    const ALIGNMENT: u64 = 4096;
    let mut file = vec![0; FILE_HEADER.into()];
    file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    file[16..18].copy_from_slice(&EXECUTABLE.to_le_bytes());
    file[18..20].copy_from_slice(&X86_64.to_le_bytes());
    file[24..32].copy_from_slice(&ENTRY.to_le_bytes());
    file[32..40].copy_from_slice(&u64::from(FILE_HEADER).to_le_bytes());
    file[54..56].copy_from_slice(&SEGMENT_HEADER.to_le_bytes());
    file[56..58].copy_from_slice(&1_u16.to_le_bytes());
    file.extend([LOADED, READ_WRITE_EXECUTE].iter().flat_map(|word| word.to_le_bytes()));
    let offset = u64::from(FILE_HEADER + SEGMENT_HEADER);
    let length = u64::try_from(code.len()).expect("a few bytes");
    for number in [offset, ENTRY, ENTRY, length, length, ALIGNMENT] {
        file.extend(number.to_le_bytes());
    }
    file.extend(code);
    file
}
