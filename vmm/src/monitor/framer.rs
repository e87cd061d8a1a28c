//! Cuts a stream of bytes into JSON objects.
//!
//! QMP puts no line around an object: it may span lines, and several may share one. So the end is found by counting
//! brackets outside of strings. Whether what lies between is JSON is the parser's business.

/// An object may be so long at most.
pub(super) const MAX_LENGTH: usize = 64 << 10;

/// Objects and lists may be nested so deep at most.
const MAX_DEPTH: u32 = 64;

/// What the bytes contain.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// One object, from bracket to bracket.
    Object(Vec<u8>),
    /// Bytes that begin no object. Everything up to the end of the line is dropped with them.
    Garbage,
    /// A client that cannot be followed any further.
    Unbearable(&'static str),
}

#[derive(Debug, Default)]
pub(super) struct Framer {
    bytes: Vec<u8>,
    /// How far into `bytes` the object has been looked through.
    scanned: usize,
    depth: u32,
    in_string: bool,
    after_backslash: bool,
    skipping_line: bool,
}

impl Framer {
    /// Adds bytes from the client.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next frame, if the bytes so far hold one.
    pub(super) fn next(&mut self) -> Option<Frame> {
        if self.depth == 0 {
            if let Some(garbage) = self.find_the_beginning() {
                return Some(garbage);
            }
            if self.bytes.is_empty() {
                return None;
            }
        }
        while let Some(&byte) = self.bytes.get(self.scanned) {
            self.scanned += 1;
            if self.scanned > MAX_LENGTH {
                return Some(Frame::Unbearable("the request is longer than 64 KiB"));
            }
            if self.in_string {
                match byte {
                    _ if self.after_backslash && byte != b'\n' => self.after_backslash = false,
                    b'\\' => self.after_backslash = true,
                    b'"' => self.in_string = false,
                    // No string has one. What follows is taken for another request, or the client would never hear anything again.
                    b'\n' => return Some(self.give_up()),
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => {
                    self.depth += 1;
                    if self.depth > MAX_DEPTH {
                        return Some(Frame::Unbearable("the request is nested deeper than 64 levels"));
                    }
                }
                b'}' | b']' => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        let rest = self.bytes.split_off(std::mem::take(&mut self.scanned));
                        return Some(Frame::Object(std::mem::replace(&mut self.bytes, rest)));
                    }
                }
                _ => {}
            }
        }
        None
    }

    /// Drops an object that cannot be one, up to here.
    fn give_up(&mut self) -> Frame {
        let rest = self.bytes.split_off(self.scanned);
        *self = Self {
            bytes: rest,
            ..Self::default()
        };
        Frame::Garbage
    }

    /// Drops what lies before an object; says so if that was more than white space.
    fn find_the_beginning(&mut self) -> Option<Frame> {
        let mut garbage = false;
        let end = self.bytes.iter().position(|&byte| {
            let ends_line = byte == b'\n';
            let counts = !self.skipping_line && !byte.is_ascii_whitespace();
            garbage = counts && byte != b'{';
            self.skipping_line = garbage || (self.skipping_line && !ends_line);
            counts
        });
        // The rest of a line of garbage is skipped like white space, now or when it comes.
        let end = end.map_or(self.bytes.len(), |end| end + usize::from(garbage));
        self.bytes.drain(..end);
        garbage.then_some(Frame::Garbage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames(pieces: &[&[u8]]) -> Vec<Frame> {
        let (mut framer, mut frames) = (Framer::default(), Vec::new());
        for piece in pieces {
            framer.push(piece);
            while let Some(frame) = framer.next() {
                let over = matches!(frame, Frame::Unbearable(_));
                frames.push(frame);
                if over {
                    return frames;
                }
            }
        }
        frames
    }

    fn object(text: &str) -> Frame {
        Frame::Object(text.as_bytes().to_vec())
    }

    #[test]
    fn objects_may_span_lines_and_share_them() {
        assert_eq!(
            frames(&[b" {\"a\":\n1} {\"b\":[{}]}\r\n{", b"}"]),
            [object("{\"a\":\n1}"), object("{\"b\":[{}]}"), object("{}")]
        );
    }

    #[test]
    fn brackets_and_quotes_inside_strings_do_not_count() {
        let text = r#"{"}\"{\\":"]"}"#;
        assert_eq!(frames(&[text.as_bytes()]), [object(text)]);
    }

    #[test]
    fn garbage_costs_its_line_and_nothing_else() {
        assert_eq!(
            frames(&[b"help {\n", b"} {\n{}"]),
            [Frame::Garbage, Frame::Garbage, object("{}")]
        );
        assert_eq!(frames(&[b"he", b"lp\n{}"]), [Frame::Garbage, object("{}")]);
    }

    #[test]
    fn a_line_that_ends_within_a_string_costs_itself_and_nothing_else() {
        assert_eq!(
            frames(&[b"{\"exec\n{}", b"{\"a\\\n{\"b\":[\"\n{}"]),
            [
                Frame::Garbage,
                object("{}"),
                Frame::Garbage,
                Frame::Garbage,
                object("{}")
            ]
        );
    }

    #[test]
    fn what_does_not_end_is_cut_off_at_the_bound() {
        let long = [b"{\"".as_slice(), &[b'x'; MAX_LENGTH]].concat();
        assert!(matches!(frames(&[&long])[..], [Frame::Unbearable(why)] if why.contains("64 KiB")));
        let deep = [b"{\"a\":".as_slice(), &[b'['; 64]].concat();
        assert!(matches!(frames(&[&deep])[..], [Frame::Unbearable(why)] if why.contains("64 levels")));
    }

    proptest! {
        #[test]
        fn how_the_bytes_are_cut_does_not_matter(bytes in proptest::collection::vec(
            prop_oneof![Just(b'{'), Just(b'}'), Just(b'['), Just(b'"'), Just(b'\\'), Just(b'\n'), Just(b' '), any::<u8>()], 0..200,
        )) {
            let singly: Vec<&[u8]> = bytes.chunks(1).collect();
            prop_assert_eq!(frames(&[&bytes]), frames(&singly));
        }
    }
}
