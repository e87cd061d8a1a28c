//! Clocks and timers.

pub mod clock;
pub mod i8254;
pub mod rtc;
