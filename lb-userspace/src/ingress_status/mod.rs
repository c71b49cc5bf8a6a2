//! The addresses of an Ingress in its status, for those who read them there. What is to be written is pure; [`run`]
//! writes.
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::{Ingress, ObjectName};

mod writer;

pub use writer::run;

/// An Ingress's status that is not as it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Correction {
    /// The Ingress.
    pub ingress: ObjectName,
    /// The version that was looked at: a later one may have another status.
    pub resource_version: Arc<str>,
    /// What `status.loadBalancer.ingress` is to say.
    pub vips: Vec<IpAddr>,
}

/// What is to be written for an Ingress that is served. `former` are the addresses that its status had when it was last as
/// it is to be. `None` where all is well; where its VIPs come from the status itself or from the nodes; and where
/// the status says something else than before: it is another controller's.
#[must_use]
pub fn correction(ingress: &Ingress, former: Option<&[IpAddr]>) -> Option<Correction> {
    if ingress.vips.is_empty() || ingress.has_load_balancer_hosts || is_settled(ingress) {
        return None;
    }
    let present = &ingress.load_balancer_ips;
    let is_ours = present.is_empty() || former.is_some_and(|former| are_same(former, present));
    is_ours.then(|| Correction {
        ingress: ingress.name.clone(),
        resource_version: Arc::clone(&ingress.resource_version),
        vips: ingress.vips.clone(),
    })
}

/// Whether the status has the addresses of the annotation.
#[must_use]
pub fn is_settled(ingress: &Ingress) -> bool {
    !ingress.vips.is_empty() && are_same(&ingress.vips, &ingress.load_balancer_ips)
}

/// In any order.
fn are_same(some: &[IpAddr], others: &[IpAddr]) -> bool {
    some.iter().collect::<BTreeSet<_>>() == others.iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().expect("an address")).collect()
    }

    fn ingress(vips: &[&str], status: &[&str]) -> Ingress {
        let (vips, load_balancer_ips) = (ips(vips), ips(status));
        Ingress { vips, load_balancer_ips, ..Ingress::new(ObjectName::new("shop", "web")) }
    }

    #[test]
    fn an_empty_status_gets_the_addresses_of_the_annotation() {
        let vips = ["203.0.113.80", "2001:db8::80"];
        let found = correction(&ingress(&vips, &[]), None).expect("something to write");
        assert_eq!((found.ingress, found.vips), (ObjectName::new("shop", "web"), ips(&vips)));
    }

    #[test]
    fn a_status_that_has_them_in_any_order_is_not_written() {
        let web = ingress(&["203.0.113.80", "2001:db8::80"], &["2001:db8::80", "203.0.113.80"]);
        assert_eq!(correction(&web, None), None);
    }

    #[test]
    fn addresses_of_the_status_and_of_nodes_are_not_written() {
        assert_eq!(correction(&ingress(&[], &["203.0.113.9"]), Some(&ips(&["203.0.113.9"]))), None);
        assert_eq!(correction(&ingress(&[], &[]), None), None);
    }

    #[test]
    fn a_status_follows_the_annotation_where_it_was_ours() {
        let web = ingress(&["203.0.113.81"], &["203.0.113.80"]);
        let found = correction(&web, Some(&ips(&["203.0.113.80"]))).expect("something to write");
        assert_eq!(found.vips, ips(&["203.0.113.81"]));
    }

    #[test]
    fn a_status_of_another_controller_stays() {
        let web = ingress(&["203.0.113.81"], &["203.0.113.9"]);
        assert_eq!(correction(&web, None), None);
        assert_eq!(correction(&web, Some(&ips(&["203.0.113.81"]))), None);
        let named = Ingress { has_load_balancer_hosts: true, ..ingress(&["203.0.113.81"], &[]) };
        assert_eq!(correction(&named, None), None);
    }
}
