//! What the compiler tells the author of an object or state type who left something undecided.

#[test]
fn what_an_author_has_not_decided_does_not_compile() {
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
