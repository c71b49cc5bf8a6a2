//! Kernel tier: programs at their hooks, and who has them after a restart. These tests run in other kernels too.
//!
//! What is loaded is kept from test to test: the verifier takes a second for it, and half a minute in an emulated
//! kernel. So one test runs at a time, each with interfaces and pins of its own.
use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aya::EbpfLoader;
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, ProgramInfo, SchedClassifier, TcAttachType, Xdp, XdpMode, loaded_links};
use lb_common::interface::flags;
use lb_common::maps as names;
use lb_tests::cgroup::Cgroup;
use lb_tests::footprint::Footprint;
use lb_tests::kernel::{Kernel, bench_object};
use lb_tests::need;
use lb_tests::netns::{self, Namespace};
use lb_tests::pins::TestPins;
use lb_tests::wait::wait_until;
use lb_userspace::attach::{
    AttachedProgram, AttachedXdp, Attachments, Programs, Settings, SocketHooks, XdpChoice, inspect, links,
};
use lb_userspace::diff::Limits;
use lb_userspace::kernel_release::is_at_least;
use lb_userspace::maps::{self, Maps, Object, Pins, Sizes};

/// Index of the uplink `eth0`.
const UPLINK: u32 = 100;
/// Index of the pod's interface `veth1`.
const POD: u32 = 101;

/// The first Linux with tcx links; before it tc programs are filters of clsact.
const TCX: (u32, u32) = (6, 6);
/// The first Linux whose drivers say what XDP frames they take; before it none is sent by XDP, and a veth has no XDP in
/// the driver.
const XDP_FEATURES: (u32, u32) = (6, 3);

/// Lines of [`Bench::hooks`] as this kernel has them.
fn hooks(lines: &[&str]) -> Vec<String> {
    let tc = if is_at_least(TCX) { "tcx-" } else { "clsact-" };
    lines.iter().map(|line| line.replace("tcx-", tc)).collect()
}

/// The socket hooks, by name.
const SOCKET_HOOKS: [&str; 8] =
    ["connect4", "connect6", "getpeername4", "getpeername6", "recvmsg4", "recvmsg6", "sendmsg4", "sendmsg6"];

/// Programs and the maps that they use, which no pin names any more.
struct Loaded {
    programs: Programs,
    maps: Maps,
}

/// What tests have loaded so far; that of the agent before is the last.
static LOADED: Mutex<VecDeque<Loaded>> = Mutex::new(VecDeque::new());

/// Agents that follow each other, each with programs of its own.
const AGENTS: usize = 2;

/// A namespace with an uplink whose other end takes XDP frames, and pins of its own.
struct Bench {
    namespace: Namespace,
    pins: Pins,
    cgroup: Cgroup,
    object: Object,
    _footprint: Footprint,
    /// Held as long as the test lasts.
    loaded: RefCell<MutexGuard<'static, VecDeque<Loaded>>>,
}

/// An agent's part that attaches. What it has loaded goes back when it ends.
struct Agent<'a> {
    bench: &'a Bench,
    /// None only while it ends.
    parts: Option<(Attachments, Maps)>,
}

impl Bench {
    /// `None`: the kernel tier's need is not met.
    fn new() -> Option<Self> {
        let object = Object::File(need::kernel()?.ebpf_object);
        let loaded = RefCell::new(LOADED.lock().unwrap_or_else(PoisonError::into_inner));
        let footprint = Footprint::new().unwrap();
        let name = footprint.namespace("node");
        netns::ip_batch(&[], &format!("netns add {name}\n")).unwrap();
        let namespace = Namespace::open(&name).unwrap();
        let add = format!("link add eth0 index {UPLINK} type veth peer name eth1\n");
        namespace.ip_batch(&format!("{add}link set eth0 up\nlink set eth1 up\n")).unwrap();
        let pins = Pins::new(&footprint.pins("node"));
        let cgroup = Cgroup::create(footprint.cgroup("node")).unwrap();
        let bench = Self { namespace, pins, cgroup, object, _footprint: footprint, loaded };
        bench.set_gro("eth1", "on");
        Some(bench)
    }

    /// A veth end has NAPI, and so takes XDP frames, while it does GRO.
    fn set_gro(&self, interface: &str, value: &str) {
        let mut command = self.namespace.command("ethtool".as_ref(), None);
        assert!(command.args(["-K", interface, "gro", value]).status().unwrap().success());
    }

    fn add_pod(&self) {
        let add = format!("link add veth1 index {POD} type veth peer name pod1\n");
        self.namespace.ip_batch(&add).unwrap();
    }

    fn settings(xdp: XdpChoice) -> Settings {
        Settings {
            uplinks: vec!["eth0".to_owned()],
            pod_interfaces: vec!["veth*".parse().unwrap()],
            xdp,
            sockets: SocketHooks::Off,
        }
    }

    fn load(&self) -> Loaded {
        let limits = Limits {
            frontends_max: 16,
            backend_services_max: 16,
            endpoints_max: 16,
            ring_slots_max: 4096,
            source_ranges_max: 64,
        };
        let sizes = Sizes { limits, conntrack_max: 64, affinity_max: 64, socket_flows_max: 64 };
        let pins = TestPins::new().unwrap();
        let (ebpf, maps) = maps::load(&self.object, &pins, &sizes).unwrap();
        Loaded { programs: Programs::load(ebpf).unwrap(), maps }
    }

    fn next(&self) -> Loaded {
        let mut waiting = self.loaded.borrow_mut();
        let fresh = (waiting.len() < AGENTS).then(|| self.load());
        fresh.or_else(|| waiting.pop_front()).unwrap()
    }

    /// Starts an agent whose programs are not those of the one before.
    fn start(&self, settings: Settings) -> Agent<'_> {
        let Loaded { programs, maps } = self.next();
        let pins = &self.pins;
        pins.create().unwrap();
        let attachments = self.namespace.run(|| Attachments::new(programs, pins, settings)).unwrap().unwrap();
        let mut agent = Agent { bench: self, parts: Some((attachments, maps)) };
        self.reconcile(&mut agent);
        agent
    }

    fn reconcile(&self, agent: &mut Agent<'_>) {
        let (attachments, maps) = agent.parts.as_mut().unwrap();
        self.namespace.run(|| attachments.reconcile(maps)).unwrap().unwrap();
        // Shown where the test fails.
        attachments.faults().for_each(|(subject, fault)| println!("{subject}: {fault}"));
    }

    fn attached(&self) -> Vec<AttachedProgram> {
        let pins = &self.pins;
        self.namespace.run(|| inspect(pins)).unwrap().unwrap()
    }

    /// Interface (or nothing), program and mode of everything attached.
    fn hooks(&self) -> Vec<String> {
        let line = |one: AttachedProgram| {
            format!("{} {} {}", one.interface.unwrap_or_default(), one.program, one.mode.name())
        };
        self.attached().into_iter().map(line).collect()
    }

    /// Names of the programs in filters of clsact.
    fn filters(&self, interface: &str, side: &str) -> Vec<String> {
        let mut command = self.namespace.command("tc".as_ref(), None);
        let output = command.args(["filter", "show", "dev", interface, side]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let filters = text.lines().filter(|line| line.contains("direct-action"));
        let name =
            |line: &str| line.split_whitespace().find(|word| word.starts_with("tc_")).map(str::to_owned);
        filters.filter_map(name).collect()
    }

    /// How XDP is on the uplink, whosever program it is.
    fn uplink_xdp(&self) -> Option<AttachedXdp> {
        let links = self.namespace.run(links).unwrap().unwrap();
        links.iter().find(|link| link.index == UPLINK).unwrap().xdp
    }
}

impl Agent<'_> {
    /// INTERFACES.
    fn roles(&self) -> Vec<(u32, u32)> {
        let interfaces = self.parts.as_ref().unwrap().1.interfaces().unwrap();
        let mut roles: Vec<_> = interfaces.iter().map(|(index, value)| (*index, value.flags)).collect();
        roles.sort_unstable();
        roles
    }

    fn attachments(&mut self) -> &mut Attachments {
        &mut self.parts.as_mut().unwrap().0
    }

    fn faults_count(&mut self) -> usize {
        self.attachments().faults().count()
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        let (attachments, maps) = self.parts.take().unwrap();
        let loaded = Loaded { programs: attachments.into_programs(), maps };
        self.bench.loaded.borrow_mut().push_back(loaded);
    }
}

#[test]
fn uplink_gets_native_xdp_beside_tc() {
    let Some(bench) = Bench::new() else { return };
    let mut agent = bench.start(Bench::settings(XdpChoice::Auto));
    let (xdp, transmit) = match is_at_least(XDP_FEATURES) {
        true => ("eth0 xdp_uplink xdp-native", flags::XDP_TRANSMIT),
        false => ("eth0 xdp_uplink xdp-generic", 0),
    };
    assert_eq!(bench.hooks(), hooks(&["eth0 tc_egress tcx-egress", "eth0 tc_uplink_in tcx-ingress", xdp]));
    assert_eq!(agent.roles(), [(UPLINK, flags::UPLINK | transmit)]);
    assert_eq!(agent.faults_count(), 0);
}

#[test]
fn uplink_falls_back_to_generic_xdp_where_native_would_lose_frames() {
    let Some(bench) = Bench::new() else { return };
    bench.set_gro("eth1", "off");
    let agent = bench.start(Bench::settings(XdpChoice::Auto));
    assert_eq!(
        bench.hooks(),
        hooks(&["eth0 tc_egress tcx-egress", "eth0 tc_uplink_in tcx-ingress", "eth0 xdp_uplink xdp-generic"])
    );
    assert_eq!(agent.roles(), [(UPLINK, flags::UPLINK)]);
}

#[test]
fn chosen_xdp_mode_is_kept_to() {
    let Some(bench) = Bench::new() else { return };
    drop(bench.start(Bench::settings(XdpChoice::Generic)));
    assert_eq!(bench.uplink_xdp(), Some(AttachedXdp::Generic));
    drop(bench.start(Bench::settings(XdpChoice::Native)));
    assert_eq!(bench.uplink_xdp(), is_at_least(XDP_FEATURES).then_some(AttachedXdp::Native));
    drop(bench.start(Bench::settings(XdpChoice::Off)));
    assert_eq!(bench.uplink_xdp(), None);
    assert_eq!(bench.hooks(), hooks(&["eth0 tc_egress tcx-egress", "eth0 tc_uplink_in tcx-ingress"]));
}

#[test]
fn xdp_program_of_another_is_left_alone() {
    let Some(bench) = Bench::new() else { return };
    let mut other = EbpfLoader::new().load(&bench_object().unwrap()).unwrap();
    let program: &mut Xdp = other.program_mut("sink").unwrap().try_into().unwrap();
    program.load().unwrap();
    let attach = || program.attach_to_if_index(UPLINK, XdpMode::Driver).map(drop);
    bench.namespace.run(attach).unwrap().unwrap();
    let _agent = bench.start(Bench::settings(XdpChoice::Auto));
    assert_eq!(bench.hooks(), hooks(&["eth0 tc_egress tcx-egress", "eth0 tc_uplink_in tcx-ingress"]));
    assert_eq!(bench.uplink_xdp(), Some(AttachedXdp::Native));
}

#[test]
fn tc_program_of_another_stays_behind_ours() {
    let Some(bench) = Bench::new() else { return };
    if !is_at_least(TCX) {
        return;
    }
    let mut other = Kernel::load_only(&["tc_again"], 64).unwrap();
    let program: &mut SchedClassifier = other.ebpf_mut().program_mut("tc_again").unwrap().try_into().unwrap();
    let id = program.info().unwrap().id();
    let last = TcAttachOptions::TcxOrder(LinkOrder::last());
    let attach = || program.attach_with_options("eth0", TcAttachType::Egress, last).map(drop);
    bench.namespace.run(attach).unwrap().unwrap();
    let order = || {
        let asked = bench.namespace.run(|| SchedClassifier::query_tcx("eth0", TcAttachType::Egress));
        asked.unwrap().unwrap().1.iter().map(ProgramInfo::id).collect::<Vec<u32>>()
    };
    assert_eq!(order(), [id]);
    for _ in 0..2 {
        drop(bench.start(Bench::settings(XdpChoice::Off)));
        assert!(matches!(order()[..], [ours, behind] if ours != id && behind == id), "{:?}", order());
    }
    bench.pins.remove().unwrap();
    wait_until(Duration::from_secs(5), "our program to leave", || order() == [id]).unwrap();
}

#[test]
fn pod_interface_is_served_from_its_making_to_its_end() {
    let Some(bench) = Bench::new() else { return };
    let mut agent = bench.start(Bench::settings(XdpChoice::Off));
    bench.add_pod();
    bench.reconcile(&mut agent);
    assert_eq!(bench.hooks()[2..], hooks(&["veth1 tc_egress tcx-egress", "veth1 tc_pod_in tcx-ingress"]));
    assert_eq!(agent.roles()[1].0, POD);
    assert_eq!(agent.roles()[1].1 & !flags::XDP_TRANSMIT, flags::POD);
    bench.namespace.ip_batch("link del veth1\n").unwrap();
    bench.reconcile(&mut agent);
    assert_eq!(bench.hooks(), hooks(&["eth0 tc_egress tcx-egress", "eth0 tc_uplink_in tcx-ingress"]));
    assert_eq!(agent.roles().len(), 1);
}

#[test]
fn second_look_changes_nothing() {
    let Some(bench) = Bench::new() else { return };
    bench.add_pod();
    let mut agent = bench.start(Bench::settings(XdpChoice::Auto));
    let first = bench.attached();
    assert_eq!(first.len(), 5);
    bench.reconcile(&mut agent);
    assert_eq!(bench.attached(), first);
}

#[test]
fn next_agent_takes_links_of_interfaces_over() {
    let Some(bench) = Bench::new() else { return };
    bench.add_pod();
    drop(bench.start(Bench::settings(XdpChoice::Auto)));
    let before = bench.attached();
    let _agent = bench.start(Bench::settings(XdpChoice::Auto));
    let after = bench.attached();
    assert_eq!((before.len(), after.len()), (5, 5));
    for (before, after) in before.iter().zip(&after) {
        assert_eq!((&before.program, &before.place), (&after.program, &after.place));
        assert_eq!(before.link_id, after.link_id, "{}", after.program);
        assert_ne!(before.program_id, after.program_id, "{}", after.program);
    }
}

#[test]
fn agent_of_a_later_layout_takes_links_of_interfaces_over() {
    // Of an older kernel no former layout was: there tc programs are filters, not links.
    let Some(bench) = Bench::new().filter(|_| is_at_least(TCX)) else { return };
    bench.add_pod();
    drop(bench.start(Bench::settings(XdpChoice::Auto)));
    let before = bench.attached();
    let [ours, former] =
        [names::LAYOUT_VERSION, 2].map(|version| bench.pins.root().join(format!("v{version}")));
    std::fs::rename(ours, &former).unwrap();
    let _agent = bench.start(Bench::settings(XdpChoice::Auto));
    let after = bench.attached();
    assert_eq!((before.len(), after.len()), (5, 5));
    for (before, after) in before.iter().zip(&after) {
        assert_eq!((&before.program, &before.place), (&after.program, &after.place));
        assert_eq!(before.link_id, after.link_id, "{}", after.program);
        assert_ne!(before.program_id, after.program_id, "{}", after.program);
    }
    bench.pins.remove_older().unwrap();
    assert!(!former.exists());
    assert_eq!(bench.attached(), after);
}

#[test]
fn links_that_are_missing_or_are_none_are_made_again() {
    // The pins of tc programs are looked for, which only links have.
    let Some(bench) = Bench::new().filter(|_| is_at_least(TCX)) else { return };
    bench.add_pod();
    let settings = || {
        let sockets = SocketHooks::At(Some(bench.cgroup.path().to_owned()));
        Settings { sockets, ..Bench::settings(XdpChoice::Auto) }
    };
    drop(bench.start(settings()));
    let before = bench.hooks();
    let inode = std::fs::metadata(bench.cgroup.path()).unwrap().ino();
    let link = |name: &str| bench.pins.links().join(name);
    let missing = [format!("tc_uplink_in-{UPLINK}"), format!("recvmsg4-cgroup-{inode}")];
    let others = [format!("tc_egress-{UPLINK}"), format!("connect4-cgroup-{inode}")];
    let folders =
        [format!("xdp_uplink-{UPLINK}"), format!("tc_pod_in-{POD}"), format!("connect6-cgroup-{inode}")];
    for name in missing.iter().chain(&others).chain(&folders) {
        std::fs::remove_file(link(name)).unwrap();
    }
    others.iter().for_each(|name| maps::new_flow_table(16).unwrap().pin(link(name)).unwrap());
    folders.iter().for_each(|name| std::fs::create_dir(link(name)).unwrap());
    // What an agent that was killed had beside a pin for a moment.
    let aside = link(&format!("new-connect4-cgroup-{inode}"));
    maps::new_flow_table(16).unwrap().pin(&aside).unwrap();
    maps::new_flow_table(16).unwrap().pin(link("tc_again")).unwrap();
    let mut agent = bench.start(settings());
    drop(agent.attachments().reentry().unwrap());
    assert_eq!(bench.hooks(), before);
    assert!(!aside.exists() && !link("tc_again").exists());
    assert_eq!(agent.faults_count(), 0);
}

#[test]
fn interface_that_was_made_anew_while_no_agent_ran_is_attached_anew() {
    let Some(bench) = Bench::new() else { return };
    bench.add_pod();
    drop(bench.start(Bench::settings(XdpChoice::Off)));
    let before = bench.attached();
    bench.namespace.ip_batch("link del veth1\n").unwrap();
    bench.add_pod();
    let mut agent = bench.start(Bench::settings(XdpChoice::Off));
    let after = bench.attached();
    assert_eq!((before.len(), after.len()), (4, 4));
    assert_eq!((&*after[2].program, &*after[3].program), ("tc_egress", "tc_pod_in"));
    let has_links = is_at_least(TCX);
    assert_eq!((before[2].link_id, before[3].link_id) == (after[2].link_id, after[3].link_id), !has_links);
    assert_eq!(bench.filters("veth1", "ingress").is_empty(), has_links);
    assert_eq!(agent.faults_count(), 0);
}

#[test]
fn without_tcx_links_a_program_is_one_filter_until_its_interface_is_none_of_ours() {
    let Some(bench) = Bench::new() else { return };
    bench.add_pod();
    drop(bench.start(Bench::settings(XdpChoice::Off)));
    let agent = bench.start(Bench::settings(XdpChoice::Off));
    let filter = |name: &str| if is_at_least(TCX) { vec![] } else { vec![name.to_owned()] };
    assert_eq!(bench.filters("veth1", "ingress"), filter("tc_pod_in"));
    assert_eq!(bench.filters("veth1", "egress"), filter("tc_egress"));
    drop(agent);
    let no_pods = Settings { pod_interfaces: Vec::new(), ..Bench::settings(XdpChoice::Off) };
    let _agent = bench.start(no_pods);
    assert_eq!(bench.filters("veth1", "ingress"), Vec::<String>::new());
    assert_eq!(bench.filters("veth1", "egress"), Vec::<String>::new());
    assert_eq!(bench.filters("eth0", "egress"), filter("tc_egress"));
}

#[test]
fn next_agent_leaves_one_program_at_each_socket_hook() {
    let Some(bench) = Bench::new() else { return };
    let settings = || {
        let sockets = SocketHooks::At(Some(bench.cgroup.path().to_owned()));
        Settings { sockets, uplinks: vec!["eth0".into()], ..Bench::settings(XdpChoice::Off) }
    };
    let sockets = || {
        let all = bench.attached().into_iter();
        all.filter(|one| one.mode.name() == "cgroup").collect::<Vec<AttachedProgram>>()
    };
    drop(bench.start(settings()));
    let before = sockets();
    let _agent = bench.start(settings());
    let after = sockets();
    let names: Vec<&str> = after.iter().map(|one| &*one.program).collect();
    assert_eq!(names, SOCKET_HOOKS);
    for (before, after) in before.iter().zip(&after) {
        assert_ne!(before.program_id, after.program_id, "{}", after.program);
    }
    // Without its pin the former link goes; the kernel does that a little later.
    let is_left = |one: &AttachedProgram| loaded_links().flatten().any(|link| Some(link.id()) == one.link_id);
    wait_until(Duration::from_secs(5), "the former links' end", || !before.iter().any(is_left)).unwrap();
}
