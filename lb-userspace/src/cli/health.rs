//! `podway get-health`, and the columns on health of other listings: what stands in the maps, beside what the
//! agent of this node knows of it.
use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;

use crate::health::{DecidedBy, LastProbe, TargetHealth};
use crate::snapshot::Reading;

use super::ReadFrom;
use super::get::{self, EndpointRow};
use super::node_negs;
use super::output::{self, Format, Row};

/// Show how the endpoints of a backend service are, since when, what the last probe of each saw, and who says
/// so. Probes are those of this node's agent; without it the states in the maps are shown alone.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Examples:\n  podway get-health shop/web:http/TCP\n  podway get-health shop/web -o wide\n  \
    podway get-health shop/web -o json | jq '.[] | select(.state != \"healthy\")'"
)]
pub(super) struct GetHealth {
    /// The backend service's name, or a part that only it has.
    backend_service: String,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    place: ReadFrom,
}

/// Prints the listing.
///
/// # Errors
/// No maps are pinned there, or no single backend service has the name.
pub(super) fn run(get: &GetHealth) -> Result<String> {
    let reading = get.place.open()?;
    let tables = reading.tables()?;
    let names: Vec<String> = tables.backend_service_ids().map(|id| get::name_of(&tables, id)).collect();
    let name = only_one(&names, &get.backend_service)?;
    let known = KnownHealth::ask(&reading, Some(&name));
    // That no agent answers has been said.
    let nodes = node_negs::ask(&get.place).unwrap_or_default();
    let mut endpoints = get::endpoints(&reading, &tables, &known, &nodes)?;
    endpoints.retain(|row| row.backend_service == name);
    let rows: Vec<HealthRow> = endpoints.into_iter().map(HealthRow).collect();
    output::rows(&rows, get.output)
}

/// The one name that has the text in it; an equal one goes before others.
///
/// # Errors
/// None has it, or more than one.
pub(super) fn only_one(names: &[String], text: &str) -> Result<String> {
    if names.iter().any(|name| *name == text) {
        return Ok(text.to_owned());
    }
    match names.iter().filter(|name| name.contains(text)).map(String::as_str).collect::<Vec<_>>()[..] {
        [] => bail!("no backend service has {text:?} in its name; see `podway get backend-services`"),
        [one] => Ok(one.to_owned()),
        ref many => {
            bail!("{} backend services have {text:?} in their names: {}", many.len(), many.join(", "))
        }
    }
}

/// What the agent knows of endpoints; `None` where no agent answers.
pub(super) struct KnownHealth {
    targets: Option<BTreeMap<(String, SocketAddr), TargetHealth>>,
    /// When it was so.
    now_unix_ms: u64,
}

impl KnownHealth {
    /// Asks the agent, and says on standard error where none answers.
    pub(super) fn ask(reading: &Reading, backend_service: Option<&str>) -> Self {
        let now_unix_ms = reading.now_unix_ms();
        match reading.health(backend_service) {
            Ok(targets) => {
                let key = |target: &TargetHealth| (target.backend_service.clone(), target.endpoint);
                let targets = targets.into_iter().map(|target| (key(&target), target)).collect();
                Self { targets: Some(targets), now_unix_ms }
            }
            Err(error) => {
                eprintln!("podway: only what stands in the maps is shown of health: {error:#}");
                Self { targets: None, now_unix_ms }
            }
        }
    }

    /// Nobody was asked.
    pub(super) const fn none() -> Self {
        Self { targets: None, now_unix_ms: 0 }
    }

    /// What is known of an endpoint. One that the agent does not probe is in the state that its readiness says.
    pub(super) fn of(&self, backend_service: &str, endpoint: SocketAddr) -> Option<EndpointHealth> {
        let known = self.targets.as_ref()?.get(&(backend_service.to_owned(), endpoint));
        Some(EndpointHealth {
            since_unix_ms: known.map(|known| known.since_unix_ms),
            decided_by: known.map_or(DecidedBy::Readiness, |known| known.decided_by),
            last_probe: known.and_then(|known| known.last_probe.clone()),
            now_unix_ms: self.now_unix_ms,
        })
    }
}

/// What the agent knows of an endpoint.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EndpointHealth {
    since_unix_ms: Option<u64>,
    decided_by: DecidedBy,
    last_probe: Option<LastProbe>,
    /// When it was so.
    #[serde(skip)]
    now_unix_ms: u64,
}

/// Headings of [`cells`].
pub(super) const HEADINGS: [&str; 5] = ["SINCE", "LAST PROBE", "LATENCY", "REASON", "BY"];

/// The columns on health; all empty where no agent answered.
pub(super) fn cells(health: Option<&EndpointHealth>) -> Vec<String> {
    let probe = health.and_then(|health| health.last_probe.as_ref());
    // A clock that was set back makes no age negative.
    let age = |at_unix_ms: u64| {
        let now_unix_ms = health.map_or(at_unix_ms, |health| health.now_unix_ms);
        age_text(now_unix_ms.saturating_sub(at_unix_ms))
    };
    let cells = [
        health.and_then(|health| health.since_unix_ms).map(age),
        probe.map(|probe| age(probe.at_unix_ms)),
        probe.map(|probe| format!("{}.{}ms", probe.latency_us / 1_000, probe.latency_us / 100 % 10)),
        probe.map(|probe| probe.reason_code.name().to_owned()),
        health.map(|health| match health.decided_by {
            DecidedBy::Readiness => "readiness".to_owned(),
            DecidedBy::Probe => "probe".to_owned(),
        }),
    ];
    cells.map(|cell| cell.unwrap_or_else(|| "-".to_owned())).into()
}

/// An endpoint, by its health.
#[derive(Serialize)]
#[serde(transparent)]
struct HealthRow(EndpointRow);

impl Row for HealthRow {
    const HEADINGS: &'static [&'static str] =
        &["ENDPOINT", "STATE", HEADINGS[0], HEADINGS[1], HEADINGS[2], HEADINGS[3], HEADINGS[4]];
    const WIDE_HEADINGS: &'static [&'static str] = &["TYPE", "LOCAL", "NEW FLOWS", "DETAIL"];

    fn cells(&self) -> Vec<String> {
        let Self(row) = self;
        let mut all = vec![row.address.clone(), row.state.clone()];
        all.extend(cells(row.health.as_ref()));
        all
    }

    fn wide_cells(&self) -> Vec<String> {
        let Self(row) = self;
        let probe = row.health.as_ref().and_then(|health| health.last_probe.as_ref());
        vec![
            row.neg_type.name().to_owned(),
            if row.local { "yes" } else { "no" }.to_owned(),
            row.new_flows_text(),
            probe.map_or_else(|| "-".to_owned(), |probe| probe.detail.clone()),
        ]
    }
}

/// Two digits or so of an age.
fn age_text(age_ms: u64) -> String {
    let seconds = age_ms / 1_000;
    match seconds {
        0..10 => format!("{seconds}.{}s", age_ms / 100 % 10),
        10..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::ReasonCode;

    #[test]
    fn ages_have_the_unit_that_fits() {
        let ages = [0, 9_960, 10_000, 119_999, 120_000, 7_200_000, 172_800_000];
        assert_eq!(ages.map(age_text), ["0.0s", "9.9s", "10s", "119s", "2m", "2h", "2d"]);
    }

    #[test]
    fn endpoint_that_is_not_probed_is_ready_by_its_conditions() {
        let endpoint = "192.0.2.1:80".parse().expect("an address");
        let nothing = KnownHealth { targets: Some(BTreeMap::new()), now_unix_ms: 1 };
        let known = nothing.of("shop/web:http/TCP", endpoint);
        assert_eq!(cells(known.as_ref()), ["-", "-", "-", "-", "readiness"]);
    }

    #[test]
    fn without_an_agent_nothing_is_said() {
        let endpoint = "192.0.2.1:80".parse().expect("an address");
        let known = KnownHealth::none().of("shop/web:http/TCP", endpoint);
        assert_eq!(cells(known.as_ref()), ["-"; 5]);
    }

    #[test]
    fn last_probe_is_shown_with_its_latency_and_reason() {
        let last_probe = LastProbe {
            at_unix_ms: u64::MAX,
            latency_us: 12_345,
            reason_code: ReasonCode::WrongCode,
            detail: "code 503".into(),
        };
        let health = EndpointHealth {
            since_unix_ms: Some(500),
            decided_by: DecidedBy::Probe,
            last_probe: Some(last_probe),
            now_unix_ms: 61_500,
        };
        assert_eq!(cells(Some(&health)), ["61s", "0.0s", "12.3ms", "wrong-code", "probe"]);
    }

    #[test]
    fn a_name_that_is_part_of_another_is_taken_whole() {
        let names = ["shop/web:http/TCP", "shop/web:http/TCP-2"].map(str::to_owned);
        assert_eq!(only_one(&names, "shop/web:http/TCP").ok().as_ref(), Some(&names[0]));
        assert!(only_one(&names, "shop/web").is_err());
        assert!(only_one(&names, "TCP-2").is_ok());
    }
}
