//! A type that says nothing about state.

use vmstate::qom::Object;

#[derive(Object)]
#[object(name = "uart")]
struct Uart {
    #[runtime(reason = "made by realize")]
    irq: u32,
}

fn main() {}
