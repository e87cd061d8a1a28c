//! Memory: what a process takes beside its guest's RAM, and how the machine's is made ready.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hw::memory::{Backing, RamBlock};

/// One MiB in bytes.
pub const MIB: u64 = 1 << 20;

/// What it takes at most to touch a MiB of memory that is at hand. Where it first has to come from further away it takes
/// twenty times as long.
const AT_HAND: Duration = Duration::from_micros(300);

/// Has the machine hold `mib` MiB ready for whoever asks for memory next.
///
/// To be called immediately before what is measured. Where the machine is a virtual one itself, memory that nobody uses is
/// the host's again after a fraction of a second: without this a benchmark measures how long ago the last one was. So memory is taken and given back until it comes quickly, of the
/// kind that guests have; what was given back last is what is taken next.
///
/// # Errors
///
/// If the machine has not that much.
pub fn warm(mib: u64) -> Result<()> {
    for _ in 0..8 {
        let block = RamBlock::new("warm", mib * MIB, Backing::PrivateAnonymous)?;
        let began = Instant::now();
        for page in (0..block.size()).step_by(4096) {
            block.write(page, &[1])?;
        }
        let took = began.elapsed();
        if took < AT_HAND * u32::try_from(mib)? {
            break;
        }
    }
    Ok(())
}

/// What a process takes beside its guest's RAM.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Beside {
    /// Its share of all that it uses (PSS), in MiB.
    pub share_mib: f64,
    /// What it alone has written (private dirty), in MiB.
    pub written_mib: f64,
}

impl Beside {
    /// Looks at the process `pid`. Mappings of at least half of `guest_bytes` are the guest's RAM.
    ///
    /// # Errors
    ///
    /// If the process is gone or the kernel does not say.
    pub fn of_process(pid: u32, guest_bytes: u64) -> Result<Self> {
        let maps = fs::read_to_string(format!("/proc/{pid}/smaps")).context("smaps of the vm process")?;
        Self::of_maps(&maps, guest_bytes)
    }

    fn of_maps(maps: &str, guest_bytes: u64) -> Result<Self> {
        let mut beside = Self::default();
        let mut is_guest = false;
        for line in maps.lines() {
            if let Some(size) = size_of_mapping(line) {
                is_guest = size >= guest_bytes / 2;
            }
            if is_guest {
                continue;
            }
            if let Some(rest) = line.strip_prefix("Pss:") {
                beside.share_mib += mib(rest)?;
            } else if let Some(rest) = line.strip_prefix("Private_Dirty:") {
                beside.written_mib += mib(rest)?;
            }
        }
        Ok(beside)
    }
}

/// The size in bytes, if the line is the first of a mapping.
fn size_of_mapping(line: &str) -> Option<u64> {
    let (range, _) = line.split_once(' ')?;
    let (from, to) = range.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    address(to)?.checked_sub(address(from)?)
}

fn mib(kib: &str) -> Result<f64> {
    let kib: u32 = kib.trim().trim_end_matches(" kB").parse().context("a number of KiB")?;
    Ok(f64::from(kib) / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
55febf0d8000-55febf185000 r--p 00000000 fe:00 326279                     /usr/bin/vm
Size:                692 kB
Pss:                 512 kB
Private_Dirty:       256 kB
7fd5b0000000-7fd5b8000000 rw-p 00000000 00:00 0 
Size:             131072 kB
Pss:                9000 kB
Private_Dirty:      9000 kB
7ffd15bc9000-7ffd15bea000 rw-p 00000000 00:00 0                          [stack]
Pss:                 512 kB
Private_Dirty:       512 kB
";

    #[test]
    fn the_guests_ram_does_not_count() {
        let beside = Beside::of_maps(MAPS, 128 * MIB).expect("sound maps");
        assert_eq!((beside.share_mib, beside.written_mib), (1.0, 0.75));
    }
}
