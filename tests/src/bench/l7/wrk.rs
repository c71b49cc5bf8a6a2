//! wrk: HTTP/1.1, as many requests as the proxy takes.
use anyhow::{Context as _, Result, bail};

use super::rules::{HOSTS, PATHS};

/// Whether a connection carries one request or all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connections {
    /// All of them.
    Kept,
    /// One: the client asks for its end.
    OneRequestEach,
}

/// A script that asks for `file` below every rule in turn.
#[must_use]
pub fn script(file: &str, connections: Connections) -> String {
    let close = match connections {
        Connections::Kept => "",
        Connections::OneRequestEach => ", Connection = \"close\"",
    };
    format!(
        "local requests, last = {{}}, 0\n\
         function init()\n\
         for host = 0, {} do for part = 0, {} do\n\
         local headers = {{ Host = \"site-\" .. host .. \".example\"{close} }}\n\
         requests[#requests + 1] = wrk.format(\"GET\", \"/part-\" .. part .. \"/{file}\", headers)\n\
         end end\n\
         end\n\
         function request()\n\
         last = last % #requests + 1\n\
         return requests[last]\n\
         end\n",
        HOSTS - 1,
        PATHS - 1
    )
}

/// Requests that were answered, from what wrk prints.
///
/// # Errors
/// An answer was neither 2xx nor 3xx, a connection failed, none was answered, or this is not wrk's text.
pub fn answered(output: &str) -> Result<u64> {
    for line in output.lines().map(str::trim) {
        if line.starts_with("Non-2xx or 3xx responses:") || line.starts_with("Socket errors:") {
            bail!("not every request was answered as it should be: {line}");
        }
    }
    let count = output.lines().find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok());
    count.filter(|count| *count > 0).with_context(|| format!("wrk told of no requests: {output}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "Running 1s test @ http://127.0.0.1:8080/\n  1 threads and 32 connections\n  \
                          Thread Stats   Avg      Stdev     Max   +/- Stdev\n    \
                          Latency     1.23ms  321.00us   9.87ms   91.00%\n  \
                          25921 requests in 1.00s, 6.03MB read\n";

    #[test]
    fn answers_are_counted() {
        assert_eq!(answered(OUTPUT).unwrap(), 25_921);
    }

    #[test]
    fn a_wrong_answer_is_a_failure() {
        let error = answered(&format!("{OUTPUT}  Non-2xx or 3xx responses: 3\n")).unwrap_err().to_string();
        assert_eq!(error, "not every request was answered as it should be: Non-2xx or 3xx responses: 3");
    }

    #[test]
    fn a_lost_connection_is_a_failure() {
        let line = "Socket errors: connect 0, read 2, write 0, timeout 0";
        let error = answered(&format!("{OUTPUT}  {line}\n")).unwrap_err().to_string();
        assert_eq!(error, format!("not every request was answered as it should be: {line}"));
    }

    #[test]
    fn no_answer_at_all_is_a_failure() {
        let error = answered("  0 requests in 1.00s, 0.00B read\n").unwrap_err().to_string();
        assert!(error.starts_with("wrk told of no requests"), "{error}");
    }

    #[test]
    fn connections_are_closed_where_each_carries_one_request() {
        assert!(script("small", Connections::OneRequestEach).contains("Connection = \"close\""));
        assert!(!script("small", Connections::Kept).contains("Connection"));
    }

    #[test]
    fn the_script_asks_all_rules() {
        let script = script("large", Connections::Kept);
        assert!(script.contains("for host = 0, 99 do for part = 0, 9 do\n"), "{script}");
        assert!(script.contains("\"/part-\" .. part .. \"/large\""), "{script}");
    }
}
