//! What is known of all targets, for the plan and for the user.
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::{Finding, HealthEvent, Target};
use crate::plan::{BackendServiceName, HealthView};

/// The sum of all [`HealthEvent`]s of one prober.
#[derive(Clone, Debug, Default)]
pub struct Findings(BTreeMap<Arc<BackendServiceName>, BTreeMap<(IpAddr, u16), Finding>>);

impl Findings {
    /// Takes the next event. `true` when a plan may come out different.
    pub fn apply(&mut self, event: HealthEvent) -> bool {
        match event {
            HealthEvent::Found(Target { backend_service, address, port }, finding) => {
                let is_healthy = finding.is_healthy;
                let before = self.0.entry(backend_service).or_default().insert((address, port), finding);
                before.is_none_or(|before| before.is_healthy) != is_healthy
            }
            HealthEvent::Forgotten(Target { backend_service, address, port }) => {
                let Some(endpoints) = self.0.get_mut(&backend_service) else { return false };
                let before = endpoints.remove(&(address, port));
                if endpoints.is_empty() {
                    self.0.remove(&backend_service);
                }
                before.is_some_and(|before| !before.is_healthy)
            }
        }
    }

    /// What was found; `None` while no probe has changed the state that a target begins with.
    #[must_use]
    pub fn finding(
        &self,
        backend_service: &BackendServiceName,
        address: IpAddr,
        port: u16,
    ) -> Option<&Finding> {
        self.0.get(backend_service)?.get(&(address, port))
    }
}

impl HealthView for Findings {
    fn is_healthy(&self, backend_service: &BackendServiceName, address: IpAddr, port: u16) -> bool {
        self.finding(backend_service, address, port).is_none_or(|finding| finding.is_healthy)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::model::{ObjectName, Protocol};

    fn target(address: [u8; 4]) -> Target {
        let backend_service = BackendServiceName {
            service: ObjectName::new("shop", "web"),
            port_name: "http".into(),
            port: 80,
            protocol: Protocol::Tcp,
        };
        Target { backend_service: Arc::new(backend_service), address: address.into(), port: 8080 }
    }

    fn found(target: &Target, is_healthy: bool) -> HealthEvent {
        let finding = Finding { is_healthy, since: SystemTime::UNIX_EPOCH, reason: "a probe".into() };
        HealthEvent::Found(target.clone(), finding)
    }

    #[test]
    fn endpoint_is_healthy_until_found_otherwise_and_after_it_is_forgotten() {
        let (one, other) = (target([192, 0, 2, 1]), target([192, 0, 2, 2]));
        let mut findings = Findings::default();
        let is_healthy = |findings: &Findings, target: &Target| {
            findings.is_healthy(&target.backend_service, target.address, target.port)
        };
        assert!(is_healthy(&findings, &one));
        assert!(findings.apply(found(&one, false)));
        assert!(!is_healthy(&findings, &one) && is_healthy(&findings, &other));
        assert!(findings.apply(found(&one, true)));
        assert!(is_healthy(&findings, &one));
        assert!(findings.apply(found(&one, false)));
        assert!(findings.apply(HealthEvent::Forgotten(one.clone())));
        assert!(is_healthy(&findings, &one));
        assert_eq!(findings.finding(&one.backend_service, one.address, one.port), None);
        assert!(!findings.apply(HealthEvent::Forgotten(one)), "nothing is known of it");
    }
}
