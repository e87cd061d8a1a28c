//! What a guest boots from, as state of its VM.

use std::sync::Arc;

use hw::memory::{Backing, RamBlock};
use migration::ident::ContentHash;
use migration::vm::BootPayload as PayloadRecipe;

use super::BootError;

/// The longest command line, its final zero included (Linux's COMMAND_LINE_SIZE on x86).
pub(super) const COMMAND_LINE_MAX: usize = 2048;

/// Role and name of the payload's blocks, in the recipe's order.
const KERNEL: (&str, &str) = ("kernel", "boot.kernel");
const INITRD: (&str, &str) = ("initrd", "boot.initrd");
const COMMAND_LINE: (&str, &str) = ("cmdline", "boot.cmdline");

/// What a guest boots from, as bytes.
#[derive(Clone, Copy, Debug)]
pub struct BootFiles<'a> {
    /// A bzImage, or an ELF kernel with a PVH note or a 64-bit entry.
    pub kernel: &'a [u8],
    /// An initrd, if any.
    pub initrd: Option<&'a [u8]>,
    /// The kernel's command line.
    pub cmdline: &'a str,
}

/// One part of the payload in its block.
#[derive(Clone, Debug)]
struct Part {
    block: Arc<RamBlock>,
    recipe: PayloadRecipe,
}

impl Part {
    fn new((role, name): (&str, &str), bytes: &[u8]) -> Result<Self, BootError> {
        let length = u64::try_from(bytes.len()).expect("a slice is shorter than 2^64");
        // A block has at least one page, even for an empty command line.
        let padded = if bytes.is_empty() { &[0][..] } else { bytes };
        let block = RamBlock::with_contents(name, padded, Backing::PrivateAnonymous)?;
        let recipe = PayloadRecipe {
            role: role.to_owned(),
            block: name.to_owned(),
            length,
            hash: ContentHash::of(bytes),
        };
        Ok(Self { block, recipe })
    }

    fn bytes(&self) -> Result<Vec<u8>, BootError> {
        let mut bytes = vec![0; usize::try_from(self.recipe.length).unwrap_or(usize::MAX)];
        self.block.read(0, &mut bytes)?;
        Ok(bytes)
    }
}

/// A VM's boot payload in its read-only blocks.
#[derive(Clone, Debug)]
pub struct BootPayload {
    kernel: Part,
    initrd: Option<Part>,
    cmdline: Part,
}

impl BootPayload {
    /// Copies `files` into blocks.
    ///
    /// # Errors
    ///
    /// The command line is too long or the host has no memory for the blocks.
    pub fn new(files: &BootFiles<'_>) -> Result<Self, BootError> {
        if files.cmdline.len() >= COMMAND_LINE_MAX {
            return Err(BootError::CommandLine("longer than 2047 bytes"));
        }
        if files.cmdline.bytes().any(|byte| byte == 0) {
            return Err(BootError::CommandLine("broken: it holds a zero byte"));
        }
        Ok(Self {
            kernel: Part::new(KERNEL, files.kernel)?,
            initrd: files.initrd.map(|bytes| Part::new(INITRD, bytes)).transpose()?,
            cmdline: Part::new(COMMAND_LINE, files.cmdline.as_bytes())?,
        })
    }

    /// The payload that a recipe describes, over blocks that have just been filled from a stream.
    ///
    /// # Errors
    ///
    /// A part is missing or longer than its block, or there is one that this program does not know.
    pub fn from_recipe(recipes: &[PayloadRecipe], blocks: &[Arc<RamBlock>]) -> Result<Self, BootError> {
        let mut parts = [KERNEL.0, INITRD.0, COMMAND_LINE.0].map(|role| (role, None));
        for recipe in recipes {
            // What is passed over would be lost, and missed at the next boot.
            let part = parts
                .iter_mut()
                .find(|(role, part)| *role == recipe.role && part.is_none());
            let (role, part) = part.ok_or_else(|| BootError::UnknownPart(recipe.role.clone()))?;
            let block = blocks.iter().find(|block| block.name() == recipe.block);
            let block = block.filter(|block| recipe.length <= block.size());
            *part = Some(Part {
                block: Arc::clone(block.ok_or(BootError::Missing(role))?),
                recipe: recipe.clone(),
            });
        }
        let [(_, kernel), (_, initrd), (_, cmdline)] = parts;
        Ok(Self {
            kernel: kernel.ok_or(BootError::Missing(KERNEL.0))?,
            initrd,
            cmdline: cmdline.ok_or(BootError::Missing(COMMAND_LINE.0))?,
        })
    }

    fn parts(&self) -> impl Iterator<Item = &Part> {
        [Some(&self.kernel), self.initrd.as_ref(), Some(&self.cmdline)]
            .into_iter()
            .flatten()
    }

    /// The payload's blocks, in the recipe's order.
    #[must_use]
    pub fn blocks(&self) -> Vec<Arc<RamBlock>> {
        self.parts().map(|part| Arc::clone(&part.block)).collect()
    }

    /// The payload as the recipe names it.
    #[must_use]
    pub fn recipe(&self) -> Vec<PayloadRecipe> {
        self.parts().map(|part| part.recipe.clone()).collect()
    }

    /// Compares every part with its hash.
    ///
    /// # Errors
    ///
    /// [`BootError::Damaged`] names the part.
    pub fn verify(&self) -> Result<(), BootError> {
        for part in self.parts() {
            if ContentHash::of(&part.bytes()?) != part.recipe.hash {
                return Err(BootError::Damaged(part.recipe.role.clone()));
            }
        }
        Ok(())
    }

    pub(super) fn kernel(&self) -> Result<Vec<u8>, BootError> {
        self.kernel.bytes()
    }

    /// Bytes of the initrd, where there is one.
    pub(super) fn initrd_length(&self) -> Option<u64> {
        self.initrd.as_ref().map(|part| part.recipe.length)
    }

    pub(super) fn initrd(&self) -> Result<Vec<u8>, BootError> {
        self.initrd.as_ref().map_or(Ok(Vec::new()), Part::bytes)
    }

    /// The command line without its final zero. One that a stream brought is as long as any other.
    pub(super) fn cmdline(&self) -> Result<Vec<u8>, BootError> {
        if self.cmdline.recipe.length >= u64::try_from(COMMAND_LINE_MAX).unwrap_or(0) {
            return Err(BootError::CommandLine("longer than 2047 bytes"));
        }
        self.cmdline.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload() -> BootPayload {
        BootPayload::new(&BootFiles {
            kernel: crate::guest::EMBEDDED_GUEST,
            initrd: Some(b"initrd"),
            cmdline: "mib=1",
        })
        .expect("payload")
    }

    #[test]
    fn damage_of_a_part_is_named() {
        let payload = payload();
        payload.verify().expect("whole");
        let mut blocks = payload.blocks();
        blocks[1] = RamBlock::with_contents("boot.initrd", b"inXtrd", Backing::PrivateAnonymous).expect("memory");
        let damaged = BootPayload::from_recipe(&payload.recipe(), &blocks).expect("complete");
        assert!(damaged.verify().expect_err("damaged").to_string().contains("initrd"));
    }

    #[test]
    fn a_part_that_is_not_known_or_not_whole_is_refused_and_never_passed_over() {
        let payload = payload();
        let refused = |change: fn(&mut Vec<PayloadRecipe>, &mut Vec<Arc<RamBlock>>)| {
            let (mut recipe, mut blocks) = (payload.recipe(), payload.blocks());
            change(&mut recipe, &mut blocks);
            let error = BootPayload::from_recipe(&recipe, &blocks).expect_err("something would be lost");
            error.to_string()
        };
        assert!(refused(|recipe, _| recipe[1].role = "ramdisk".to_owned()).contains("a part 'ramdisk'"));
        assert!(refused(|recipe, _| recipe[1].role = "kernel".to_owned()).contains("has already"));
        assert!(refused(|_, blocks| drop(blocks.remove(1))).contains("has no initrd"));
        assert!(refused(|recipe, _| recipe[1].length = 1 << 20).contains("has no initrd"));
        assert!(refused(|recipe, _| drop(recipe.remove(0))).contains("has no kernel"));
    }

    #[test]
    fn a_command_line_that_a_stream_brought_is_no_longer_than_any_other() {
        let payload = payload();
        let mut blocks = payload.blocks();
        let long = vec![b'x'; COMMAND_LINE_MAX];
        blocks[2] = RamBlock::with_contents("boot.cmdline", &long, Backing::PrivateAnonymous).expect("memory");
        let mut recipe = payload.recipe();
        recipe[2].length = 2048;
        let payload = BootPayload::from_recipe(&recipe, &blocks).expect("complete");
        assert!(matches!(payload.cmdline(), Err(BootError::CommandLine(_))));
    }
}
