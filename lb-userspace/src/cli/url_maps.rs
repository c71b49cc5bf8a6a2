//! URL maps as `podway get`, `describe` and `explain` print them.
use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::explain::url::{Url, UrlExplanation, explain_url};
use crate::model::{ObjectName, Problem};
use crate::plan::{
    BackendService, Desired, EndpointState, NodePorts, TargetText, UrlMapPlan, UrlMapText, transport_name,
};

use super::node_negs;
use super::output::{self, Format, Row};

/// What is asked of URL maps, of an agent or of manifests.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Question {
    pub(super) topic: Topic,
    pub(super) output: Format,
}

/// What a [`Question`] is about.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(super) enum Topic {
    /// The rules in which a text occurs, or all.
    Rules { filter: Option<String> },
    /// A URL map, by its name or a part that only it has.
    UrlMap { name: String },
    /// The URL maps of an Ingress, by `NAMESPACE/NAME`.
    Ingress { name: String },
    /// NEGs whose endpoints are nodes.
    NodeNegs,
    /// A request, and the VIP that it comes to.
    Request { url: String, vip: Option<IpAddr> },
}

impl Question {
    /// What the command prints.
    ///
    /// # Errors
    /// Nothing has the name, or what shall be a URL is none.
    pub(crate) fn answer(&self, desired: &Desired, problems: &[Problem]) -> Result<String> {
        match &self.topic {
            Topic::Rules { filter } => listing(desired, filter.as_deref(), self.output),
            Topic::UrlMap { name } => describe_url_map(desired, problems, name, self.output),
            Topic::Ingress { name } => describe_ingress(desired, problems, name, self.output),
            Topic::NodeNegs => output::value(&node_negs::of_plan(desired), self.output),
            Topic::Request { url, vip } => explanation(url, *vip, desired, self.output),
        }
    }
}

/// One rule of a URL map.
#[derive(Clone, Debug, Serialize)]
struct RuleRow {
    url_map: String,
    vips: Vec<String>,
    host: String,
    path: String,
    backend_service: String,
    kind: &'static str,
    ingress: String,
    plain_http: String,
    has_https: bool,
}

impl Row for RuleRow {
    const HEADINGS: &'static [&'static str] = &["URL MAP", "VIP", "HOST", "PATH", "BACKEND SERVICE"];
    const WIDE_HEADINGS: &'static [&'static str] = &["MATCH", "INGRESS", "HTTP", "HTTPS"];

    fn cells(&self) -> Vec<String> {
        let vips = if self.vips.is_empty() { "-".to_owned() } else { self.vips.join(",") };
        vec![self.url_map.clone(), vips, self.host.clone(), self.path.clone(), self.backend_service.clone()]
    }

    fn wide_cells(&self) -> Vec<String> {
        let https = if self.has_https { "served" } else { "-" };
        vec![self.kind.to_owned(), self.ingress.clone(), self.plain_http.clone(), https.to_owned()]
    }
}

/// The rules of a URL map in their order, defaults last.
fn rows(map: &UrlMapText) -> Vec<RuleRow> {
    let row = |host: &str, path: &str, kind, target: &TargetText| RuleRow {
        url_map: map.name.clone(),
        vips: map.vips.iter().map(|vip| vip.address.to_string()).collect(),
        host: host.to_owned(),
        path: path.to_owned(),
        backend_service: target.backend_service.clone().unwrap_or_else(|| "none".to_owned()),
        kind,
        ingress: target.ingress.clone(),
        plain_http: match target.redirect_code {
            Some(code) => format!("{} {code}", target.plain_http),
            None => target.plain_http.to_owned(),
        },
        has_https: map.https,
    };
    let mut rows = Vec::new();
    for host in &map.hosts {
        rows.extend(host.paths.iter().map(|path| row(&host.host, &path.path, path.kind, &path.target)));
        rows.extend(host.default.iter().map(|target| row(&host.host, "-", "default", target)));
    }
    rows.extend(map.default.iter().map(|target| row("*", "-", "default", target)));
    rows
}

/// The URL maps, or those of their rules in which a text occurs.
///
/// # Errors
/// A value cannot be written in the format.
pub(super) fn listing(desired: &Desired, filter: Option<&str>, format: Format) -> Result<String> {
    let maps = desired.url_maps().maps().iter().map(|map| UrlMapText::from(&**map));
    let matches =
        |row: &RuleRow| filter.is_none_or(|text| row.cells().iter().any(|cell| cell.contains(text)));
    match format {
        Format::Json | Format::Yaml => {
            let maps: Vec<UrlMapText> = maps
                .filter(|map| {
                    filter.is_none_or(|text| map.name.contains(text)) || rows(map).iter().any(matches)
                })
                .collect();
            output::value(&maps, format)
        }
        Format::Table | Format::Wide => {
            let rows: Vec<RuleRow> = maps.flat_map(|map| rows(&map)).filter(matches).collect();
            output::rows(&rows, format)
        }
    }
}

/// A URL map with all that hangs on it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Description<'a> {
    url_maps: Vec<UrlMapText>,
    backend_services: Vec<&'a BackendService>,
    problems: Vec<Problem>,
}

/// One URL map, by its name or a part that only it has.
///
/// # Errors
/// None has the name, or more than one has it.
fn describe_url_map(desired: &Desired, problems: &[Problem], name: &str, format: Format) -> Result<String> {
    let maps = desired.url_maps().maps();
    let exact = maps.iter().find(|map| *map.name == *name);
    let found: Vec<&UrlMapPlan> = match exact {
        Some(map) => vec![map],
        None => maps.iter().filter(|map| map.name.contains(name)).map(|map| &**map).collect(),
    };
    match found[..] {
        [] => bail!("no URL map has {name:?} in its name; see `podway get url-maps`"),
        [map] => {
            let ingresses = map.ingresses.iter().map(|origin| &origin.object).collect();
            describe(desired, problems, &[map], &ingresses, format)
        }
        ref many => {
            let names: Vec<&str> = many.iter().map(|map| &*map.name).collect();
            bail!("{} URL maps have {name:?} in their names: {}", many.len(), names.join(", "))
        }
    }
}

/// The URL maps of an Ingress, by `NAMESPACE/NAME`, or why there is none.
///
/// # Errors
/// There is no Ingress of the name.
fn describe_ingress(desired: &Desired, problems: &[Problem], name: &str, format: Format) -> Result<String> {
    let (namespace, short) =
        name.split_once('/').with_context(|| format!("cannot read {name:?}: want NAMESPACE/NAME"))?;
    let name = ObjectName::new(namespace, short);
    let has = |map: &&UrlMapPlan| map.ingresses.iter().any(|origin| origin.object == name);
    let maps: Vec<&UrlMapPlan> = desired.url_maps().maps().iter().map(|map| &**map).filter(has).collect();
    if maps.is_empty() {
        match desired.url_maps().left_out().get(&name) {
            Some(reason) => bail!("Ingress {name} is not served: {reason}"),
            None => bail!("there is no Ingress {name}"),
        }
    }
    describe(desired, problems, &maps, &[&name].into(), format)
}

fn describe(
    desired: &Desired,
    problems: &[Problem],
    maps: &[&UrlMapPlan],
    ingresses: &BTreeSet<&ObjectName>,
    format: Format,
) -> Result<String> {
    let targets =
        maps.iter().flat_map(|map| map.targets()).filter(|target| ingresses.contains(&target.ingress));
    let names: BTreeSet<_> = targets.filter_map(|target| target.backend.as_ref().ok()).collect();
    let is_of_it = |problem: &&Problem| problem.kind == "Ingress" && ingresses.contains(&problem.object);
    let description = Description {
        url_maps: maps.iter().map(|map| UrlMapText::from(*map)).collect(),
        backend_services: names.into_iter().filter_map(|name| desired.backend_service(name)).collect(),
        problems: problems.iter().filter(is_of_it).cloned().collect(),
    };
    match format {
        Format::Json | Format::Yaml => output::value(&description, format),
        Format::Table | Format::Wide => Ok(sections(&description)),
    }
}

fn sections(description: &Description<'_>) -> String {
    let mut text = String::new();
    for map in &description.url_maps {
        let ports = [(map.http, "80"), (map.https, "443")];
        let ports: Vec<&str> = ports.iter().filter(|(is_open, _)| *is_open).map(|(_, port)| *port).collect();
        text.push_str(&format!("URL map {}\nPorts   {}\n\nVIPs\n", map.name, ports.join(", ")));
        let vips = map.vips.iter().map(|vip| vec![vip.address.to_string(), vip.source.to_owned()]);
        text.push_str(&output::table(vec!["ADDRESS", "FROM"], vips));
        if !map.certificates.is_empty() {
            let hosts = |hosts: &[String]| {
                if hosts.is_empty() { "those of the certificate".to_owned() } else { hosts.join(",") }
            };
            let lines = map.certificates.iter().map(|used| vec![used.secret.clone(), hosts(&used.hosts)]);
            text.push_str("\nCertificates\n");
            text.push_str(&output::table(vec!["SECRET", "HOSTS"], lines));
        }
        let lines = rows(map).into_iter().map(|row| {
            vec![row.host, row.path, row.kind.to_owned(), row.backend_service, row.ingress, row.plain_http]
        });
        text.push_str("\nRules\n");
        let headings = vec!["HOST", "PATH", "MATCH", "BACKEND SERVICE", "INGRESS", "HTTP"];
        text.push_str(&output::table(headings, lines));
        text.push('\n');
    }
    text.push_str("Backend services\n");
    let lines = description.backend_services.iter().map(|service| service_cells(service));
    let headings = vec!["NAME", "SPOKEN TO BY", "NEG TYPE", "ENDPOINTS", "TIMEOUT", "AFFINITY"];
    text.push_str(&output::table(headings, lines));
    text.push_str("\nEndpoints\n");
    let lines = description.backend_services.iter().flat_map(|service| endpoint_cells(service));
    text.push_str(&output::table(vec!["BACKEND SERVICE", "ENDPOINT", "STATE", "NODE"], lines));
    if !description.problems.is_empty() {
        text.push_str("\nProblems\n");
        for problem in &description.problems {
            text.push_str(&format!("{problem}\n"));
        }
    }
    text
}

fn service_cells(service: &BackendService) -> Vec<String> {
    use crate::model::RequestAffinity;
    vec![
        service.name.to_string(),
        transport_name(service.transport).to_owned(),
        service.neg_type().name().to_owned(),
        match &service.node_ports {
            None => service.endpoints.len().to_string(),
            Some(nodes) => nodes.endpoints().count().to_string(),
        },
        service.http.timeout_s.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds}s")),
        match service.http.affinity {
            RequestAffinity::None => "-".to_owned(),
            RequestAffinity::ClientIp => "client IP".to_owned(),
            RequestAffinity::GeneratedCookie { ttl_s } => format!("cookie, {ttl_s}s"),
        },
    ]
}

/// What requests go to: pods, or nodes in their place.
fn endpoint_cells(service: &BackendService) -> impl Iterator<Item = Vec<String>> {
    let line = move |address: IpAddr, port: u16, state: EndpointState, node: Option<&str>| {
        let place = crate::plan::socket_text(address, port);
        vec![service.name.to_string(), place, state.name().to_owned(), node.unwrap_or("-").to_owned()]
    };
    let pods = service.endpoints.iter().filter(move |_| service.node_ports.is_none());
    let pods = pods.map(move |pod| line(pod.address, pod.port, pod.state(), pod.node().map(|node| &**node)));
    let nodes = service.node_ports.iter().flat_map(NodePorts::endpoints);
    pods.chain(nodes.map(move |node| line(node.address, node.port, node.state(), Some(&*node.node))))
}

/// Why a request goes where it goes.
///
/// # Errors
/// The text is no URL.
fn explanation(url: &str, vip: Option<IpAddr>, desired: &Desired, format: Format) -> Result<String> {
    let parts = Url::of(url)
        .with_context(|| format!("cannot read {url:?}: want http://HOST/PATH or https://HOST/PATH"))?;
    let answers = explain_url(&parts, vip, desired);
    match format {
        Format::Json | Format::Yaml => output::value(&Answers { answers }, format),
        Format::Table | Format::Wide => Ok(answers.iter().map(sentences).collect::<Vec<_>>().join("\n")),
    }
}

#[derive(Serialize)]
struct Answers {
    answers: Vec<UrlExplanation>,
}

fn sentences(answer: &UrlExplanation) -> String {
    let steps = answer.steps.iter();
    let lines = steps
        .map(|step| vec![step.stage.to_owned(), step.found.clone(), step.origin.clone().unwrap_or_default()]);
    let mut text = output::table(vec!["STEP", "FOUND", "FROM"], lines);
    let code = answer.status.map(|code| format!(" {code}")).unwrap_or_default();
    text.push_str(&format!("\n{}{code}\n", answer.verdict));
    text
}
