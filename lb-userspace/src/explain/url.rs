//! Why a request goes where it goes: its normal form, the rule that it meets and the endpoints behind that, from the
//! plan alone.
use std::net::IpAddr;

use serde::Serialize;

use crate::l7::{Host, HostFault, HostPattern, NormalPath, PathFault, Rule};
use crate::model::{NegType, Protocol};
use crate::plan::{
    BackendService, CertificateUse, Desired, HTTP_PORT, HTTPS_PORT, Neg, NodePorts, PlainHttp, Target,
    TlsDemand, UrlMapPlan, neg_kind_name, socket_text, transport_name,
};

use super::Step;

/// Codes of the answers that the front-end gives itself.
mod status {
    pub(super) const BAD_REQUEST: u16 = 400;
    pub(super) const NOT_FOUND: u16 = 404;
    pub(super) const URI_TOO_LONG: u16 = 414;
    pub(super) const UNAVAILABLE: u16 = 503;
}

/// A URL that a client asks for, in its parts, none of them in its normal form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Url<'a> {
    /// Whether its scheme is `https`.
    pub is_tls: bool,
    /// Host and port.
    pub authority: &'a str,
    /// Path and query, as the request would have them.
    pub target: &'a str,
}

impl<'a> Url<'a> {
    /// Its parts; `None` where it is no `http` or `https` URL.
    #[must_use]
    pub fn of(text: &'a str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let is_tls = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        Some(Self { is_tls, authority, target: if target.is_empty() { "/" } else { target } })
    }
}

/// What becomes of a request on one URL map. JSON field names are stable.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UrlExplanation {
    /// `forward`, `redirect`, `refuse` (an answer of the front-end itself) or `unserved` (nobody listens).
    pub verdict: &'static str,
    /// Code of the answer, where the front-end gives one itself.
    pub status: Option<u16>,
    /// The URL map.
    pub url_map: Option<String>,
    /// The host of the rule that it meets; `*` for all hosts.
    pub host_rule: Option<String>,
    /// The path of that rule; none for a default.
    pub path_rule: Option<String>,
    /// The Ingress that has the rule.
    pub ingress: Option<String>,
    /// The path that the endpoint gets.
    pub path: Option<String>,
    /// The backend service.
    pub backend_service: Option<String>,
    /// The type of its NEGs: pods (`GCE_POD`) or nodes (`GCE_VM_IP_PORT`).
    pub neg_type: Option<NegType>,
    /// Those that are used.
    pub negs: Vec<&'static str>,
    /// The endpoints that the request may get, sorted.
    pub endpoints: Vec<String>,
    /// What happened, in order.
    pub steps: Vec<Step>,
}

/// Tells what becomes of a request, one answer for each URL map that it may come to: those with the VIP, else those
/// with a rule for the host, else all.
#[must_use]
pub fn explain_url(url: &Url<'_>, vip: Option<IpAddr>, desired: &Desired) -> Vec<UrlExplanation> {
    let mut start = Told::new(url);
    let (host, path) = match start.normal_forms(url) {
        Ok(forms) => forms,
        Err(code) => return vec![start.refused(code)],
    };
    let port = host.port().unwrap_or(if url.is_tls { HTTPS_PORT } else { HTTP_PORT });
    let listens = |map: &UrlMapPlan| match (port, url.is_tls) {
        (HTTP_PORT, false) => map.has_http,
        (HTTPS_PORT, true) => map.has_https,
        _ => false,
    };
    let maps = desired.url_maps().maps().iter().map(|map| &**map);
    let at_vip =
        |map: &&UrlMapPlan| vip.is_none_or(|vip| map.vips.iter().any(|(address, _)| *address == vip));
    let at_vip: Vec<&UrlMapPlan> = maps.filter(at_vip).collect();
    let names_host = |map: &&UrlMapPlan| {
        let found = map.map.find(&host, &path);
        found.is_some_and(|found| !matches!(found.rule, Rule::Default | Rule::Path(HostPattern::Any, _)))
    };
    let naming: Vec<&UrlMapPlan> = at_vip.iter().copied().filter(names_host).collect();
    let candidates = if naming.is_empty() { at_vip } else { naming };
    if candidates.is_empty() {
        let found = match vip {
            Some(vip) => format!("no Ingress answers on {vip}"),
            None => "no Ingress is served".to_owned(),
        };
        start.step("URL map", found, None);
        return vec![start.answer];
    }
    let answer = |map: &UrlMapPlan| {
        let mut told = Told { answer: start.answer.clone() };
        told.url_map(map, port);
        if !listens(map) {
            let protocol = if url.is_tls { "HTTPS" } else { "HTTP" };
            told.step("VIP", format!("{protocol} is not served on port {port}"), None);
            return told.answer;
        }
        if url.is_tls {
            told.certificate(map, &host);
            told.tls(map, &host);
        }
        told.rule(map, url, &host, &path, desired);
        told.answer
    };
    candidates.into_iter().map(answer).collect()
}

struct Told {
    answer: UrlExplanation,
}

impl Told {
    fn new(url: &Url<'_>) -> Self {
        let mut told = Self {
            answer: UrlExplanation {
                verdict: "unserved",
                status: None,
                url_map: None,
                host_rule: None,
                path_rule: None,
                ingress: None,
                path: None,
                backend_service: None,
                neg_type: None,
                negs: Vec::new(),
                endpoints: Vec::new(),
                steps: Vec::new(),
            },
        };
        let protocol = if url.is_tls { "HTTPS" } else { "HTTP" };
        told.step("request", format!("{protocol} for {} at {}", url.target, url.authority), None);
        told
    }

    fn step(&mut self, stage: &'static str, found: String, origin: Option<String>) {
        self.answer.steps.push(Step { stage, found, origin });
    }

    fn refused(mut self, code: u16) -> UrlExplanation {
        (self.answer.verdict, self.answer.status) = ("refuse", Some(code));
        self.answer
    }

    /// Host and path in their normal forms; `Err` is the code of the refusal, which is told.
    fn normal_forms<'a>(&mut self, url: &Url<'a>) -> Result<(Host<'a>, NormalPath<'a>), u16> {
        let host = Host::of(url.authority).map_err(|fault: HostFault| {
            self.step("host", format!("{fault}; refused with {}", status::BAD_REQUEST), None);
            status::BAD_REQUEST
        })?;
        self.step("host", host.as_str().to_owned(), None);
        let path = NormalPath::of(url.target).map_err(|fault| {
            let code = if fault == PathFault::TooLong { status::URI_TOO_LONG } else { status::BAD_REQUEST };
            self.step("path", format!("{fault}; refused with {code}"), None);
            code
        })?;
        let found = match path.is_as_sent() {
            true => path.as_str().to_owned(),
            false => format!("{}, the normal form, is routed and forwarded", path.as_str()),
        };
        self.step("path", found, None);
        self.answer.path = Some(path.as_str().to_owned());
        Ok((host, path))
    }

    fn url_map(&mut self, map: &UrlMapPlan, port: u16) {
        self.answer.url_map = Some(map.name.to_string());
        let sockets: Vec<String> = map.vips.iter().map(|(vip, _)| socket_text(*vip, port)).collect();
        let found = if sockets.is_empty() { "none is known".to_owned() } else { sockets.join(", ") };
        self.step("VIP", found, map.vips.first().map(|(_, source)| source.name().to_owned()));
        let origins: Vec<String> = map.ingresses.iter().map(ToString::to_string).collect();
        self.step("URL map", map.name.to_string(), Some(origins.join(", ")));
    }

    fn certificate(&mut self, map: &UrlMapPlan, host: &Host<'_>) {
        let Some(used) = certificate_for(&map.certificates, host.as_str()) else { return };
        self.step("certificate", format!("Secret {}", used.secret), None);
    }

    /// What the host asks beyond what all do.
    fn tls(&mut self, map: &UrlMapPlan, host: &Host<'_>) {
        let demand = map.tls_demand(host);
        if demand == TlsDemand::default() {
            return;
        }
        let clients = demand.clients.as_ref().map(|clients| {
            let verify = clients.verify.name();
            format!("; clients' certificates ({verify}) are verified by Secret {}", clients.secret)
        });
        let found = format!("{} or later{}", demand.min_version.name(), clients.unwrap_or_default());
        self.step("TLS", found, None);
    }

    fn rule(
        &mut self,
        map: &UrlMapPlan,
        url: &Url<'_>,
        host: &Host<'_>,
        path: &NormalPath<'_>,
        desired: &Desired,
    ) {
        let Some(found) = map.map.find(host, path) else {
            self.step("rule", format!("none is for it; answered with {}", status::NOT_FOUND), None);
            (self.answer.verdict, self.answer.status) = ("refuse", Some(status::NOT_FOUND));
            return;
        };
        let origin = Some(format!("Ingress {}", found.target.ingress));
        self.answer.ingress = Some(found.target.ingress.to_string());
        let host_rule = match found.rule {
            Rule::Path(host, _) | Rule::HostDefault(host) => Some(host.to_string()),
            Rule::Default => None,
        };
        let path_rule = if let Rule::Path(_, path) = found.rule { Some(path.to_string()) } else { None };
        let of_host = host_rule.clone().unwrap_or_else(|| "none is for it; the default backend".to_owned());
        self.step("host rule", of_host, origin.clone());
        let of_path = path_rule.clone().unwrap_or_else(|| "none is for it; the default backend".to_owned());
        self.step("path rule", of_path, origin);
        (self.answer.host_rule, self.answer.path_rule) = (host_rule, path_rule);
        if !url.is_tls && self.is_kept_from_http(found.target.plain_http) {
            return;
        }
        self.backend(found.target, desired);
    }

    /// Whether the request gets no further without TLS.
    fn is_kept_from_http(&mut self, plain_http: PlainHttp) -> bool {
        let (verdict, code, found) = match plain_http {
            PlainHttp::Served => return false,
            PlainHttp::Redirected(code) => ("redirect", code, "redirected to https"),
            PlainHttp::Refused => (
                "refuse",
                status::NOT_FOUND,
                "the Ingress allows no HTTP, or its clients need a certificate: answered",
            ),
        };
        self.step("plain HTTP", format!("{found} with {code}"), None);
        (self.answer.verdict, self.answer.status) = (verdict, Some(code));
        true
    }

    fn backend(&mut self, target: &Target, desired: &Desired) {
        let name = match &target.backend {
            Ok(name) => name,
            Err(reason) => {
                self.step("backend service", format!("{reason}; answered with {}", status::NOT_FOUND), None);
                (self.answer.verdict, self.answer.status) = ("refuse", Some(status::NOT_FOUND));
                return;
            }
        };
        self.answer.backend_service = Some(name.to_string());
        let service = desired.backend_service(name);
        let spoken = service.map_or("HTTP", |service| transport_name(service.transport));
        let origin = service.map(|service| service.origin().to_string());
        self.step("backend service", format!("{name}, endpoints are spoken to by {spoken}"), origin);
        self.answer.neg_type = service.map(BackendService::neg_type);
        match service.map(|service| (service, &service.node_ports)) {
            Some((service, None)) => self.pods(service, &negs(service)),
            Some((_, Some(nodes))) => self.nodes(nodes),
            None => {}
        }
        self.answer.endpoints.sort();
        if self.answer.endpoints.is_empty() {
            self.step("endpoint", format!("none is usable; answered with {}", status::UNAVAILABLE), None);
            (self.answer.verdict, self.answer.status) = ("refuse", Some(status::UNAVAILABLE));
        } else {
            self.answer.verdict = "forward";
        }
    }

    fn neg(&mut self, neg_type: NegType, kind: &'static str, count: usize, is_panic: bool) {
        let panic = if is_panic { ", all used since too few are healthy" } else { "" };
        self.step("NEG", format!("{kind}, {}: {count} endpoints{panic}", neg_type.name()), None);
        self.answer.negs.push(kind);
    }

    fn pods(&mut self, service: &BackendService, negs: &[&Neg]) {
        for neg in negs {
            self.neg(NegType::Pod, neg_kind_name(neg.kind), neg.members.len(), neg.is_panic);
            for endpoint in neg.members.iter().filter_map(|index| service.endpoints.get(*index as usize)) {
                let text = socket_text(endpoint.address, endpoint.port);
                let state = endpoint.state().name();
                let origin = Some(endpoint.origin().to_string());
                self.step("endpoint", format!("{text}, {state}, weight {}", endpoint.weight), origin);
                self.answer.endpoints.push(text);
            }
        }
    }

    fn nodes(&mut self, nodes: &NodePorts) {
        if nodes.port.is_none() {
            self.step("NEG", format!("{}, and the port has no node port", NegType::NodePort.name()), None);
        }
        if let Some(neg) = nodes.used() {
            self.neg(NegType::NodePort, neg.kind_name(), neg.members().count(), neg.is_panic);
            for endpoint in neg.members() {
                let text = socket_text(endpoint.address, endpoint.port);
                let origin = Some(format!("Node {}", endpoint.node));
                self.step("endpoint", format!("{text}, {}", endpoint.state().name()), origin);
                self.answer.endpoints.push(text);
            }
        }
    }
}

/// The NEGs whose endpoints get requests: those of the cluster, or where no frontend uses one those of the node.
fn negs(service: &BackendService) -> Vec<&Neg> {
    use lb_common::neg::NegKind::{ClusterV4, ClusterV6, LocalV4, LocalV6};
    debug_assert_eq!(service.name.protocol, Protocol::Tcp, "only TCP ports are backends");
    let of = |kinds: [_; 2]| kinds.into_iter().filter_map(|kind| service.neg(kind)).collect::<Vec<_>>();
    let cluster = of([ClusterV4, ClusterV6]);
    if cluster.is_empty() { of([LocalV4, LocalV6]) } else { cluster }
}

/// The certificate of a host: one for its name, else for a wildcard that covers it, else one for the hosts that it
/// names itself, else the first.
fn certificate_for<'a>(certificates: &'a [CertificateUse], name: &str) -> Option<&'a CertificateUse> {
    let rest = name.split_once('.').map(|(_, rest)| rest);
    let with = |matches: &dyn Fn(&HostPattern) -> bool| {
        certificates.iter().find(|certificate| certificate.hosts.iter().any(matches))
    };
    with(&|host| matches!(host, HostPattern::Exact(exact) if **exact == *name))
        .or_else(|| with(&|host| matches!(host, HostPattern::OneLabel(of) | HostPattern::Labels(of) if rest == Some(of))))
        .or_else(|| certificates.iter().find(|certificate| certificate.hosts.is_empty()))
        .or_else(|| certificates.first())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart_and_left_as_it_is() {
        let url = |is_tls, authority, target| Some(Url { is_tls, authority, target });
        let cases = [
            ("http://Shop.example", url(false, "Shop.example", "/")),
            ("HTTPS://shop.example:8443/a/../b?c", url(true, "shop.example:8443", "/a/../b?c")),
            ("https://shop.example?c", url(true, "shop.example", "?c")),
            ("https://[2001:db8::7]:443/a", url(true, "[2001:db8::7]:443", "/a")),
            ("https://user@shop.example/", url(true, "user@shop.example", "/")),
            ("ftp://shop.example/", None),
            ("shop.example/a", None),
        ];
        for (text, expected) in cases {
            assert_eq!(Url::of(text), expected, "{text}");
        }
    }
}
