//! The functions that compiled Rust takes for granted, and the clearing of what the loader leaves as it was.

use core::arch::asm;

unsafe extern "C" {
    static mut bss_start: u8;
    static mut bss_end: u8;
}

/// Clears the static variables that start as zero. The first thing to do: nothing has used one yet.
pub fn clear_bss() {
    let start = &raw mut bss_start;
    // SAFETY: the linker script puts both around the variables, which nothing refers to yet.
    unsafe {
        let length = (&raw const bss_end).offset_from(start) as usize;
        memset(start, 0, length);
    }
}

/// # Safety
///
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(destination: *mut u8, byte: i32, length: usize) -> *mut u8 {
    // SAFETY: the caller's.
    unsafe {
        asm!("rep stosb", inout("rdi") destination => _, inout("rcx") length => _, in("al") byte as u8,
            options(nostack, preserves_flags));
    }
    destination
}

/// # Safety
///
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(destination: *mut u8, source: *const u8, length: usize) -> *mut u8 {
    // SAFETY: the caller's.
    unsafe {
        asm!("rep movsb", inout("rdi") destination => _, inout("rsi") source => _, inout("rcx") length => _,
            options(nostack, preserves_flags));
    }
    destination
}

/// # Safety
///
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(destination: *mut u8, source: *const u8, length: usize) -> *mut u8 {
    if destination.addr().wrapping_sub(source.addr()) >= length {
        // SAFETY: the caller's; copying upwards reads each byte before it is overwritten.
        return unsafe { memcpy(destination, source, length) };
    }
    for index in (0..length).rev() {
        // SAFETY: the caller's; volatile, lest the loop become a call of this function.
        unsafe { destination.add(index).write_volatile(source.add(index).read()) }
    }
    destination
}

/// # Safety
///
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, length: usize) -> i32 {
    for index in 0..length {
        // SAFETY: the caller's; volatile, lest the loop become a call of this function.
        let (left, right) = unsafe { (left.add(index).read_volatile(), right.add(index).read()) };
        if left != right {
            return i32::from(left) - i32::from(right);
        }
    }
    0
}

/// # Safety
///
/// As `memcmp` in C; only whether it is zero counts.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, length: usize) -> i32 {
    // SAFETY: the caller's.
    unsafe { memcmp(left, right, length) }
}
