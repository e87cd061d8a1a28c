use super::*;
use crate::listener::Reach;
use crate::precopy::{Receiver, send};
use std::time::Instant;
#[test]
#[ignore = "speed"]
fn speed() {
    for round in 0..8 {
    let migration = Migration::of(Shape { pages: 131072, full: 131072, ..Shape::IDLE });
    let receiver = Receiver::bind(&"tcp:127.0.0.1:0".parse().unwrap(), Reach::Loopback).unwrap();
    let to = receiver.local_uri().clone();
    thread::scope(|scope| {
        let [cancel, rc] = &migration.cancel;
        let receiving = scope.spawn(|| { let r = receiver.accept(&migration.factory, &migration.receive, rc, &Gauges::new()); eprintln!("dest cpu {:?}", cpu()); r });
        let c = cpu(); let t = Instant::now();
        let sent = send(&*migration.source, &to, &migration.send, cancel, &migration.gauges);
        let t = t.elapsed(); eprintln!("source cpu {:?}", cpu() - c);
        let (r, _a) = arrived((Some(sent), receiving.join().ok()));
        eprintln!("{round}: {t:?} pause {:?}", r.pause.total());
    });
    }
}

fn cpu() -> Duration { let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime); Duration::new(t.tv_sec as u64, t.tv_nsec as u32) }
