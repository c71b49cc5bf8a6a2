//! Shared probing of a large cluster, played through without sleeping: time is a number, chance comes from a seed, and
//! who probes what, what is told when and what it comes to is decided by the agents' own modules.
//!
//! Simplified are the endpoints, which refuse a connection from the moment when they fail, and the API server, which takes a
//! fixed time for a write to be in a watch. The collector does not fail: what that costs is in the cluster tier's tests.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use lb_userspace::health::{CheckState, Electorate, Outcome, Target, target_key};
use lb_userspace::model::{CheckKind, HealthCheck, ObjectName, Protocol};
use lb_userspace::peers::{Collection, Heard, Pacing, Report, Summary, renew_ms};
use lb_userspace::plan::BackendServiceName;

use crate::packet::Random;

/// Length of a step, milliseconds.
const STEP_MS: u64 = 100;
/// Bytes of a Lease but for its content, as JSON in a watch event.
const LEASE_BYTES: usize = 700;
/// Time between two renewals of the summary, and the least between two writes, milliseconds.
const SUMMARY_RENEW_MS: u64 = 5_000;
const SUMMARY_INTERVAL_MS: u64 = 1_000;

/// A cluster, and what befalls it.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Nodes, each with an agent.
    pub nodes: usize,
    /// Endpoints of the cluster.
    pub endpoints: usize,
    /// Agents that probe each endpoint.
    pub probers: usize,
    /// How endpoints are probed.
    pub check: HealthCheck,
    /// Time from a write to its event in a watch, milliseconds.
    pub api_ms: u64,
    /// When and how many endpoints fail, milliseconds from the beginning.
    pub failures: Vec<(u64, usize)>,
    /// When and how many nodes die.
    pub deaths: Vec<(u64, usize)>,
    /// The end, milliseconds.
    pub length_ms: u64,
}

impl Scenario {
    /// A cluster in which all is well for two minutes, with the check that an annotation asks for by default.
    #[must_use]
    pub fn new(nodes: usize, endpoints: usize) -> Self {
        let check = HealthCheck {
            kind: CheckKind::Tcp,
            port: None,
            interval_ms: 10_000,
            timeout_ms: 5_000,
            healthy_threshold: 2,
            unhealthy_threshold: 3,
        };
        let (failures, deaths) = (Vec::new(), Vec::new());
        Self { nodes, endpoints, probers: 3, check, api_ms: 50, failures, deaths, length_ms: 120_000 }
    }
}

/// What a scenario comes to.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Probes of all nodes in all.
    pub probes: u64,
    /// Probes by node.
    pub probes_by_node: Vec<u64>,
    /// Writes to the API server.
    pub writes: u64,
    /// Bytes of these.
    pub written_bytes: u64,
    /// Bytes that the API server sends on watches.
    pub watched_bytes: u64,
    /// From the failure of each endpoint until all nodes know of it, milliseconds, rising.
    pub known_after_ms: Vec<u64>,
    /// Failed endpoints of which the nodes did not hear.
    pub unknown: usize,
    /// Healthy endpoints that nodes were told to be unhealthy.
    pub wrong: usize,
    /// Longest time in which an endpoint had fewer live probers than it should, milliseconds.
    pub short_of_probers_ms: u64,
    /// Endpoints that had no live prober for a while.
    pub without_prober: usize,
}

/// Plays a scenario.
#[must_use]
pub fn play(scenario: &Scenario, seed: u64) -> Figures {
    let mut play = Play::new(scenario, seed);
    while play.now_ms < play.begin_ms + scenario.length_ms {
        play.step();
    }
    play.figures()
}

/// One agent.
struct Agent {
    name: Arc<str>,
    is_alive: bool,
    pacing: Pacing,
    report: Report,
}

struct Play<'a> {
    scenario: &'a Scenario,
    random: Random,
    begin_ms: u64,
    now_ms: u64,
    agents: Vec<Agent>,
    names: BTreeSet<Arc<str>>,
    keys: Vec<u64>,
    probers: Vec<Vec<usize>>,
    /// Probes by the step in which they are due, as node and endpoint.
    due: BTreeMap<u64, Vec<(usize, usize)>>,
    /// Of failing endpoints alone.
    states: BTreeMap<(usize, usize), CheckState>,
    failed_ms: BTreeMap<usize, u64>,
    died_ms: Vec<(u64, usize)>,
    collection: Collection,
    /// On their way: reports to the collector, summaries to all.
    reports: BTreeMap<u64, Vec<(usize, Report)>>,
    summaries: BTreeMap<u64, Vec<Summary>>,
    written: (Summary, u64),
    known: Summary,
    known_ms: BTreeMap<u64, u64>,
    figures: Figures,
}

impl<'a> Play<'a> {
    fn new(scenario: &'a Scenario, seed: u64) -> Self {
        let names: Vec<Arc<str>> =
            (0..scenario.nodes).map(|index| format!("node-{index:05}").into()).collect();
        let agents = names.iter().map(|name| Agent {
            name: Arc::clone(name),
            is_alive: true,
            pacing: Pacing::default(),
            report: Report::default(),
        });
        let mut play = Self {
            scenario,
            random: Random::new(seed),
            begin_ms: renew_ms(scenario.nodes),
            now_ms: renew_ms(scenario.nodes),
            agents: agents.collect(),
            names: names.into_iter().collect(),
            keys: keys(scenario.endpoints),
            probers: vec![Vec::new(); scenario.endpoints],
            due: BTreeMap::new(),
            states: BTreeMap::new(),
            failed_ms: BTreeMap::new(),
            died_ms: Vec::new(),
            collection: Collection::new(scenario.probers),
            reports: BTreeMap::new(),
            summaries: BTreeMap::new(),
            written: (Summary::default(), 0),
            known: Summary::default(),
            known_ms: BTreeMap::new(),
            figures: Figures { probes_by_node: vec![0; scenario.nodes], ..Figures::default() },
        };
        // Agents have begun one after the other.
        for index in 0..scenario.nodes {
            let renew_ms = renew_ms(scenario.nodes);
            let written_ms = play.random.below(renew_ms as usize) as u64;
            let agent = &mut play.agents[index];
            agent.pacing.note(Report::default(), written_ms);
            let heard = heard(Report::default(), written_ms as i64, renew_ms);
            play.collection.note(&agent.name, heard, written_ms);
        }
        play.elect(&(0..scenario.endpoints).collect::<Vec<_>>());
        play
    }

    /// Gives endpoints the probers that all agents agree on, and plans the probes of new ones.
    fn elect(&mut self, endpoints: &[usize]) {
        let live = self.names.iter().filter(|name| !self.known.absent.contains(*name)).map(|name| &**name);
        let electorate = Electorate::new(live, self.scenario.probers);
        let index = |name: &str| name.trim_start_matches("node-").parse::<usize>().expect("a number");
        let interval_ms = u64::from(self.scenario.check.interval_ms);
        for endpoint in endpoints {
            let probers: Vec<usize> =
                electorate.probers(self.keys[*endpoint]).into_iter().map(index).collect();
            for prober in probers.iter().filter(|prober| !self.probers[*endpoint].contains(prober)) {
                let at_ms = self.now_ms + self.random.below(interval_ms as usize) as u64;
                self.due.entry(at_ms / STEP_MS).or_default().push((*prober, *endpoint));
            }
            self.probers[*endpoint] = probers;
        }
    }

    fn step(&mut self) {
        self.befall();
        self.probe();
        self.tell();
        self.collect();
        self.hear();
        self.now_ms += STEP_MS;
    }

    /// Lets endpoints fail and nodes die, none of them the collector's.
    fn befall(&mut self) {
        let (now_ms, passed_ms) = (self.now_ms, self.now_ms - self.begin_ms);
        let count = |events: &[(u64, usize)]| -> usize {
            events.iter().filter(|(at_ms, _)| *at_ms == passed_ms).map(|(_, count)| count).sum()
        };
        for _ in 0..count(&self.scenario.failures) {
            let endpoint = self.random.below(self.scenario.endpoints);
            self.failed_ms.entry(endpoint).or_insert(now_ms);
        }
        for _ in 0..count(&self.scenario.deaths) {
            let node = 1 + self.random.below(self.scenario.nodes - 1);
            if std::mem::replace(&mut self.agents[node].is_alive, false) {
                self.died_ms.push((now_ms, node));
            }
        }
        if count(&self.scenario.deaths) > 0 {
            let is_dead = |prober: &usize| !self.agents[*prober].is_alive;
            let lost = self.probers.iter().filter(|probers| probers.iter().all(is_dead));
            self.figures.without_prober = lost.count();
        }
    }

    fn probe(&mut self) {
        let check = &self.scenario.check;
        let interval_ms = u64::from(check.interval_ms);
        for (node, endpoint) in self.due.remove(&(self.now_ms / STEP_MS)).unwrap_or_default() {
            if !self.agents[node].is_alive || !self.probers[endpoint].contains(&node) {
                continue;
            }
            self.figures.probes += 1;
            self.figures.probes_by_node[node] += 1;
            // A tenth of the interval more or less, as the schedule has it.
            let spread_ms = self.random.below(interval_ms as usize / 5) as u64;
            let next_ms = self.now_ms + interval_ms * 9 / 10 + spread_ms;
            self.due.entry(next_ms / STEP_MS).or_default().push((node, endpoint));
            if self.failed_ms.contains_key(&endpoint)
                && self.states.entry((node, endpoint)).or_default().record(Outcome::Failed, check)
            {
                self.agents[node].report.unhealthy.0.insert(self.keys[endpoint]);
            }
        }
    }

    /// Lets agents write their reports.
    fn tell(&mut self) {
        let (nodes, arrives_ms) = (self.scenario.nodes, self.now_ms + self.scenario.api_ms);
        for (index, agent) in self.agents.iter_mut().enumerate().filter(|(_, agent)| agent.is_alive) {
            if agent.pacing.is_due(&agent.report, &self.known, nodes, self.now_ms) {
                agent.pacing.note(agent.report.clone(), self.now_ms);
                let bytes = (LEASE_BYTES + json_bytes(&agent.report)) as u64;
                self.figures.writes += 1;
                self.figures.written_bytes += bytes;
                // To the collector.
                self.figures.watched_bytes += bytes;
                self.reports.entry(arrives_ms).or_default().push((index, agent.report.clone()));
            }
        }
    }

    fn collect(&mut self) {
        let later = self.reports.split_off(&(self.now_ms + 1));
        let renew_ms = renew_ms(self.scenario.nodes);
        for (at_ms, reports) in std::mem::replace(&mut self.reports, later) {
            for (node, report) in reports {
                let heard = heard(report, at_ms as i64 + 1, renew_ms);
                self.collection.note(&self.agents[node].name, heard, self.now_ms);
            }
        }
        let (written, at_ms) = &self.written;
        let passed_ms = self.now_ms - at_ms;
        if passed_ms < SUMMARY_INTERVAL_MS {
            return;
        }
        let own = (&self.agents[0].name, &self.agents[0].report);
        let summary = self.collection.summary(own, &self.names, self.now_ms);
        if summary != *written || passed_ms >= SUMMARY_RENEW_MS {
            let bytes = (LEASE_BYTES + json_bytes(&summary)) as u64;
            self.figures.writes += 1;
            self.figures.written_bytes += bytes;
            self.figures.watched_bytes += bytes * self.scenario.nodes as u64;
            self.summaries.entry(self.now_ms + self.scenario.api_ms).or_default().push(summary.clone());
            self.written = (summary, self.now_ms);
        }
    }

    /// Lets all agents hear the summary.
    fn hear(&mut self) {
        let later = self.summaries.split_off(&(self.now_ms + 1));
        for summary in std::mem::replace(&mut self.summaries, later).into_values().flatten() {
            for key in &summary.unhealthy.0 {
                self.known_ms.entry(*key).or_insert(self.now_ms);
            }
            let came: Vec<_> = summary.absent.difference(&self.known.absent).cloned().collect();
            self.known = summary;
            if came.is_empty() {
                continue;
            }
            let is_absent = |prober: &usize| self.known.absent.contains(&self.agents[*prober].name);
            let concerns = |endpoint: &usize| self.probers[*endpoint].iter().any(is_absent);
            let short: Vec<usize> = (0..self.scenario.endpoints).filter(concerns).collect();
            for (died_ms, node) in &self.died_ms {
                if came.contains(&self.agents[*node].name) {
                    let short_ms = self.now_ms - died_ms;
                    self.figures.short_of_probers_ms = self.figures.short_of_probers_ms.max(short_ms);
                }
            }
            self.elect(&short);
        }
    }

    fn figures(mut self) -> Figures {
        for (endpoint, failed_ms) in &self.failed_ms {
            match self.known_ms.remove(&self.keys[*endpoint]) {
                Some(known_ms) => self.figures.known_after_ms.push(known_ms - failed_ms),
                None => self.figures.unknown += 1,
            }
        }
        self.figures.known_after_ms.sort_unstable();
        self.figures.wrong = self.known_ms.len();
        self.figures
    }
}

fn heard(report: Report, renewed_us: i64, renew_ms: u64) -> Heard {
    Heard { report, renewed_us, holds_ms: 4 * renew_ms }
}

fn json_bytes(content: &impl serde::Serialize) -> usize {
    // As the text of an annotation, its quotes are escaped.
    let text = serde_json::to_string(content).unwrap_or_default();
    serde_json::to_string(&text).unwrap_or_default().len()
}

/// The keys of endpoints, a hundred to a Service.
fn keys(endpoints: usize) -> Vec<u64> {
    let name = |index: usize| {
        Arc::new(BackendServiceName {
            service: ObjectName::new("shop", &format!("web-{index}")),
            port_name: "http".into(),
            port: 80,
            protocol: Protocol::Tcp,
        })
    };
    let mut keys = Vec::with_capacity(endpoints);
    for endpoint in 0..endpoints {
        let octets = (endpoint as u32).to_be_bytes();
        let address = IpAddr::from([10, octets[1], octets[2], octets[3]]);
        keys.push(target_key(&Target { backend_service: name(endpoint / 100), address, port: 8080 }));
    }
    keys
}
