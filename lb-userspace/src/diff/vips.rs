//! The entries of VIPs, which say that an address is ours whatever the port. One stands from before
//! the first frontend on its address until after the last one; Services may share an address, so what
//! it says follows from all frontends there.
//!
//! An entry refuses unused ports only while the frontends stand: it learns so after they are put, and forgets it before
//! they are deleted. Else a port that is about to be served, or is served by kube-proxy again, would be unused for a
//! moment, and connections that kube-proxy has opened would be reset.
use std::collections::{BTreeMap, BTreeSet};

use lb_common::Address;
use lb_common::frontend::{Frontend, FrontendKey, Kind, flags};

use super::{Op, Tables};

/// The entry of an address with frontends of these values; `None` where all are node ports: a node's
/// own address answers for itself.
///
/// Ports of a cluster IP that no Service has are refused, those of the other addresses pass, since an
/// external or load-balancer IP may be a host's own (`nftables/proxier.go`, `cluster-ips-check`).
fn value(frontends: impl Iterator<Item = Frontend>) -> Option<Frontend> {
    let kinds = frontends.filter_map(|frontend| frontend.kind()).filter(|kind| *kind != Kind::NodePort);
    let kind = kinds.min()?;
    let refuses = if kind == Kind::ClusterIp { flags::REFUSE_OTHER_PORTS } else { 0 };
    Some(Frontend {
        backend_service: 0,
        neg_external: 0,
        neg_internal: 0,
        flags: flags::VIP | kind as u32 | refuses,
    })
}

/// The entry without a word on unused ports.
const fn lenient(vip: Frontend) -> Frontend {
    Frontend { flags: vip.flags & !flags::REFUSE_OTHER_PORTS, ..vip }
}

/// Whether a frontend needs an entry for its address.
pub(super) fn needs_entry(frontend: &Frontend) -> bool {
    frontend.kind().is_some_and(|kind| kind != Kind::NodePort)
}

/// The operations for the entries of all addresses that a diff touches.
#[derive(Debug, Default)]
pub(super) struct VipOps {
    /// Before frontends are put.
    pub(super) put: Vec<Op>,
    /// After frontends are put.
    pub(super) refuse: Vec<Op>,
    /// Before frontends are deleted.
    pub(super) relent: Vec<Op>,
    /// After frontends are deleted.
    pub(super) delete: Vec<Op>,
}

impl VipOps {
    /// `wanted` are the frontends of the Services that the diff looked at, `deleted` those that go.
    pub(super) fn new(
        tables: &Tables,
        wanted: &BTreeMap<FrontendKey, Frontend>,
        deleted: &BTreeSet<FrontendKey>,
    ) -> Self {
        let mut ops = Self::default();
        let touched: BTreeSet<Address> =
            wanted.keys().chain(deleted).map(|key| key.address).chain(tables.idle_vips()).collect();
        for address in touched {
            let others = tables
                .frontends_at(address)
                .filter(|(key, _)| !deleted.contains(key) && !wanted.contains_key(key))
                .map(|(_, value)| *value);
            let own = wanted.range(FrontendKey::vip(address)..);
            let own = own.take_while(|(key, _)| key.address == address).map(|(_, value)| *value);
            match (tables.vip(&address), value(others.chain(own))) {
                (former, Some(vip)) if former != Some(&vip) => {
                    ops.put.push(Op::PutVip { address, vip: lenient(vip) });
                    if lenient(vip) != vip {
                        ops.refuse.push(Op::PutVip { address, vip });
                    }
                }
                (Some(vip), None) => {
                    if lenient(*vip) != *vip {
                        ops.relent.push(Op::PutVip { address, vip: lenient(*vip) });
                    }
                    ops.delete.push(Op::DeleteVip { address });
                }
                _ => {}
            }
        }
        ops
    }
}
