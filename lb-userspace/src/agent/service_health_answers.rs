//! Answers to load balancers' health checks, kept in step with the plan.
use std::sync::Arc;

use tokio::sync::watch;

use crate::model::Problem;
use crate::service_health::{self, Wanted};

use super::planner::Planner;

/// The server of health check node ports, which runs beside the loop.
pub(super) struct ServiceHealthAnswers {
    wanted: watch::Sender<Wanted>,
    /// Ports that cannot be listened on.
    pub(super) problems: watch::Receiver<Vec<Problem>>,
    /// Ports that two Services have.
    contended: Vec<Problem>,
}

impl ServiceHealthAnswers {
    /// Starts the server, with nothing to answer yet: before the first plan nobody knows.
    pub(super) fn start() -> Self {
        let (wanted, receiver) = watch::channel(Wanted::default());
        let (sender, problems) = watch::channel(Vec::new());
        tokio::spawn(service_health::run(receiver, sender));
        Self { wanted, problems, contended: Vec::new() }
    }

    /// Answers by the plan from now on.
    pub(super) fn follow(&mut self, planner: &Planner, is_proxy_healthy: bool) {
        let (services, contended) = service_health::services(&planner.desired);
        self.contended = contended;
        let now = Wanted {
            addresses: planner.node().health_check_addresses(),
            services: Arc::new(services),
            is_proxy_healthy,
        };
        self.wanted.send_if_modified(|wanted| {
            let is_other = *wanted != now;
            *wanted = now;
            is_other
        });
    }

    /// What cannot be answered.
    pub(super) fn all_problems(&self) -> Vec<Problem> {
        let refused = self.problems.borrow();
        refused.iter().chain(&self.contended).cloned().collect()
    }
}
