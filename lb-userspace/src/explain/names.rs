//! Where the values in the tables came from: known from a plan, or from the names in the maps.
use std::net::SocketAddr;

use lb_common::frontend::FrontendKey;

use crate::diff::Tables;
use crate::plan::{Desired, kind_field};
use crate::snapshot::NodeSnapshot;

use super::Origins;

/// Who knows the `EndpointSlice` of an endpoint.
pub enum Slices<'a> {
    /// The plan that the tables were made from.
    Desired(&'a Desired),
    /// What the agent noted when it made them.
    Noted(Origins),
    /// The same, as a snapshot has it.
    Recorded(&'a NodeSnapshot),
}

/// From the names in the maps, and from who knows the slices.
pub struct TableNames<'a> {
    /// The tables.
    pub tables: &'a Tables,
    /// Where their endpoints came from.
    pub slices: Slices<'a>,
}

impl TableNames<'_> {
    /// A backend service's name.
    #[must_use]
    pub fn backend_service(&self, id: u32) -> String {
        self.tables.name(id).map_or_else(|| format!("#{id}"), |stored| stored.name.to_string())
    }

    /// The Service of a backend service.
    #[must_use]
    pub fn backend_service_origin(&self, id: u32) -> Option<String> {
        let stored = self.tables.name(id)?;
        let service = &stored.name.service;
        let version = &stored.resource_version;
        let suffix =
            if version.is_empty() { String::new() } else { format!(" at resourceVersion {version}") };
        Some(format!("Service {service}{suffix}"))
    }

    /// The Service of a frontend and the field of it.
    #[must_use]
    pub fn frontend_origin(&self, key: &FrontendKey) -> Option<String> {
        let frontend = self.tables.frontends().get(key)?;
        let field = frontend.kind().map_or("", kind_field);
        Some(format!("{}, {field}", self.backend_service_origin(frontend.backend_service)?))
    }

    /// The EndpointSlice of a backend service's endpoint, where that is known.
    #[must_use]
    pub fn endpoint_origin(&self, backend_service: u32, endpoint: SocketAddr) -> Option<String> {
        let name = &self.tables.name(backend_service)?.name;
        let desired = match &self.slices {
            Slices::Desired(desired) => desired,
            Slices::Noted(origins) => return origins.slice(&name.service, endpoint),
            Slices::Recorded(snapshot) => return snapshot.slice(&name.service, endpoint),
        };
        let mut endpoints = desired.backend_service(name)?.endpoints.iter();
        let found =
            endpoints.find(|found| found.address == endpoint.ip() && found.port == endpoint.port())?;
        Some(found.origin().to_string())
    }
}
