//! Where things lie in a snapshot file: a function of the manifest and of where the records end.

use std::ops::Range;

use hw::memory::{HUGE_PAGE_SIZE, PAGE_SIZE};

use super::error::Part;
use crate::manifest::RamBlockRecipe;

/// How much RAM has one checksum.
pub(crate) const CHUNK: u64 = 1 << 20;

/// Where one RAM block lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Placement {
    /// The block's name.
    pub(super) name: String,
    /// Where in the file it begins.
    pub(super) offset: u64,
    /// Its size.
    pub(super) size: u64,
}

impl Placement {
    /// How many chunks the block has.
    pub(super) fn chunks(&self) -> u64 {
        self.size.div_ceil(CHUNK)
    }

    /// The part of the block that chunk `number` is, in bytes from the block's start.
    pub(super) fn chunk(&self, number: u64) -> Range<u64> {
        let start = number * CHUNK;
        start..(start + CHUNK).min(self.size)
    }
}

/// Where everything behind the records lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Where the records before RAM end.
    pub(super) records_end: u64,
    /// RAM, in the order of the recipe.
    pub(super) blocks: Vec<Placement>,
    /// Where the index record begins: right behind the last block.
    pub(super) index: u64,
}

impl Layout {
    /// The layout of a file whose first records end at `records_end`; `None` if it would have no end.
    pub(super) fn new(records_end: u64, ram: &[RamBlockRecipe]) -> Option<Self> {
        let mut end = records_end;
        let mut blocks = Vec::with_capacity(ram.len());
        for block in ram {
            // A map of the file can only have huge pages where both are aligned for them.
            let alignment = if block.size >= HUGE_PAGE_SIZE {
                HUGE_PAGE_SIZE
            } else {
                PAGE_SIZE
            };
            let offset = end.checked_next_multiple_of(alignment)?;
            end = offset
                .checked_add(block.size)
                .filter(|&end| i64::try_from(end).is_ok())?;
            blocks.push(Placement {
                name: block.name.clone(),
                offset,
                size: block.size,
            });
        }
        Some(Self {
            records_end,
            blocks,
            index: end,
        })
    }

    /// The bytes that belong to nothing, and so have to be zero.
    pub(super) fn padding(&self) -> impl Iterator<Item = (Part, Range<u64>)> {
        let mut end = self.records_end;
        self.blocks.iter().filter_map(move |block| {
            let gap = end..block.offset;
            end = block.offset + block.size;
            (!gap.is_empty()).then(|| (Part::PaddingBefore(block.name.clone()), gap))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn recipe(sizes: &[u64]) -> Vec<RamBlockRecipe> {
        let block = |(n, &size)| RamBlockRecipe {
            name: format!("ram{n}"),
            size,
            readonly: false,
        };
        sizes.iter().enumerate().map(block).collect()
    }

    #[test]
    fn a_large_block_is_aligned_for_huge_pages_and_a_small_one_wastes_no_space() {
        let layout = Layout::new(1000, &recipe(&[4096, 4 << 20, 8192])).expect("fits");
        let offsets: Vec<u64> = layout.blocks.iter().map(|block| block.offset).collect();
        assert_eq!(offsets, [4096, 2 << 20, 6 << 20]);
        assert_eq!(layout.index, (6 << 20) + 8192);
        let gaps: Vec<Range<u64>> = layout.padding().map(|(_, gap)| gap).collect();
        assert_eq!(gaps, [1000..4096, 8192..2 << 20]);
    }

    #[test]
    fn sizes_that_no_file_can_have_are_refused() {
        assert_eq!(Layout::new(1000, &recipe(&[u64::MAX - 4095])), None);
        assert_eq!(Layout::new(1000, &recipe(&[1 << 62, 1 << 62])), None);
    }

    proptest! {
        #[test]
        fn padding_and_blocks_tile_the_file(end in 16..100_000u64, pages in prop::collection::vec(1..2000u64, 0..9)) {
            let layout = Layout::new(end, &recipe(&pages.iter().map(|n| n * 4096).collect::<Vec<_>>())).expect("fits");
            let mut parts: Vec<Range<u64>> = layout.padding().map(|(_, gap)| gap).collect();
            parts.extend(layout.blocks.iter().map(|block| block.offset..block.offset + block.size));
            parts.sort_by_key(|part| part.start);
            let mut at = end;
            for part in parts {
                prop_assert_eq!(part.start, at);
                at = part.end;
            }
            prop_assert_eq!(at, layout.index);
        }
    }
}
