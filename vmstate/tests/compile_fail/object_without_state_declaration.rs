//! A type that says nothing about state.

use vmstate::qom::Object;

#[derive(Object)]
#[object(name = "uart")]
struct Uart {
    #[runtime]
    irq: u32,
}

fn main() {}
