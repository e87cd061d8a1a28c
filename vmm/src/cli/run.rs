//! `vm run`: boot a guest.

use std::path::PathBuf;

use hw::core::Release;
use hw::i386::cpu_model::{CpuSpec, CpuSpecError};
use vmstate::qom::GlobalProperty;

use super::{
    cpu,
    error::CliError,
    host::{self, HostArgs},
    machine,
    messages::Messages,
    values::Size,
};

/// Boot a guest, in the foreground with its console, or with --detach in the background.
///
/// Without --kernel it is the guest that is built into Tern.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Example:
  vm run
  vm run --kernel vmlinux --initrd initrd.cpio --cmdline \"console=ttyS0\" --cpus 2 --memory 512M --name web
  vm run --detach --name web
  vm run --config vm.toml --memory 1G

The exit code is the value that the guest writes to the test-exit port (0xf4), if it does.")]
pub(super) struct Args {
    /// A file of options: in TOML, a key for each long option.
    ///
    /// An option that is given here too wins. docs/vm.toml, in a package /usr/share/doc/tern/vm.toml, shows every key.
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// A kernel: a bzImage, such as /boot/vmlinuz-*, or a 64-bit ELF file with a PVH note or a 64-bit entry.
    #[arg(long, value_name = "FILE")]
    pub(super) kernel: Option<PathBuf>,
    /// An initial RAM disk for the kernel.
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub(super) initrd: Option<PathBuf>,
    /// The kernel's command line; vmm/guest/README.md has the words of the built-in guest.
    #[arg(
        long,
        visible_alias = "append",
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    pub(super) cmdline: String,
    /// The machine; else the default one. "vm machines" lists them.
    #[arg(long, value_name = "TYPE")]
    pub(super) machine: Option<String>,
    /// A release of Tern to which the VM is to be able to go back: "0.1". It gets the machine that was the default there, and
    /// nothing that came later.
    #[arg(long, value_name = "RELEASE")]
    pub(super) compat: Option<Release>,
    /// How many vCPUs.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) cpus: u32,
    /// How much memory, with its unit.
    #[arg(long, value_name = "SIZE", default_value = "256M")]
    pub(super) memory: Size,
    /// The CPU model, with features switched on and off: x86-64-v2,-popcnt,+aes.
    ///
    /// "vm cpu list", or "help" here, has the models. The default is x86-64-v1-1, which runs on every host and moves between all of them;
    /// "vm cpu baseline" finds the best model that two hosts share; "host" ties the VM to hosts like this one.
    #[arg(long, value_name = "MODEL[,+FEATURE|-FEATURE]...", value_parser = cpu_or_help)]
    pub(super) cpu: Option<String>,
    /// Set a property of all objects of a type: "--global pvpanic.events=3". May be repeated; the last
    /// one wins. What is set so travels with the VM.
    #[arg(long, value_name = "TYPE.PROPERTY=VALUE")]
    pub(super) global: Vec<GlobalProperty>,
    /// The accelerator.
    #[arg(long, value_name = "NAME", default_value = "kvm")]
    pub(super) accel: String,
    #[command(flatten)]
    host: HostArgs,
}

/// A model as it stands there, once it is known to be one.
fn cpu_or_help(text: &str) -> Result<String, CpuSpecError> {
    if !matches!(text, "help" | "?") {
        text.parse::<CpuSpec>()?;
    }
    Ok(text.to_owned())
}

pub(super) fn run(args: &Args, messages: Messages) -> Result<u8, CliError> {
    if matches!(args.cpu.as_deref(), Some("help" | "?")) {
        return cpu::help(&args.accel, messages);
    }
    host::hold(&args.host, messages, |foreground| machine::boot(args, foreground))
}
