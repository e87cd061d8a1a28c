//! A field that nobody has decided about.

use vmstate::qom::Object;

#[derive(Object)]
#[object(name = "uart", stateless)]
struct Uart {
    #[runtime(reason = "made by realize")]
    irq: u32,
    divisor: u16,
    scratch: u8,
}

fn main() {}
