//! Reports to and summaries from the API server; and who collects.
//!
//! The collector is elected as Kubernetes' own controllers elect a leader: whoever writes the summary's Lease over the
//! version that it has read is the collector until it has not renewed it for a while. Only whether the Lease changes
//! matters, so that clocks need not agree. An agent that ends gives nothing up: it is back in seconds as a rule, and what
//! it has programmed stays in force meanwhile.
use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Config};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, timeout};
use tracing::{info, warn};

use super::lease::{self, COLLECTOR_HOLDS_S, SUMMARY_NAME};
use super::pacing::{Pacing, WRITE_INTERVAL_MS, renew_ms};
use super::{Collection, Known, Local, Report, Summary};
use crate::clock::now_ms;
use crate::source::kube::{Settings as ClientSettings, client};

/// Time between two looks at what is due.
const TICK: Duration = Duration::from_millis(200);

/// Longest wait for one write.
const WRITE_MAX: Duration = Duration::from_secs(5);

/// Wait after a write that failed; doubled with each further one.
const RETRY_MIN_MS: u64 = 1_000;
const RETRY_MAX_MS: u64 = 30_000;

/// Time between two renewals of the summary, milliseconds.
const SUMMARY_RENEW_MS: u64 = 5_000;

/// Over how long the nodes spread that would be the next collector, milliseconds.
const CANDIDATES_SPREAD_MS: u64 = 3_000;

/// Who tells, and where.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This node.
    pub node: Arc<str>,
    /// The namespace of the Leases.
    pub namespace: String,
    /// Agents that probe an endpoint.
    pub probers: usize,
}

/// Tells what `local` says and what all agents come to, until the sender of the one or the receiver of the other is
/// gone. No failure of the API server ends it.
///
/// # Errors
/// No client can be made of `config`.
pub async fn run(
    config: Config,
    settings: Settings,
    mut local: watch::Receiver<Local>,
    known: watch::Sender<Known>,
) -> anyhow::Result<()> {
    let client = client(config, &ClientSettings::default()).context("cannot make a client for Leases")?;
    let leases = Api::namespaced(client, &settings.namespace);
    let mut exchange = Exchange::new(leases, settings, known);
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            changed = local.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
            }
            Some(event) = exchange.watch.next() => exchange.take_all(event),
            () = exchange.known.closed() => return Ok(()),
            _ = ticks.tick() => {}
        }
        let now = local.borrow_and_update().clone();
        if let Local { report: Some(report), nodes } = now {
            exchange.step(report, nodes).await;
        }
    }
}

type LeaseStream = BoxStream<'static, watcher::Result<Event<Lease>>>;

/// The summary's Lease as it was read last.
#[derive(Clone, Debug)]
struct Held {
    holder: String,
    version: Option<String>,
    renewed_us: Option<i64>,
    /// When it was seen to change.
    changed_ms: u64,
}

/// What this agent is to the others.
enum Role {
    Follower,
    Collector {
        collection: Collection,
        /// Whether all reports are read that there were.
        is_complete: bool,
        written: Summary,
        written_ms: u64,
    },
}

struct Exchange {
    leases: Api<Lease>,
    settings: Settings,
    known: watch::Sender<Known>,
    /// Of the summary alone, or as collector of all reports.
    watch: LeaseStream,
    pacing: Pacing,
    role: Role,
    held: Option<Held>,
    /// Whether the watch has said all that there was.
    is_listed: bool,
    /// Spreads the candidates.
    patience_ms: u64,
    /// Writes that failed in a row, and when the next may be tried.
    failures: u32,
    retry_ms: u64,
}

impl Exchange {
    fn new(leases: Api<Lease>, settings: Settings, known: watch::Sender<Known>) -> Self {
        let spread_ms = RandomState::new().hash_one(0u8) % CANDIDATES_SPREAD_MS;
        Self {
            watch: of_summary(&leases),
            leases,
            settings,
            known,
            pacing: Pacing::default(),
            role: Role::Follower,
            held: None,
            is_listed: false,
            patience_ms: COLLECTOR_HOLDS_S * 1_000 + spread_ms,
            failures: 0,
            retry_ms: 0,
        }
    }

    /// Takes an event, and those that have come with it.
    fn take_all(&mut self, first: watcher::Result<Event<Lease>>) {
        let mut next = Some(first);
        while let Some(event) = next {
            match event {
                Ok(Event::Apply(lease) | Event::InitApply(lease)) => self.apply(&lease),
                Ok(Event::Delete(lease)) => self.delete(&lease),
                Ok(Event::Init) => {}
                Ok(Event::InitDone) => {
                    self.is_listed = true;
                    if let Role::Collector { is_complete, .. } = &mut self.role {
                        *is_complete = true;
                    }
                }
                // The stream waits and tries again itself.
                Err(error) => tracing::debug!(%error, "cannot watch the agents' Leases"),
            }
            next = self.watch.next().now_or_never().flatten();
        }
    }

    fn apply(&mut self, lease: &Lease) {
        let now_ms = now_ms();
        if let Some(node) = lease::node_of(lease) {
            if let (Role::Collector { collection, .. }, Some(heard)) = (&mut self.role, lease::report(lease))
            {
                collection.note(node, heard, now_ms);
            }
            return;
        }
        if lease.metadata.name.as_deref() != Some(SUMMARY_NAME) {
            return;
        }
        let (summary, holder) = lease::summary(lease);
        let renewed_us = lease::renewed_us(lease);
        let is_new = self.held.as_ref().is_none_or(|held| held.renewed_us != renewed_us);
        let changed_ms = self.held.as_ref().filter(|_| !is_new).map_or(now_ms, |held| held.changed_ms);
        if let Role::Collector { .. } = &self.role {
            if holder != &*self.settings.node {
                self.follow();
            }
            return;
        }
        let version = lease.metadata.resource_version.clone();
        self.held = Some(Held { holder: holder.to_owned(), version, renewed_us, changed_ms });
        if is_new {
            let known = Known { summary: summary.into(), renewed_ms: Some(now_ms), is_collector: false };
            self.known.send_replace(known);
        }
    }

    fn delete(&mut self, lease: &Lease) {
        match (&mut self.role, lease::node_of(lease)) {
            (Role::Collector { collection, .. }, Some(node)) => collection.forget(node),
            (Role::Follower, None) if lease.metadata.name.as_deref() == Some(SUMMARY_NAME) => {
                self.held = None;
            }
            _ => {}
        }
    }

    /// Does what is due.
    async fn step(&mut self, report: Report, nodes: Arc<BTreeSet<Arc<str>>>) {
        let now_ms = now_ms();
        if matches!(self.role, Role::Collector { .. }) {
            self.collect(&report, &nodes, now_ms).await;
        }
        if now_ms < self.retry_ms {
            return;
        }
        let summary = Arc::clone(&self.known.borrow().summary);
        if self.pacing.is_due(&report, &summary, nodes.len(), now_ms) {
            let lease = lease::of_report(&self.settings.node, &report, 4 * renew_ms(nodes.len()));
            let written = write_report(&self.leases, &lease::report_name(&self.settings.node), &lease).await;
            if self.note(written).is_some() {
                self.pacing.note(report, now_ms);
            }
        }
        if matches!(self.role, Role::Follower) {
            self.seek(&nodes, now_ms).await;
        }
    }

    /// Becomes the collector where there is none.
    async fn seek(&mut self, nodes: &BTreeSet<Arc<str>>, now_ms: u64) {
        let node = Arc::clone(&self.settings.node);
        let (written, summary) = match &self.held {
            None if !self.is_listed => return,
            None => {
                // Nobody is heard of yet.
                let summary = Summary { absent: nodes.clone(), ..Summary::default() };
                let lease = lease::of_summary(&node, &summary, None);
                (within(self.leases.create(&PostParams::default(), &lease)).await, summary)
            }
            Some(held) if held.holder == *node || now_ms >= held.changed_ms + self.patience_ms => {
                let summary = Summary::clone(&self.known.borrow().summary);
                let lease = lease::of_summary(&node, &summary, held.version.clone());
                (replace(&self.leases, &lease).await, summary)
            }
            Some(_) => return,
        };
        // Another one was faster, which the watch tells.
        let is_lost = matches!(&written, Err(kube::Error::Api(status)) if status.code == 409);
        if is_lost {
            return;
        }
        if let Some(lease) = self.note(written) {
            info!("this agent collects what all agents report");
            let collection = Collection::new(self.settings.probers);
            self.held = Some(held(&lease, &node, now_ms));
            self.watch = of_all(&self.leases);
            self.is_listed = false;
            self.role =
                Role::Collector { collection, is_complete: false, written: summary, written_ms: now_ms };
        }
    }

    /// Makes the summary, tells this agent of it at once, and writes it when that is due.
    async fn collect(&mut self, report: &Report, nodes: &BTreeSet<Arc<str>>, now_ms: u64) {
        let node = Arc::clone(&self.settings.node);
        let Role::Collector { collection, is_complete, written, written_ms } = &mut self.role else { return };
        let mut summary = written.clone();
        // With the server away nothing is heard of anybody, which says nothing of them.
        let is_away = now_ms.saturating_sub(*written_ms) > COLLECTOR_HOLDS_S * 1_000;
        if *is_complete && !is_away {
            summary = collection.summary((&node, report), nodes, now_ms);
            let known = Known {
                summary: Arc::new(summary.clone()),
                renewed_ms: Some(*written_ms),
                is_collector: true,
            };
            self.known.send_if_modified(|before| std::mem::replace(before, known.clone()) != known);
        }
        let passed_ms = now_ms.saturating_sub(*written_ms);
        let is_news = passed_ms >= WRITE_INTERVAL_MS && summary != *written;
        if now_ms < self.retry_ms || !(is_news || passed_ms >= SUMMARY_RENEW_MS) {
            return;
        }
        let over = collection.over(nodes, now_ms);
        let version = self.held.as_ref().and_then(|held| held.version.clone());
        let result = replace(&self.leases, &lease::of_summary(&node, &summary, version)).await;
        if matches!(&result, Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409)) {
            self.follow();
            return;
        }
        let Some(lease) = self.note(result) else { return };
        self.held = Some(held(&lease, &node, now_ms));
        if let Role::Collector { collection, written, written_ms, .. } = &mut self.role {
            if is_away {
                collection.pardon(now_ms);
            }
            (*written, *written_ms) = (summary, now_ms);
        }
        if let Some(node) = over {
            // What is left is tried again.
            let name = lease::report_name(&node);
            let _ = within(self.leases.delete(&name, &DeleteParams::default())).await;
        }
    }

    fn follow(&mut self) {
        info!("another agent collects what all agents report");
        self.role = Role::Follower;
        self.known.send_if_modified(|known| std::mem::take(&mut known.is_collector));
        self.held = None;
        self.is_listed = false;
        self.watch = of_summary(&self.leases);
    }

    /// Logs the first failure and the first success after it, and holds back between.
    fn note<T>(&mut self, written: kube::Result<T>) -> Option<T> {
        match written {
            Ok(written) => {
                if std::mem::take(&mut self.failures) > 0 {
                    info!("the agents' Leases are written again");
                }
                Some(written)
            }
            Err(error) => {
                let namespace = &self.settings.namespace;
                if self.failures == 0 {
                    warn!(%error, namespace, "cannot write the agents' Leases; readiness gates wait");
                }
                let wait_ms = RETRY_MIN_MS << self.failures.min(5);
                self.retry_ms = now_ms() + wait_ms.min(RETRY_MAX_MS);
                self.failures += 1;
                None
            }
        }
    }
}

fn held(lease: &Lease, holder: &str, now_ms: u64) -> Held {
    Held {
        holder: holder.to_owned(),
        version: lease.metadata.resource_version.clone(),
        renewed_us: lease::renewed_us(lease),
        changed_ms: now_ms,
    }
}

fn of_summary(leases: &Api<Lease>) -> LeaseStream {
    let config = watcher::Config::default().fields(&format!("metadata.name={SUMMARY_NAME}"));
    watcher(leases.clone(), config).default_backoff().boxed()
}

fn of_all(leases: &Api<Lease>) -> LeaseStream {
    watcher(leases.clone(), watcher::Config::default()).default_backoff().boxed()
}

async fn write_report(leases: &Api<Lease>, name: &str, lease: &Lease) -> kube::Result<Lease> {
    match within(leases.patch(name, &PatchParams::default(), &Patch::Merge(lease))).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            within(leases.create(&PostParams::default(), lease)).await
        }
        written => written,
    }
}

async fn replace(leases: &Api<Lease>, lease: &Lease) -> kube::Result<Lease> {
    within(leases.replace(SUMMARY_NAME, &PostParams::default(), lease)).await
}

/// A request that hangs is one that failed.
async fn within<T>(request: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
    match timeout(WRITE_MAX, request).await {
        Ok(result) => result,
        Err(late) => Err(kube::Error::Service(late.into())),
    }
}
