//! Objects that have been given another place in the tree since something was saved.

/// A move: what is at `now` was at `formerly` in earlier versions, with all that is below it.
///
/// A machine keeps its moves for as long as it loads what was saved before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// The canonical path that the object has here.
    pub now: &'static str,
    /// The one that it had.
    pub formerly: &'static str,
}

impl Move {
    /// Where an object is now that was at `path`, if it was moved by this.
    fn apply(&self, path: &str) -> Option<String> {
        let below = path.strip_prefix(self.formerly)?;
        (below.is_empty() || below.starts_with('/')).then(|| format!("{}{below}", self.now))
    }
}

/// Where an object may be now that was at `path`: after one move, after another one of that, and so on. None is followed
/// twice.
pub fn whereabouts<'a>(path: &str, moves: &'a [Move]) -> impl Iterator<Item = String> + 'a {
    let mut left: Vec<_> = moves.iter().collect();
    let mut path = path.to_owned();
    std::iter::from_fn(move || {
        let (position, moved) = left
            .iter()
            .enumerate()
            .find_map(|(position, step)| Some((position, step.apply(&path)?)))?;
        left.remove(position);
        path.clone_from(&moved);
        Some(moved)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOVES: [Move; 3] = [
        Move {
            now: "/machine/serial0",
            formerly: "/machine/uart",
        },
        Move {
            now: "/machine/isa/serial0",
            formerly: "/machine/serial0",
        },
        Move {
            now: "/machine/uart",
            formerly: "/machine/isa/serial0",
        },
    ];

    #[test]
    fn moves_are_followed_one_after_the_other_and_none_twice() {
        let places: Vec<_> = whereabouts("/machine/uart/fifo", &MOVES).collect();
        assert_eq!(
            places,
            [
                "/machine/serial0/fifo",
                "/machine/isa/serial0/fifo",
                "/machine/uart/fifo"
            ]
        );
        assert_eq!(whereabouts("/machine/uart1", &MOVES).count(), 0);
    }
}
