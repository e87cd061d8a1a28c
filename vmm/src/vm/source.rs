//! The VM as a transfer reads it.

use std::ops::Range;
use std::sync::Arc;

use hw::memory::{DirtyClient, ListenerError, RamBlock};
use migration::vm::{Identity, Inventory, Recipe, SourceVm, VmError};
use vmstate::qom::sections::{SectionSchema, peek_tree, save_tree, tree_schemas};
use vmstate::state::Section;

use super::lifecycle::LifecycleError;
use super::{Vm, describe};

fn log_error(operation: &'static str) -> impl Fn(ListenerError) -> VmError {
    move |error| VmError::Accelerator {
        operation,
        because: error.to_string(),
    }
}

pub(super) fn refused(operation: &'static str) -> impl Fn(LifecycleError) -> VmError {
    move |error| match error {
        LifecycleError::Accelerator(error) => VmError::Accelerator {
            operation,
            because: error.to_string(),
        },
        other => VmError::Refused {
            operation,
            because: other.to_string(),
        },
    }
}

impl SourceVm for Vm {
    fn identity(&self) -> Identity {
        self.identity.clone()
    }

    fn recipe(&self) -> Recipe {
        self.recipe_now()
    }

    fn inventory(&self) -> Inventory {
        describe::inventory(self.board.root(), &self.accelerator.types())
    }

    fn schemas(&self) -> Vec<SectionSchema> {
        tree_schemas(self.board.root())
    }

    fn ram(&self) -> Vec<Arc<RamBlock>> {
        self.ram.clone()
    }

    fn dirty_log_start(&self) -> Result<(), VmError> {
        let started = self.board.memory().log_global_start(DirtyClient::Migration);
        started.map_err(log_error("log the guest's writes"))
    }

    fn dirty_log_sync(&self) -> Result<(), VmError> {
        self.board
            .memory()
            .log_sync()
            .map_err(log_error("read the log of the guest's writes"))
    }

    fn dirty_log_clear(&self, block: &RamBlock, range: Range<u64>) -> Result<(), VmError> {
        let cleared = self.board.memory().log_clear(block, range);
        cleared.map_err(log_error("clear the log of the guest's writes"))
    }

    fn dirty_log_stop(&self) {
        self.board.memory().log_global_stop(DirtyClient::Migration);
    }

    fn pause(&self) -> Result<(), VmError> {
        self.hold().map_err(refused("pause"))
    }

    fn sections(&self) -> Result<Vec<Section>, VmError> {
        save_tree(self.board.root()).map_err(|error| VmError::State {
            path: "/".to_owned(),
            because: error.to_string(),
        })
    }

    fn peek(&self) -> Vec<Section> {
        peek_tree(self.board.root(), |object| !self.is_held_by_accelerator(object))
    }

    fn resume(&self) -> Result<(), VmError> {
        self.release().map_err(refused("resume"))
    }

    fn handed_over(&self, _to: &str) {
        self.give_up();
    }

    fn undecided(&self) {
        self.keep_undecided();
    }
}
