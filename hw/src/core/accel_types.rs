//! Which concrete types stand for the abstract ones under an accelerator.

/// The subclasses by which an accelerator fills the abstract types of a PC.
///
/// Recipe, inventory and sections name the abstract types, so that a guest can move between accelerators and their
/// versions; only the builder of a machine looks here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccelTypes {
    /// A subclass of `x86-cpu`.
    pub cpu: &'static str,
    /// A subclass of `apic-common`.
    pub apic: &'static str,
    /// A subclass of `ioapic-common`.
    pub ioapic: &'static str,
    /// A subclass of `i8259-common`.
    pub i8259: &'static str,
    /// A subclass of `i8254-common`.
    pub i8254: &'static str,
    /// A subclass of `guest-clock`.
    pub clock: &'static str,
}
