//! Chunks spread over a few threads.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use hw::memory::PAGE_SIZE;

/// One chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Job {
    /// Which block, in the order of the recipe.
    pub(super) block: usize,
    /// Which chunk of it.
    pub(super) chunk: u64,
}

/// Has every item worked on by one of `threads` workers, each with what `worker` makes for it; returns the results in
/// the order of the items. The first failure ends it.
pub(super) fn spread<T: Sync, R: Send, E: Send, W>(
    items: &[T],
    threads: usize,
    worker: impl Fn() -> W + Sync,
) -> Result<Vec<R>, E>
where
    W: FnMut(&T) -> Result<R, E>,
{
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let run = || {
        let mut work = worker();
        let mut results = Vec::new();
        while !failed.load(Ordering::Relaxed) {
            let position = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(position) else { break };
            let result = work(item).inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
            results.push((position, result));
        }
        Ok(results)
    };
    // The caller's thread is one of the workers: a small machine pays for no thread at all.
    let others = threads.min(items.len()).saturating_sub(1);
    let mut results = std::thread::scope(|scope| {
        let spawn = |_| {
            std::thread::Builder::new()
                .name("snapshot-ram".to_owned())
                .spawn_scoped(scope, run)
        };
        // A host that gives no more threads makes it slower, not impossible.
        let handles: Vec<_> = (0..others).filter_map(|number| spawn(number).ok()).collect();
        let mut all = run();
        for handle in handles {
            let theirs = handle.join().unwrap_or_else(|panic| resume_unwind(panic));
            match (&mut all, theirs) {
                (Ok(all), Ok(theirs)) => all.extend(theirs),
                (Ok(_), Err(error)) => all = Err(error),
                (Err(_), _) => {}
            }
        }
        all
    })?;
    results.sort_by_key(|&(position, _)| position);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

/// The number of the page at `offset` of its chunk.
pub(super) fn page_in_chunk(offset: u64) -> u16 {
    u16::try_from(offset / PAGE_SIZE).expect("a chunk has 256 pages")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_items() {
        let items: Vec<u32> = (0..1000).collect();
        for threads in [0, 1, 2, 5] {
            let doubled = spread(&items, threads, || |n: &u32| Ok::<_, ()>(n * 2)).expect("works");
            assert!(doubled.into_iter().eq(items.iter().map(|n| n * 2)));
        }
    }

    #[test]
    fn a_failure_on_any_thread_is_the_outcome() {
        let items: Vec<u32> = (0..1000).collect();
        let outcome = spread(&items, 2, || |n: &u32| if *n == 700 { Err("no") } else { Ok(()) });
        assert_eq!(outcome, Err("no"));
    }
}
