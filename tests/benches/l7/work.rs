//! What clients ask for, and what it costs the proxy.
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use lb_tests::bench::data::quantile;
use lb_tests::bench::l7::rules::{PATHS, host, path};
use lb_tests::bench::l7::{h2load, wrk};

use super::proxy::Proxy;
use super::stand::Stand;
use super::upstream::SMALL;

/// Connections of a load generator, where nothing else is said.
const CONNECTIONS: u64 = 32;
/// Connections over HTTP/2, and requests that each has at a time.
const HTTP_2_CONNECTIONS: u64 = 8;
const STREAMS: u64 = 8;
/// Connections at a fixed rate, and requests of each in a second: 3,000 in all.
const FIXED_RATE_CONNECTIONS: u64 = 50;
const RATE_PER_CONNECTION: u64 = 60;

/// One kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    Small,
    Large,
    ConnectionEach,
    FixedRate,
    TlsSmall,
    TlsHttp2,
    TlsConnectionEach,
}

/// How long a load lasts: in seconds, or in requests over HTTP/2.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Amount {
    pub(crate) seconds: u64,
    pub(crate) requests: u64,
}

/// What came of a load.
pub(crate) struct Measured {
    /// CPU time of the proxy for a request.
    pub(crate) cpu_us: f64,
    /// p50 and p99, at a fixed rate.
    pub(crate) latency_us: Option<[f64; 2]>,
}

impl Work {
    pub(crate) const ALL: [Self; 7] = [
        Self::Small,
        Self::Large,
        Self::ConnectionEach,
        Self::FixedRate,
        Self::TlsSmall,
        Self::TlsHttp2,
        Self::TlsConnectionEach,
    ];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Small => "HTTP/1.1, 100 bytes",
            Self::Large => "HTTP/1.1, 64 KiB",
            Self::ConnectionEach => "HTTP/1.1, a connection each",
            Self::FixedRate => "HTTP/1.1, 3,000 requests/s",
            Self::TlsSmall => "TLS, HTTP/1.1, 100 bytes",
            Self::TlsHttp2 => "TLS, HTTP/2, 100 bytes",
            Self::TlsConnectionEach => "TLS, HTTP/1.1, a connection each",
        }
    }

    /// Puts the load on a proxy.
    ///
    /// # Errors
    /// A request was not answered with 200, or not by the upstream.
    pub(crate) fn run(self, proxy: &Proxy, stand: &Stand, amount: Amount) -> Result<Measured> {
        let (before, before_ms) = (stand.upstream.answered(), proxy.usage.threads_cpu_ms()?);
        let log = stand.path("latencies");
        let told = match self {
            Self::Small | Self::Large | Self::ConnectionEach => {
                self.by_wrk(&format!("http://{}", proxy.http), stand, amount)?
            }
            Self::TlsSmall | Self::TlsConnectionEach => {
                self.by_wrk(&format!("https://{}", proxy.https), stand, amount)?
            }
            Self::FixedRate => {
                // It adds to what is there.
                fs::write(&log, "").with_context(|| format!("cannot empty {}", log.display()))?;
                let total = FIXED_RATE_CONNECTIONS * RATE_PER_CONNECTION * amount.seconds;
                let mut command = h2load("http", proxy.http, FIXED_RATE_CONNECTIONS, total);
                command.args(["--h1", "--rps", &RATE_PER_CONNECTION.to_string(), "--log-file"]).arg(&log);
                h2load::answered(&output_of(&mut command)?)?
            }
            Self::TlsHttp2 => {
                let mut command = h2load("https", proxy.https, HTTP_2_CONNECTIONS, amount.requests);
                command.args(["--max-concurrent-streams", &STREAMS.to_string()]);
                h2load::answered(&output_of(&mut command)?)?
            }
        };
        let (answered, cpu_ms) =
            (stand.upstream.answered_in_all()? - before, proxy.usage.threads_cpu_ms()? - before_ms);
        // A load generator may end with a request on each connection that it does not count.
        ensure!(
            (told..=told + CONNECTIONS).contains(&answered),
            "clients had {told} answers, the upstream gave {answered}"
        );
        let latency_us = (self == Self::FixedRate).then(|| latencies(&log)).transpose()?;
        Ok(Measured { cpu_us: cpu_ms * 1e3 / answered as f64, latency_us })
    }

    fn by_wrk(self, to: &str, stand: &Stand, amount: Amount) -> Result<u64> {
        let script = match self {
            Self::Large => "large.lua",
            Self::ConnectionEach | Self::TlsConnectionEach => "each.lua",
            _ => "small.lua",
        };
        let mut command = Command::new("wrk");
        command.args(["--threads", "1", "--connections", &CONNECTIONS.to_string()]);
        command.args(["--duration", &format!("{}s", amount.seconds), "--script"]).arg(stand.path(script));
        wrk::answered(&output_of(command.arg(to))?)
    }
}

/// h2load asks one host, for all of its paths in turn.
fn h2load(scheme: &str, to: SocketAddr, connections: u64, requests: u64) -> Command {
    let mut command = Command::new("h2load");
    command.args(["--clients", &connections.to_string(), "--requests", &requests.to_string()]);
    command.args(["--connect-to", &to.to_string(), "--header", &format!(":authority: {}", host(0))]);
    command.args((0..PATHS).map(|part| format!("{scheme}://{}{}{SMALL}", host(0), path(part))));
    command
}

fn latencies(log: &Path) -> Result<[f64; 2]> {
    let text = fs::read_to_string(log).with_context(|| format!("cannot read {}", log.display()))?;
    let times = h2load::latencies_us(&text)?;
    Ok([0.5, 0.99].map(|part| quantile(&times, part)))
}

fn output_of(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {:?}", command.get_program()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{:?} failed ({}): {text}{}",
        command.get_program(),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text)
}
