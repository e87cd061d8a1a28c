//! What can go wrong when memory is made, reached and put in its place.

use std::io;

use super::units::{PAGE_SIZE, mib};

/// Why a RAM block could not be made or reached.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// The size is none that a block can have.
    #[error("RAM block '{name}' cannot have {size} bytes: the size has to be a positive multiple of {PAGE_SIZE}")]
    BadSize {
        /// The block's name.
        name: String,
        /// The size asked for, in bytes.
        size: u64,
    },
    /// The host has not got so much.
    #[error(
        "RAM block '{name}' of {} does not fit into this host: it has {} of memory and swap in all, {} of memory free; \
         give the guest less memory",
        mib(*.size), mib(*.total), mib(*.available)
    )]
    MoreThanTheHostHas {
        /// The block's name.
        name: String,
        /// The size asked for, in bytes.
        size: u64,
        /// Memory and swap of the host, in bytes.
        total: u64,
        /// Memory that could be had now, in bytes.
        available: u64,
    },
    /// The host refused the memory.
    #[error("cannot get {} of memory for RAM block '{name}' ({what}): {source}", mib(*.size))]
    Refused {
        /// The block's name.
        name: String,
        /// The size asked for, in bytes.
        size: u64,
        /// What was being done.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The file that the block should show is too short or starts at an odd place.
    #[error(
        "RAM block '{name}' cannot show a file: {size} bytes from offset {offset} are wanted of a file of {length} \
             (an offset has to be a multiple of {PAGE_SIZE}); the file is damaged or truncated"
    )]
    FileTooShort {
        /// The block's name.
        name: String,
        /// The block's size, in bytes.
        size: u64,
        /// Where in the file it should start.
        offset: u64,
        /// How long the file is.
        length: u64,
    },
    /// Bytes that the block has not got.
    #[error("RAM block '{name}' of {size} bytes has no {len} bytes at offset {offset}")]
    OutOfBounds {
        /// The block's name.
        name: String,
        /// The block's size, in bytes.
        size: u64,
        /// Where the access starts.
        offset: u64,
        /// How many bytes it is for.
        len: u64,
    },
    /// A write to a block that holds its contents for good.
    #[error("RAM block '{name}' is read-only")]
    ReadOnly {
        /// The block's name.
        name: String,
    },
    /// A part that is not made of whole pages, where whole pages are needed.
    #[error("{len} bytes at offset {offset} of RAM block '{name}' are not whole pages")]
    NotWholePages {
        /// The block's name.
        name: String,
        /// Where the part starts.
        offset: u64,
        /// How long it is.
        len: u64,
    },
}

/// Why a region could not be made or placed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegionError {
    /// A subregion was given to a region that is no container.
    #[error("'{container}' is no container, '{region}' cannot be placed in it")]
    NotAContainer {
        /// The region that was to be placed.
        region: String,
        /// Where.
        container: String,
    },
    /// A region has one place; an alias gives it another.
    #[error("region '{region}' is already placed in '{container}'; show it elsewhere through an alias")]
    AlreadyPlaced {
        /// The region that was to be placed.
        region: String,
        /// Where it is.
        container: String,
    },
    /// A region that is not in the container.
    #[error("region '{region}' is not placed in '{container}'")]
    NotPlacedThere {
        /// The region.
        region: String,
        /// The container.
        container: String,
    },
    /// Two regions at the same addresses, neither of which was meant to lie over the other.
    #[error("region '{region}' at {start:#x}..{end:#x} of '{container}' collides with '{other}'")]
    Collides {
        /// The region that was to be placed.
        region: String,
        /// The region that is there.
        other: String,
        /// The container of both.
        container: String,
        /// Where it was to start.
        start: u64,
        /// Where it was to end.
        end: u64,
    },
    /// A region would contain itself.
    #[error("region '{region}' cannot be placed in '{container}', which is part of it")]
    Cycle {
        /// The region that was to be placed.
        region: String,
        /// Where.
        container: String,
    },
    /// A part that the RAM block has not got.
    #[error("region '{region}' cannot show {start:#x}..{end:#x} of RAM block '{block}', which has {size:#x} bytes")]
    NoSuchPart {
        /// The region.
        region: String,
        /// The block.
        block: String,
        /// The block's size.
        size: u64,
        /// Where the part starts.
        start: u64,
        /// Where it ends.
        end: u64,
    },
}
