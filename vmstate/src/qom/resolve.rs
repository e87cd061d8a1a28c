//! From a path to an object.

use std::sync::Arc;

use super::Object;

/// Why a path leads to no object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// Nothing is there.
    #[error("there is no {} at '{path}'; paths begin with '/', or are the end of one that fits one object alone",
        .of_type.unwrap_or("object"))]
    NotFound {
        /// The path given.
        path: String,
        /// The type that was to be found.
        of_type: Option<&'static str>,
    },
    /// The end of a path fits several.
    #[error("'{path}' fits several objects; say which: {}", .candidates.join(", "))]
    Ambiguous {
        /// The path given.
        path: String,
        /// The canonical paths of all that it fits, sorted.
        candidates: Vec<String>,
    },
}

/// Paths.
impl Object {
    /// The object at `path`, which is absolute (`/machine/serial0`) or relative to this object (`serial0`). A link leads
    /// on to its target, as a child does.
    #[must_use]
    pub fn resolve(&self, path: &str) -> Option<Arc<Object>> {
        let (mut at, below) = match path.strip_prefix('/') {
            Some(below) => (self.root()?, below),
            None => (self.this()?, path),
        };
        if below.is_empty() {
            return Some(at);
        }
        for name in below.split('/') {
            at = at.link(name)?;
        }
        Some(at)
    }

    /// The object that a user means by `path`: an absolute path, or a partial one, which is the end of the canonical
    /// path of one object of the tree. With `of_type`, only such objects count.
    ///
    /// # Errors
    ///
    /// [`ResolveError`]; where several objects fit, it names them.
    pub fn find(&self, path: &str, of_type: Option<&'static str>) -> Result<Arc<Object>, ResolveError> {
        let fits = |object: &Object| of_type.is_none_or(|wanted| object.is_a(wanted));
        let not_found = || ResolveError::NotFound {
            path: path.to_owned(),
            of_type,
        };
        if path.starts_with('/') {
            return self.resolve(path).filter(|object| fits(object)).ok_or_else(not_found);
        }
        let end = format!("/{path}");
        let mut found = Vec::new();
        if let Some(root) = self.root().filter(|_| !path.is_empty()) {
            root.walk(|object| {
                if fits(object) && object.path().ends_with(&end) {
                    found.push(Arc::clone(object));
                }
            });
        }
        match found.len() {
            0 => Err(not_found()),
            1 => Ok(found.swap_remove(0)),
            _ => Err(ResolveError::Ambiguous {
                path: path.to_owned(),
                candidates: found.iter().map(|object| object.path()).collect(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qom::{StateDecl, TypeInfo, TypeTable};

    static CARD: TypeInfo = TypeInfo::new("card", StateDecl::Stateless, "here");

    /// Two folders with a card of the same name in each, and a folder of that name.
    fn root() -> Arc<Object> {
        let types = TypeTable::build([&CARD]).expect("it fits");
        let new = |name| types.new_object(name).expect("concrete");
        let root = new("container");
        for (parent, name, of) in [
            ("/", "a", "container"),
            ("/a", "net", "card"),
            ("/", "b", "container"),
            ("/b", "net", "card"),
            ("/b", "disk", "card"),
            ("/b/disk", "port", "container"),
            ("/", "xnet", "card"),
        ] {
            let parent = root.resolve(parent).expect("named before");
            parent.add_child(name, new(of)).expect("free");
        }
        root
    }

    fn found(root: &Object, path: &str, of_type: Option<&'static str>) -> Result<String, String> {
        root.find(path, of_type)
            .map(|object| object.path())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_partial_path_is_the_end_of_one_objects_path() {
        let root = root();
        for (path, object) in [
            ("disk", "/b/disk"),
            ("b/net", "/b/net"),
            ("disk/port", "/b/disk/port"),
            ("/a/net", "/a/net"),
        ] {
            assert_eq!(found(&root, path, None).as_deref(), Ok(object));
        }
        let below = root.resolve("/b/disk/port").expect("there");
        assert_eq!(
            found(&below, "xnet", None).as_deref(),
            Ok("/xnet"),
            "from anywhere in the tree"
        );
        for nothing in ["isk", "", "b/xnet", "net/", "/net"] {
            assert!(
                matches!(root.find(nothing, None), Err(ResolveError::NotFound { .. })),
                "{nothing}"
            );
        }
    }

    #[test]
    fn a_partial_path_that_fits_two_objects_is_refused_with_both_candidates() {
        assert_eq!(
            found(&root(), "net", None),
            Err("'net' fits several objects; say which: /a/net, /b/net".to_owned())
        );
    }

    #[test]
    fn a_partial_path_counts_only_objects_of_the_type_asked_for() {
        let root = root();
        let net = root.resolve("/a/net").expect("there");
        net.add_child("b", root.types().new_object("container").expect("concrete"))
            .expect("free");
        assert_eq!(found(&root, "net/b", Some("container")).as_deref(), Ok("/a/net/b"));
        assert_eq!(
            found(&root, "disk", Some("container")),
            Err("there is no container at 'disk'; paths begin with '/', or are the end of one that fits one object alone".to_owned())
        );
        assert!(root.find("/b/disk", Some("container")).is_err());
    }

    #[test]
    fn a_path_leads_on_through_links() {
        let root = root();
        let a = root.resolve("/a").expect("there");
        a.add_const_link("other", "", &root.resolve("/b").expect("there"))
            .expect("free");
        let disk = root.resolve("/a/other/disk").expect("through the link");
        assert_eq!(disk.path(), "/b/disk");
    }
}
