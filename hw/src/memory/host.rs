//! What the host says about its memory, from `/proc` and `/sys`.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::ops::Range;

/// Memory and swap of the host in all, in bytes. A system call, and not `/proc/meminfo`, for which the kernel adds up its
/// counters and prints fifty lines of them.
pub(super) fn total_memory() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram
        .saturating_add(info.totalswap)
        .saturating_mul(info.mem_unit.into())
}

/// Memory that could be had without swapping, in bytes.
pub(super) fn available_memory() -> io::Result<u64> {
    available_of(&fs::read_to_string("/proc/meminfo")?).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn available_of(meminfo: &str) -> Option<u64> {
    let value = |key: &str| meminfo.lines().find_map(|line| kib(line.strip_prefix(key)?));
    value("MemAvailable:").or_else(|| value("MemFree:"))
}

/// The size of huge pages for private anonymous memory, if the host gives them to who asks.
pub(super) fn huge_pages_for_anonymous_memory() -> Option<u64> {
    huge_page_size().filter(|_| selected("enabled").is_some_and(|policy| policy != "never"))
}

/// The size of huge pages for memfds, if the host gives them to who asks.
pub(super) fn huge_pages_for_shared_memory() -> Option<u64> {
    huge_page_size().filter(|_| selected("shmem_enabled").is_some_and(|policy| !matches!(&*policy, "never" | "deny")))
}

fn huge_page_size() -> Option<u64> {
    setting("hpage_pmd_size")?.trim().parse().ok()
}

fn selected(name: &str) -> Option<String> {
    selected_of(&setting(name)?).map(str::to_owned)
}

/// The word in brackets of a setting such as `always [madvise] never`.
fn selected_of(setting: &str) -> Option<&str> {
    setting.split_once('[')?.1.split_once(']').map(|(word, _)| word)
}

fn setting(name: &str) -> Option<String> {
    fs::read_to_string(format!("/sys/kernel/mm/transparent_hugepage/{name}")).ok()
}

/// How many bytes of an address range of this process are in huge pages.
pub(super) fn huge_bytes(addresses: Range<usize>) -> io::Result<u64> {
    huge_bytes_of(BufReader::new(fs::File::open("/proc/self/smaps")?), &addresses)
}

fn huge_bytes_of(smaps: impl BufRead, addresses: &Range<usize>) -> io::Result<u64> {
    let mut inside = false;
    let mut bytes = 0;
    for line in smaps.lines() {
        let line = line?;
        if let Some(area) = area_of(&line) {
            inside = area.start < addresses.end && addresses.start < area.end;
        } else if inside
            && let Some((key, rest)) = line.split_once(':')
            && matches!(key, "AnonHugePages" | "ShmemPmdMapped" | "FilePmdMapped")
        {
            bytes += kib(rest).unwrap_or(0);
        }
    }
    Ok(bytes)
}

/// The addresses that a line of smaps opens, if it is such a line.
fn area_of(line: &str) -> Option<Range<usize>> {
    let (start, end) = line.split_ascii_whitespace().next()?.split_once('-')?;
    Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
}

/// A value such as `  16384 kB`, in bytes.
fn kib(value: &str) -> Option<u64> {
    value
        .trim()
        .strip_suffix("kB")?
        .trim_end()
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_more_memory_in_all_than_can_be_had() {
        assert!(total_memory() > available_memory().unwrap());
    }

    #[test]
    fn an_old_kernel_only_knows_what_is_free() {
        let meminfo = "MemTotal:  1000 kB\nMemFree:  10 kB\n";
        assert_eq!(available_of(meminfo), Some(10 * 1024));
        assert_eq!(
            available_of(&format!("{meminfo}MemAvailable:  600 kB\n")),
            Some(600 * 1024)
        );
    }

    #[test]
    fn the_setting_in_brackets_counts() {
        assert_eq!(selected_of("always [madvise] never\n"), Some("madvise"));
        assert_eq!(selected_of("nonsense"), None);
    }

    #[test]
    fn huge_pages_of_other_areas_do_not_count() {
        let smaps = "1000-3000 rw-p 00000000 00:00 0 \nAnonHugePages:    4 kB\nShmemPmdMapped:  0 kB\n\
                     3000-5000 rw-p 00000000 00:00 0 [heap]\nRss: 8 kB\nAnonHugePages:    8 kB\n";
        assert_eq!(huge_bytes_of(smaps.as_bytes(), &(0x3000..0x4000)).unwrap(), 8192);
        assert_eq!(huge_bytes_of(smaps.as_bytes(), &(0x2000..0x4000)).unwrap(), 12288);
        assert_eq!(huge_bytes_of(smaps.as_bytes(), &(0x5000..0x6000)).unwrap(), 0);
    }
}
