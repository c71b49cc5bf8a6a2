//! An Ingress: two hosts, paths that lead to two Services, TLS, and a pod that fails under requests.
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use lb_tests::manifests::{NAMESPACE, Service};
use lb_tests::topology::Topology;
use lb_tests::wait::wait_until;
use lb_tests::web::{Answer, HTTP_PORT, ask, ask_by_tls, certificate};
use lb_userspace::model::{CheckKind, HealthCheck, Protocol};
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};

use crate::interrupt::Interrupt;
use crate::report::{Report, Seen};
use crate::stage::Stage;

/// The Ingress's addresses.
pub(crate) const VIPS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 81)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 0x81)),
];

const HOST: &str = "store.example";
const API_HOST: &str = "api.example";
const SECRET: &str = "store-tls";
/// The last digits of the Services' cluster IPs.
const STORE: (&str, u8) = ("store", 81);
const BASKET: (&str, u8) = ("basket", 82);
/// Pods of `store` and of `basket`: the first and the second of each node.
const STORE_PODS: [&str; 2] = ["web-a-1", "web-b-1"];
const BASKET_PODS: [&str; 2] = ["web-a-2", "web-b-2"];

/// Requests of a step, each on a connection of its own; chance leaves one of two pods out once in 2^99.
const REQUESTS: usize = 100;
/// How long the front-end may take to serve the Ingress.
const SERVED_DEADLINE: Duration = Duration::from_secs(20);
/// How long a pod that listens again may take to get requests.
const RETURN_DEADLINE: Duration = Duration::from_secs(10);

/// The path that leads to another Service than the host does.
pub(crate) fn cart_url() -> String {
    format!("https://{HOST}/cart/7")
}

/// The objects, and the certificate of the Secret among them.
pub(crate) fn manifests(topology: &Topology) -> Result<(CertificateDer<'static>, Vec<Value>)> {
    let check = HealthCheck {
        kind: CheckKind::Tcp,
        port: None,
        interval_ms: 500,
        timeout_ms: 300,
        healthy_threshold: 1,
        unhealthy_threshold: 2,
    };
    let service = |(name, last): (&str, u8), pods: [&str; 2]| {
        let service = Service::new(name, last).port("http", Protocol::Tcp, 80, HTTP_PORT);
        let pods = topology.nodes().iter().zip(pods);
        let service = pods.fold(service, |service, (node, pod)| service.backed_by(node, topology.pod(pod)));
        Service { health_check: Some(check.clone()), ..service }
    };
    let (trusted, secret) = certificate(SECRET, HOST)?;
    let mut objects = vec![secret, ingress()];
    objects.extend(service(STORE, STORE_PODS).objects(1));
    objects.extend(service(BASKET, BASKET_PODS).objects(1));
    Ok((trusted, objects))
}

fn ingress() -> Value {
    let path = |path: &str, (service, _): (&str, u8)| {
        let backend = json!({"service": {"name": service, "port": {"name": "http"}}});
        json!({"path": path, "pathType": "Prefix", "backend": backend})
    };
    let vips = VIPS.map(|vip| vip.to_string()).join(",");
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": "store", "namespace": NAMESPACE, "annotations": {"podway.io/vips": vips}},
        "spec": {
            "ingressClassName": "podway",
            "tls": [{"hosts": [HOST], "secretName": SECRET}],
            "rules": [
                {"host": HOST, "http": {"paths": [path("/", STORE), path("/cart", BASKET)]}},
                {"host": API_HOST, "http": {"paths": [path("/v1", BASKET)]}},
            ],
        },
    })
}

/// The steps.
pub(crate) fn play(stage: &mut Stage, report: &mut Report, interrupt: &Interrupt) -> Result<()> {
    report.say("\nby HTTP and HTTPS, from outside through the front-end of node-a");
    wait_until(SERVED_DEADLINE, "the Ingress to be served by TLS", || {
        interrupt.is_raised() || request(stage, VIPS[0], "/").is_ok()
    })
    .with_context(|| stage.logs())?;
    for (vip, path, pods) in
        [(VIPS[0], "/", STORE_PODS), (VIPS[1], "/", STORE_PODS), (VIPS[0], "/cart/7", BASKET_PODS)]
    {
        let name = format!("HTTPS to https://{HOST}{path} at {vip}");
        let expected = format!("every request answered by TLS; {} and {} serve", pods[0], pods[1]);
        report.step(&name, &expected, interrupt, || {
            let requests = Requests::of((0..REQUESTS).map(|_| request(stage, vip, path)));
            Ok(requests.seen(&pods))
        })?;
    }
    other_host(stage, report, interrupt)?;
    let failing = STORE_PODS[0];
    report.step(
        &format!("the pod {failing} fails under requests to https://{HOST}/"),
        "no request fails, and the other pod takes them all",
        interrupt,
        || pod_fails(stage, failing),
    )?;
    report.step(
        &format!("the pod {failing} returns"),
        "it gets requests again within 10 s; no request fails",
        interrupt,
        || pod_returns(stage, failing),
    )
}

/// By TLS, to the first host.
fn request(stage: &Stage, vip: IpAddr, path: &str) -> std::io::Result<Answer> {
    ask_by_tls(stage.client(), SocketAddr::new(vip, 443), HOST, path, stage.certificate())
}

fn other_host(stage: &Stage, report: &mut Report, interrupt: &Interrupt) -> Result<()> {
    let to = SocketAddr::new(VIPS[0], 80);
    let name = format!("HTTP to http://{API_HOST}/v1/items ({to})");
    let expected = "every request answered by the pods of that path; a path without a rule gets 404";
    report.step(&name, expected, interrupt, || {
        let ask = |path| ask(stage.client(), to, API_HOST, path);
        let requests = Requests::of((0..REQUESTS).map(|_| ask("/v1/items")));
        let other = ask("/v2").context("no answer for a path without a rule")?.code;
        let seen = requests.seen(&BASKET_PODS);
        Ok(Seen {
            holds: seen.holds && other == 404,
            summary: format!("{}; /v2 got {other}", seen.summary),
            ..seen
        })
    })
}

fn pod_fails(stage: &mut Stage, pod: &str) -> Result<Seen> {
    let web = stage.take_web(pod)?;
    let (client, trusted) = (stage.client(), stage.certificate());
    let request = || ask_by_tls(client, SocketAddr::new(VIPS[0], 443), HOST, "/", trusted);
    let (asked, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (during, after) = std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let until_over = std::iter::from_fn(|| {
                asked.fetch_add(1, Ordering::Relaxed);
                (!is_over.load(Ordering::Relaxed)).then(request)
            });
            Requests::of(until_over)
        });
        let waited = wait_until(SERVED_DEADLINE, "requests", || asked.load(Ordering::Relaxed) > REQUESTS);
        drop(web);
        let after = Requests::of((0..REQUESTS).map(|_| request()));
        is_over.store(true, Ordering::Relaxed);
        waited.map(|()| (asking.join(), after))
    })?;
    let during = during.map_err(|_| anyhow::anyhow!("the client panicked"))?;
    let others: Vec<&str> = STORE_PODS.into_iter().filter(|other| *other != pod).collect();
    let seen = after.seen(&others);
    Ok(Seen {
        holds: seen.holds && during.failed.is_empty(),
        summary: format!("while it failed {}; after that {}", during.summary(), seen.summary),
        details: seen.details,
    })
}

fn pod_returns(stage: &mut Stage, pod: &str) -> Result<Seen> {
    stage.start_web(pod)?;
    let started = std::time::Instant::now();
    let is_back = |answer: &std::io::Result<Answer>| answer.as_ref().is_ok_and(|answer| answer.pod() == pod);
    let mut took = None;
    let requests = Requests::of(std::iter::from_fn(|| {
        let is_due = took.is_none() && started.elapsed() < RETURN_DEADLINE;
        let answer = is_due.then(|| request(stage, VIPS[0], "/"))?;
        took = is_back(&answer).then(|| started.elapsed());
        Some(answer)
    }));
    let summary = match took {
        Some(took) => format!("its first request came after {} ms; {}", took.as_millis(), requests.summary()),
        None => format!("it got none; {}", requests.summary()),
    };
    Ok(Seen { holds: took.is_some() && requests.failed.is_empty(), summary, details: Vec::new() })
}

/// What became of some requests.
#[derive(Default)]
struct Requests {
    by_pod: BTreeMap<String, usize>,
    /// By code or reason.
    failed: BTreeMap<String, usize>,
}

impl Requests {
    fn of(answers: impl Iterator<Item = std::io::Result<Answer>>) -> Self {
        let mut requests = Self::default();
        for answer in answers {
            let count = match answer {
                Ok(answer) if answer.code == 200 => requests.by_pod.entry(answer.pod().to_owned()),
                Ok(answer) => requests.failed.entry(format!("code {}", answer.code)),
                Err(error) => requests.failed.entry(error.to_string()),
            };
            *count.or_default() += 1;
        }
        requests
    }

    /// Whether all were answered, by exactly these pods.
    fn seen(&self, pods: &[&str]) -> Seen {
        let holds = self.failed.is_empty() && self.by_pod.keys().map(String::as_str).eq(pods.iter().copied());
        Seen { holds, summary: self.summary(), details: Vec::new() }
    }

    fn summary(&self) -> String {
        let (answered, failed): (usize, usize) = (self.by_pod.values().sum(), self.failed.values().sum());
        let by: Vec<_> = self.by_pod.iter().map(|(pod, count)| format!("{count} by {pod}")).collect();
        let mut text = format!("{answered} of {} answered", answered + failed);
        if !by.is_empty() {
            text += &format!(", {}", by.join(", "));
        }
        for (reason, count) in &self.failed {
            text += &format!("; {count} {reason}");
        }
        text
    }
}
