//! `podway describe`: one object with all that hangs on it.
use anyhow::{Result, bail, ensure};
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::diff::Tables;

use super::frontends::{self, FrontendRow};
use super::get::{self, BackendServiceRow, EndpointRow, NegRow};
use super::health::{self, KnownHealth};
use super::node_negs;
use super::output::{self, Format, Row as _};
use super::url_maps::Topic;
use super::{GivenFacts, ReadFrom, UrlMapQuestion};

/// What can be described.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    /// A Service port.
    BackendService,
    /// The NEGs of a backend service.
    Neg,
    /// A pod, by `IP:PORT`.
    Endpoint,
    /// The rules of Ingresses that share their VIPs; of the agent, or from --manifests.
    UrlMap,
    /// The URL maps of an Ingress, by `NAMESPACE/NAME`; likewise.
    Ingress,
}

/// Show one URL map, Ingress, backend service, NEG or endpoint with the chain that it is part of.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  podway describe backend-service shop/web:http/TCP\n  \
    podway describe endpoint 10.244.1.10:8080\n  podway describe ingress shop/web --manifests examples --node-name node-a")]
pub(super) struct Describe {
    /// What to describe.
    kind: Kind,
    /// Its name, or a part that only it has: `namespace/service:port/protocol`, or `IP:PORT`.
    name: String,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    place: ReadFrom,
    #[command(flatten)]
    given: GivenFacts,
}

/// A chain: frontends → backend service → NEGs → endpoints.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Chain {
    frontends: Vec<FrontendRow>,
    backend_services: Vec<BackendServiceRow>,
    negs: Vec<NegRow>,
    endpoints: Vec<EndpointRow>,
}

/// Prints the description.
///
/// # Errors
/// Nothing has the name, or more than one thing has.
pub(super) fn run(describe: &Describe) -> Result<String> {
    let name = describe.name.clone();
    let topic = match describe.kind {
        Kind::UrlMap => Topic::UrlMap { name },
        Kind::Ingress => Topic::Ingress { name },
        Kind::BackendService | Kind::Neg | Kind::Endpoint => return of_maps(describe),
    };
    describe.given.ask_of_url_maps(&UrlMapQuestion { topic, output: describe.output }, &describe.place)
}

fn of_maps(describe: &Describe) -> Result<String> {
    ensure!(
        describe.given.manifests.is_none(),
        "cannot describe this from manifests: it stands in BPF maps; use `podway plan`, or leave --manifests out"
    );
    let reading = describe.place.open()?;
    let tables = reading.tables()?;
    let known = KnownHealth::ask(&reading, None);
    // That no agent answers has been said.
    let nodes = node_negs::ask(&describe.place).unwrap_or_default();
    let mut chain = Chain {
        frontends: Vec::new(),
        backend_services: get::backend_services(&reading, &tables)?,
        negs: get::negs(&tables, &nodes),
        endpoints: get::endpoints(&reading, &tables, &known, &nodes)?,
    };
    let names = if describe.kind == Kind::Endpoint {
        of_endpoint(&mut chain, &describe.name)?
    } else {
        let all: Vec<String> = chain.backend_services.iter().map(|row| row.name.clone()).collect();
        vec![health::only_one(&all, &describe.name)?]
    };
    chain.backend_services.retain(|row| names.contains(&row.name));
    chain.negs.retain(|row| names.contains(&row.backend_service));
    chain.endpoints.retain(|row| names.contains(&row.backend_service));
    chain.frontends = frontends(&tables, &names);
    match describe.output {
        Format::Json | Format::Yaml => output::value(&chain, describe.output),
        Format::Table | Format::Wide => sections(&chain, describe.output),
    }
}

fn of_endpoint(chain: &mut Chain, text: &str) -> Result<Vec<String>> {
    chain.endpoints.retain(|row| row.address == text);
    if chain.endpoints.is_empty() {
        bail!("no endpoint {text:?}; want IP:PORT as `podway get endpoints` prints it");
    }
    Ok(chain.endpoints.iter().map(|row| row.backend_service.clone()).collect())
}

fn frontends(tables: &Tables, names: &[String]) -> Vec<FrontendRow> {
    tables
        .frontends()
        .iter()
        .filter(|(_, value)| names.contains(&get::name_of(tables, value.backend_service)))
        .map(|(key, value)| frontends::frontend(tables, key, value))
        .collect()
}

fn sections(chain: &Chain, format: Format) -> Result<String> {
    let mut text = String::new();
    for service in &chain.backend_services {
        text.push_str(&format!("Backend service {}\n", service.cells()[0]));
    }
    text.push_str("\nFrontends\n");
    text.push_str(&output::rows(&chain.frontends, format)?);
    text.push_str("\nPolicies and traffic\n");
    text.push_str(&output::rows(&chain.backend_services, Format::Wide)?);
    let ranges: Vec<&str> =
        chain.backend_services.iter().flat_map(|row| &row.source_ranges).map(String::as_str).collect();
    if !ranges.is_empty() {
        text.push_str(&format!("\nSource ranges\n{}\n", ranges.join("\n")));
    }
    text.push_str("\nNEGs\n");
    text.push_str(&output::rows(&chain.negs, format)?);
    text.push_str("\nEndpoints\n");
    text.push_str(&output::rows(&chain.endpoints, Format::Wide)?);
    Ok(text)
}
