//! The flags of the front-end.
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::attach::Cidr;
use crate::l7::serve::{Limits, Prefix, ReasonHeader, Settings};

use super::affinity_key;
use super::trace_options::TraceOptions;

/// How Ingresses are served.
#[derive(Args, Clone, Debug)]
pub struct FrontEndOptions {
    /// Threads that serve Ingresses; 0 is one for each core.
    #[arg(long, default_value_t = 0)]
    pub front_end_threads: usize,
    /// Seconds that requests to Ingresses may go on when the agent stops.
    #[arg(long, default_value_t = 25)]
    pub front_end_drain_seconds: u32,
    /// Clients whose `X-Forwarded-*`, `Forwarded` and `X-Request-Id` are believed.
    #[arg(long, value_delimiter = ',')]
    pub trusted_proxies: Vec<Cidr>,
    /// Peers that may pass connections on with a PROXY header, where an Ingress has `podway.io/proxy-protocol`.
    #[arg(long, value_delimiter = ',')]
    pub proxy_protocol_from: Vec<Cidr>,
    /// Do not say in `x-podway-reason` why the front-end itself answers.
    #[arg(long)]
    pub no_reason_header: bool,
    /// File of 32 bytes that signs affinity cookies, the same on all nodes; without it each node has its own.
    #[arg(long)]
    pub affinity_key_file: Option<PathBuf>,
    /// File to which the requests that BackendConfigs want logged are appended, a line of JSON each.
    #[arg(long)]
    pub access_log: Option<PathBuf>,
    /// How requests are traced.
    #[command(flatten)]
    pub traces: TraceOptions,
}

impl FrontEndOptions {
    /// What the front-end is told.
    pub(super) fn settings(&self, run_dir: &Path, node_name: &str) -> Result<Settings> {
        let prefixes = |all: &[Cidr]| {
            all.iter().map(|Cidr(address, bits)| Prefix { address: *address, length_bits: *bits }).collect()
        };
        let open = |path: &PathBuf| {
            let log = std::fs::OpenOptions::new().create(true).append(true).open(path);
            log.with_context(|| format!("cannot open the access log {}", path.display()))
        };
        let access_log = self.access_log.as_ref().map(open).transpose()?;
        Ok(Settings {
            threads: self.front_end_threads,
            limits: Limits::default(),
            trusted_proxies: prefixes(&self.trusted_proxies),
            proxy_protocol_from: prefixes(&self.proxy_protocol_from),
            reason_header: if self.no_reason_header { ReasonHeader::Withheld } else { ReasonHeader::Sent },
            affinity_key: affinity_key::read(self.affinity_key_file.as_deref(), run_dir)?,
            access_log: access_log.map(|file| Box::new(file) as _),
            traces: self.traces.settings(node_name),
        })
    }
}
