//! Making the VMs of `vm run`, `vm restore` and `vm receive`: the one place where the command line meets the VM itself.

use std::{path::Path, sync::Arc};

use serde_json::Value;

use super::{error::CliError, host::Foreground, receive, restore, run};
use crate::control::Control;

fn nothing_yet<T>() -> Result<T, CliError> {
    Err(CliError::Start("this vm was built without an accelerator".into()))
}

/// A VM that has booted and runs.
pub(super) fn boot(_args: &run::Args, _foreground: &Foreground) -> Result<Arc<dyn Control>, CliError> {
    nothing_yet()
}

/// A VM that runs on from a snapshot.
pub(super) fn restore(_args: &restore::Args, _foreground: &Foreground) -> Result<Arc<dyn Control>, CliError> {
    nothing_yet()
}

/// A VM that waits for its guest; it does not listen yet.
pub(super) fn receiver(_args: &receive::Args, _foreground: &Foreground) -> Result<Arc<dyn Control>, CliError> {
    nothing_yet()
}

/// What a snapshot file holds.
pub(super) fn describe_snapshot(_path: &Path) -> Result<Value, CliError> {
    nothing_yet()
}
