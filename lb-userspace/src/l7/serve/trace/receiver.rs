//! Where spans are sent.
use std::str::FromStr;

use http::Uri;

/// The port of OTLP over HTTP, where none is named.
const PORT: u16 = 4318;
/// The path for traces, below the one that is named.
const PATH: &str = "/v1/traces";

/// A receiver of OTLP over HTTP, by its URL: as <http://collector.example:4318>, to which `/v1/traces` is appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtlpReceiver {
    /// A name or an address.
    pub(super) host: String,
    pub(super) port: u16,
    /// What its requests name as their host.
    pub(super) authority: String,
    pub(super) path: String,
}

impl FromStr for OtlpReceiver {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let cannot = |why: &str| format!("cannot send traces to {text:?}: {why}");
        let uri: Uri = text.parse().map_err(|_| cannot("it is no URL; give one as http://127.0.0.1:4318"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err(cannot(
                    "only http is spoken; name a collector of the node or the cluster, which may speak TLS",
                ));
            }
            _ => return Err(cannot("it does not begin with http://")),
        }
        if uri.query().is_some() {
            return Err(cannot("it has a query; take that away"));
        }
        let authority = uri.authority().ok_or_else(|| cannot("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(cannot("it has credentials, which are not sent; take them away"));
        }
        let host = authority.host();
        let port = match authority.port() {
            Some(port) => port.as_u16(),
            None if authority.as_str() == host => PORT,
            None => return Err(cannot("its port is not a number from 0 to 65535")),
        };
        let base = uri.path().trim_end_matches('/');
        let path = if base.ends_with(PATH) { base.to_owned() } else { format!("{base}{PATH}") };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        Ok(Self { host: bare.to_owned(), port, authority: format!("{host}:{port}"), path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (String, u16, String, String) {
        let OtlpReceiver { host, port, authority, path } = text.parse().expect("a receiver");
        (host, port, authority, path)
    }

    #[test]
    fn a_url_is_taken_as_the_base_of_the_path_for_traces() {
        let told = |host: &str, port, authority: &str, path: &str| {
            (host.to_owned(), port, authority.to_owned(), path.to_owned())
        };
        let expected = told("192.0.2.7", 4318, "192.0.2.7:4318", "/v1/traces");
        assert_eq!(read("http://192.0.2.7"), expected);
        assert_eq!(read("http://192.0.2.7:4318/"), expected);
        assert_eq!(read("http://192.0.2.7:4318/v1/traces"), expected);
        assert_eq!(
            read("http://collector.example:80/otlp/"),
            told("collector.example", 80, "collector.example:80", "/otlp/v1/traces")
        );
        assert_eq!(
            read("http://[2001:db8::1]:4319"),
            told("2001:db8::1", 4319, "[2001:db8::1]:4319", "/v1/traces")
        );
    }

    #[test]
    fn what_cannot_be_sent_to_is_refused_with_its_remedy() {
        for (text, why) in [
            ("collector.example:4318", "http://"),
            ("https://collector.example", "only http is spoken"),
            ("grpc://collector.example", "does not begin with http://"),
            ("http://", "no URL"),
            ("http://a b", "no URL"),
            ("http://user:word@collector.example", "credentials"),
            ("http://collector.example/?key=1", "query"),
            ("http://collector.example:99999", "port"),
        ] {
            let error = text.parse::<OtlpReceiver>().expect_err("no receiver");
            assert!(error.contains(why) && error.starts_with("cannot send traces to "), "{text}: {error}");
        }
    }
}
