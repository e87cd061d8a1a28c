//! bzImage, the kernel as distributions ship it (`Documentation/x86/boot.rst`), by its 64-bit entry.

use hw::i386::microvm::layout;
use linux_loader::loader::bootparam::setup_header;
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryBackend};

use super::linux64::{BOOT_FLAG, HEADER_MAGIC};
use super::{BootError, KernelFault};

/// Where the setup header begins in the file, and in the zero page.
const HEADER: usize = 0x1f1;
/// Where "HdrS" lies.
const MAGIC: usize = 0x202;
/// The byte that tells where the header ends: so far behind [`MAGIC`].
const HEADER_LENGTH: usize = 0x201;
/// The protocol that has `xloadflags` and the 64-bit entry.
const VERSION_64: u16 = 0x20c;
/// `xloadflags`: there is a 64-bit entry at 0x200.
const XLF_KERNEL_64: u16 = 1;
/// The 64-bit entry, from where the protected-mode code was loaded.
const ENTRY_64: u64 = 0x200;
/// `loadflags`: the protected-mode code belongs above 1 MiB.
const LOADED_HIGH: u8 = 1;
const SECTOR: usize = 512;
/// `cmdline_size` of a header that has none.
const DEFAULT_CMDLINE: u32 = 255;

/// A bzImage whose header has been checked.
#[derive(Debug)]
pub(super) struct BzImage<'a> {
    /// The header, as the zero page wants it.
    pub header: setup_header,
    code: &'a [u8],
}

/// A bzImage in the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LoadedBzImage {
    /// The 64-bit entry.
    pub entry: u64,
    /// The first address behind what the kernel needs before it looks at the memory map.
    pub end: u64,
}

/// Whether `kernel` claims to be one.
pub(super) fn is_bzimage(kernel: &[u8]) -> bool {
    kernel.get(MAGIC..MAGIC + 4) == Some(&HEADER_MAGIC.to_le_bytes())
}

impl<'a> BzImage<'a> {
    /// Looks at the header of `kernel`.
    pub(super) fn parse(kernel: &'a [u8]) -> Result<Self, BootError> {
        let header = read_header(kernel).ok_or(BootError::Kernel(KernelFault::CutShort))?;
        let fault = |fault| Err(BootError::Kernel(fault));
        if header.boot_flag != BOOT_FLAG || header.header != HEADER_MAGIC || header.loadflags & LOADED_HIGH == 0 {
            return fault(KernelFault::OldBzImage);
        }
        if header.version < VERSION_64 || header.xloadflags & XLF_KERNEL_64 == 0 {
            return fault(KernelFault::No64BitEntry);
        }
        // Zero stands for four, for the sake of the oldest kernels.
        let setup_sectors = usize::from(if header.setup_sects == 0 { 4 } else { header.setup_sects });
        let code = kernel.get((setup_sectors + 1) * SECTOR..).unwrap_or_default();
        let announced = u64::from(header.syssize) * 16;
        if code.is_empty() || u64::try_from(code.len()).unwrap_or(0).next_multiple_of(16) < announced {
            return fault(KernelFault::CutShort);
        }
        if header.pref_address < layout::EXTENDED || !header.pref_address.is_multiple_of(layout::PAGE) {
            return fault(KernelFault::Address(header.pref_address));
        }
        Ok(Self { header, code })
    }

    /// The longest command line that the kernel takes, without its final zero.
    pub(super) fn cmdline_max(&self) -> u32 {
        match self.header.cmdline_size {
            0 => DEFAULT_CMDLINE,
            bytes => bytes,
        }
    }

    /// The highest address that the initrd may have.
    pub(super) fn initrd_max(&self) -> u64 {
        u64::from(self.header.initrd_addr_max)
    }

    /// Copies the protected-mode code to where the kernel would like to run, which spares a relocatable one the move.
    pub(super) fn load<M: GuestMemoryBackend>(&self, memory: &M, low_end: u64) -> Result<LoadedBzImage, BootError> {
        let start = self.header.pref_address;
        let code_bytes = u64::try_from(self.code.len()).unwrap_or(u64::MAX);
        let end = start.checked_add(code_bytes.max(self.header.init_size.into()));
        let Some(end) = end.filter(|end| *end <= low_end) else {
            return Err(BootError::KernelTooLarge {
                memory_mib: low_end >> 20,
            });
        };
        memory.write_slice(self.code, GuestAddress(start))?;
        Ok(LoadedBzImage {
            entry: start + ENTRY_64,
            end,
        })
    }
}

/// The header, up to where it says that it ends, and zeros behind that: a kernel does not read fields that it has not got.
fn read_header(kernel: &[u8]) -> Option<setup_header> {
    let end = MAGIC + usize::from(*kernel.get(HEADER_LENGTH)?);
    let bytes = kernel.get(HEADER..end)?;
    let mut header = setup_header::default();
    let room = header.as_mut_slice();
    let length = bytes.len().min(room.len());
    room[..length].copy_from_slice(&bytes[..length]);
    Some(header)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{MIB, bzimage, guest_memory};
    use super::*;

    fn patched(at: usize, bytes: &[u8]) -> Vec<u8> {
        let mut kernel = bzimage(b"code");
        kernel[at..at + bytes.len()].copy_from_slice(bytes);
        kernel
    }

    #[track_caller]
    fn refused(kernel: &[u8]) -> String {
        assert!(is_bzimage(kernel));
        BzImage::parse(kernel).expect_err("refused").to_string()
    }

    #[test]
    fn the_code_goes_to_the_preferred_address_and_the_entry_lies_in_it() {
        let memory = guest_memory(32 * MIB);
        let kernel = bzimage(b"code");
        let image = BzImage::parse(&kernel).expect("sound");
        let loaded = image.load(&memory, 32 * MIB).expect("fits");
        assert_eq!(loaded.entry, 16 * MIB + 0x200);
        assert_eq!(loaded.end, 17 * MIB, "init_size is more than the file");
        let mut code = [0; 4];
        memory.read_slice(&mut code, GuestAddress(16 * MIB)).expect("in memory");
        assert_eq!(&code, b"code");
    }

    #[test]
    fn a_kernel_needs_the_room_that_it_unpacks_itself_in() {
        let kernel = bzimage(b"code");
        let error = BzImage::parse(&kernel)
            .expect("sound")
            .load(&guest_memory(32 * MIB), 16 * MIB + 4096);
        assert!(error.expect_err("refused").to_string().contains("--memory"));
    }

    #[test]
    fn what_this_machine_cannot_boot_is_refused_by_name() {
        assert!(refused(&patched(0x236, &[0, 0])).contains("64-bit entry"));
        assert!(refused(&patched(0x206, &[0x0b, 0x02])).contains("64-bit entry"));
        assert!(refused(&patched(0x211, &[0])).contains("zImage"));
        assert!(refused(&patched(0x1fe, &[0, 0])).contains("zImage"));
        assert!(refused(&patched(0x258, &[0; 8])).contains("0x0"));
        // The size that the header announces, in paragraphs.
        assert!(refused(&patched(0x1f4, &[0xff; 4])).contains("cut short"));
    }

    #[test]
    fn no_length_at_which_a_file_is_cut_is_too_much() {
        let kernel = bzimage(b"code");
        for length in MAGIC + 4..kernel.len() {
            // Some of them are sound headers over less code.
            let _ = BzImage::parse(&kernel[..length]);
        }
    }
}
