//! `podway get frontends`.
use lb_common::frontend::{Frontend, FrontendKey, flags};
use lb_common::neg::NegKind;
use serde::Serialize;

use crate::diff::Tables;
use crate::plan::{kind_name, neg_kind_name};

use super::get::{members, name_of, protocol_text};
use super::output::Row;

/// A frontend.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FrontendRow {
    address: String,
    port: u16,
    protocol: String,
    kind: &'static str,
    backend_service: String,
    backend_service_id: u32,
    neg_internal: &'static str,
    neg_external: &'static str,
    empty_internal: &'static str,
    empty_external: &'static str,
    checks_source: bool,
    external_mode: &'static str,
    endpoints: usize,
}

impl Row for FrontendRow {
    const HEADINGS: &'static [&'static str] =
        &["VIP", "PORT", "PROTOCOL", "KIND", "BACKEND SERVICE", "ENDPOINTS"];
    const WIDE_HEADINGS: &'static [&'static str] =
        &["ID", "NEG INTERNAL", "NEG EXTERNAL", "EMPTY INTERNAL", "EMPTY EXTERNAL", "CHECKS SOURCE", "MODE"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.address.clone(),
            self.port.to_string(),
            self.protocol.clone(),
            self.kind.to_owned(),
            self.backend_service.clone(),
            self.endpoints.to_string(),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        let words = [self.neg_internal, self.neg_external, self.empty_internal, self.empty_external];
        let mut cells = vec![self.backend_service_id.to_string()];
        cells.extend(words.map(str::to_owned));
        cells.push(if self.checks_source { "yes" } else { "no" }.to_owned());
        cells.push(self.external_mode.to_owned());
        cells
    }
}

pub(super) fn frontends(tables: &Tables) -> Vec<FrontendRow> {
    tables.frontends().iter().map(|(key, value)| frontend(tables, key, value)).collect()
}

pub(super) fn frontend(tables: &Tables, key: &FrontendKey, value: &Frontend) -> FrontendRow {
    let action = |flag: u32| if value.flags & flag != 0 { "drop" } else { "refuse" };
    FrontendRow {
        address: key.address.to_string(),
        port: key.port.get(),
        protocol: protocol_text(key.protocol.into()),
        kind: value.kind().map_or("unknown", kind_name),
        backend_service: name_of(tables, value.backend_service),
        backend_service_id: value.backend_service,
        neg_internal: neg_kind_name(NegKind::of_id(value.neg_internal).1),
        neg_external: neg_kind_name(NegKind::of_id(value.neg_external).1),
        empty_internal: action(flags::INTERNAL_EMPTY_DROPS),
        empty_external: action(flags::EXTERNAL_EMPTY_DROPS),
        checks_source: value.flags & flags::CHECK_SOURCE != 0,
        external_mode: if value.flags & flags::DSR != 0 { "dsr" } else { "snat" },
        endpoints: members(tables, value.neg_internal).len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diff::{self, Limits};
    use crate::model::{BackendConfigs, ExternalMode, Service, SourceRanges};
    use crate::plan::{self, Desired, ReadinessAlone};

    #[test]
    fn frontends_say_whom_they_let_in_and_how_and_vips_are_none() {
        let facts = Service {
            load_balancer_ips: vec![plan::fixture::ip("203.0.113.5")],
            source_ranges: SourceRanges {
                ranges: vec![(plan::fixture::ip("192.0.2.0"), 24)],
                has_unreadable: false,
            },
            external_mode: Some(ExternalMode::Dsr),
            ..plan::fixture::service("cart", "10.96.0.1")
        };
        let mut desired = Desired::default();
        let planned =
            plan::service(&facts, &[], &BackendConfigs::new(), &plan::fixture::node(), &ReadinessAlone);
        desired.replace(&facts.name, Some(planned));
        let mut tables = Tables::new(Limits::default());
        for op in diff::full(&desired, &tables, 0).ops {
            tables.apply(&op, 0);
        }
        let rows = frontends(&tables);
        let told: Vec<_> =
            rows.iter().map(|row| (row.address.as_str(), row.checks_source, row.external_mode)).collect();
        assert_eq!(told, [("10.96.0.1", false, "snat"), ("203.0.113.5", true, "dsr")]);
    }
}
