//! Marks that do not say what they have to say.

use vmstate::qom::Object;

#[derive(Object)]
#[object(name = "reasonless", stateless)]
struct Reasonless {
    #[derived]
    period: u64,
    #[runtime]
    wires: u64,
}

#[derive(Object)]
#[object(name = "reason-for-nothing", unmigratable = "")]
struct ReasonForNothing {}

#[derive(Object)]
#[object(name = "no-property", stateless)]
struct NoProperty {
    #[config(default = 5)]
    period: u64,
}

#[derive(Object)]
#[object(stateless)]
struct Nameless {}

fn main() {}
