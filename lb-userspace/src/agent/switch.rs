//! Health has a thread of its own: probes run and an endpoint that fails them leaves all rings by one store
//! whatever the loop is busy with. Planning and writing all Services of a large cluster takes it a good part of
//! a second, in which new flows would still begin at an endpoint that is known to be down.
//!
//! The loop learns of the same events a little later, and the rings follow. Until it has taken an event, what it
//! writes comes from an older plan: [`Switch::hold_out`] keeps such a write from letting the endpoint in again.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use lb_common::endpoint::{Endpoint, state};
use tokio::sync::{mpsc, watch};

use crate::diff::Tables;
use crate::health::{self, ChangedTargets, HealthEvent, Probing, Target};
use crate::model::ObjectName;

/// Health events that wait for the loop. At the bound the thread waits, too.
const EVENTS_MAX: usize = 4_096;

/// An endpoint's place in ENDPOINTS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) id: u32,
    pub(super) generation: u32,
}

/// The places of the targets, and which of them are held out. Whoever stores in ENDPOINTS locks it.
pub(super) struct Switch {
    /// Ends new flows at a place by one store.
    take_out: Box<dyn Fn(Place) + Send>,
    places: BTreeMap<ObjectName, BTreeMap<Target, Place>>,
    /// Whether what the thread finds is in force at once; else it is one voice of several.
    acts_on_findings: bool,
    /// How many events of each target, not yet taken by the loop, say that it is unhealthy.
    held_out: BTreeMap<Target, u32>,
}

/// Shared by the loop and the thread.
#[derive(Clone)]
pub(super) struct SharedSwitch(Arc<Mutex<Switch>>);

impl SharedSwitch {
    pub(super) fn new(take_out: impl Fn(Place) + Send + 'static) -> Self {
        let take_out = Box::new(take_out);
        let switch =
            Switch { take_out, places: BTreeMap::new(), acts_on_findings: true, held_out: BTreeMap::new() };
        Self(Arc::new(Mutex::new(switch)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Switch> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Switch {
    /// Where the targets of a Service are; none where it has no targets.
    pub(super) fn place(&mut self, service: &ObjectName, places: BTreeMap<Target, Place>) {
        if places.is_empty() {
            self.places.remove(service);
        } else {
            self.places.insert(service.clone(), places);
        }
    }

    /// Says whether what the thread finds is in force at once.
    pub(super) fn set_acts_on_findings(&mut self, acts_on_findings: bool) {
        self.acts_on_findings = acts_on_findings;
    }

    /// Takes a target that was found unhealthy out of all rings. Its place may have been given up since it was
    /// told: then nothing is stored. `false` where it is not in force.
    fn note(&mut self, event: &HealthEvent) -> bool {
        let Some(target) = unhealthy(event).filter(|_| self.acts_on_findings) else { return false };
        *self.held_out.entry(target.clone()).or_default() += 1;
        let service = &target.backend_service.service;
        if let Some(place) = self.places.get(service).and_then(|places| places.get(target)) {
            (self.take_out)(*place);
        }
        true
    }

    /// The loop has taken an event, and what it stores from now takes account of it.
    pub(super) fn taken(&mut self, event: &HealthEvent) {
        let Some(target) = unhealthy(event) else { return };
        if let Some(count) = self.held_out.get_mut(target) {
            *count -= 1;
            if *count == 0 {
                self.held_out.remove(target);
            }
        }
    }

    /// Whether an event on its way to the loop says that a target is unhealthy.
    pub(super) fn is_held_out(&self, target: &Target) -> bool {
        self.held_out.contains_key(target)
    }

    /// What may be stored of an endpoint: nothing that lets in one that is held out.
    pub(super) fn hold_out(&self, endpoint: &Endpoint, tables: &Tables) -> Endpoint {
        let is_held_out = || Some(self.is_held_out(&target(endpoint, tables)?));
        if self.held_out.is_empty() || is_held_out() != Some(true) {
            return *endpoint;
        }
        Endpoint { state: endpoint.state & !state::HEALTHY, ..*endpoint }
    }

    /// Follows an endpoint whose generation rises where it is: its flows were ended, and it may be let in again
    /// before its Service is placed anew.
    pub(super) fn follow(&mut self, id: u32, endpoint: &Endpoint, tables: &Tables) {
        if !endpoint.is_present() || tables.endpoint(id).generation == endpoint.generation {
            return;
        }
        let Some(target) = target(endpoint, tables) else { return };
        let places = self.places.get_mut(&target.backend_service.service);
        if let Some(place) = places.and_then(|places| places.get_mut(&target)).filter(|place| place.id == id)
        {
            place.generation = endpoint.generation;
        }
    }
}

/// An endpoint as a target, where its backend service has a name.
fn target(endpoint: &Endpoint, tables: &Tables) -> Option<Target> {
    let backend_service = Arc::clone(&tables.name(endpoint.backend_service)?.name);
    Some(Target { backend_service, address: endpoint.address.into(), port: endpoint.port.get() })
}

fn unhealthy(event: &HealthEvent) -> Option<&Target> {
    match event {
        HealthEvent::Found(target, finding) if !finding.is_healthy => Some(target),
        HealthEvent::Found(..) | HealthEvent::Forgotten(_) => None,
    }
}

/// Starts the thread; what it finds comes after it has taken effect.
///
/// # Errors
/// The system has no further thread.
pub(super) fn start(
    probing: Probing,
    targets: watch::Receiver<ChangedTargets>,
    switch: SharedSwitch,
) -> Result<mpsc::Receiver<HealthEvent>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (found, mut events) = mpsc::channel(EVENTS_MAX);
    let (sender, receiver) = mpsc::channel(EVENTS_MAX);
    let stores = probing.clone();
    let forward = async move {
        while let Some(event) = events.recv().await {
            let is_in_force = switch.lock().note(&event);
            if let HealthEvent::Found(_, finding) = &event
                && is_in_force
            {
                stores.note_effect(finding);
            }
            if sender.send(event).await.is_err() {
                return;
            }
        }
    };
    let run = move || {
        runtime.block_on(async {
            tokio::select! {
                () = health::run(probing, targets, found) => {}
                () = forward => {}
            }
        });
    };
    std::thread::Builder::new().name("health".into()).spawn(run).context("cannot start a thread")?;
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::SystemTime;

    use super::*;
    use crate::diff::{self, Limits};
    use crate::health::Finding;
    use crate::plan::{self, Desired, ReadinessAlone};

    /// The mirror of one Service with one endpoint, and this as a target.
    fn cart() -> (Tables, Target) {
        let facts = plan::fixture::service("cart", "192.0.2.1");
        let slice = plan::fixture::slice("cart", "cart", vec![plan::fixture::ready("10.4.2.9", "node-a")]);
        let plan = plan::service(
            &facts,
            &[slice],
            &crate::model::BackendConfigs::new(),
            &plan::fixture::node(),
            &ReadinessAlone,
        );
        let backend_service = Arc::clone(&plan.backend_services[0].name);
        let mut desired = Desired::default();
        desired.replace(&facts.name, Some(plan));
        let mut tables = Tables::new(Limits::default());
        for op in diff::full(&desired, &tables, 0).ops {
            tables.apply(&op, 0);
        }
        (tables, Target { backend_service, address: plan::fixture::ip("10.4.2.9"), port: 8080 })
    }

    fn found(target: &Target, is_healthy: bool) -> HealthEvent {
        let finding = Finding { is_healthy, since: SystemTime::UNIX_EPOCH, reason: "a probe".into() };
        HealthEvent::Found(target.clone(), finding)
    }

    #[test]
    fn unhealthy_target_is_taken_out_where_it_is() {
        let (_, target) = cart();
        let out = Arc::new(AtomicU32::new(0));
        let stored = Arc::clone(&out);
        let switch = SharedSwitch::new(move |place| stored.store(place.id, Ordering::Relaxed));
        let places = [(target.clone(), Place { id: 17, generation: 2 })].into();
        switch.lock().place(&target.backend_service.service, places);
        switch.lock().note(&found(&target, true));
        assert_eq!(out.load(Ordering::Relaxed), 0);
        switch.lock().note(&found(&target, false));
        assert_eq!(out.load(Ordering::Relaxed), 17);
    }

    #[test]
    fn finding_that_is_one_voice_of_several_takes_nothing_out() {
        let (tables, target) = cart();
        let shared = SharedSwitch::new(|_| panic!("taken out"));
        let mut switch = shared.lock();
        let places = [(target.clone(), Place { id: 17, generation: 2 })].into();
        switch.place(&target.backend_service.service, places);
        switch.set_acts_on_findings(false);
        assert!(!switch.note(&found(&target, false)));
        let id = tables.endpoint_ids().next().expect("an endpoint");
        assert!(switch.hold_out(&tables.endpoint(id), &tables).takes_new_flows());
        switch.taken(&found(&target, false));
    }

    #[test]
    fn target_whose_flows_were_ended_is_taken_out_at_its_new_generation() {
        let (mut tables, target) = cart();
        let out = Arc::new(AtomicU32::new(0));
        let stored = Arc::clone(&out);
        let shared = SharedSwitch::new(move |place| stored.store(place.generation, Ordering::Relaxed));
        let mut switch = shared.lock();
        let id = tables.endpoint_ids().next().expect("an endpoint");
        switch.place(
            &target.backend_service.service,
            [(target.clone(), Place { id, generation: tables.endpoint(id).generation })].into(),
        );
        let drained = Endpoint { generation: 7, ..tables.endpoint(id) };
        switch.follow(id, &drained, &tables);
        tables.apply(&diff::Op::PutEndpoint { id, endpoint: drained }, 0);
        switch.note(&found(&target, false));
        assert_eq!(out.load(Ordering::Relaxed), 7);
        // Another endpoint at an id that the target has left is none of its business.
        switch.follow(id + 1, &Endpoint { generation: 9, ..drained }, &tables);
        switch.note(&found(&target, false));
        assert_eq!(out.load(Ordering::Relaxed), 7);
    }

    #[test]
    fn older_plan_does_not_let_an_unhealthy_target_in_again() {
        let (tables, target) = cart();
        let shared = SharedSwitch::new(|_| {});
        let mut switch = shared.lock();
        let id = tables.endpoint_ids().next().expect("an endpoint");
        let planned = tables.endpoint(id);
        let may_enter = |switch: &Switch| switch.hold_out(&planned, &tables).takes_new_flows();
        assert!(may_enter(&switch));
        // It fails, recovers and fails once more before the loop has taken anything.
        let events = [found(&target, false), found(&target, true), found(&target, false)];
        for event in &events {
            switch.note(event);
        }
        for (event, expected) in events.iter().zip([false, false, true]) {
            assert!(!may_enter(&switch));
            switch.taken(event);
            assert_eq!(may_enter(&switch), expected);
        }
    }
}
