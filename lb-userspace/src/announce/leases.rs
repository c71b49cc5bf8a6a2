//! The Leases of groups: watched, taken and renewed.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::future::join_all;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Config};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, timeout};
use tracing::{info, warn};

use super::groups::GROUPS_MAX;
use super::{Act, Election, Group, HOLDS_MS, RENEW_MS, Responder, TICK_MS, WRITE_MAX_MS, Wanted};
use crate::clock::now_ms;
use crate::source::kube::{REQUESTS_PERIOD, Settings, client};

/// On each of these Leases, and on no other of the namespace.
const LABEL: &str = "podway.io/vips";

/// Requests in [`REQUESTS_PERIOD`]: all groups renewed, and half as many writes that are tried again. One that had to wait
/// for its turn would come too late.
const REQUESTS_MAX: u64 = GROUPS_MAX * (REQUESTS_PERIOD.as_millis() as u64).div_ceil(RENEW_MS) * 3 / 2;

/// What a node announces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announced {
    /// The VIPs.
    pub vips: BTreeSet<IpAddr>,
    /// How often it took a group over from another node or from nobody.
    pub takeovers: u64,
}

/// Seeks what is wanted and announces what it holds, until the sender of `wanted` is gone. No failure of the API server
/// ends it.
///
/// # Errors
/// No client can be made of `config`.
pub async fn run(
    config: Config,
    (node, namespace): (Arc<str>, String),
    mut wanted: watch::Receiver<Wanted>,
    announced: watch::Sender<Announced>,
    responder: Responder,
) -> anyhow::Result<()> {
    let settings = Settings { requests_max: REQUESTS_MAX, ..Settings::default() };
    let client = client(config, &settings).context("cannot make a client for Leases of VIPs")?;
    let leases = Api::namespaced(client, &namespace);
    let (wants, elections) = (Wanted::default(), BTreeMap::new());
    let mut seeker = Seeker {
        leases,
        node,
        wants,
        elections,
        watch: None,
        known: BTreeMap::new(),
        is_listed: false,
        is_failing: false,
        announced,
        responder,
    };
    let mut ticks = tokio::time::interval(Duration::from_millis(TICK_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            changed = wanted.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                seeker.want(wanted.borrow_and_update().clone());
            }
            event = next(&mut seeker.watch) => seeker.take_all(event),
            _ = ticks.tick(), if !seeker.elections.is_empty() => {}
        }
        seeker.step().await;
    }
}

type LeaseStream = BoxStream<'static, watcher::Result<Event<Lease>>>;

/// The next event of a watch; without one, never.
async fn next(watch: &mut Option<LeaseStream>) -> watcher::Result<Event<Lease>> {
    match watch {
        Some(watch) => match watch.next().await {
            Some(event) => event,
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

/// A Lease as it was told last.
struct Known {
    holder: String,
    version: String,
    at_ms: u64,
}

struct Seeker {
    leases: Api<Lease>,
    node: Arc<str>,
    wants: Wanted,
    /// Of the groups that are sought, and of those that are to be given up.
    elections: BTreeMap<Group, Election>,
    /// While there is something to seek.
    watch: Option<LeaseStream>,
    /// All that the watch has told, by name, also of groups that are not sought: they may be once nobody renews them any more,
    /// and then nothing is told of them.
    known: BTreeMap<String, Known>,
    is_listed: bool,
    is_failing: bool,
    announced: watch::Sender<Announced>,
    responder: Responder,
}

impl Seeker {
    fn want(&mut self, wants: Wanted) {
        if self.watch.is_none() && !wants.groups.is_empty() {
            let config = watcher::Config::default().labels(LABEL);
            self.watch = Some(watcher(self.leases.clone(), config).default_backoff().boxed());
            self.known.clear();
            self.is_listed = false;
        }
        for group in wants.groups.keys() {
            self.elections.entry(*group).or_insert_with(|| {
                let mut election = Election::default();
                if let Some(known) = self.known.get(&group.to_string()) {
                    election.saw(&self.node, &known.holder, &known.version, known.at_ms);
                }
                election
            });
        }
        self.wants = wants;
    }

    /// Takes an event, and those that have come with it.
    fn take_all(&mut self, first: watcher::Result<Event<Lease>>) {
        let mut next = Some(first);
        while let Some(event) = next {
            match event {
                Ok(Event::Apply(lease) | Event::InitApply(lease)) => self.saw(lease),
                Ok(Event::Delete(lease)) => self.lost(&lease.metadata.name.unwrap_or_default()),
                // A list tells all anew.
                Ok(Event::Init) => self.known.clear(),
                Ok(Event::InitDone) => self.is_listed = true,
                // The stream waits and tries again itself.
                Err(error) => tracing::debug!(%error, "cannot watch the Leases of VIPs"),
            }
            next = self.watch.as_mut().and_then(|watch| watch.next().now_or_never().flatten());
        }
    }

    fn election(&mut self, name: &str) -> Option<&mut Election> {
        self.elections.iter_mut().find(|(group, _)| group.to_string() == name).map(|(_, election)| election)
    }

    fn saw(&mut self, lease: Lease) {
        let (node, at_ms) = (Arc::clone(&self.node), now_ms());
        let name = lease.metadata.name.unwrap_or_default();
        let holder = lease.spec.and_then(|spec| spec.holder_identity).unwrap_or_default();
        let version = lease.metadata.resource_version.unwrap_or_default();
        if let Some(election) = self.election(&name) {
            election.saw(&node, &holder, &version, at_ms);
        }
        self.known.insert(name, Known { holder, version, at_ms });
    }

    fn lost(&mut self, name: &str) {
        self.known.remove(name);
        if let Some(election) = self.election(name) {
            election.lost();
        }
    }

    /// Writes what is due, all at once, and announces what is held then.
    async fn step(&mut self) {
        let begun_ms = now_ms();
        let acts = self.elections.iter().filter_map(|(group, election)| {
            let rank = self.wants.groups.get(group).map(|part| part.rank);
            Some((*group, election.act(&self.node, rank, self.is_listed, begun_ms)?))
        });
        let writes = acts.map(|(group, act)| write(&self.leases, &self.node, group, act)).collect::<Vec<_>>();
        let written = join_all(writes).await;
        for (group, act, result) in written {
            self.note(group, &act, result, begun_ms);
        }
        let (wants, node) = (&self.wants, &*self.node);
        self.elections
            .retain(|group, election| wants.groups.contains_key(group) || election.holder() == Some(node));
        if self.elections.is_empty() {
            self.watch = None;
        }
        self.announce(now_ms());
    }

    fn note(&mut self, group: Group, act: &Act, result: kube::Result<String>, begun_ms: u64) {
        let Some(election) = self.elections.get_mut(&group) else { return };
        let now_ms = now_ms();
        match result {
            Ok(version) => {
                let was_held = election.renewed_ms().is_some();
                let former = election.holder().unwrap_or_default().to_owned();
                election.wrote(&self.node, act, &version, begun_ms, now_ms);
                if !was_held && election.is_held(now_ms) {
                    info!(lease = %group, former, "this node announces its VIPs now");
                    self.announced.send_modify(|announced| announced.takeovers += 1);
                }
                if std::mem::take(&mut self.is_failing) {
                    info!("the Leases of VIPs are written again");
                }
            }
            Err(error) => {
                let is_conflict = matches!(&error, kube::Error::Api(status) if status.code == 409);
                let is_gone = matches!(&error, kube::Error::Api(status) if status.code == 404);
                election.failed(&self.node, now_ms);
                if is_gone {
                    election.lost();
                }
                if !is_conflict && !is_gone && !std::mem::replace(&mut self.is_failing, true) {
                    warn!(%error, lease = %group, "cannot write a Lease of VIPs; what this node announces it goes on with");
                }
            }
        }
    }

    /// Announces what is held. Where that cannot be told, since the server is away, it goes on until another node is heard to
    /// announce the same.
    fn announce(&self, now_ms: u64) {
        let contested = self.responder.contested();
        let parts = self.elections.iter().filter_map(|(group, election)| {
            let (part, renewed_ms) = (self.wants.groups.get(group)?, election.renewed_ms()?);
            let is_heard = |vip: &IpAddr| contested.get(vip).is_some_and(|at_ms| *at_ms > renewed_ms);
            (election.is_held(now_ms) || !part.vips.iter().any(is_heard)).then_some(part)
        });
        let vips: BTreeSet<IpAddr> = parts.flat_map(|part| part.vips.iter().copied()).collect();
        self.announced.send_if_modified(|announced| {
            let is_change = announced.vips != vips;
            if is_change {
                info!(vips = ?vips, "announced VIPs have changed");
                self.responder.announce(vips.clone());
                announced.vips = vips;
            }
            is_change
        });
    }
}

/// The version that was written.
async fn write(
    leases: &Api<Lease>,
    node: &str,
    group: Group,
    act: Act,
) -> (Group, Act, kube::Result<String>) {
    let name = group.to_string();
    let parameters = PostParams::default();
    let request = async {
        match &act {
            Act::Create => leases.create(&parameters, &lease(&name, node, None)).await,
            Act::Take(version) => {
                leases.replace(&name, &parameters, &lease(&name, node, Some(version))).await
            }
            Act::GiveUp(version) => {
                leases.replace(&name, &parameters, &lease(&name, "", Some(version))).await
            }
        }
    };
    let written = match timeout(Duration::from_millis(WRITE_MAX_MS), request).await {
        Ok(written) => written.map(|lease| lease.metadata.resource_version.unwrap_or_default()),
        // A request that hangs is one that failed.
        Err(late) => Err(kube::Error::Service(late.into())),
    };
    (group, act, written)
}

fn lease(name: &str, holder: &str, version: Option<&str>) -> Lease {
    Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            resource_version: version.map(str::to_owned),
            labels: Some([(LABEL.to_owned(), "announced".to_owned())].into()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(holder.to_owned()).filter(|holder| !holder.is_empty()),
            // Whole seconds: what others go by is that it changes.
            lease_duration_seconds: Some(HOLDS_MS.div_ceil(1_000) as i32),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..LeaseSpec::default()
        }),
    }
}
