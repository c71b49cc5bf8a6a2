//! The programs in the kernel with private, unpinned maps: load, fill, run on a frame.
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Error, Result, anyhow, bail};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, ArrayOfMaps, HashMap, Map, MapData, PerCpuArray};
use aya::programs::{Program, ProgramInfo, SchedClassifier, TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use bytemuck::{NoUninit, bytes_of};
use lb_common::backend_service::BackendService;
use lb_common::config::Config;
use lb_common::conntrack::{self, Flow, FlowKey};
use lb_common::counters::Reason;
use lb_common::endpoint::Endpoint;
use lb_common::source_range::SourceRangeKey;
use lb_common::{Address, flow_filter, maps, vip_filter};
use lb_ebpf::host::HostTables;
use lb_userspace::maps::new_flow_table;

use crate::packet::five_tuple;

/// Every program in the object, by kind.
pub const CLASSIFIERS: [&str; 4] = ["tc_uplink_in", "tc_pod_in", "tc_egress", "tc_again"];
/// The socket hooks.
pub const SOCKET_HOOKS: [&str; 8] =
    ["connect4", "connect6", "sendmsg4", "sendmsg6", "recvmsg4", "recvmsg6", "getpeername4", "getpeername6"];
/// The XDP program.
pub const XDP: &str = "xdp_uplink";

/// Longest frame that a program may give back.
const FRAME_BYTES_MAX: usize = 4096;

/// Where the object is: `PODWAY_EBPF_OBJECT`, else where the build puts it.
#[must_use]
pub fn object_path() -> PathBuf {
    std::env::var_os("PODWAY_EBPF_OBJECT").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bpf/podway.o")),
        PathBuf::from,
    )
}

/// The object of the programs that benches use, which lies beside it.
///
/// # Errors
/// It is not built.
pub fn bench_object() -> Result<Vec<u8>> {
    let path = object_path().with_file_name("podway-bench.o");
    std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// Loaded programs and their maps.
pub struct Kernel {
    ebpf: Ebpf,
    flows: FlowTable,
}

/// The names of all programs of the object.
fn all() -> Vec<&'static str> {
    [XDP].into_iter().chain(CLASSIFIERS).chain(SOCKET_HOOKS).collect()
}

fn load(ebpf: &mut Ebpf, name: &str) -> Result<()> {
    let loaded = match ebpf.program_mut(name).with_context(|| format!("no program {name}"))? {
        Program::Xdp(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        _ => bail!("program {name} is of an unexpected type"),
    };
    loaded.with_context(|| format!("cannot load {name}"))
}

type FlowTable = HashMap<MapData, [u8; size_of::<FlowKey>()], [u8; size_of::<Flow>()]>;

/// CONNTRACK of an object.
fn places(ebpf: &mut Ebpf) -> Result<ArrayOfMaps<&mut MapData, MapData>> {
    let outer = ebpf.map_mut(maps::CONNTRACK).context("no CONNTRACK")?;
    Ok(outer.try_into()?)
}

/// What a program did with a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The program's return code.
    pub code: u32,
    /// The frame afterwards.
    pub frame: Vec<u8>,
}

impl Kernel {
    /// Loads every program, with a CONNTRACK of `conntrack_max` entries.
    ///
    /// # Errors
    /// No object, no permission, or a program that the verifier refuses: its log is in the message.
    pub fn load(conntrack_max: u32) -> Result<Self> {
        Self::load_only(&all(), conntrack_max)
    }

    /// Loads the named programs alone: the verifier takes its time for each.
    ///
    /// # Errors
    /// As [`Kernel::load`].
    pub fn load_only(programs: &[&str], conntrack_max: u32) -> Result<Self> {
        let path = object_path();
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut ebpf = EbpfLoader::new().load(&bytes).context("cannot load the eBPF object")?;
        places(&mut ebpf)?.set(conntrack::CURRENT, &new_flow_table(conntrack_max)?, 0)?;
        Self::with(ebpf, programs)
    }

    /// Loads every program of an object, whose maps may be those of an agent.
    ///
    /// # Errors
    /// As [`Kernel::load`].
    pub fn of(ebpf: Ebpf) -> Result<Self> {
        Self::with(ebpf, &all())
    }

    fn with(mut ebpf: Ebpf, programs: &[&str]) -> Result<Self> {
        let flows = places(&mut ebpf)?.get(&conntrack::CURRENT, 0)?;
        for name in programs {
            load(&mut ebpf, name)?;
        }
        Ok(Self { ebpf, flows: Map::from_map_data(flows)?.try_into()? })
    }

    /// The loaded object.
    pub fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// The loaded object.
    #[must_use]
    pub fn ebpf(&self) -> &Ebpf {
        &self.ebpf
    }

    /// What the kernel says of a program: its sizes, and what the verifier took.
    ///
    /// # Errors
    /// No such program.
    pub fn program_info(&self, name: &str) -> Result<ProgramInfo> {
        let program = self.ebpf.program(name).with_context(|| format!("no program {name}"))?;
        Ok(program.info()?)
    }

    /// The kernel's count of instructions that the verifier walked for a program.
    ///
    /// # Errors
    /// No such program, or the kernel does not say (before 5.16).
    pub fn verified_instructions(&self, name: &str) -> Result<u32> {
        let info = self.program_info(name)?;
        info.verified_instruction_count().ok_or_else(|| anyhow!("the kernel gives no count for {name}"))
    }

    /// Gives CONNTRACK an empty map of `conntrack_max` entries.
    ///
    /// # Errors
    /// The kernel makes none.
    pub fn forget_flows(&mut self, conntrack_max: u32) -> Result<()> {
        places(&mut self.ebpf)?.set(conntrack::CURRENT, &new_flow_table(conntrack_max)?, 0)?;
        let flows = places(&mut self.ebpf)?.get(&conntrack::CURRENT, 0)?;
        self.flows = Map::from_map_data(flows)?.try_into()?;
        Ok(())
    }

    /// The entries of CONNTRACK.
    ///
    /// # Errors
    /// The kernel does not give one.
    pub fn flows(&self) -> Result<Vec<(FlowKey, Flow)>> {
        let entry = |found: Result<_, _>| {
            let (key, flow) = found?;
            Ok((
                bytemuck::cast::<[u8; size_of::<FlowKey>()], _>(key),
                bytemuck::cast::<[u8; size_of::<Flow>()], _>(flow),
            ))
        };
        self.flows.iter().map(entry).collect()
    }

    /// Packets that the programs have counted for a reason, on all processors.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn count_of(&self, reason: Reason) -> Result<u64> {
        let map = self.ebpf.map(maps::REASONS).context("no REASONS")?;
        let counts: PerCpuArray<&MapData, u64> = PerCpuArray::try_from(map)?;
        Ok(counts.get(&(reason as u32), 0)?.iter().sum())
    }

    /// Writes tables as the host has them into the maps.
    ///
    /// # Errors
    /// A map that refuses an entry.
    pub fn fill(&mut self, tables: &HostTables) -> Result<()> {
        const FLOW_KEY: usize = size_of::<FlowKey>();
        let mut filter = BTreeMap::<u32, u64>::new();
        for (key, value) in &tables.frontends {
            let (word, bit) = vip_filter::place(&key.address);
            *filter.entry(word).or_default() |= bit;
            self.put_hash::<24, 16>(maps::FRONTENDS, key, value)?;
        }
        for (word, bits) in filter {
            self.put_array::<8>(maps::VIP_FILTER, word, &bits)?;
        }
        for (id, value) in &tables.backend_services {
            self.put_array::<{ size_of::<BackendService>() }>(maps::BACKEND_SERVICES, *id, value)?;
        }
        for (id, value) in &tables.rings {
            self.put_array::<8>(maps::NEGS, *id, value)?;
        }
        for (id, value) in &tables.ring_slots {
            self.put_array::<4>(maps::RING_SLOTS, *id, value)?;
        }
        for (id, value) in &tables.endpoints {
            self.put_array::<{ size_of::<Endpoint>() }>(maps::ENDPOINTS, *id, value)?;
        }
        for (key, value) in &tables.flows {
            self.note_flow_to(&key.destination)?;
            self.flows.insert(
                bytemuck::cast::<FlowKey, [u8; FLOW_KEY]>(*key),
                bytemuck::cast::<Flow, [u8; 64]>(*value),
                0,
            )?;
        }
        for (key, value) in &tables.fragments {
            self.put_hash::<40, 8>(maps::FRAGMENTS, key, value)?;
        }
        for address in &tables.nodes {
            self.put_hash::<16, 4>(maps::NODES, address, &1_u32)?;
        }
        for range in &tables.source_ranges {
            self.put_source_range(range)?;
        }
        if let Some(config) = &tables.config {
            self.put_array::<{ size_of::<Config>() }>(maps::CONFIG, 0, config)?;
        }
        Ok(())
    }

    /// Sets the bits of FLOW_FILTER, as a program does that enters a flow.
    fn note_flow_to(&mut self, destination: &Address) -> Result<()> {
        let (word, bits) = flow_filter::place(destination);
        let mut filter: Array<&mut MapData, u64> = Array::try_from(self.map(maps::FLOW_FILTER)?)?;
        let found = filter.get(&word, 0)?;
        Ok(filter.set(word, found | bits, 0)?)
    }

    /// Puts one entry into a hash map.
    ///
    /// # Errors
    /// The map refuses it.
    pub fn put_hash<const K: usize, const V: usize>(
        &mut self,
        name: &str,
        key: &impl NoUninit,
        value: &impl NoUninit,
    ) -> Result<()> {
        let mut map: HashMap<&mut MapData, [u8; K], [u8; V]> = HashMap::try_from(self.map(name)?)?;
        let key: [u8; K] = bytes_of(key).try_into()?;
        let value: [u8; V] = bytes_of(value).try_into()?;
        map.insert(key, value, 0).with_context(|| format!("cannot put an entry into {name}"))
    }

    /// Puts one range into SOURCE_RANGES.
    fn put_source_range(&mut self, range: &SourceRangeKey) -> Result<()> {
        const DATA: usize = size_of::<SourceRangeKey>() - size_of::<u32>();
        let mut trie: LpmTrie<&mut MapData, [u8; DATA], u32> =
            LpmTrie::try_from(self.map(maps::SOURCE_RANGES)?)?;
        let data: [u8; DATA] = bytes_of(range)[size_of::<u32>()..].try_into()?;
        let key = Key::new(range.prefix_bits, data);
        trie.insert(&key, 1, 0).with_context(|| format!("cannot put {range:?}"))
    }

    /// Puts one value into an array map.
    ///
    /// # Errors
    /// The map refuses it.
    pub fn put_array<const V: usize>(&mut self, name: &str, index: u32, value: &impl NoUninit) -> Result<()> {
        let mut map: Array<&mut MapData, [u8; V]> = Array::try_from(self.map(name)?)?;
        let value: [u8; V] = bytes_of(value).try_into()?;
        map.set(index, value, 0).with_context(|| format!("cannot set {name}[{index}]"))
    }

    fn map(&mut self, name: &str) -> Result<&mut Map> {
        self.ebpf.map_mut(name).with_context(|| format!("no map {name}"))
    }

    /// Runs the XDP program on a frame that came in by `interface`, which must be up and have XDP.
    ///
    /// # Errors
    /// The kernel refuses the frame (shorter than an Ethernet header) or the context.
    pub fn run_xdp(&self, frame: &[u8], interface: u32) -> Result<Run> {
        let program: &Xdp = self.ebpf.program(XDP).context("no xdp_uplink")?.try_into()?;
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context: [u32; 6] = [0, u32::try_from(frame.len())?, 0, interface, 0, 0];
        let mut out = vec![0; FRAME_BYTES_MAX];
        let result = program.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: (interface != 0).then_some(bytes_of(&context)),
            repeat: 1,
            ..TestRunOptions::default()
        })?;
        out.truncate(result.data_size_out as usize);
        Ok(Run { code: result.return_value, frame: out })
    }

    /// Runs a tc program on a frame that came in by the interface `ingress`, at the interface `interface`;
    /// 0 stands for a process of this machine, and for the loopback interface.
    ///
    /// # Errors
    /// The kernel refuses the frame (shorter than an Ethernet header).
    pub fn run_tc(&self, name: &str, frame: &[u8], interface: u32, ingress: u32) -> Result<Run> {
        let program: &SchedClassifier = self.ebpf.program(name).context("no such program")?.try_into()?;
        // struct __sk_buff, of which a test run takes these two words and some that stay zero.
        let mut context = [0_u32; 48];
        context[9] = ingress;
        context[10] = interface;
        let mut out = vec![0; FRAME_BYTES_MAX];
        let result = program.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(bytes_of(&context)),
            repeat: 1,
            ..TestRunOptions::default()
        })?;
        out.truncate(result.data_size_out as usize);
        Ok(Run { code: result.return_value, frame: out })
    }
}

/// Where a tc program sends the packet of a frame, as if a process of this machine had sent it.
///
/// # Errors
/// The kernel refuses the frame, or what comes out has no ports.
pub fn destination(program: &SchedClassifier, frame: &[u8]) -> Result<SocketAddr> {
    let mut out = vec![0; FRAME_BYTES_MAX];
    let result = program.test_run(TestRunOptions {
        data_in: Some(frame),
        data_out: Some(&mut out),
        repeat: 1,
        ..TestRunOptions::default()
    })?;
    out.truncate(result.data_size_out as usize);
    Ok(five_tuple(&out).map_err(Error::msg)?.destination)
}
