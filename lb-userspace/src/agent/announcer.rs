//! VIPs of load-balancer pools, from the plan to those who make them known outside: the Leases of the local network, and
//! the routing table of a routing daemon.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::warn;

use crate::announce::{self, Announced, Reach, Responder, Wanted};
use crate::attach::RouteTable;

use super::{Agent, LbAnnounce, Options};

/// How long an agent that ends waits until its Leases are given up.
const GIVE_UP_MAX: Duration = Duration::from_secs(1);

/// The link to the task that seeks Leases.
pub(super) struct Announcer {
    wanted: watch::Sender<Wanted>,
    announced: watch::Receiver<Announced>,
}

impl Announcer {
    /// Begins to seek, where that is asked for. Must be called in a runtime.
    ///
    /// # Errors
    /// The thread that answers neighbours cannot be started.
    pub(super) fn start(config: kube::Config, options: &Options) -> Result<Option<Self>> {
        if options.lb.lb_announce == LbAnnounce::Off {
            return Ok(None);
        }
        let responder = Responder::start(options.attach_settings())?;
        let (wanted, wants) = watch::channel(Wanted::default());
        let (sender, announced) = watch::channel(Announced::default());
        let who = (Arc::from(options.node_name.as_str()), options.report_namespace.clone());
        tokio::spawn(async move {
            if let Err(error) = announce::run(config, who, wants, sender, responder).await {
                warn!(error = format!("{error:#}"), "no VIPs are announced");
            }
        });
        Ok(Some(Self { wanted, announced }))
    }

    fn follow(&self, vips: &BTreeMap<IpAddr, Reach>, node: &str, live: &BTreeSet<Arc<str>>) {
        let wanted = announce::wanted(vips, node, live);
        self.wanted.send_if_modified(|before| {
            if wanted.left_out > before.left_out {
                warn!(
                    vips = wanted.left_out,
                    "more VIPs than a node announces: the greatest ones are left to others"
                );
            }
            let is_change = *before != wanted;
            *before = wanted;
            is_change
        });
    }

    /// What this node announces.
    pub(super) fn announced(&self) -> Announced {
        self.announced.borrow().clone()
    }

    /// Waits until this node announces something else.
    pub(super) async fn changed(&mut self) {
        if self.announced.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Gives all Leases up, so that other nodes take over at once.
    pub(super) async fn stop(&mut self) {
        self.wanted.send_replace(Wanted::default());
        let is_over = self.announced.wait_for(|announced| announced.vips.is_empty());
        // Else others take them when they are not renewed.
        let _ = timeout(GIVE_UP_MAX, is_over).await;
    }
}

impl Agent {
    /// Brings Leases, routes and the front-end to the VIPs of the plan.
    pub(super) fn follow_vips(&mut self) {
        let vips = self.planner.vips();
        let node = self.options.node_name.as_str();
        if let Some(routes) = &mut self.routes {
            let served = vips.iter().filter(|(_, reach)| reach.is_served_by(node));
            follow_routes(routes, &served.map(|(vip, _)| *vip).collect());
        }
        let Some(api) = &self.api else { return };
        let Some(announcer) = &api.announcer else { return };
        let announced = announcer.announced().vips;
        let elsewhere = vips.keys().filter(|vip| !announced.contains(*vip)).copied().collect();
        self.front_end.share_vips(announced, elsewhere);
        let summary = api.peers.known().summary;
        let live = self.planner.node_names().filter(|name| !summary.absent.contains(*name)).cloned();
        let live: BTreeSet<Arc<str>> = live.chain([node.into()]).collect();
        announcer.follow(&vips, node, &live);
    }

    /// Acts on what this node announces now.
    pub(super) fn take_announced(&mut self) {
        if self.is_begun {
            self.follow_vips();
            self.follow_front_end(&BTreeSet::new());
        }
    }
}

fn follow_routes(routes: &mut RouteTable, vips: &BTreeSet<IpAddr>) {
    for (vip, error) in routes.set(vips) {
        warn!(%vip, %error, "cannot change the VIP's route for a routing daemon; trying again");
    }
}
