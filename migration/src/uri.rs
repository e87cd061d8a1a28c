//! Where a transfer goes to or comes from, as users write it: `tcp:HOST:PORT`, `unix:PATH`, `file:PATH`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// An endpoint of a transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Uri {
    /// A TCP connection. `port` 0 lets a listener take any free one.
    Tcp {
        /// A name or an address; an IPv6 address is written in brackets and held without them.
        host: String,
        /// The port.
        port: u16,
    },
    /// A unix stream socket in the file system.
    Unix(PathBuf),
    /// A snapshot file.
    File(PathBuf),
}

/// Text that names no endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} names no endpoint: {because}; wanted is tcp:HOST:PORT, unix:PATH or file:PATH")]
pub struct ParseUriError {
    text: String,
    /// What is wrong with it, as a clause.
    pub because: &'static str,
}

impl FromStr for Uri {
    type Err = ParseUriError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = |because| ParseUriError {
            text: text.to_owned(),
            because,
        };
        match text.split_once(':') {
            Some(("tcp", rest)) => parse_tcp(rest).map_err(refuse),
            Some(("unix" | "file", "")) => Err(refuse("the path is missing")),
            Some(("unix", path)) => Ok(Self::Unix(path.into())),
            Some(("file", path)) => Ok(Self::File(path.into())),
            Some(_) => Err(refuse("this kind of endpoint is unknown")),
            None => Err(refuse("it does not say which kind it is")),
        }
    }
}

fn parse_tcp(text: &str) -> Result<Uri, &'static str> {
    let (host, port) = text.rsplit_once(':').ok_or("the port is missing")?;
    let host = match host.strip_prefix('[') {
        Some(open) => open
            .strip_suffix(']')
            .ok_or("the bracket of the address is not closed")?,
        None if host.contains(':') => return Err("an IPv6 address goes into brackets, as in tcp:[::1]:4444"),
        None => host,
    };
    if host.is_empty() {
        return Err("the host is missing");
    }
    // `parse` alone would take "+80".
    let port = port
        .bytes()
        .all(|digit| digit.is_ascii_digit())
        .then(|| port.parse().ok())
        .flatten()
        .ok_or("the port is no number from 0 to 65535")?;
    Ok(Uri::Tcp {
        host: host.to_owned(),
        port,
    })
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp:{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Uri {
        Uri::Tcp {
            host: host.into(),
            port,
        }
    }

    #[test]
    fn every_kind_reads_back_from_its_own_text() {
        for (text, uri) in [
            ("tcp:localhost:4444", tcp("localhost", 4444)),
            ("tcp:127.0.0.1:0", tcp("127.0.0.1", 0)),
            ("tcp:[::1]:65535", tcp("::1", 65535)),
            ("unix:/run/a:b.sock", Uri::Unix("/run/a:b.sock".into())),
            ("file:relative.tern", Uri::File("relative.tern".into())),
        ] {
            assert_eq!(text.parse(), Ok(uri.clone()));
            assert_eq!(uri.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_endpoint_is_refused_with_the_reason_and_the_forms() {
        for (text, reason) in [
            ("", "which kind"),
            ("host", "which kind"),
            ("rdma:host:1", "unknown"),
            ("tcp:host", "port is missing"),
            ("tcp::1", "host is missing"),
            ("tcp:host:", "no number"),
            ("tcp:host:+80", "no number"),
            ("tcp:host:65536", "no number"),
            ("tcp:::1:80", "brackets"),
            ("tcp:[::1:80", "not closed"),
            ("unix:", "path is missing"),
        ] {
            let error = text.parse::<Uri>().expect_err(text).to_string();
            assert!(error.contains(reason) && error.contains("unix:PATH"), "{text}: {error}");
        }
    }
}
