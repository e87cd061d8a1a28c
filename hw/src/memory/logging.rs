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
