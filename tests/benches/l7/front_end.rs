//! Podway's front-end as a process of its own.
use std::fs;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, ensure};
use lb_tests::bench::l7::rules;
use lb_userspace::agent;
use lb_userspace::l7::serve::{
    BackendService, Certificate, Certificates, Endpoint, FrontEnd, Listener, Route, Scheme, Settings, Site,
    Snapshot,
};
use lb_userspace::l7::{HostPattern, HostRule, NormalPath, PathPattern, PathRule, UrlMap};

/// Serves the rules with one thread until standard input ends. Without a log what the libraries tell would go to nobody
/// by a longer way than an agent's.
pub(crate) fn serve(
    http: SocketAddr,
    https: SocketAddr,
    upstream: SocketAddr,
    certificate: &Path,
    key: &Path,
) -> Result<()> {
    agent::start_log();
    let site = Arc::new(Site { name: "bench".into(), url_map: url_map(upstream)?, counters: Arc::default() });
    let certificate = Certificate::parse(&read(certificate)?, &read(key)?)?;
    let secure = Scheme::Https(Arc::new(Certificates::new(&[certificate])?));
    let listeners = [(http, Scheme::Http), (https, secure)]
        .map(|(place, scheme)| (place, Listener { scheme, proxied: None, site: Arc::clone(&site) }));
    let front_end = FrontEnd::start(Settings { threads: 1, ..Settings::default() })?;
    let faults = front_end.swap(Arc::new(Snapshot { listeners: listeners.into() }));
    ensure!(faults.is_empty(), "cannot listen: {faults:?}");
    std::io::stdin().read_to_end(&mut Vec::new()).context("cannot wait for the end of the input")?;
    Ok(())
}

fn url_map(upstream: SocketAddr) -> Result<UrlMap<Route>> {
    let route = Route::to(BackendService::new("upstream", vec![Arc::new(Endpoint::new(upstream, 1))]));
    let rules = rules::all().map(|(host, path)| {
        let path = NormalPath::of(&path).map_err(|fault| anyhow!("{path}: {fault}"))?;
        let paths = vec![PathRule { pattern: PathPattern::below(&path), target: route.clone() }];
        Ok(HostRule { host: HostPattern::Exact(host.into()), paths, default: None })
    });
    Ok(UrlMap::new(rules.collect::<Result<_>>()?, None))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
