//! Which listeners there are: those that are wanted, and those that could not be had are tried again.
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tracing::info;

use super::Wanted;
use super::listener::Listener;
use crate::model::{ObjectName, Problem};

/// Wait before what could not be opened is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Serves what is wanted until the sender of `wanted` is gone. `problems` has the ports that cannot be
/// listened on now.
pub async fn run(wanted: watch::Receiver<Wanted>, problems: watch::Sender<Vec<Problem>>) {
    follow(wanted, problems, RETRY).await;
}

async fn follow(mut wanted: watch::Receiver<Wanted>, problems: watch::Sender<Vec<Problem>>, retry: Duration) {
    let mut listeners: BTreeMap<SocketAddr, Listener> = BTreeMap::new();
    let source = wanted.clone();
    wanted.mark_changed();
    loop {
        let (places, owners) = {
            let now = wanted.borrow_and_update();
            let owners: BTreeMap<u16, ObjectName> =
                now.services.iter().map(|(port, health)| (*port, health.service.clone())).collect();
            (places(&now), owners)
        };
        let failed = reconcile(&mut listeners, &places, &source, &owners);
        let has_failed = !failed.is_empty();
        problems.send_if_modified(|known| {
            let is_other = *known != failed;
            *known = failed;
            is_other
        });
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = sleep(retry), if has_failed => {}
        }
    }
}

/// kube-proxy listens on its node-port addresses, or on all where none were chosen.
fn places(wanted: &Wanted) -> BTreeSet<SocketAddr> {
    let everywhere = [IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    let addresses = if wanted.addresses.is_empty() { &everywhere[..] } else { &wanted.addresses };
    let ports = wanted.services.keys();
    ports.flat_map(|port| addresses.iter().map(|address| SocketAddr::new(*address, *port))).collect()
}

/// Closes what is not wanted before it opens what is: a port may have moved to another Service.
fn reconcile(
    listeners: &mut BTreeMap<SocketAddr, Listener>,
    places: &BTreeSet<SocketAddr>,
    wanted: &watch::Receiver<Wanted>,
    owners: &BTreeMap<u16, ObjectName>,
) -> Vec<Problem> {
    listeners.retain(|place, _| places.contains(place));
    let mut failed = Vec::new();
    for place in places {
        if listeners.contains_key(place) {
            continue;
        }
        match open(*place, wanted) {
            Ok(listener) => {
                info!(%place, "answers health checks of load balancers");
                listeners.insert(*place, listener);
            }
            Err(error) => {
                failed.extend(owners.get(&place.port()).map(|owner| problem(owner, *place, &error)));
            }
        }
    }
    failed
}

/// A node without IPv6 has no `::`.
fn open(place: SocketAddr, wanted: &watch::Receiver<Wanted>) -> std::io::Result<Listener> {
    match Listener::open(place, wanted.clone()) {
        Err(error) if place.ip() == Ipv6Addr::UNSPECIFIED && is_without_v6(&error) => {
            Listener::open(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), place.port()), wanted.clone())
        }
        result => result,
    }
}

fn is_without_v6(error: &std::io::Error) -> bool {
    let missing = [rustix::io::Errno::AFNOSUPPORT, rustix::io::Errno::ADDRNOTAVAIL];
    missing.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn problem(owner: &ObjectName, place: SocketAddr, error: &std::io::Error) -> Problem {
    Problem {
        kind: "Service",
        object: owner.clone(),
        message: format!(
            "cannot answer health checks on {place} (healthCheckNodePort): {error}; load balancers will \
             avoid this node until the port is free"
        ),
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
