//! A real control plane: etcd and kube-apiserver, from the folder that `KUBEBUILDER_ASSETS` names (as `setup-envtest`
//! fills it), with RBAC, and with Services of both families. No controller runs: a test writes what one would.
use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use kube::Client;
use rustls::pki_types::CertificateDer;
use serde_json::json;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::need;
use crate::netns::Namespace;
use crate::process::Process;

/// Longest wait for the server to come up: it makes its own roles first.
const START_DEADLINE: Duration = Duration::from_secs(120);
/// Between two questions whether it is up.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Of the user to whom all is granted.
const TOKEN: &str = "token-of-the-test";
/// The addresses of Services.
const SERVICE_CIDRS: &str = "10.96.0.0/16,2001:db8:96::/112";
/// Where clients of the cluster find the server: the Service `kubernetes` leads there. Nobody needs to have the address.
const ADVERTISED: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The file of the server's certificate.
const CERTIFICATE_FILE: &str = "server.crt";
/// The names of the server in its certificate: loopback, the one above, and those of the Service `kubernetes`.
const NAMES: [&str; 5] =
    ["127.0.0.1", "192.0.2.1", "10.96.0.1", "kubernetes.default.svc", "kubernetes.default"];

/// Where it runs.
#[derive(Clone, Debug)]
pub enum Place {
    /// On loopback, in the namespace of this process.
    Loopback,
    /// At this address of a network namespace, whose loopback is up.
    Namespace(Namespace, Ipv4Addr),
}

impl Place {
    fn address(&self) -> IpAddr {
        match self {
            Self::Loopback => Ipv4Addr::LOCALHOST.into(),
            Self::Namespace(_, address) => (*address).into(),
        }
    }

    /// A command whose process ends with the thread that has started it, so that none outlives a test that is killed.
    fn command(&self, program: &Path) -> Command {
        let setpriv = Path::new("setpriv");
        let mut command = match self {
            Self::Loopback => Command::new(setpriv),
            Self::Namespace(namespace, _) => namespace.command(setpriv, None),
        };
        command.args(["--pdeathsig", "KILL"]).arg(program);
        command
    }

    /// Ports that nobody has, each different.
    fn free_ports<const N: usize>(&self) -> Result<[u16; N]> {
        let any = SocketAddr::new(self.address(), 0);
        let find = move || -> Result<[u16; N]> {
            let listeners = (0..N).map(|_| TcpListener::bind(any)).collect::<std::io::Result<Vec<_>>>()?;
            let ports = listeners.iter().map(|listener| Ok(listener.local_addr()?.port()));
            let ports = ports.collect::<std::io::Result<Vec<_>>>()?;
            ports.try_into().map_err(|_| anyhow!("another number of ports"))
        };
        match self {
            Self::Loopback => find(),
            Self::Namespace(namespace, _) => namespace.run(find)?,
        }
    }
}

/// The processes and their folder. Dropping it kills them.
#[derive(Debug)]
pub struct ControlPlane {
    assets: PathBuf,
    place: Place,
    port: u16,
    etcd_url: String,
    certificate: CertificateDer<'static>,
    api_server: Option<Process>,
    _etcd: Process,
    dir: TempDir,
}

impl ControlPlane {
    /// Starts both programs; [`ControlPlane::ready`] waits for them.
    ///
    /// # Errors
    /// A program cannot be started, or a file not be written.
    pub fn start(need: &need::Cluster, place: Place) -> Result<Self> {
        let dir = TempDir::with_prefix("podway-control-plane-").context("cannot make a folder")?;
        let [client_port, peer_port, port] = place.free_ports()?;
        let etcd_url = format!("http://{}:{client_port}", place.address());
        let mut etcd = place.command(&need.assets.join("etcd"));
        etcd.arg(format!("--data-dir={}", dir.path().join("etcd").display()));
        etcd.args([
            format!("--listen-client-urls={etcd_url}"),
            format!("--advertise-client-urls={etcd_url}"),
            format!("--listen-peer-urls=http://{}:{peer_port}", place.address()),
            "--unsafe-no-fsync".to_owned(),
        ]);
        let etcd = Process::start(etcd, "etcd")?;
        let certificate = write_secrets(dir.path())?;
        let mut plane = Self {
            assets: need.assets.clone(),
            place,
            port,
            etcd_url,
            certificate,
            api_server: None,
            _etcd: etcd,
            dir,
        };
        let kubeconfig = plane.kubeconfig(TOKEN);
        std::fs::write(plane.administrator(), kubeconfig.to_string())?;
        plane.start_api_server()?;
        Ok(plane)
    }

    /// Starts kube-apiserver, again at the same port.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_api_server(&mut self) -> Result<()> {
        let file = |name: &str| self.dir.path().join(name).display().to_string();
        let mut command = self.place.command(&self.assets.join("kube-apiserver"));
        command.args([
            format!("--etcd-servers={}", self.etcd_url),
            format!("--bind-address={}", self.place.address()),
            format!("--advertise-address={ADVERTISED}"),
            format!("--secure-port={}", self.port),
            format!("--tls-cert-file={}", file(CERTIFICATE_FILE)),
            format!("--tls-private-key-file={}", file("server.key")),
            format!("--token-auth-file={}", file("tokens.csv")),
            "--authorization-mode=RBAC".to_owned(),
            // No controller makes the account that every pod has.
            "--disable-admission-plugins=ServiceAccount".to_owned(),
            format!("--service-cluster-ip-range={SERVICE_CIDRS}"),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", file("accounts.pub")),
            format!("--service-account-signing-key-file={}", file("accounts.key")),
        ]);
        self.api_server = Some(Process::start(command, "kube-apiserver")?);
        Ok(())
    }

    /// Kills kube-apiserver; etcd keeps what it had.
    pub fn kill_api_server(&mut self) {
        self.api_server = None;
    }

    /// Waits until the server says that it is ready.
    ///
    /// # Errors
    /// It does not in time, or has ended; the message holds its log.
    pub async fn ready(&mut self, client: &Client) -> Result<()> {
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            let question = http::Request::get("/readyz").body(Vec::new())?;
            let client = client.clone();
            // A runtime's own threads may be in the server's namespace; who waits for them is not.
            let asked = tokio::spawn(async move { client.request_text(question).await });
            if asked.await.is_ok_and(|answer| answer.is_ok()) {
                return Ok(());
            }
            let process = self.api_server.as_mut().context("kube-apiserver was killed")?;
            let goes_on = process.is_running() && Instant::now() < deadline;
            ensure!(goes_on, "kube-apiserver does not come up; its log:\n{}", process.log());
            sleep(POLL_INTERVAL).await;
        }
    }

    /// How the user to whom all is granted finds the server.
    ///
    /// # Panics
    /// Never: an address and a port make a URL.
    #[must_use]
    pub fn config(&self) -> kube::Config {
        let mut config = kube::Config::new(self.url().parse().expect("a URL"));
        config.auth_info.token = Some(TOKEN.to_owned().into());
        config.root_cert = Some(vec![self.certificate.to_vec()]);
        config
    }

    /// A kubeconfig of whoever has a token.
    #[must_use]
    pub fn kubeconfig(&self, token: &str) -> serde_json::Value {
        let authority = self.authority();
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "bearer"}}],
            "clusters": [{"name": "here", "cluster": {"server": self.url(), "certificate-authority": authority}}],
            "users": [{"name": "bearer", "user": {"token": token}}],
        })
    }

    /// Where the server listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.place.address(), self.port)
    }

    /// The certificate by which the server is known.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Its file.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.dir.path().join(CERTIFICATE_FILE)
    }

    /// The kubeconfig's file of the user to whom all is granted.
    #[must_use]
    pub fn administrator(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    /// What `kubectl` prints, run where the server is by the user to whom all is granted.
    ///
    /// # Errors
    /// It failed; the message holds what it wrote.
    pub fn kubectl(&self, arguments: &[impl AsRef<OsStr>]) -> Result<String> {
        let mut command = self.place.command(&self.assets.join("kubectl"));
        // It keeps what it has learnt of a server in the user's folder.
        command.arg("--cache-dir").arg(self.dir.path().join("cache"));
        command.arg("--kubeconfig").arg(self.administrator()).args(arguments);
        let output = command.output().context("cannot run kubectl")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{command:?} failed ({}): {text}{errors}", output.status);
        Ok(text)
    }

    fn url(&self) -> String {
        format!("https://{}", self.address())
    }
}

/// The server's certificate, which is returned, its tokens, and the keys of service accounts.
fn write_secrets(dir: &Path) -> Result<CertificateDer<'static>> {
    let server = rcgen::generate_simple_self_signed(NAMES.map(str::to_owned))?;
    let accounts = rcgen::KeyPair::generate()?;
    let files = [
        (CERTIFICATE_FILE, server.cert.pem()),
        ("server.key", server.signing_key.serialize_pem()),
        ("accounts.key", accounts.serialize_pem()),
        ("accounts.pub", accounts.public_key_pem()),
        ("tokens.csv", format!("{TOKEN},test,test,system:masters\n")),
    ];
    for (name, text) in files {
        std::fs::write(dir.join(name), text).with_context(|| format!("cannot write {name}"))?;
    }
    Ok(server.cert.der().clone())
}
