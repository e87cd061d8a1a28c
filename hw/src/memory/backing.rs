//! What RAM is made of, and what can be done with it.
//!
//! An operation on RAM (handing it to another process, serving its faults, forking it) asks [`Capabilities`] and either
//! works or refuses by the backing's name; nothing else in Tern assumes a kind of memory.

use std::fmt;
use std::fs::File;

/// What a RAM block is made of.
#[derive(Debug)]
pub enum Backing {
    /// A memfd mapped shared, sealed against shrinking and growing. It can be handed to another process.
    SharedMemfd,
    /// Private anonymous memory, with huge pages where the host has them for the asking.
    PrivateAnonymous,
    /// A private map over a file, as a snapshot is restored without reading it: the file shows through until a page is
    /// written, and is never changed.
    PrivateFile {
        /// The file, which has to hold `offset` plus the block's size and must not be changed while it is mapped.
        file: File,
        /// Where in it the block's first byte lies; a multiple of the page size.
        offset: u64,
    },
}

impl Backing {
    /// What can be done with memory of this kind.
    #[must_use]
    pub const fn capabilities(&self) -> &'static Capabilities {
        match self {
            Self::SharedMemfd => &SHARED_MEMFD,
            Self::PrivateAnonymous => &PRIVATE_ANONYMOUS,
            Self::PrivateFile { .. } => &PRIVATE_FILE,
        }
    }
}

impl fmt::Display for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.capabilities().name)
    }
}

/// What can be done with RAM of one kind: a row of [`CAPABILITIES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The name by which a refusal calls it.
    pub name: &'static str,
    /// Whether another process can be given the same memory as a file descriptor.
    pub shareable: bool,
    /// Whether userfaultfd can serve missing pages.
    pub userfault_missing: Support,
    /// Whether userfaultfd can hold up writes.
    pub userfault_write_protect: Support,
    /// Whether a clone can start from it.
    pub forkable: Forkable,
    /// What kinds of start give such memory.
    pub comes_from: &'static [Origin],
}

/// Whether the host's kernel does something for a kind of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// On every kernel that Tern runs on.
    Yes,
    /// On none.
    No,
    /// Has to be asked of the kernel at hand.
    AsTheKernelSays,
}

/// Whether a clone can start from RAM of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forkable {
    /// At any time.
    Yes,
    /// Once it is frozen: a private map of a live memfd would show the parent's later writes.
    AfterFreezing,
    /// Only after it was copied into a memfd.
    No,
}

/// How a VM can come by RAM of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A VM that boots.
    FreshStart,
    /// A VM that arrives by migration.
    Receive,
    /// A restore that reads and verifies everything first.
    EagerRestore,
    /// A restore that loads pages as they are touched.
    LazyRestore,
    /// A restore that maps the snapshot's file as it is.
    QuickRestore,
    /// A clone of a running VM.
    Fork,
}

const SHARED_MEMFD: Capabilities = Capabilities {
    name: "shared memfd",
    shareable: true,
    userfault_missing: Support::Yes,
    userfault_write_protect: Support::Yes,
    forkable: Forkable::AfterFreezing,
    comes_from: &[Origin::FreshStart, Origin::Receive, Origin::LazyRestore],
};

const PRIVATE_ANONYMOUS: Capabilities = Capabilities {
    name: "private anonymous memory",
    shareable: false,
    userfault_missing: Support::Yes,
    userfault_write_protect: Support::Yes,
    forkable: Forkable::No,
    comes_from: &[Origin::FreshStart, Origin::Receive, Origin::EagerRestore],
};

const PRIVATE_FILE: Capabilities = Capabilities {
    name: "private map over a file",
    shareable: false,
    userfault_missing: Support::No,
    userfault_write_protect: Support::No,
    forkable: Forkable::No,
    comes_from: &[Origin::QuickRestore],
};

const PRIVATE_FROZEN_MEMFD: Capabilities = Capabilities {
    name: "private map over a frozen memfd",
    shareable: false,
    userfault_missing: Support::AsTheKernelSays,
    userfault_write_protect: Support::AsTheKernelSays,
    forkable: Forkable::Yes,
    comes_from: &[Origin::Fork],
};

/// The table of all kinds of RAM, those that no [`Backing`] makes yet included.
pub const CAPABILITIES: [Capabilities; 4] = [SHARED_MEMFD, PRIVATE_ANONYMOUS, PRIVATE_FILE, PRIVATE_FROZEN_MEMFD];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_backing_is_a_row_of_the_table() {
        let file = Backing::PrivateFile {
            file: File::open("/dev/null").unwrap(),
            offset: 0,
        };
        for backing in [Backing::SharedMemfd, Backing::PrivateAnonymous, file] {
            assert!(CAPABILITIES.contains(backing.capabilities()));
        }
    }

    #[test]
    fn names_are_unique() {
        let mut names = CAPABILITIES.map(|row| row.name);
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn only_a_memfd_is_handed_to_another_process_and_only_frozen_memory_is_forked_at_once() {
        assert!(
            CAPABILITIES
                .iter()
                .all(|row| row.shareable == (row.name == "shared memfd"))
        );
        for row in &CAPABILITIES {
            assert_eq!(
                row.forkable == Forkable::Yes,
                row.comes_from.contains(&Origin::Fork),
                "{}",
                row.name
            );
        }
    }
}
