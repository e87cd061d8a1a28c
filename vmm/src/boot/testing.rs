//! Kernels made for tests.

use vm_memory::{GuestAddress, GuestMemoryMmap};

pub const MIB: u64 = 1 << 20;

pub fn guest_memory(bytes: u64) -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), usize::try_from(bytes).expect("64-bit"))]).expect("memory")
}

/// An ELF file with an entry and loadable segments: address, contents, bytes in memory. Their contents lie one behind
/// the other after the program headers.
pub fn elf(entry: u64, segments: &[(u64, &[u8], u64)]) -> Vec<u8> {
    let mut file = vec![0; 64];
    file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    file[16..20].copy_from_slice(&[2, 0, 62, 0]);
    file[24..32].copy_from_slice(&entry.to_le_bytes());
    file[32..40].copy_from_slice(&64_u64.to_le_bytes());
    file[54..56].copy_from_slice(&56_u16.to_le_bytes());
    let count = u16::try_from(segments.len()).expect("a few segments");
    file[56..58].copy_from_slice(&count.to_le_bytes());
    let mut contents = 64 + 56 * u64::from(count);
    for (address, bytes, in_memory) in segments {
        let length = u64::try_from(bytes.len()).expect("64-bit");
        file.extend([1_u32, 7].iter().flat_map(|word| word.to_le_bytes()));
        for number in [contents, *address, *address, length, *in_memory, 4096] {
            file.extend(number.to_le_bytes());
        }
        contents += length;
    }
    for (_, bytes, _) in segments {
        file.extend_from_slice(bytes);
    }
    file
}

/// A bzImage of protocol 2.15 with one sector of setup code, which wants to run at 16 MiB and needs 1 MiB there.
pub fn bzimage(code: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 1024];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]);
    put(
        0x1f4,
        &u32::try_from(code.len().div_ceil(16)).expect("small").to_le_bytes(),
    );
    put(0x1fe, &[0x55, 0xaa, 0xeb, 0x66]);
    put(0x202, b"HdrS\x0f\x02");
    put(0x211, &[1]);
    put(0x22c, &0x7fff_ffff_u32.to_le_bytes());
    put(0x230, &0x20_0000_u32.to_le_bytes());
    put(0x234, &[1, 21, 1, 0]);
    put(0x238, &2047_u32.to_le_bytes());
    put(0x258, &(16 * MIB).to_le_bytes());
    put(0x260, &0x10_0000_u32.to_le_bytes());
    file.extend_from_slice(code);
    file
}
