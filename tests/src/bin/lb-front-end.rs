//! `lb-front-end`: the front-end alone, in a process of its own. Prints where it listens, and serves until standard
//! input ends.
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use lb_userspace::l7::serve::{
    BackendService, Certificate, Certificates, Endpoint, FrontEnd, Listener, Protocol, Route, Scheme,
    Settings, Site, Snapshot,
};
use lb_userspace::l7::{HostPattern, HostRule, UrlMap};

/// Any port.
const PLACE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Large bodies take their time in a build for tests.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(600);

#[derive(Parser)]
#[command(about = "The front-end alone: all requests to one endpoint")]
struct Cli {
    /// Where requests go
    #[arg(long)]
    endpoint: SocketAddr,
    /// By TLS, with a certificate that nobody knows
    #[arg(long)]
    tls: bool,
    /// Where that certificate is written, as PEM
    #[arg(long, requires = "tls")]
    certificate: Option<PathBuf>,
    /// Speak HTTP/2 to the endpoint, in the clear
    #[arg(long)]
    h2c: bool,
    /// Threads that serve
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let mut service = BackendService::new("shop/web:80", vec![Arc::new(Endpoint::new(cli.endpoint, 1))]);
    service.request_timeout = REQUEST_TIMEOUT;
    if cli.h2c {
        service.protocol = Protocol::H2c;
    }
    let rule = HostRule { host: HostPattern::Any, paths: Vec::new(), default: Some(Route::to(service)) };
    let site =
        Site { name: "shop/web".into(), url_map: UrlMap::new(vec![rule], None), counters: Arc::default() };
    let scheme = if cli.tls { https(cli.certificate.as_deref())? } else { Scheme::Http };
    let listener = Listener { scheme, proxied: None, site: Arc::new(site) };
    let front_end = FrontEnd::start(Settings { threads: cli.threads, ..Settings::default() })?;
    let faults = front_end.swap(Arc::new(Snapshot { listeners: [(PLACE, listener)].into() }));
    ensure!(faults.is_empty(), "cannot listen: {faults:?}");
    println!("{}", front_end.addresses().get(&PLACE).context("no listener")?);
    std::io::stdin().read_to_end(&mut Vec::new()).context("cannot wait for the end of the input")?;
    Ok(())
}

fn https(certificate_to: Option<&Path>) -> Result<Scheme> {
    let made = rcgen::generate_simple_self_signed(["shop.example".to_owned()])?;
    let key = made.signing_key.serialize_pem();
    if let Some(path) = certificate_to {
        std::fs::write(path, made.cert.pem()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let certificate = Certificate::parse(made.cert.pem().as_bytes(), key.as_bytes())?;
    Ok(Scheme::Https(Arc::new(Certificates::new(&[certificate])?)))
}
