//! Cutting a line into words.

/// A word of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    /// Where it begins in the line, in bytes; its quotation mark included.
    pub(super) at: usize,
    /// What it says.
    pub(super) text: String,
}

/// The words of a line, which are separated by white space; what is between quotation marks is one word. The last one may lack its
/// closing mark.
pub(super) fn words(line: &str) -> Vec<Word> {
    let mut words = Vec::new();
    let (mut word, mut quoted) = (None::<Word>, false);
    for (at, character) in line.char_indices() {
        if character.is_whitespace() && !quoted {
            words.extend(word.take());
            continue;
        }
        let word = word.get_or_insert_with(|| Word {
            at,
            text: String::new(),
        });
        if character == '"' {
            quoted = !quoted;
        } else {
            word.text.push(character);
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_told_apart_by_white_space_outside_of_quotation_marks() {
        let texts = |line: &str| -> Vec<String> { words(line).into_iter().map(|word| word.text).collect() };
        assert_eq!(texts("  info \t status "), ["info", "status"]);
        assert_eq!(texts("migrate \"file:/a b\"c"), ["migrate", "file:/a bc"]);
        assert_eq!(texts("x \""), ["x", ""]);
        assert_eq!(texts(""), [""; 0]);
        assert_eq!(words("é \"b")[1].at, 3, "in bytes, with the mark");
    }
}
