//! The same against a real kube-apiserver with etcd, from the folder that `KUBEBUILDER_ASSETS` names
//! (as `setup-envtest` fills it).
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::{Client, Resource, ResourceExt};
use lb_tests::need::{self, Cluster};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::observer::{Observer, SERVICES, SLICES, Versions};

/// Longest wait for a server to come up.
const START_DEADLINE: Duration = Duration::from_secs(60);

const TOKEN: &str = "token-of-the-test";

/// A child process that is killed when dropped.
struct Process(Child);

impl Process {
    /// Starts a program of the folder; its output goes to a file beside its data.
    fn start(assets: &Path, program: &str, dir: &Path, arguments: &[String]) -> Self {
        let log = File::create(dir.join(format!("{program}.log"))).expect("create a log");
        let errors = log.try_clone().expect("a second handle of the log");
        let path = assets.join(program);
        let mut command = Command::new(&path);
        command.args(arguments).stdin(Stdio::null()).stdout(log).stderr(errors);
        Self(command.spawn().unwrap_or_else(|error| panic!("cannot start {}: {error}", path.display())))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) struct ControlPlane {
    assets: PathBuf,
    dir: TempDir,
    port: u16,
    etcd_url: String,
    api_server: Option<Process>,
    _etcd: Process,
}

impl ControlPlane {
    pub(crate) async fn start(assets: PathBuf) -> Self {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let [client_port, peer_port, port] = free_ports();
        let etcd_url = format!("http://127.0.0.1:{client_port}");
        let peer_url = format!("http://127.0.0.1:{peer_port}");
        let arguments = [
            format!("--data-dir={}", dir.path().join("etcd").display()),
            format!("--listen-client-urls={etcd_url}"),
            format!("--advertise-client-urls={etcd_url}"),
            format!("--listen-peer-urls={peer_url}"),
            "--unsafe-no-fsync".to_owned(),
        ];
        let etcd = Process::start(&assets, "etcd", dir.path(), &arguments);
        let tokens = format!("{TOKEN},test,test,system:masters\n");
        std::fs::write(dir.path().join("tokens.csv"), tokens).expect("write the tokens");
        let key = dir.path().join("service-account.key");
        let made = Command::new("openssl")
            .args(["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out"])
            .arg(&key)
            .status()
            .expect("the real API server needs a key: install openssl");
        assert!(made.success(), "openssl cannot make a key");
        let mut plane = Self { assets, dir, port, etcd_url, api_server: None, _etcd: etcd };
        plane.start_api_server().await;
        plane
    }

    async fn start_api_server(&mut self) {
        let file = |name: &str| self.dir.path().join(name).display().to_string();
        let key = file("service-account.key");
        let arguments = [
            format!("--etcd-servers={}", self.etcd_url),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", self.port),
            format!("--cert-dir={}", file("certificates")),
            format!("--token-auth-file={}", file("tokens.csv")),
            "--authorization-mode=AlwaysAllow".to_owned(),
            "--disable-admission-plugins=ServiceAccount".to_owned(),
            "--service-cluster-ip-range=198.51.100.0/24".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={key}"),
            format!("--service-account-signing-key-file={key}"),
        ];
        self.api_server = Some(Process::start(&self.assets, "kube-apiserver", self.dir.path(), &arguments));
        let client = self.client();
        let deadline = Instant::now() + START_DEADLINE;
        // Up when it answers and has made the Service that every cluster has.
        while Api::<Service>::namespaced(client.clone(), "default").get("kubernetes").await.is_err() {
            if Instant::now() > deadline {
                let log = std::fs::read_to_string(file("kube-apiserver.log")).unwrap_or_default();
                panic!("kube-apiserver does not come up; its log: {log}");
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    fn config(&self) -> kube::Config {
        let url = format!("https://127.0.0.1:{}", self.port);
        let mut config = kube::Config::new(url.parse().expect("a URL"));
        config.auth_info.token = Some(TOKEN.to_owned().into());
        // The server made its certificate itself, a moment ago, on this machine.
        config.accept_invalid_certs = true;
        config
    }

    pub(crate) fn client(&self) -> Client {
        Client::try_from(self.config()).expect("a client")
    }
}

fn free_ports<const N: usize>() -> [u16; N] {
    // All at once, so that they differ.
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").expect("a loopback port"));
    listeners.map(|listener| listener.local_addr().expect("its number").port())
}

/// Names and versions of the objects that a selector takes.
async fn versions<K>(client: &Client, selector: &str) -> Vec<(String, String)>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let list = Api::<K>::all(client.clone()).list(&ListParams::default().labels(selector)).await;
    let objects = list.expect("list objects").items;
    let named = objects.iter().map(|object| {
        let namespace = object.namespace().unwrap_or_default();
        (format!("{namespace}/{}", object.name_any()), object.resource_version().unwrap_or_default())
    });
    let mut versions: Vec<_> = named.collect();
    versions.sort();
    versions
}

/// Takes events until the facts are what a list of the server says.
async fn until_equal(observer: &mut Observer, client: &Client) {
    let services = versions::<Service>(client, SERVICES).await;
    let slices = versions::<EndpointSlice>(client, SLICES).await;
    let nodes = versions::<Node>(client, "").await;
    observer
        .until("facts equal the server's objects", |o| {
            let Versions { services: found_services, slices: found_slices, nodes: found_nodes, .. } =
                o.versions();
            o.synced == 1
                && found_services.into_iter().collect::<Vec<_>>() == services
                && found_slices.into_iter().collect::<Vec<_>>() == slices
                && found_nodes.iter().eq(nodes.iter().map(|(name, _)| name.trim_start_matches('/')))
        })
        .await;
}

async fn create<K>(api: &Api<K>, object: Value)
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned + serde::Serialize,
{
    let object: K = serde_json::from_value(object).expect("an object");
    api.create(&PostParams::default(), &object).await.expect("create an object");
}

#[tokio::test]
async fn real_api_server_gives_its_state_also_after_a_restart() {
    let Some(Cluster { assets }) = need::cluster() else { return };
    let mut plane = ControlPlane::start(assets).await;
    let client = plane.client();
    let services = Api::<Service>::namespaced(client.clone(), "default");
    let slices = Api::<EndpointSlice>::namespaced(client.clone(), "default");
    let nodes = Api::<Node>::all(client.clone());
    for name in ["a", "b", "c", "d", "e"] {
        create(&services, json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}})).await;
        let labels = json!({"kubernetes.io/service-name": name});
        let endpoints = json!([{"addresses": ["198.51.100.200"], "conditions": {"ready": true}}]);
        create(
            &slices,
            json!({
                "metadata": {"name": name, "labels": labels},
                "addressType": "IPv4", "endpoints": endpoints, "ports": [{"port": 8080}],
            }),
        )
        .await;
        create(&nodes, json!({"metadata": {"name": name}})).await;
    }
    let headless =
        json!({"metadata": {"name": "headless"}, "spec": {"clusterIP": "None", "ports": [{"port": 80}]}});
    create(&services, headless).await;
    let mut observer = Observer::with_config(plane.config());
    observer.until("six Services and the API server's own", |o| o.snapshot.services.len() == 7).await;
    observer.until("all Nodes", |o| o.synced == 1 && o.snapshot.nodes.len() == 5).await;

    services.delete("a", &DeleteParams::default()).await.expect("delete a Service");
    observer.until("one Service less", |o| o.snapshot.services.len() == 6).await;
    services.delete("headless", &DeleteParams::default()).await.expect("delete a Service");
    until_equal(&mut observer, &client).await;

    let gone_before = observer.gone.len();
    plane.api_server = None;
    plane.start_api_server().await;
    create(&services, json!({"metadata": {"name": "f"}, "spec": {"ports": [{"port": 80}]}})).await;
    until_equal(&mut observer, &client).await;
    assert_eq!(observer.gone.len(), gone_before, "{:?}", observer.gone);
}
