//! The node agent: the one place that knows everybody. Events only mark; one loop plans and applies.
use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::{Context as _, Result};
use lb_common::config::Config;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, sleep_until};
use tracing::{info, warn};

use crate::admin;
use crate::attach::{self, Attachments, Instance};
use crate::explain::Origins;
use crate::health::{self, ChangedTargets, HealthEvent};
use crate::maps::{Object, Pins, RouteGeneration};
use crate::model::{ObjectName, Problem};
use crate::source::{ProblemList, SourceEvent};

mod applier;
mod beginnings;
mod chain;
mod changes;
mod event_reports;
mod fragment_holder;
mod node_addresses;
mod node_flags;
mod options;
mod planner;
mod problems;
mod service_health_answers;
mod signals;
mod socket_mover;
mod sweeper;
mod switch;

pub use node_flags::NodeFlags;
pub use options::{Options, RUN_DIR_DEFAULT};

use applier::Applier;
use event_reports::EventReports;
use planner::Planner;
use problems::ProblemReport;
use service_health_answers::ServiceHealthAnswers;
use socket_mover::SocketMover;
use sweeper::Sweeper;

/// Time between two looks at the drains.
const DRAIN_INTERVAL: Duration = Duration::from_secs(1);
/// Least time between two looks at the interfaces: links come in bursts, one for each pod.
const LINKS_INTERVAL: Duration = Duration::from_millis(20);

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// It cannot start: a missing capability, an unusable object, another agent on the same pins, an unusable
/// flag. Once it runs, no failure of the API server, of an object or of a map ends it.
pub fn run(options: &Options) -> Result<()> {
    start_log();
    raise_files_limit();
    attach::check_snat_ports(options.snat_ports)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let pins = Pins::new(&options.pin_path);
        let _instance = Instance::take(&pins)?;
        let object = Object::choose(options.ebpf_object.clone())?;
        let (events, reports) = beginnings::start_source(options).await?;
        let (ebpf, maps) = beginnings::load_maps(object, &pins, options).await?;
        // Before the programs are attached: changes from here on are not missed.
        let links = changes::watch_links()?;
        changes::watch_routes(RouteGeneration::open(&pins)?)?;
        let programs = beginnings::load_programs(ebpf, &pins, options);
        let sockets = SocketMover::start(maps.reader(&pins)?)?;
        let agent = Agent::new(options, Applier::new(maps, sockets)?, pins.clone(), reports)?;
        agent.run(events, programs, links).await?;
        if options.detach_on_exit {
            step_back(&pins, &options.run_dir)?;
            info!(pins = %pins.root().display(), "removed programs, maps and pins");
        }
        Ok(())
    })
}

/// Each probe has a file open: the agent takes as many as the system gives.
fn raise_files_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!(%error, files_max = limit.current, "cannot raise the limit of open files; fewer probes run at a time");
    }
}

/// Takes away all that an agent leaves on a node: programs, maps and pins, and the files of its run
/// directory. Nothing is forwarded any more.
///
/// # Errors
/// An agent runs on the pins, or something cannot be removed.
pub fn remove(pins: &Pins, run_dir: &Path) -> Result<()> {
    // Where there are no pins, none are made only to be locked.
    if pins.root().exists() {
        let _instance = Instance::take(pins)?;
        return step_back(pins, run_dir);
    }
    step_back(pins, run_dir)
}

/// Links go with their pins: nobody else holds them.
fn step_back(pins: &Pins, run_dir: &Path) -> Result<()> {
    attach::remove_filters(pins)?;
    pins.remove()?;
    let cannot = || format!("cannot clean up {}", run_dir.display());
    Origins::new(run_dir).remove().with_context(cannot)?;
    admin::remove(run_dir).with_context(cannot)?;
    problems::remove(run_dir).with_context(cannot)
}

fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // A second start in one process (a test) keeps the first one's log.
    let log = tracing_subscriber::fmt().with_ansi(std::io::stderr().is_terminal());
    let _ = log.with_env_filter(filter).with_target(false).with_writer(std::io::stderr).try_init();
}

/// Everything that the loop works on.
struct Agent {
    options: Options,
    planner: Planner,
    applier: Applier,
    sweeper: Sweeper,
    pins: Pins,
    /// None until the programs are loaded.
    attachments: Option<Attachments>,
    config: Option<Config>,
    is_config_due: bool,
    /// Node addresses for which NODES has no room.
    node_problem: Option<Problem>,
    /// `SO_NETNS_COOKIE` of this node's namespace.
    namespace_cookie: u64,
    source_problems: ProblemList,
    report: ProblemReport,
    origins: Origins,
    targets: watch::Sender<ChangedTargets>,
    service_health: ServiceHealthAnswers,
    known: admin::Known,
    /// None where the facts come from manifests.
    event_reports: Option<EventReports>,
    is_synced: bool,
    /// Whether anything was applied yet.
    is_begun: bool,
}

/// When the parts of the loop are due.
struct Due {
    apply: Option<Instant>,
    links: Option<Instant>,
}

impl Agent {
    fn new(
        options: &Options,
        mut applier: Applier,
        pins: Pins,
        event_reports: Option<EventReports>,
    ) -> Result<Self> {
        let mut planner = Planner::new(&options.node_name, options.node.clone());
        planner.node_addresses.begin(applier.maps.nodes()?);
        let interval = Duration::from_secs(options.sweep_interval_seconds.into());
        let (max, limit) = (options.conntrack_max, options.conntrack_limit);
        Ok(Self {
            sweeper: Sweeper::new(&mut applier.maps, interval, max, limit),
            planner,
            applier,
            pins,
            attachments: None,
            config: None,
            is_config_due: true,
            node_problem: None,
            namespace_cookie: attach::namespace_cookie()?,
            source_problems: ProblemList::default(),
            report: ProblemReport::new(&options.run_dir, &options.node_name)?,
            origins: Origins::new(&options.run_dir),
            targets: watch::channel(ChangedTargets::default()).0,
            service_health: ServiceHealthAnswers::start(),
            known: admin::Known::default(),
            event_reports,
            is_synced: false,
            is_begun: false,
            options: options.clone(),
        })
    }

    async fn run(
        mut self,
        mut events: mpsc::Receiver<SourceEvent>,
        mut programs: JoinHandle<Result<Attachments>>,
        mut links: mpsc::Receiver<()>,
    ) -> Result<()> {
        let _admin = self.start_admin();
        let (probing, targets) = (self.known.probing.clone(), self.targets.subscribe());
        let mut found = switch::start(probing, targets, self.applier.switch.clone())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let interval = Duration::from_millis(self.options.apply_interval_ms);
        let mut due = Due { apply: None, links: None };
        let mut last_apply: Option<Instant> = None;
        let mut seconds = tokio::time::interval(DRAIN_INTERVAL);
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                loaded = &mut programs, if self.attachments.is_none() => self.attach(loaded??)?,
                Some(event) = found.recv() => self.take_health(event),
                // Before further events, which may come without a pause.
                () = until(due.apply) => {
                    last_apply = Some(Instant::now());
                    self.apply();
                    due.apply = self.applier.retry_after().map(|wait| Instant::now() + wait);
                }
                _ = seconds.tick() => {
                    self.pass_time();
                    self.end_drains();
                    self.tell_events();
                }
                () = sleep_until(self.sweeper.due()) => self.sweep(),
                Some(event) = events.recv() => self.take(event),
                Ok(()) = self.service_health.problems.changed() => self.report_problems(),
                () = until(due.links) => {
                    due.links = None;
                    self.reconcile_links();
                }
                Some(()) = links.recv() => {
                    due.links.get_or_insert_with(|| Instant::now() + LINKS_INTERVAL);
                }
            }
            if self.is_ready() && (self.planner.is_dirty() || last_apply.is_none()) {
                let at = last_apply.map_or_else(Instant::now, |last| last + interval);
                due.apply = Some(due.apply.map_or(at, |planned| planned.min(at)));
            }
        }
        if self.attachments.is_none() {
            // What it attaches must be there before it is taken away.
            drop(programs.await);
        }
        info!("stopping; programs and maps stay unless --detach-on-exit is given");
        Ok(())
    }

    /// Answers commands of this node. Without it they show what the maps hold alone.
    fn start_admin(&self) -> Option<admin::Server> {
        let started = admin::Server::start(&self.options.run_dir, self.known.clone());
        let log = |error: &_| warn!(error = format!("{error:#}"), "commands will not see what probes find");
        started.inspect_err(log).ok()
    }

    /// Begins to serve with the loaded programs.
    fn attach(&mut self, mut attachments: Attachments) -> Result<()> {
        let reader = self.applier.maps.reader(&self.pins)?;
        fragment_holder::start(&self.pins, reader, attachments.reentry()?)?;
        attachments.reconcile(&mut self.applier.maps)?;
        self.attachments = Some(attachments);
        Ok(())
    }

    /// Whether a plan may be carried out: from fewer facts, or for a node without addresses, it would take
    /// away what a former agent rightly wrote; and whoever finds a frontend in the maps shall find it served.
    fn is_ready(&self) -> bool {
        self.attachments.is_some() && self.has_facts()
    }

    fn has_facts(&self) -> bool {
        self.is_synced && !self.planner.addresses().is_empty()
    }

    fn take(&mut self, event: SourceEvent) {
        match event {
            SourceEvent::Change(change) => self.planner.change(change),
            SourceEvent::Synced => {
                info!("all facts are read");
                self.is_synced = true;
                if !self.has_facts() {
                    warn!(
                        node = self.options.node_name,
                        "no Node object of this name has an address: nothing is changed until there is one; \
                         check --node-name, or give --node-ip"
                    );
                }
                self.report_problems();
            }
            SourceEvent::Problems(problems) => {
                if self.source_problems.update(problems) && self.is_synced {
                    self.report_problems();
                }
            }
        }
    }

    fn take_health(&mut self, event: HealthEvent) {
        self.applier.switch.lock().taken(&event);
        if let HealthEvent::Found(target, finding) = &event {
            let endpoint = format!("{}", std::net::SocketAddr::new(target.address, target.port));
            let service = target.backend_service.to_string();
            let (healthy, reason) = (finding.is_healthy, &*finding.reason);
            info!(endpoint, backend_service = service, healthy, reason, "health changed");
        }
        let (HealthEvent::Found(target, _) | HealthEvent::Forgotten(target)) = &event;
        let target = target.clone();
        let service = &target.backend_service.service;
        let policy = self.planner.health_policy(service);
        match &event {
            HealthEvent::Found(..) => {
                self.planner.findings.apply(event, &policy, health::Moment::now());
                // Also where other findings outweigh it: the switch has acted on it.
                self.follow_health(&target);
            }
            HealthEvent::Forgotten(_) => {
                if self.planner.findings.apply(event, &policy, health::Moment::now()) {
                    self.planner.mark(service.clone());
                }
            }
        }
    }

    /// Plans what changed and brings the maps to it.
    fn apply(&mut self) {
        let changed = self.planner.plan();
        if !self.is_begun {
            self.is_begun = true;
            if let Err(error) = self.origins.begin(&self.planner.desired) {
                warn!(error = format!("{error:#}"), "explanations will not name EndpointSlices");
            }
        }
        if let Err(error) = self.put_config() {
            warn!(error = format!("{error:#}"), "CONFIG stays as it is");
        }
        self.put_nodes();
        self.applier.apply(&self.planner.desired, &changed);
        self.tell_targets(&changed);
        self.watch_flows(&changed);
        if let Some(reports) = &mut self.event_reports {
            reports.note(&self.planner, &changed);
        }
        self.origins.update(&self.planner.desired, &changed);
        self.service_health.follow(&self.planner, self.applier.is_up_to_date());
        self.report_problems();
    }

    /// Tells the prober of the Services that changed.
    fn tell_targets(&self, changed: &BTreeSet<ObjectName>) {
        let desired = &self.planner.desired;
        let of = |name| desired.service(name).map(|plan| health::targets(plan)).unwrap_or_default();
        self.targets.send_if_modified(|targets| {
            let targets = targets.get_mut().unwrap_or_else(PoisonError::into_inner);
            for name in changed {
                let of_service = of(name);
                // An event finds its place told.
                self.applier.place_targets(name, &of_service);
                targets.insert(name.clone(), of_service);
            }
            !changed.is_empty()
        });
    }

    /// Not before the first plan: what it names again is taken back.
    fn end_drains(&mut self) {
        if self.is_begun {
            let pass = self.sweeper.last.as_ref();
            self.applier.end_drains(&self.planner.desired, pass);
        }
    }

    fn tell_events(&mut self) {
        if let Some(reports) = &mut self.event_reports {
            reports.tell(&self.planner);
        }
    }

    fn sweep(&mut self) {
        let (maps, tables) = self.applier.maps_and_tables();
        if self.sweeper.step(maps, tables) {
            let begun = self.sweeper.take_begun();
            self.take_begun(&begun);
        }
    }

    fn report_problems(&mut self) {
        let mut problems: Vec<_> = self.source_problems.iter().cloned().collect();
        problems.extend(self.planner.desired.problems());
        problems.extend(self.applier.problems.iter().cloned());
        problems.extend(self.node_problem.clone());
        problems.extend(self.service_health.all_problems());
        self.report.update(problems);
    }

    /// CONFIG follows the Node and ServiceCIDR objects; before the first plan, the pinned one holds.
    fn put_config(&mut self) -> Result<()> {
        self.is_config_due |= self.planner.take_node_change();
        if !self.is_config_due {
            return Ok(());
        }
        let config = self.planner.config(self.options.snat_ports, self.namespace_cookie);
        if self.config != Some(config) {
            self.applier.maps.put_config(&config)?;
            self.config = Some(config);
            info!(addresses = ?self.planner.addresses(), snat_ports = %self.options.snat_ports, "node configured");
        }
        self.is_config_due = false;
        Ok(())
    }

    fn put_nodes(&mut self) {
        let written = self.planner.node_addresses.write(&mut self.applier.maps);
        self.node_problem = written.err().map(|error| Problem {
            kind: "Node",
            object: ObjectName::new("", &self.options.node_name),
            message: format!("encapsulated packets from some nodes are not taken: {error:#}"),
        });
    }

    fn reconcile_links(&mut self) {
        let Some(attachments) = &mut self.attachments else { return };
        if let Err(error) = attachments.reconcile(&mut self.applier.maps) {
            warn!(error = format!("{error:#}"), "interfaces are left as they are");
        }
    }
}

/// Waits for an instant; without one, for ever.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Where the problems of a node's agent are written.
fn problems_file(run_dir: &Path, node_name: &str) -> std::path::PathBuf {
    run_dir.join(format!("problems-{node_name}.json"))
}
