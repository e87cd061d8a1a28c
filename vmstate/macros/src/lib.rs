//! The derive macros of `vmstate`. Use them through that crate, which documents them where they are re-exported; here
//! are only the entry points.

mod object;
mod vmstate;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// Describes a struct as state.
#[proc_macro_derive(VmState, attributes(vmstate))]
pub fn derive_vm_state(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    vmstate::derive_state(&input)
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}

/// Lets a fieldless enum be a field of a state struct.
#[proc_macro_derive(VmEnum, attributes(vmstate))]
pub fn derive_vm_enum(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    vmstate::derive_enum(&input)
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}

/// Declares a type of the object model.
#[proc_macro_derive(Object, attributes(object, config, runtime, state, derived))]
pub fn derive_object(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    object::derive(&input)
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}
