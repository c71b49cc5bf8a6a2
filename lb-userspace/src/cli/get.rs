//! `podway get`: the maps as tables.
use std::net::SocketAddr;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use lb_common::counters::Traffic;
use lb_common::endpoint::{Endpoint, state};
use lb_common::neg::{NegKind, Ring};
use serde::Serialize;

use crate::diff::{Tables, range_text};
use crate::drain;
use crate::maps::StoredState;
use crate::model::{NegType, Protocol};
use crate::plan::{neg_kind_name, socket_text};
use crate::snapshot::Reading;

use super::health::{self, EndpointHealth, KnownHealth};
use super::node_negs::{self, NodeNeg};
use super::output::{self, Format, Row};
use super::url_maps::Topic;
use super::{GivenFacts, ReadFrom, UrlMapQuestion, frontends, traces};

/// What can be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Resource {
    /// VIP, port and protocol, and the backend service that they lead to.
    Frontends,
    /// Service ports with their policies.
    BackendServices,
    /// Network endpoint groups and their rings.
    Negs,
    /// Pods behind the backend services, with state and traffic.
    Endpoints,
    /// Known flows, both directions.
    Conntrack,
    /// Clients that keep their endpoint.
    Affinity,
    /// What became of packets, by reason.
    Counters,
    /// How full the maps are that programs fill.
    Pressure,
    /// Where which program is attached.
    Programs,
    /// Hosts and paths of Ingresses, and the backend services that they lead to; of the agent, or from --manifests.
    UrlMaps,
}

/// List what stands in the BPF maps of this node, or in a snapshot. No agent need run.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  podway get frontends\n  podway get endpoints shop/web -o wide\n  \
    podway get conntrack -o json | jq length\n  podway get url-maps --manifests examples")]
pub(super) struct Get {
    /// What to list.
    resource: Resource,
    /// Only what has this text in its name or address.
    filter: Option<String>,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    place: ReadFrom,
    #[command(flatten)]
    given: GivenFacts,
}

/// Prints the listing.
///
/// # Errors
/// No maps are pinned there, or they cannot be read.
pub(super) fn run(get: &Get) -> Result<String> {
    let open = || {
        ensure!(
            get.given.manifests.is_none(),
            "cannot list this from manifests: it stands in BPF maps; use `podway plan`, or leave --manifests out"
        );
        get.place.open()
    };
    match get.resource {
        Resource::Frontends => listing(get, frontends::frontends(&open()?.tables()?)),
        Resource::BackendServices => {
            let reading = open()?;
            listing(get, backend_services(&reading, &reading.tables()?)?)
        }
        Resource::Negs => listing(get, negs(&open()?.tables()?, &node_negs::ask_or_say(&get.place))),
        Resource::Endpoints => {
            let reading = open()?;
            // A short table has no room for what the agent knows of health; elsewhere that is said of both at once.
            let (known, nodes) = match get.output {
                Format::Table => (KnownHealth::none(), node_negs::ask_or_say(&get.place)),
                Format::Wide | Format::Json | Format::Yaml => {
                    (KnownHealth::ask(&reading, None), node_negs::ask(&get.place).unwrap_or_default())
                }
            };
            listing(get, endpoints(&reading, &reading.tables()?, &known, &nodes)?)
        }
        Resource::Conntrack => listing(get, traces::conntrack(&open()?)?),
        Resource::Affinity => listing(get, traces::affinity(&open()?)?),
        Resource::Counters => listing(get, traces::counters(&open()?)?),
        Resource::Pressure => listing(get, super::pressure::pressure(&open()?)?),
        Resource::Programs => listing(get, super::programs::programs(&open()?)?),
        Resource::UrlMaps => {
            let topic = Topic::Rules { filter: get.filter.clone() };
            get.given.ask_of_url_maps(&UrlMapQuestion { topic, output: get.output }, &get.place)
        }
    }
}

fn listing<R: Row>(get: &Get, rows: Vec<R>) -> Result<String> {
    let matches = |row: &R| {
        get.filter.as_ref().is_none_or(|text| row.cells().iter().any(|cell| cell.contains(text.as_str())))
    };
    let rows: Vec<R> = rows.into_iter().filter(matches).collect();
    output::rows(&rows, get.output)
}

/// A backend service's name, or its id where the maps have no name for it.
pub(super) fn name_of(tables: &Tables, id: u32) -> String {
    tables.name(id).map_or_else(|| format!("#{id}"), |stored| stored.name.to_string())
}

pub(super) fn endpoint_text(endpoint: &Endpoint) -> String {
    socket_text(endpoint.address.into(), endpoint.port.get())
}

pub(super) fn protocol_text(number: u32) -> String {
    u8::try_from(number)
        .ok()
        .and_then(Protocol::of_number)
        .map_or_else(|| number.to_string(), |protocol| protocol.to_string())
}

/// The NEGs of a backend service that have a ring.
fn rings_of(tables: &Tables, backend_service: u32) -> impl Iterator<Item = (NegKind, Ring)> + '_ {
    NegKind::ALL
        .into_iter()
        .map(move |kind| (kind, tables.neg(kind.id(backend_service))))
        .filter(|(_, ring)| *ring != Ring::EMPTY)
}

/// The endpoint ids in a NEG's ring, each once, rising.
pub(super) fn members(tables: &Tables, neg: u32) -> Vec<u32> {
    let mut ids = tables.slots(tables.neg(neg)).map(<[u32]>::to_vec).unwrap_or_default();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// A backend service.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BackendServiceRow {
    pub(super) name: String,
    id: u32,
    frontends: usize,
    endpoints: usize,
    healthy: usize,
    affinity_timeout_seconds: Option<u32>,
    pub(super) source_ranges: Vec<String>,
    resource_version: String,
    packets: u64,
    bytes: u64,
    new_flows: u64,
}

impl Row for BackendServiceRow {
    const HEADINGS: &'static [&'static str] =
        &["NAME", "ID", "FRONTENDS", "ENDPOINTS", "HEALTHY", "AFFINITY", "NEW FLOWS"];
    const WIDE_HEADINGS: &'static [&'static str] = &["RESOURCE VERSION", "PACKETS", "BYTES", "SOURCE RANGES"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.id.to_string(),
            self.frontends.to_string(),
            self.endpoints.to_string(),
            self.healthy.to_string(),
            self.affinity_timeout_seconds.map_or_else(|| "-".to_owned(), |timeout| format!("{timeout}s")),
            self.new_flows.to_string(),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        let ranges = self.source_ranges.len();
        vec![
            self.resource_version.clone(),
            self.packets.to_string(),
            self.bytes.to_string(),
            ranges.to_string(),
        ]
    }
}

pub(super) fn backend_services(reading: &Reading, tables: &Tables) -> Result<Vec<BackendServiceRow>> {
    let ids: Vec<u32> = tables.backend_service_ids().collect();
    let traffic = reading.backend_services_traffic(ids.last().map_or(0, |last| last + 1))?;
    Ok(ids.iter().map(|id| backend_service(tables, *id, &of_id(&traffic, *id))).collect())
}

/// What was counted for an id. Where a snapshot ends before it, nothing was.
fn of_id(traffic: &[Traffic], id: u32) -> Traffic {
    traffic.get(id as usize).copied().unwrap_or_default()
}

fn backend_service(tables: &Tables, id: u32, traffic: &Traffic) -> BackendServiceRow {
    let mut endpoints = tables.endpoints_of(id).to_vec();
    endpoints.retain(|id| tables.endpoint(*id).is_named());
    let healthy = endpoints.iter().filter(|id| is_healthy(&tables.endpoint(**id))).count();
    BackendServiceRow {
        name: name_of(tables, id),
        id,
        frontends: tables.frontends_of(id).count(),
        endpoints: endpoints.len(),
        healthy,
        affinity_timeout_seconds: tables
            .backend_service(id)
            .and_then(lb_common::backend_service::BackendService::affinity_timeout_s),
        source_ranges: tables.source_ranges_of(id).iter().map(range_text).collect(),
        resource_version: tables.name(id).map(|name| name.resource_version.to_string()).unwrap_or_default(),
        packets: traffic.packets,
        bytes: traffic.bytes,
        new_flows: traffic.new_flows,
    }
}

/// A NEG.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NegRow {
    pub(super) backend_service: String,
    pub(super) kind: String,
    #[serde(rename = "type")]
    pub(super) neg_type: NegType,
    /// None of a NEG that no map holds.
    pub(super) id: Option<u32>,
    pub(super) endpoints: usize,
    pub(super) healthy: usize,
    /// Whether unhealthy endpoints are used since too few are healthy.
    pub(super) panic: bool,
    pub(super) ring_length: Option<u32>,
    pub(super) ring_position: Option<u32>,
}

impl Row for NegRow {
    const HEADINGS: &'static [&'static str] =
        &["BACKEND SERVICE", "NEG", "TYPE", "ENDPOINTS", "HEALTHY", "PANIC", "RING LENGTH"];
    const WIDE_HEADINGS: &'static [&'static str] = &["ID", "RING POSITION"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.backend_service.clone(),
            self.kind.clone(),
            self.neg_type.name().to_owned(),
            self.endpoints.to_string(),
            self.healthy.to_string(),
            if self.panic { "yes" } else { "no" }.to_owned(),
            or_dash(self.ring_length),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        vec![or_dash(self.id), or_dash(self.ring_position)]
    }
}

pub(super) fn negs(tables: &Tables, nodes: &[NodeNeg]) -> Vec<NegRow> {
    let of_service = |id| rings_of(tables, id).map(move |(kind, ring)| (id, kind, ring));
    let of_maps = tables.backend_service_ids().flat_map(of_service);
    of_maps
        .map(|(id, kind, ring)| neg(tables, id, kind, ring))
        .chain(nodes.iter().map(NodeNeg::row))
        .collect()
}

fn neg(tables: &Tables, backend_service: u32, kind: NegKind, ring: Ring) -> NegRow {
    let id = kind.id(backend_service);
    let members: Vec<Endpoint> = members(tables, id).into_iter().map(|id| tables.endpoint(id)).collect();
    NegRow {
        backend_service: name_of(tables, backend_service),
        kind: neg_kind_name(kind).to_owned(),
        neg_type: NegType::Pod,
        id: Some(id),
        endpoints: members.len(),
        healthy: members.iter().filter(|endpoint| is_healthy(endpoint)).count(),
        panic: members.iter().any(|endpoint| endpoint.state & state::PANIC != 0),
        ring_length: Some(ring.length()),
        ring_position: Some(ring.position()),
    }
}

/// An endpoint.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EndpointRow {
    pub(super) address: String,
    pub(super) protocol: String,
    pub(super) backend_service: String,
    /// Whether it is of a NEG of pods or of nodes.
    #[serde(rename = "type")]
    pub(super) neg_type: NegType,
    pub(super) state: String,
    pub(super) local: bool,
    /// What the agent knows, where one answers.
    pub(super) health: Option<EndpointHealth>,
    /// Flows that go on with an endpoint that gets no more.
    pub(super) flows_left: Option<u64>,
    /// Seconds until those of an endpoint that is withdrawn, or that its health check took out, are reset.
    pub(super) seconds_left: Option<u32>,
    /// What the packet path has counted; none of a node, which it knows nothing of.
    #[serde(flatten)]
    pub(super) traffic: Option<EndpointTraffic>,
    /// Its place in the maps; none of a node.
    #[serde(flatten)]
    pub(super) place: Option<EndpointPlace>,
}

/// What an endpoint got.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EndpointTraffic {
    packets: u64,
    bytes: u64,
    new_flows: u64,
}

/// Where an endpoint stands.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EndpointPlace {
    id: u32,
    generation: u32,
    slots: usize,
}

impl EndpointRow {
    /// Flows begun to it.
    pub(super) fn new_flows_text(&self) -> String {
        or_dash(self.traffic.as_ref().map(|traffic| traffic.new_flows))
    }
}

impl Row for EndpointRow {
    const HEADINGS: &'static [&'static str] =
        &["ENDPOINT", "PROTOCOL", "BACKEND SERVICE", "STATE", "LOCAL", "LEFT", "NEW FLOWS", "PACKETS"];
    const WIDE_HEADINGS: &'static [&'static str] = &[
        "TYPE",
        "BYTES",
        "ID",
        "GENERATION",
        "SLOTS",
        health::HEADINGS[0],
        health::HEADINGS[1],
        health::HEADINGS[2],
        health::HEADINGS[3],
        health::HEADINGS[4],
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.address.clone(),
            self.protocol.clone(),
            self.backend_service.clone(),
            self.state.clone(),
            if self.local { "yes" } else { "no" }.to_owned(),
            left_text(self.flows_left, self.seconds_left),
            self.new_flows_text(),
            or_dash(self.traffic.as_ref().map(|traffic| traffic.packets)),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        let mut cells = vec![
            self.neg_type.name().to_owned(),
            or_dash(self.traffic.as_ref().map(|traffic| traffic.bytes)),
            or_dash(self.place.as_ref().map(|place| place.id)),
            or_dash(self.place.as_ref().map(|place| place.generation)),
            or_dash(self.place.as_ref().map(|place| place.slots)),
        ];
        cells.extend(health::cells(self.health.as_ref()));
        cells
    }
}

fn or_dash(number: Option<impl ToString>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

/// What a draining endpoint still has: flows, and the time until they are reset.
fn left_text(flows: Option<u64>, seconds: Option<u32>) -> String {
    match (flows, seconds) {
        (Some(flows), Some(seconds)) => format!("{flows} flows, {seconds}s"),
        (Some(flows), None) => format!("{flows} flows"),
        (None, _) => "-".to_owned(),
    }
}

/// Whether it takes new flows for its own sake.
fn is_healthy(endpoint: &Endpoint) -> bool {
    endpoint.takes_new_flows() && endpoint.state & state::PANIC == 0
}

/// The state's word.
pub(super) fn state_name(endpoint: &Endpoint) -> &'static str {
    StoredState::of(endpoint).map_or("gone", StoredState::name)
}

pub(super) fn endpoints(
    reading: &Reading,
    tables: &Tables,
    known: &KnownHealth,
    nodes: &[NodeNeg],
) -> Result<Vec<EndpointRow>> {
    let ids: Vec<u32> = tables.endpoint_ids().collect();
    let now_s = reading.now_s();
    let is_draining = |id: &&u32| {
        let endpoint = tables.endpoint(**id);
        endpoint.state & (state::DRAINING | state::WITHDRAWN) != 0 || endpoint.drain_until_s().is_some()
    };
    let flows = match ids.iter().any(|id| is_draining(&id)) {
        true => Some(drain::flows_by_endpoint(reading.flows()?, now_s)?),
        false => None,
    };
    let traffic = reading.endpoints_traffic(ids.last().map_or(0, |last| last + 1))?;
    let row = |id: &u32| {
        let flows = flows.as_ref().filter(|_| is_draining(&id)).map(|flows| flows.of(*id, tables));
        endpoint(tables, *id, flows, &of_id(&traffic, *id), known, now_s)
    };
    Ok(ids.iter().map(row).chain(nodes.iter().flat_map(|neg| neg.endpoint_rows(known))).collect())
}

fn endpoint(
    tables: &Tables,
    id: u32,
    flows_left: Option<u64>,
    traffic: &Traffic,
    known: &KnownHealth,
    now_s: u32,
) -> EndpointRow {
    let endpoint = tables.endpoint(id);
    let backend_service = name_of(tables, endpoint.backend_service);
    let socket = SocketAddr::new(endpoint.address.into(), endpoint.port.get());
    let slots = rings_of(tables, endpoint.backend_service)
        .filter_map(|(_, ring)| tables.slots(ring))
        .map(|slots| slots.iter().filter(|slot| **slot == id).count())
        .sum();
    EndpointRow {
        address: endpoint_text(&endpoint),
        protocol: protocol_text(endpoint.protocol.into()),
        health: known.of(&backend_service, socket),
        backend_service,
        neg_type: NegType::Pod,
        state: state_name(&endpoint).to_owned(),
        local: endpoint.is_local(),
        flows_left,
        seconds_left: endpoint.drain_until_s().map(|until_s| until_s.saturating_sub(now_s)),
        traffic: Some(EndpointTraffic {
            packets: traffic.packets,
            bytes: traffic.bytes,
            new_flows: traffic.new_flows,
        }),
        place: Some(EndpointPlace { id, generation: endpoint.generation, slots }),
    }
}
