//! Load-balancer addresses, from the facts to the writer of statuses. One agent alone gives them: the collector of what
//! agents tell each other.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::clock::now_ms;
use crate::events::FaultyKind;
use crate::lb_pool::{self, Correction, Notice, Owner, OwnerKind, Task};
use crate::model::{ObjectName, Problem};
use crate::peers::Known;

use super::planner::Planner;

/// Statuses and Events that wait for the API server at most; the rest waits here.
const TASKS_MAX: usize = 64;

/// Time after which a status that still is not as it is to be is written again, milliseconds.
const RETRY_MS: u64 = 10_000;

/// A status that was given to the writer.
struct Sent {
    resource_version: Arc<str>,
    addresses: Vec<IpAddr>,
    at_ms: u64,
}

/// What was given to objects, and what could not be.
pub(super) struct LbPoolReports {
    sender: mpsc::Sender<Task>,
    /// Whether this agent gave addresses a moment ago.
    is_giving: bool,
    /// Statuses on their way: they count as what the objects have.
    sent: BTreeMap<Owner, Sent>,
    /// What could not be given, as far as this agent gives.
    pub(super) problems: BTreeSet<Problem>,
    told: BTreeSet<Problem>,
}

impl LbPoolReports {
    /// Begins to write. Must be called in a runtime.
    pub(super) fn start(config: kube::Config, node_name: &str) -> Self {
        let (sender, tasks) = mpsc::channel(TASKS_MAX);
        let node = node_name.to_owned();
        tokio::spawn(async move {
            if let Err(error) = lb_pool::run(config, node, tasks).await {
                warn!(error = format!("{error:#}"), "no load-balancer addresses are given");
            }
        });
        let (problems, told) = (BTreeSet::new(), BTreeSet::new());
        Self { sender, is_giving: false, sent: BTreeMap::new(), problems, told }
    }

    /// Gives addresses where this agent is the one that does. `true` when what could not be given has changed.
    pub(super) fn tell(&mut self, planner: &mut Planner, known: &Known) -> bool {
        let now_ms = now_ms();
        let is_giving = known.is_the_one(now_ms);
        let has_begun = std::mem::replace(&mut self.is_giving, is_giving) != is_giving;
        if !is_giving {
            self.sent.clear();
            self.told.clear();
            return !std::mem::take(&mut self.problems).is_empty();
        }
        let is_change = planner.take_pool_change();
        let is_due = has_begun || is_change || !self.sent.is_empty() || self.told != self.problems;
        is_due && self.give(planner, now_ms)
    }

    fn give(&mut self, planner: &Planner, now_ms: u64) -> bool {
        let (pools, problems) = lb_pool::pools(planner.snapshot(), planner.node());
        let mut claims = lb_pool::claims(planner.snapshot(), planner.node(), &pools);
        for claim in &mut claims.claims {
            if let Some(sent) = self.sent.get(&claim.owner) {
                claim.present.clone_from(&sent.addresses);
            }
        }
        let allocation = lb_pool::allocate(&pools, &claims.claims, &claims.reserved);
        let corrections = lb_pool::corrections(&claims, &allocation);
        let open: BTreeSet<Owner> = corrections.iter().map(|correction| correction.owner.clone()).collect();
        self.sent.retain(|owner, _| open.contains(owner));
        for correction in corrections {
            self.correct(correction, now_ms);
        }
        let problems = problems.into_iter().chain(claims.problems).chain(allocation.problems).collect();
        let before = std::mem::replace(&mut self.problems, problems);
        self.tell_events(planner);
        before != self.problems
    }

    /// What is on its way is not sent again, unless the object has changed since or it takes too long.
    fn correct(&mut self, correction: Correction, now_ms: u64) {
        let is_on_its_way = self.sent.get(&correction.owner).is_some_and(|sent| {
            sent.resource_version == correction.resource_version
                && sent.addresses == correction.addresses
                && now_ms < sent.at_ms + RETRY_MS
        });
        if is_on_its_way {
            return;
        }
        let Correction { owner, resource_version, addresses } = correction.clone();
        // Also where there is no room now: what was decided holds.
        let at_ms = match self.sender.try_send(Task::Correct(correction)) {
            Ok(()) => now_ms,
            Err(_) => 0,
        };
        self.sent.insert(owner, Sent { resource_version, addresses, at_ms });
    }

    fn tell_events(&mut self, planner: &Planner) {
        self.told.retain(|problem| self.problems.contains(problem));
        for problem in &self.problems {
            let kind = match problem.kind {
                "Service" => OwnerKind::Service,
                "Ingress" => OwnerKind::Ingress,
                // A pool is no object of a namespace: the log tells of it.
                _ => {
                    self.told.insert(problem.clone());
                    continue;
                }
            };
            if self.told.contains(problem) {
                continue;
            }
            let notice = notice(kind, &problem.object, &problem.message, planner);
            if self.sender.try_send(Task::Tell(notice)).is_ok() {
                info!(kind = problem.kind, object = %problem.object, "an Event says why there is no address");
                self.told.insert(problem.clone());
            }
        }
    }
}

fn notice(kind: OwnerKind, object: &ObjectName, message: &str, planner: &Planner) -> Notice {
    let faulty = match kind {
        OwnerKind::Service => FaultyKind::Service,
        OwnerKind::Ingress => FaultyKind::Ingress,
    };
    let uid = planner.uid_of(faulty, object);
    Notice { owner: Owner { kind, object: object.clone() }, uid, message: message.to_owned() }
}
