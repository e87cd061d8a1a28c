//! What a process takes beside its guest's RAM.

use std::fs;

use anyhow::{Context, Result};

/// Proportional set size of the process in KiB, without mappings of at least `guest_bytes`, which are the guest's RAM.
///
/// # Errors
///
/// If the process is gone or the kernel does not say.
pub fn pss_beside_guest(pid: u32, guest_bytes: u64) -> Result<u64> {
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps")).context("smaps of the vm process")?;
    let mut total = 0;
    let mut is_guest = false;
    for line in maps.lines() {
        if let Some((range, _)) = line.split_once(' ')
            && let Some((from, to)) = range.split_once('-')
            && let (Ok(from), Ok(to)) = (u64::from_str_radix(from, 16), u64::from_str_radix(to, 16))
        {
            is_guest = to - from >= guest_bytes;
        } else if let Some(rest) = line.strip_prefix("Pss:")
            && !is_guest
        {
            let kib: u64 = rest.trim().trim_end_matches(" kB").parse().context("a number of KiB")?;
            total += kib;
        }
    }
    Ok(total)
}
