//! The round trips of `tests/tests/round_trips.rs`, more of them and with more memory.
//!
//! Run by name, for it takes its time: `cargo run --release -p tern-tests --bin soak -- [ROUNDS [MEBIBYTES]]`, 20 rounds and 1024 MiB
//! where nothing is said. It ends with an error at the first page that is not right.

use std::time::Instant;

use tern_tests::guest::EmbeddedGuest;
use tern_tests::kvm;
use tern_tests::scenario::{Over, Wanderer};

fn number(at: usize, default: u32) -> u32 {
    let text = std::env::args().nth(at);
    text.map_or(default, |text| text.parse().unwrap_or_else(|_| usage(&text)))
}

fn usage(text: &str) -> u32 {
    let status = match text {
        "-h" | "--help" => 0,
        _ => {
            eprintln!("soak: {text:?} is no number");
            2
        }
    };
    eprintln!(
        "usage: soak [ROUNDS [MEBIBYTES]]     restores and migrations of each kind (20), with that much memory (1024)"
    );
    std::process::exit(status)
}

fn main() {
    let (rounds, mib) = (number(1, 20), number(2, 1024));
    let Some(_turn) = kvm::turn("soak") else { return };
    let memory = format!("{mib}M");
    let idle = format!("mib={} beat=50", mib * 3 / 4);
    let dirtying = format!("{idle} rate=max dirty=64");
    for (what, cmdline) in [("idle", &idle), ("dirtying", &dirtying)] {
        let mut guest = Wanderer::start(2, &memory, cmdline);
        for round in 1..=rounds {
            let started = Instant::now();
            guest.save_and_restore(if round % 2 == 0 { "none" } else { "full" });
            let pages = guest.vm.verify();
            println!(
                "{what}: restored {round}/{rounds}, {pages} pages ok, {:.1?}",
                started.elapsed()
            );
        }
        for round in 1..=rounds {
            let started = Instant::now();
            let account = guest.migrate(if round % 2 == 0 { Over::Unix } else { Over::Tcp });
            let pages = guest.vm.verify();
            let pause = &account["migration"]["x-tern-downtime-us"];
            println!(
                "{what}: moved {round}/{rounds}, {pages} pages ok, pause {pause} us, {:.1?}",
                started.elapsed()
            );
        }
    }
}
