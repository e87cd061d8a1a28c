//! Dirty logging of an address space, driven through its listeners.

use std::ops::Range;
use std::sync::Arc;

use super::block::RamBlock;
use super::dirty::DirtyClient;
use super::listener::{ListenerResult, MemoryListener, MemoryRegionSection};
use super::space::AddressSpace;
use super::units::PAGE_SIZE;

impl AddressSpace {
    /// Starts recording all writes to RAM for a client, with all pages clean. Blocks that the space does not show are
    /// the caller's to enable.
    ///
    /// # Errors
    ///
    /// What a listener could not do. Nothing is logged for the client then.
    pub fn log_global_start(&self, client: DirtyClient) -> ListenerResult {
        let space = self.inner();
        let _held = space.hold();
        let before = space.logging();
        if before & client.bit() != 0 {
            return Ok(());
        }
        // The bitmaps take what is harvested, so they come first.
        self.each_block(|block| block.dirty().enable(client));
        if before == 0
            && let Err(error) = start(&space.listeners())
        {
            self.each_block(|block| block.dirty().disable(client));
            return Err(error);
        }
        space.set_logging(before | client.bit());
        if before == 0
            && let Err(error) = space.redraw()
        {
            self.log_global_stop(client);
            return Err(error);
        }
        Ok(())
    }

    /// Stops recording writes for a client, and forgets what it has not taken.
    pub fn log_global_stop(&self, client: DirtyClient) {
        let space = self.inner();
        let _held = space.hold();
        let before = space.logging();
        if before & client.bit() == 0 {
            return;
        }
        space.set_logging(before & !client.bit());
        if before == client.bit() {
            let outcome = space.redraw();
            space.note(outcome);
            stop(&space.listeners());
        }
        self.each_block(|block| block.dirty().disable(client));
    }

    /// Has listeners harvest what was written since the last time, into the bitmaps of all clients.
    ///
    /// # Errors
    ///
    /// What a listener could not do: pages may be dirty that nobody knows of.
    pub fn log_sync(&self) -> ListenerResult {
        let _held = self.inner().hold();
        let view = self.view();
        for listener in self.inner().listeners() {
            listener.log_sync_global()?;
            for section in view.sections().iter().filter(|section| section.logging) {
                listener.log_sync(section)?;
            }
        }
        Ok(())
    }

    /// Has listeners record writes to a part of a block anew, wherever the space shows it. To be called after taking
    /// the part's dirty pages and before reading them. The part is widened to whole pages.
    ///
    /// # Errors
    ///
    /// What a listener could not do: later writes may go unseen.
    pub fn log_clear(&self, block: &RamBlock, range: Range<u64>) -> ListenerResult {
        let end = range.end.checked_next_multiple_of(PAGE_SIZE).unwrap_or(u64::MAX);
        let pages = range.start / PAGE_SIZE * PAGE_SIZE..end;
        let _held = self.inner().hold();
        let view = self.view();
        let logged = view.sections().iter().filter(|section| section.logging);
        // What is less than a page of the guest is in no slot of an accelerator, and never logged by it.
        let parts: Vec<MemoryRegionSection> = logged
            .filter_map(|section| section.showing(block, &pages)?.page_aligned())
            .collect();
        for listener in self.inner().listeners() {
            parts.iter().try_for_each(|part| listener.log_clear(part))?;
        }
        Ok(())
    }

    fn each_block(&self, act: impl Fn(&RamBlock)) {
        self.view().ram_blocks().iter().for_each(|block| act(block));
    }
}

/// Tells all listeners that logging starts, or none if one refuses.
fn start(listeners: &[Arc<dyn MemoryListener>]) -> ListenerResult {
    for (index, listener) in listeners.iter().enumerate() {
        if let Err(error) = listener.log_global_start() {
            stop(&listeners[..index]);
            return Err(error);
        }
    }
    Ok(())
}

fn stop(listeners: &[Arc<dyn MemoryListener>]) {
    listeners.iter().rev().for_each(|listener| listener.log_global_stop());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::testing::{Log, Recorder, constant, heard, only, pages, root};
    use crate::memory::{MemoryRegion, RamBlock};
    use parking_lot::Mutex;

    const CLIENT: DirtyClient = DirtyClient::Migration;

    /// RAM of 16 pages, the first 12 at 0 and the rest at 1 MiB, a ROM and a device, and who listens.
    fn logged() -> (AddressSpace, MemoryRegion, Arc<RamBlock>, Log, Arc<Recorder>) {
        let (root, block, log) = (root(), pages(16), Log::default());
        let low = MemoryRegion::ram_part("low", Arc::clone(&block), 0..12 * PAGE_SIZE).unwrap();
        let high = MemoryRegion::ram_part("high", Arc::clone(&block), 12 * PAGE_SIZE..16 * PAGE_SIZE).unwrap();
        root.add_subregion(0, &low).unwrap();
        root.add_subregion(0x10_0000, &high).unwrap();
        root.add_subregion(0x20_0000, &MemoryRegion::rom("rom", pages(1)))
            .unwrap();
        root.add_subregion(0x30_0000, &constant("device", 0x1000, 1)).unwrap();
        let space = AddressSpace::new("memory", &root);
        let listener = Recorder::new(&log);
        space.add_listener(listener.clone()).unwrap();
        heard(&log);
        (space, root, block, log, listener)
    }

    fn about_logging(log: &Log) -> Vec<String> {
        heard(log).into_iter().filter(|line| line.starts_with("log")).collect()
    }

    #[test]
    fn logging_starts_and_stops_through_the_listeners() {
        let (space, _, block, log, _) = logged();
        space.log_global_start(CLIENT).unwrap();
        space.log_global_start(CLIENT).unwrap();
        assert_eq!(
            about_logging(&log),
            [
                "log_global_start",
                "log_start 0x0..0xc000 low",
                "log_start 0x100000..0x104000 high"
            ]
        );
        block.write(0, &[1]).unwrap();
        assert_eq!(block.dirty().count(CLIENT), 1);
        space.log_global_stop(CLIENT);
        space.log_global_stop(CLIENT);
        assert_eq!(
            about_logging(&log),
            [
                "log_stop 0x0..0xc000 low",
                "log_stop 0x100000..0x104000 high",
                "log_global_stop"
            ]
        );
        assert!(!block.dirty().is_enabled(CLIENT));
    }

    #[test]
    fn a_listener_that_refuses_keeps_logging_off() {
        for call in ["log_global_start", "log_start"] {
            let (space, _, block, log, listener) = logged();
            space.add_listener(Recorder::named("early", -1, &log)).unwrap();
            heard(&log);
            *listener.fails_at.lock() = Some(call);
            assert_eq!(space.log_global_start(CLIENT).unwrap_err().what, call);
            let lines = heard(&log);
            assert!(lines.contains(&"early log_global_stop".to_owned()), "{lines:?}");
            assert!(!block.dirty().is_enabled(CLIENT) && !space.view().sections()[0].logging);
            assert_eq!(space.take_failure(), None, "the caller has been told");
            *listener.fails_at.lock() = None;
            space.log_global_start(CLIENT).unwrap();
        }
    }

    #[test]
    fn a_harvest_asks_for_every_logged_section() {
        let (space, _, _, log, listener) = logged();
        space.log_global_start(CLIENT).unwrap();
        heard(&log);
        space.log_sync().unwrap();
        assert_eq!(
            heard(&log),
            [
                "log_sync_global",
                "log_sync 0x0..0xc000 low",
                "log_sync 0x100000..0x104000 high"
            ]
        );
        *listener.fails_at.lock() = Some("log_sync");
        assert!(space.log_sync().is_err());
    }

    #[test]
    fn a_range_is_cleared_wherever_it_shows() {
        let (space, root, block, log, _) = logged();
        space.log_global_start(CLIENT).unwrap();
        heard(&log);
        space.log_clear(&block, 11 * PAGE_SIZE + 5..13 * PAGE_SIZE).unwrap();
        assert_eq!(
            heard(&log),
            ["log_clear 0xb000..0xc000 low", "log_clear 0x100000..0x101000 high"]
        );
        let again = MemoryRegion::ram_part("again", Arc::clone(&block), 0..PAGE_SIZE).unwrap();
        root.add_subregion(0x40_0000, &again).unwrap();
        heard(&log);
        space.log_clear(&block, 0..1).unwrap();
        assert_eq!(
            heard(&log),
            ["log_clear 0x0..0x1000 low", "log_clear 0x400000..0x401000 again"]
        );
        space.log_clear(&pages(1), 0..PAGE_SIZE).unwrap();
        assert!(heard(&log).is_empty());
    }

    #[test]
    fn what_is_less_than_a_page_of_the_guest_is_not_cleared() {
        let (space, root, block, log, _) = logged();
        root.add_subregion_overlap(0x2100, &constant("over", 0x10, 1), 1)
            .unwrap();
        space.log_global_start(CLIENT).unwrap();
        heard(&log);
        space.log_clear(&block, PAGE_SIZE..4 * PAGE_SIZE).unwrap();
        assert_eq!(
            heard(&log),
            ["log_clear 0x1000..0x2000 low", "log_clear 0x3000..0x4000 low"]
        );
    }

    #[test]
    fn ram_that_appears_while_logging_is_logged_and_all_new() {
        let (space, root, block, log, _) = logged();
        space.log_global_start(CLIENT).unwrap();
        heard(&log);
        let plugged = pages(3);
        root.add_subregion(0x40_0000, &MemoryRegion::ram("plugged", Arc::clone(&plugged)))
            .unwrap();
        assert_eq!(about_logging(&log), ["log_start 0x400000..0x403000 plugged"]);
        assert_eq!((plugged.dirty().count(CLIENT), block.dirty().count(CLIENT)), (3, 0));
    }

    /// An accelerator as the design wants it: keeps what it harvested and has not cleared, and clears only that.
    struct Accelerator {
        block: Arc<RamBlock>,
        log: Mutex<Kept>,
    }

    #[derive(Default)]
    struct Kept {
        /// Pages written since their write protection was removed; a page whose bit is set is not logged again.
        dirty: u64,
        harvested: u64,
    }

    impl Accelerator {
        fn guest_writes(&self, page: u64) {
            self.block.read(0, &mut [0]).unwrap();
            self.log.lock().dirty |= 1 << page;
        }
    }

    impl MemoryListener for Accelerator {
        fn log_sync(&self, section: &MemoryRegionSection) -> ListenerResult {
            let mut log = self.log.lock();
            let fresh = log.dirty & !log.harvested;
            log.harvested |= fresh;
            section
                .ram
                .as_ref()
                .unwrap()
                .0
                .dirty()
                .harvest(section.block_range().unwrap().start, &[fresh]);
            Ok(())
        }

        fn log_clear(&self, section: &MemoryRegionSection) -> ListenerResult {
            let range = section.block_range().unwrap();
            let pages = (range.start / PAGE_SIZE..range.end / PAGE_SIZE).fold(0, |bits, page| bits | 1 << page);
            let mut log = self.log.lock();
            let cleared = pages & log.harvested;
            log.dirty &= !cleared;
            log.harvested &= !cleared;
            Ok(())
        }
    }

    #[test]
    fn a_write_between_harvest_and_clear_is_read_and_one_after_is_harvested() {
        let (root, block) = (root(), pages(16));
        root.add_subregion(0, &MemoryRegion::ram("ram", Arc::clone(&block)))
            .unwrap();
        let space = AddressSpace::new("memory", &root);
        let accelerator = Arc::new(Accelerator {
            block: Arc::clone(&block),
            log: Mutex::default(),
        });
        space.add_listener(accelerator.clone()).unwrap();
        space.log_global_start(CLIENT).unwrap();

        accelerator.guest_writes(3);
        space.log_sync().unwrap();
        accelerator.guest_writes(3);
        accelerator.guest_writes(4);
        let taken = block.dirty().take(CLIENT, 0..block.size());
        assert_eq!(taken, only(3 * PAGE_SIZE..4 * PAGE_SIZE));
        space.log_clear(&block, 0..block.size()).unwrap();
        // Page 3 is read now, with both writes. Page 4 was not harvested yet, so that clearing did not lose it.
        accelerator.guest_writes(3);
        space.log_sync().unwrap();
        assert_eq!(
            block.dirty().take(CLIENT, 0..block.size()),
            only(3 * PAGE_SIZE..5 * PAGE_SIZE)
        );
    }
}
