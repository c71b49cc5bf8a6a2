//! All that an agent writes to the API server, where its facts come from one.
use std::collections::BTreeSet;

use anyhow::Result;

use crate::model::{Change, ObjectName, Problem, ReadinessGate};
use crate::peers::Settings;

use super::announcer::Announcer;
use super::event_reports::EventReports;
use super::gate_reports::GateReports;
use super::ingress_status_reports::IngressStatusReports;
use super::lb_pool_reports::LbPoolReports;
use super::neg_status_reports::NegStatusReports;
use super::peer_link::PeerLink;
use super::planner::Planner;
use super::{Agent, Options};

/// The links to the tasks that write.
pub(super) struct ApiLinks {
    events: EventReports,
    pub(super) peers: PeerLink,
    gates: GateReports,
    neg_statuses: NegStatusReports,
    ingress_statuses: IngressStatusReports,
    lb_pool: LbPoolReports,
    /// None where VIPs are not announced.
    pub(super) announcer: Option<Announcer>,
}

/// What a change of a fact is about, where that is more than its plan.
pub(super) enum Subject {
    Service(ObjectName),
    Pod(ObjectName),
    Ingress(ObjectName),
}

impl Subject {
    /// Of a change.
    pub(super) fn of(change: &Change) -> Option<Self> {
        match change {
            Change::Service(service) => Some(Self::Service(service.name.clone())),
            Change::GatedPod(pod) => Some(Self::Pod(pod.name.clone())),
            Change::GatedPodGone(name) => Some(Self::Pod(name.clone())),
            Change::Ingress(ingress) => Some(Self::Ingress(ingress.name.clone())),
            Change::IngressGone(name) => Some(Self::Ingress(name.clone())),
            _ => None,
        }
    }
}

impl ApiLinks {
    /// Begins to write. Must be called in a runtime.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub(super) fn start(config: &kube::Config, options: &Options) -> Result<Self> {
        let mut asked = vec![ReadinessGate::Programmed];
        if options.neg_readiness_gate {
            asked.push(ReadinessGate::NegReady);
        }
        let settings = Settings {
            node: options.node_name.as_str().into(),
            namespace: options.report_namespace.clone(),
            probers: options.probers,
        };
        Ok(Self {
            events: EventReports::start(config.clone(), &options.node_name),
            peers: PeerLink::start(config.clone(), settings),
            gates: GateReports::start(config.clone(), asked),
            neg_statuses: NegStatusReports::start(config.clone(), &options.node_name),
            ingress_statuses: IngressStatusReports::start(config.clone(), &options.node_name),
            lb_pool: LbPoolReports::start(config.clone(), &options.node_name),
            announcer: Announcer::start(config.clone(), options)?,
        })
    }

    /// Takes a change that the planner has taken.
    pub(super) fn follow(&mut self, subject: &Subject, planner: &Planner) {
        match subject {
            Subject::Service(service) => self.neg_statuses.follow(service, planner),
            Subject::Pod(pod) => self.gates.follow(pod, planner),
            Subject::Ingress(ingress) => self.ingress_statuses.follow(ingress, planner),
        }
    }

    /// What could not be written to objects, and why.
    pub(super) fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.lb_pool.problems.iter()
    }

    /// Takes what was planned anew.
    pub(super) fn note(&mut self, planner: &Planner, changed: &BTreeSet<ObjectName>) {
        self.events.note(planner, changed);
        self.gates.note(changed.iter(), planner);
    }
}

impl Agent {
    /// Tells the API server what has lasted, and the other agents of nodes that came or went.
    pub(super) fn tell_api(&mut self) {
        let mut has_news = false;
        if let Some(api) = &mut self.api {
            api.events.tell(&self.planner);
            if self.is_begun {
                // Addresses that could not be given have Events of their own.
                let other = self.report.all().filter(|problem| !api.lb_pool.problems.contains(problem));
                api.events.tell_problems(other, &self.planner);
            }
            if self.is_begun {
                api.neg_statuses.tell(&self.planner);
                api.ingress_statuses.tell(&self.planner);
                let known = api.peers.known();
                has_news = api.lb_pool.tell(&mut self.planner, &known);
            }
        }
        if has_news {
            self.report_problems();
        }
        self.tell_peers();
        self.take_summary();
    }

    /// Tells the other agents how far this node is. It is as far as the loop has taken changes while nothing is left to be
    /// planned.
    pub(super) fn tell_peers(&mut self) {
        let Some(api) = &mut self.api else { return };
        if !self.is_begun {
            return;
        }
        if !self.planner.is_dirty() {
            api.peers.note_programmed(self.applier.behind());
        }
        api.peers.note_votes(self.sharing.votes());
        api.peers.tell(api.gates.wanted(), self.planner.node_names());
    }

    /// Acts on what all agents come to.
    pub(super) fn take_summary(&mut self) {
        self.share_probing();
        self.tell_gates();
    }

    /// Acts on news.
    pub(super) fn take_news(&mut self, news: News) {
        match news {
            News::Summary => self.take_summary(),
            News::Announced => self.take_announced(),
        }
    }

    /// Tells which readiness gates are met.
    pub(super) fn tell_gates(&mut self) {
        if let Some(api) = &mut self.api {
            let summary = api.peers.known().summary;
            api.gates.tell(&summary);
        }
    }
}

/// What the agents of a cluster decide together.
#[derive(Clone, Copy)]
pub(super) enum News {
    /// They come to something else.
    Summary,
    /// This node announces other VIPs.
    Announced,
}

/// Waits until there is news; for ever where there is nobody to ask.
pub(super) async fn news(api: &mut Option<ApiLinks>) -> News {
    let Some(ApiLinks { peers, announcer, .. }) = api else { return std::future::pending().await };
    let announced = async {
        match announcer {
            Some(announcer) => announcer.changed().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = peers.changed() => News::Summary,
        () = announced => News::Announced,
    }
}
