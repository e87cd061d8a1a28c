//! The embedded guest: what `vm run` boots when it is given no kernel.
//!
//! A program without an operating system, built by the build script from `vmm/guest/`. It fills memory with a pattern,
//! dirties it at a given rate and verifies it, and watches clocks, timers, interrupts and registers, so that a virtual
//! machine that was saved, restored or moved can prove that nothing was lost. `vmm/guest/README.md` has the words of
//! its command line and the protocol on its console.

/// The guest as an ELF file with a PVH entry point.
pub static EMBEDDED_GUEST: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guest.elf"));

// The parts of the guest that need no bare machine are tested here, as the guest is no package of its own.
#[cfg(test)]
#[path = "../guest/cmdline.rs"]
mod cmdline;
#[cfg(test)]
#[path = "../guest/pattern.rs"]
#[expect(
    clippy::cast_possible_truncation,
    reason = "splitting a number into its halves is meant"
)]
mod pattern;

#[cfg(test)]
mod tests {
    use super::EMBEDDED_GUEST;

    #[test]
    fn the_guest_is_an_elf_file_with_a_pvh_note() {
        assert_eq!(&EMBEDDED_GUEST[..4], b"\x7fELF");
        let note = [4u32, 8, 18].map(u32::to_le_bytes).concat();
        let note = [&note, &b"Xen\0"[..]].concat();
        assert!(EMBEDDED_GUEST.windows(note.len()).any(|bytes| bytes == note));
    }
}
