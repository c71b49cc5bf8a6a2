//! The node agent: the one place that knows everybody. Events only mark; one loop plans and applies.
use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use lb_common::config::Config;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Builder;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, sleep_until};
use tracing::{info, warn};

use crate::admin;
use crate::attach::{self, Attachments, Instance, RouteTable};
use crate::explain::Origins;
use crate::health::ChangedTargets;
use crate::maps::{Object, Pins, RouteGeneration};
use crate::metrics::Observations;
use crate::model::{Change, ObjectName, Problem};
use crate::source::{ProblemList, SourceEvent};

mod announcer;
mod api_links;
mod applier;
mod beginnings;
mod chain;
mod changes;
mod ends;
mod event_reports;
mod fact_answers;
mod fragment_holder;
mod front_end;
mod gate_reports;
mod ingress_status_reports;
mod lb_options;
mod lb_pool_reports;
mod measurements;
mod neg_status_reports;
mod node_addresses;
mod node_flags;
mod options;
mod peer_link;
mod planner;
mod probe_sharing;
mod problems;
mod programming;
mod service_health_answers;
mod signals;
mod socket_mover;
mod sweeper;
mod switch;
mod take_over;
mod unsettled;
mod url_map_answers;

pub use front_end::FrontEndOptions;
pub use lb_options::{LbAnnounce, LbOptions};
pub use node_flags::NodeFlags;
pub use options::{Options, RUN_DIR_DEFAULT};

use api_links::{ApiLinks, Subject, news};
use applier::Applier;
use ends::Ends;
use fact_answers::FactsQuestions;
use front_end::FrontEndLink;
use planner::Planner;
use probe_sharing::ProbeSharing;
use problems::ProblemReport;
use service_health_answers::ServiceHealthAnswers;
use socket_mover::SocketMover;
use sweeper::Sweeper;
use take_over::{End, Former, Handed, Handover, Predecessor};
use url_map_answers::UrlMapAnswers;

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
    let drain = Duration::from_secs(options.front_end.front_end_drain_seconds.into());
    let mut former = if options.take_over { Former::Other } else { Former::None };
    let mut runtime = Builder::new_current_thread().enable_all().build()?;
    let mut ends = runtime.block_on(async { Ends::new() })?;
    loop {
        let end = runtime.block_on(serve(options, former, &mut ends))?;
        // All that watches, answers and reports ends with its runtime.
        drop(runtime);
        let End::TakenOver(handover) = end else { return Ok(()) };
        runtime = Builder::new_current_thread().enable_all().build()?;
        match runtime.block_on(handover.run(drain, &mut ends))? {
            Handed::Terminated => return Ok(()),
            Handed::Back(front_end) => former = Former::Own(front_end),
        }
    }
}

/// Is the node's agent until it is told to end or another one takes over.
async fn serve(options: &Options, former: Former, ends: &mut Ends) -> Result<End> {
    let pins = Pins::new(&options.pin_path);
    let object = Object::choose(options.ebpf_object.clone())?;
    let (wanted_secrets, secrets) = watch::channel(BTreeSet::new());
    let asked = if matches!(former, Former::Other) { Predecessor::ask(&options.run_dir)? } else { None };
    let _instance = Instance::take(&pins)?;
    let mut front_end =
        FrontEndLink::new(&options.front_end, &options.run_dir, &options.node_name, wanted_secrets)?;
    let predecessor = asked.map(|(predecessor, sockets)| {
        front_end.adopt(sockets);
        predecessor
    });
    if let Former::Own(Some(serving)) = former {
        front_end.resume(serving);
    }
    let (events, api) = beginnings::start_source(options, secrets).await?;
    let (ebpf, maps) = beginnings::load_maps(object, &pins, options).await?;
    // Before the programs are attached: changes from here on are not missed.
    let links = changes::watch_links()?;
    changes::watch_routes(RouteGeneration::open(&pins)?)?;
    let programs = beginnings::load_programs(ebpf, &pins, options);
    let sockets = SocketMover::start(maps.reader(&pins)?)?;
    let applier = Applier::new(maps, sockets)?;
    let mut agent = Agent::new(options, applier, pins.clone(), api, front_end)?;
    agent.predecessor = predecessor;
    let end = agent.run(events, programs, links, ends).await?;
    if matches!(end, End::Stopped) && options.detach_on_exit {
        step_back(&pins, &options.run_dir)?;
        info!(pins = %pins.root().display(), "removed programs, maps and pins");
    }
    Ok(end)
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
    front_end::remove(run_dir)?;
    attach::remove_routes().context("cannot remove the routes to VIPs")?;
    let cannot = || format!("cannot clean up {}", run_dir.display());
    Origins::new(run_dir).remove().with_context(cannot)?;
    admin::remove(run_dir).with_context(cannot)?;
    problems::remove(run_dir).with_context(cannot)
}

/// Writes the process's log to standard error: what `RUST_LOG` names, else events from `info` on. A second start in one
/// process keeps the first one's log.
pub fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_ansi(std::io::stderr().is_terminal());
    let _ = log.with_env_filter(filter).with_target(false).with_writer(std::io::stderr).try_init();
}

/// Everything that the loop works on.
struct Agent {
    options: Options,
    planner: Planner,
    sharing: ProbeSharing,
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
    url_map_answers: UrlMapAnswers,
    facts_questions: FactsQuestions,
    observations: Observations,
    /// None where the facts come from manifests.
    api: Option<ApiLinks>,
    front_end: FrontEndLink,
    /// Where a routing daemon finds the VIPs that this node serves.
    routes: Option<RouteTable>,
    /// Whom this agent has taken over from; open until it ends.
    predecessor: Option<Predecessor>,
    /// Agents that want the node.
    successors: mpsc::Receiver<UnixStream>,
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
        api: Option<ApiLinks>,
        front_end: FrontEndLink,
    ) -> Result<Self> {
        let mut planner = Planner::new(&options.node_name, options.node.clone());
        planner.node_addresses.begin(applier.maps.nodes()?);
        if api.is_none() {
            planner.give_addresses();
        }
        let interval = Duration::from_secs(options.sweep_interval_seconds.into());
        let (max, limit) = (options.conntrack_max, options.conntrack_limit);
        let url_map_answers = UrlMapAnswers::default();
        let observations = Observations::default();
        let (ask_facts, facts_questions) = mpsc::channel(fact_answers::QUESTIONS_MAX);
        let (take_over, successors) = mpsc::channel(1);
        Ok(Self {
            sweeper: Sweeper::new(&mut applier.maps, interval, max, limit),
            planner,
            sharing: ProbeSharing::new(options),
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
            known: admin::Known {
                url_maps: Some(Arc::new({
                    let answers = url_map_answers.clone();
                    move |question| answers.answer(question)
                })),
                requests: Some(Arc::new({
                    let observations = observations.clone();
                    move || observations.service_requests()
                })),
                facts: Some(ask_facts),
                take_over: Some(take_over),
                ..admin::Known::default()
            },
            url_map_answers,
            facts_questions,
            api,
            front_end,
            routes: options
                .lb
                .lb_route_table
                .map(RouteTable::find)
                .transpose()
                .context("cannot read the routes")?,
            predecessor: None,
            successors,
            observations,
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
        ends: &mut Ends,
    ) -> Result<End> {
        let _admin = self.start_admin();
        let _metrics = self.start_metrics();
        let _page = self.start_web();
        let (probing, targets) = (self.known.probing.clone(), self.targets.subscribe());
        let mut found = switch::start(probing, targets, self.applier.switch.clone())?;
        let interval = Duration::from_millis(self.options.apply_interval_ms);
        let mut due = Due { apply: None, links: None };
        let mut last_apply: Option<Instant> = None;
        let mut seconds = tokio::time::interval(DRAIN_INTERVAL);
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let successor = loop {
            tokio::select! {
                biased;
                () = ends.told() => break None,
                Some(successor) = self.successors.recv() => break Some(successor),
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
                    self.take_requests();
                    if self.front_end.has_faults() {
                        self.follow_front_end(&BTreeSet::new());
                        self.report_problems();
                    }
                    self.let_predecessor_go();
                    self.tell_api();
                    self.take_announced();
                    self.front_end.renew_vips();
                    self.observe_second();
                }
                () = sleep_until(self.sweeper.due()) => self.sweep(),
                news = news(&mut self.api) => self.take_news(news),
                Some(question) = self.facts_questions.recv() => self.lend_facts(question),
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
        };
        if self.attachments.is_none() {
            // What it attaches must be there before it is taken away.
            drop(programs.await);
        }
        if let Some(successor) = successor {
            let front_end = self.front_end.release();
            return Ok(End::TakenOver(Handover { successor, front_end, _predecessor: self.predecessor }));
        }
        info!("stopping; programs and maps stay unless --detach-on-exit is given");
        if let Some(announcer) = self.api.as_mut().and_then(|api| api.announcer.as_mut()) {
            announcer.stop().await;
        }
        self.front_end.stop().await;
        Ok(End::Stopped)
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
        self.known.interfaces.publish(attachments.served());
        self.attachments = Some(attachments);
        if let Err(error) = self.pins.remove_older() {
            warn!(error = format!("{error:#}"), "pins of an older layout are left");
        }
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
            SourceEvent::Change(change) => self.change(change),
            SourceEvent::Followed(version) => {
                if let Some(api) = &mut self.api {
                    api.peers.follow(version);
                    self.tell_peers();
                }
            }
            SourceEvent::Interrupted(kind) => {
                *self.observations.lock().interruptions.entry(kind).or_default() += 1;
            }
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

    fn change(&mut self, change: Change) {
        let subject = Subject::of(&change);
        self.planner.change(change);
        if let (Some(api), Some(subject)) = (&mut self.api, &subject) {
            api.follow(subject, &self.planner);
        }
    }

    /// Plans what changed and brings the maps to it.
    fn apply(&mut self) {
        let began = Instant::now();
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
        self.observe_apply(began);
        self.tell_targets(&changed);
        self.watch_flows(&changed);
        self.follow_vips();
        self.follow_front_end(&changed);
        if let Some(api) = &mut self.api {
            api.note(&self.planner, &changed);
        }
        self.tell_peers();
        self.tell_gates();
        self.origins.update(&self.planner.desired, &changed);
        self.service_health.follow(&self.planner, self.applier.is_up_to_date());
        self.report_problems();
    }

    /// Brings the front-end to the plan.
    fn follow_front_end(&mut self, changed: &BTreeSet<ObjectName>) {
        self.front_end.follow(&self.planner, changed);
        self.let_predecessor_go();
    }

    /// Once all is served that the former agent serves, that one may leave.
    fn let_predecessor_go(&mut self) {
        let Some(predecessor) = self.predecessor.as_mut().filter(|former| former.waits()) else { return };
        let has_waited = predecessor.has_waited() && self.front_end.has_begun();
        if self.front_end.has_taken_over() || has_waited {
            self.front_end.close_adopted();
            predecessor.let_go();
        }
    }

    /// Not before the first plan: what it names again is taken back.
    fn end_drains(&mut self) {
        if self.is_begun {
            let pass = self.sweeper.last.as_ref();
            self.applier.end_drains(&self.planner.desired, pass);
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
        problems.extend(self.front_end.problems.iter().cloned());
        problems.extend(self.planner.address_problems().cloned());
        problems.extend(self.api.iter().flat_map(ApiLinks::problems).cloned());
        self.report.update(problems);
        self.url_map_answers.publish(&self.planner.desired, self.report.all());
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
        self.known.interfaces.publish(attachments.served());
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
