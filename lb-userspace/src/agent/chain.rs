//! What must be left out when an operation fails. Operations are ordered so that each refers to what
//! earlier ones wrote, and all that they refer to belongs to one backend service or VIP: so a failure
//! breaks the chain of these, and the others go on.
use std::collections::BTreeSet;

use lb_common::Address;
use lb_common::neg::NegKind;

use crate::diff::{Op, Tables};

/// What operations that failed have left half done.
#[derive(Debug, Default)]
pub(super) struct BrokenChains {
    backend_services: BTreeSet<u32>,
    /// VIPs whose entry is not there: no frontend may come.
    vips_missing: BTreeSet<Address>,
    /// VIPs with a frontend that should have gone: the entry stays.
    vips_kept: BTreeSet<Address>,
}

impl BrokenChains {
    /// Notes that an operation failed.
    pub(super) fn failed(&mut self, op: &Op, tables: &Tables) {
        self.backend_services.extend(owners(op, tables));
        match op {
            Op::PutVip { address, .. } => drop(self.vips_missing.insert(*address)),
            Op::DeleteFrontend { key } => drop(self.vips_kept.insert(key.address)),
            _ => {}
        }
    }

    /// Whether an operation must be left out; what depends on it then is, too.
    pub(super) fn leaves_out(&mut self, op: &Op, tables: &Tables) -> bool {
        let is_broken = owners(op, tables).any(|id| self.backend_services.contains(&id))
            || match op {
                Op::PutFrontend { key, .. } => self.vips_missing.contains(&key.address),
                Op::DeleteVip { address } => self.vips_kept.contains(address),
                _ => false,
            };
        if is_broken {
            self.failed(op, tables);
        }
        is_broken
    }
}

/// The backend services that an operation concerns: the one whose it is and, where it takes something
/// from another one, that one, which must not go while it still has that.
fn owners(op: &Op, tables: &Tables) -> impl Iterator<Item = u32> {
    let holder = |key| tables.frontends().get(key).map(|frontend| frontend.backend_service);
    let (own, other) = match op {
        Op::PutEndpoint { endpoint, .. } => (Some(endpoint.backend_service), None),
        Op::WriteRing { neg, .. } | Op::SwitchNeg { neg, .. } => (Some(NegKind::of_id(*neg).0), None),
        Op::PutBackendService { id, .. } | Op::DeleteBackendService { id } => (Some(*id), None),
        Op::PutFrontend { key, frontend } => (Some(frontend.backend_service), holder(key)),
        Op::DeleteFrontend { key } => (holder(key), None),
        Op::PutSourceRange { key } | Op::DeleteSourceRange { key } => (Some(key.backend_service_id()), None),
        Op::PutVip { .. } | Op::DeleteVip { .. } => (None, None),
        Op::DeleteEndpoint { id, .. } => (Some(tables.endpoint(*id).backend_service), None),
    };
    own.into_iter().chain(other)
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::diff::{self, Limits};
    use crate::plan::{self, Desired, ReadinessAlone};

    /// Two Services, each with one endpoint; `cart` has the id 0 and `web` the id 1.
    fn desired(web_ip: &str) -> Desired {
        let mut desired = Desired::default();
        for (name, vip, pod) in [("cart", "192.0.2.1", "10.4.2.8"), ("web", web_ip, "10.4.2.9")] {
            let mut facts = plan::fixture::service(name, vip);
            facts.created_s = Some(if name == "cart" { 2 } else { 1 });
            let slice = plan::fixture::slice(name, name, vec![plan::fixture::ready(pod, "node-a")]);
            let planned = plan::service(
                &facts,
                &[slice],
                &crate::model::BackendConfigs::new(),
                &plan::fixture::node(),
                &ReadinessAlone,
            );
            desired.replace(&facts.name, Some(planned));
        }
        desired
    }

    /// Applies what is not left out when `fails` holds for the operations that the kernel refuses.
    fn apply(ops: &[Op], tables: &mut Tables, fails: impl Fn(&Op) -> bool) {
        let mut broken = BrokenChains::default();
        for op in ops {
            if broken.leaves_out(op, tables) {
                continue;
            }
            if fails(op) {
                broken.failed(op, tables);
            } else {
                tables.apply(op, 0);
            }
            assert_eq!(tables.check(), [], "after {op}");
        }
    }

    fn frontends(tables: &Tables) -> Vec<(String, u32)> {
        let frontends = tables.frontends().iter();
        frontends.map(|(key, value)| (key.address.to_string(), value.backend_service)).collect()
    }

    #[test]
    fn one_failure_stops_its_backend_service_and_no_other() {
        let mut tables = Tables::new(Limits::default());
        let ops = diff::full(&desired("192.0.2.2"), &tables, 0).ops;
        apply(&ops, &mut tables, |op| matches!(op, Op::PutEndpoint { id: 0, .. }));
        assert_eq!(frontends(&tables), [("192.0.2.2".to_owned(), 1)]);
        assert_eq!(tables.backend_service_ids().collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn no_frontend_comes_to_a_vip_without_an_entry() {
        let mut tables = Tables::new(Limits::default());
        let ops = diff::full(&desired("192.0.2.2"), &tables, 0).ops;
        let address = Address::from(plan::fixture::ip("192.0.2.1"));
        apply(&ops, &mut tables, |op| matches!(op, Op::PutVip { address: vip, .. } if *vip == address));
        assert_eq!(frontends(&tables), [("192.0.2.2".to_owned(), 1)]);
    }

    #[test]
    fn the_entry_of_a_vip_stays_while_a_frontend_cannot_go() {
        let mut tables = Tables::new(Limits::default());
        apply(&diff::full(&desired("192.0.2.2"), &tables, 0).ops, &mut tables, |_| false);
        let ops = diff::full(&Desired::default(), &tables, 0).ops;
        apply(&ops, &mut tables, |op| matches!(op, Op::DeleteFrontend { .. }));
        assert_eq!(tables.vips().len(), 2);
        apply(&diff::full(&Desired::default(), &tables, 0).ops, &mut tables, |_| false);
        assert_eq!(tables.vips().len(), 0);
    }

    #[test]
    fn what_was_left_out_is_done_by_the_next_diff() {
        let mut tables = Tables::new(Limits::default());
        let desired = desired("192.0.2.2");
        let ops = diff::full(&desired, &tables, 0).ops;
        apply(&ops, &mut tables, |op| matches!(op, Op::WriteRing { neg: 0, .. }));
        let ops = diff::full(&desired, &tables, 0).ops;
        apply(&ops, &mut tables, |_| false);
        // The id 0 was never in use, but an endpoint was written for it: it rests like a freed one.
        assert_eq!(frontends(&tables), [("192.0.2.1".to_owned(), 2), ("192.0.2.2".to_owned(), 1)]);
        assert_eq!(diff::full(&desired, &tables, 0).ops, []);
    }

    /// `web` is older and takes `cart`'s address, and `cart` goes: while the frontend cannot be
    /// written, it leads to `cart`, so `cart` has to stay.
    #[test]
    fn a_backend_service_stays_while_a_frontend_cannot_leave_it() {
        let mut tables = Tables::new(Limits::default());
        let ops = diff::full(&desired("192.0.2.2"), &tables, 0).ops;
        apply(&ops, &mut tables, |_| false);
        let mut desired = desired("192.0.2.1");
        desired.replace(&plan::fixture::service("cart", "192.0.2.1").name, None);
        let ops = diff::full(&desired, &tables, 0).ops;
        apply(&ops, &mut tables, |op| matches!(op, Op::PutFrontend { .. }));
        assert_eq!(frontends(&tables), [("192.0.2.1".to_owned(), 0), ("192.0.2.2".to_owned(), 1)]);
        apply(&diff::full(&desired, &tables, 0).ops, &mut tables, |_| false);
        assert_eq!(frontends(&tables), [("192.0.2.1".to_owned(), 1)]);
    }
}
