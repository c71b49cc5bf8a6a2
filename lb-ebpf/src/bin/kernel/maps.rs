//! The maps, and the path's tables on them.
use core::arch::asm;
use core::ffi::c_void;
use core::ops::Deref;

use aya_ebpf::Global;
use aya_ebpf::bindings::{BPF_ANY, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_NOEXIST};
use aya_ebpf::btf_maps::{self, ArrayOfMaps};
use aya_ebpf::helpers::{
    bpf_get_prandom_u32, bpf_get_smp_processor_id, bpf_jiffies64, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns,
    bpf_map_lookup_elem,
};
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};
use lb_common::Address;
use lb_common::affinity::{Affinity, AffinityKey};
use lb_common::backend_service::{BackendService, BackendServiceName};
use lb_common::config::Config;
use lb_common::conntrack::{self, Flow, FlowKey, FlowState};
use lb_common::counters::{Reason, Traffic};
use lb_common::endpoint::Endpoint;
use lb_common::event::{Event, Monitor, Point};
use lb_common::flow_filter;
use lb_common::fragment::{FragmentKey, FragmentPorts, HeldFrame, HeldWay};
use lb_common::frontend::{Frontend, FrontendKey};
use lb_common::interface::Interface;
use lb_common::maps as bounds;
use lb_common::neg::{NEGS_PER_BACKEND_SERVICE, Ring};
use lb_common::socket_flow::{SocketFlow, SocketFlowKey};
use lb_common::source_range::SourceRangeKey;
use lb_common::vip_filter;
use lb_ebpf::packet::Packet;
use lb_ebpf::parse::{Parsed, parse};
use lb_ebpf::path::Scratch;
use lb_ebpf::tables::{Inserted, Route, TableFull, Tables};

use crate::frame::Capture;
use crate::route::{self, Hook};

#[map]
static FRONTENDS: HashMap<FrontendKey, Frontend> = HashMap::with_max_entries(bounds::FRONTENDS_MAX, 0);
#[map]
static BACKEND_SERVICES: Array<BackendService> = Array::with_max_entries(bounds::BACKEND_SERVICES_MAX, 0);
#[map]
static SERVICE_NAMES: Array<BackendServiceName> = Array::with_max_entries(bounds::BACKEND_SERVICES_MAX, 0);
#[map]
static NEGS: Array<Ring> =
    Array::with_max_entries(NEGS_PER_BACKEND_SERVICE * bounds::BACKEND_SERVICES_MAX, BPF_F_MMAPABLE);
#[map]
static RING_SLOTS: Array<u32> = Array::with_max_entries(bounds::RING_SLOTS_MAX, BPF_F_MMAPABLE);
#[map]
static ENDPOINTS: Array<Endpoint> = Array::with_max_entries(bounds::ENDPOINTS_MAX, BPF_F_MMAPABLE);
/// The flows, in a map of maps: so all programs go over to a larger one by one store. The agent makes the
/// maps inside; the size here is only that of a pattern.
#[btf_map]
static CONNTRACK: ArrayOfMaps<FlowTable, { conntrack::SLOTS as usize }> = ArrayOfMaps::new();
/// Its values are flows. An array in their place is a type in which Linux 6.1 looks for no timer or lock, so the pattern
/// is equal there to the maps that the agent makes without types (`bpf_map_meta_equal`).
type FlowTable = btf_maps::LruHashMap<FlowKey, FlowWords, 16>;
type FlowWords = [u64; size_of::<Flow>() / size_of::<u64>()];

#[inline(always)]
fn words(flow: &Flow) -> &FlowWords {
    bytemuck::cast_ref(flow)
}

/// The places in CONNTRACK, in memory of their own: on the stack of each caller they would take what the
/// longest chain of calls does not have.
static CURRENT: u32 = conntrack::CURRENT;
static PREVIOUS: u32 = conntrack::PREVIOUS;

#[inline(always)]
fn flow_table(place: &'static u32) -> Option<&'static FlowTable> {
    // SAFETY: the map's keys are of this type. A map inside stays while the program runs, and is only named
    // to helpers, never read.
    unsafe {
        let map = (&raw const CONNTRACK).cast_mut().cast();
        bpf_map_lookup_elem(map, (&raw const *place).cast()).cast::<FlowTable>().as_ref()
    }
}
#[map]
static FLOW_FILTER: Array<u64> = Array::with_max_entries(flow_filter::FLOW_FILTER_WORDS, BPF_F_MMAPABLE);

/// Whether a flow may have the address as its destination; `false` is certain. A pod's packets to addresses
/// without flows are most of what the programs see, and a look into CONNTRACK is most of what such a packet costs.
#[inline(always)]
fn may_have_flows(destination: &Address) -> bool {
    let (word, bits) = flow_filter::place(destination);
    FLOW_FILTER.get(word).is_none_or(|found| found & bits != 0)
}

/// Notes that a flow goes to an address, once its entry is there: see [`flow_filter`].
#[inline(always)]
fn note_flow_to(destination: &Address) {
    let (word, bits) = flow_filter::place(destination);
    let Some(found) = FLOW_FILTER.get_ptr_mut(word) else { return };
    // SAFETY: the pointer is to an aligned word of the map, which others write by atomics alone. The target has the
    // instruction, but no compare-and-swap, without which `core` has no read-modify-write at all.
    unsafe {
        if found.read_volatile() & bits != bits {
            asm!("lock *(u64 *)({found} + 0) |= {bits}", found = in(reg) found, bits = in(reg) bits);
        }
    }
}

#[map]
static AFFINITY: LruHashMap<AffinityKey, Affinity> = LruHashMap::with_max_entries(bounds::AFFINITY_MAX, 0);
#[map]
static SOCKET_FLOWS: LruHashMap<SocketFlowKey, SocketFlow> =
    LruHashMap::with_max_entries(bounds::SOCKET_FLOWS_MAX, 0);
#[map]
static SOURCE_RANGES: LpmTrie<SourceRangeData, u32> =
    LpmTrie::with_max_entries(bounds::SOURCE_RANGES_MAX, BPF_F_NO_PREALLOC);
#[map]
static FRAGMENTS: LruHashMap<FragmentKey, FragmentPorts> =
    LruHashMap::with_max_entries(bounds::FRAGMENTS_MAX, 0);
#[map]
static HELD_FRAMES: RingBuf = RingBuf::with_byte_size(bounds::HELD_FRAMES_BYTES, 0);
#[map]
static VIP_FILTER: Array<u64> = Array::with_max_entries(vip_filter::VIP_FILTER_WORDS, BPF_F_MMAPABLE);
#[map]
static NODES: HashMap<Address, u32> = HashMap::with_max_entries(bounds::NODES_MAX, 0);
#[map]
pub(crate) static INTERFACES: HashMap<u32, Interface> = HashMap::with_max_entries(bounds::INTERFACES_MAX, 0);
#[map]
pub(crate) static ROUTE_GENERATION: Array<u32> = Array::with_max_entries(1, 0);
#[map]
static CONFIG: Array<Config> = Array::with_max_entries(1, 0);
#[map]
static SERVICE_TRAFFIC: PerCpuArray<Traffic> = PerCpuArray::with_max_entries(bounds::BACKEND_SERVICES_MAX, 0);
#[map]
static ENDPOINT_TRAFFIC: PerCpuArray<Traffic> = PerCpuArray::with_max_entries(bounds::ENDPOINTS_MAX, 0);
#[map]
static REASONS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Reason::ALL.len() as u32, 0);

#[map]
static MONITOR: Array<Monitor> = Array::with_max_entries(1, 0);
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(bounds::EVENTS_BYTES, 0);

/// A [`SourceRangeKey`] behind its length, which the trie's key type holds apart.
#[derive(Clone, Copy)]
#[repr(C)]
struct SourceRangeData {
    backend_service: u32,
    client: [u32; 4],
}

/// What this CPU's packet needs beside the stack; see [`scratch_for`].
#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// Reads a frame's headers into memory that is this CPU's own while the program runs (soft interrupts
/// do not nest). Two reasons, both seen on 6.18: the stack has too little room for it; and the verifier
/// knows nothing of the offsets that come back from a map, so it walks the path once instead of once
/// for every way that headers can lie (70,000 instructions instead of 865,000).
#[inline(always)]
pub(crate) fn scratch_for<P: Packet>(packet: &P) -> Result<&'static mut Scratch, Reason> {
    let parsed = parse(packet)?;
    let scratch = SCRATCH.get_ptr_mut(0).ok_or(Reason::DropDangling)?;
    // SAFETY: the pointer is to this CPU's own value, always initialised (zero is a value of every
    // field but the family, which is written here), and no other reference to it is alive.
    unsafe {
        (&raw mut (*scratch).parsed).write(parsed);
        Ok(&mut *scratch)
    }
}

/// As [`scratch_for`], with a stack of its own for the reading: for a program whose path is deep and whose
/// packets cost much more than a call.
#[inline(always)]
pub(crate) fn scratch_apart<P: Packet>(packet: &P) -> Result<&'static mut Scratch, Reason> {
    let scratch = SCRATCH.get_ptr_mut(0).ok_or(Reason::DropDangling)?;
    // SAFETY: as in `scratch_for`.
    let scratch = unsafe { &mut *scratch };
    match read_apart(packet, &mut scratch.parsed) {
        None => Ok(scratch),
        Some(reason) => Err(reason),
    }
}

#[inline(never)]
fn read_apart<P: Packet>(packet: &P, parsed: &mut Parsed) -> Option<Reason> {
    match parse(packet) {
        Ok(read) => {
            *parsed = read;
            None
        }
        Err(reason) => Some(reason),
    }
}

/// Set to 1 when the object is loaded, it makes programs that write no table: they show what would
/// happen. The verifier knows the value and removes the branch.
#[unsafe(no_mangle)]
static DRY_RUN: Global<u8> = Global::new(0);

#[inline(always)]
fn is_dry_run() -> bool {
    DRY_RUN.load() != 0
}

/// The maps as the path's tables, for one run of one program.
pub(crate) struct KernelTables {
    pub(crate) ctx: *mut c_void,
    pub(crate) hook: Hook,
    pub(crate) interface: u32,
    now_s: u32,
}

impl KernelTables {
    #[inline(always)]
    pub(crate) fn new(ctx: *mut c_void, hook: Hook, interface: u32) -> Self {
        let now_s = if hook == Hook::Socket { clock_s() } else { clock_of_tick_s() };
        Self { ctx, hook, interface, now_s }
    }
}

/// What the clock said when this CPU last read it, and what MONITOR said then.
#[repr(C)]
struct Clock {
    jiffies: u64,
    now_s: u32,
    /// Events that may still be told in this second.
    events_left: u32,
    /// The reasons that are told, a bit for each; none while nobody watches.
    reasons: u64,
    /// The events so far, told or not.
    events: u64,
}

#[map]
static CLOCK: PerCpuArray<Clock> = PerCpuArray::with_max_entries(1, 0);

/// Seconds of the monotonic clock. Takes as long as ten array lookups.
#[inline(always)]
fn clock_s() -> u32 {
    // SAFETY: a helper call without arguments.
    let now_ns = unsafe { bpf_ktime_get_coarse_ns() };
    (now_ns / 1_000_000_000) as u32
}

/// The same, read once in each tick of the kernel: the coarse clock moves no oftener. A packet that comes between
/// the two writes, or a tick that comes between the two readings, at worst finds the second before.
#[inline(always)]
fn clock_of_tick_s() -> u32 {
    let Some(clock) = CLOCK.get_ptr_mut(0) else {
        return clock_s();
    };
    // SAFETY: a helper call without arguments; the pointer is to this CPU's own value.
    unsafe {
        let jiffies = bpf_jiffies64();
        if (*clock).jiffies != jiffies {
            let now_s = clock_s();
            (*clock).jiffies = jiffies;
            look_at_monitor(clock, now_s);
            (*clock).now_s = now_s;
        }
        (*clock).now_s
    }
}

/// Takes over what MONITOR says, once in each tick: so a packet pays for one comparison while nobody watches. A call,
/// lest the verifier walk the path once for each answer.
#[inline(never)]
fn look_at_monitor(clock: *mut Clock, now_s: u32) {
    let monitor = MONITOR.get(0).filter(|monitor| now_s < monitor.until_s);
    // SAFETY: the pointer is to this CPU's own value, valid while the program runs.
    unsafe {
        (*clock).reasons = monitor.map_or(0, |monitor| monitor.reasons);
        if (*clock).now_s != now_s {
            (*clock).events_left = monitor.map_or(0, |monitor| monitor.events_per_second);
        }
    }
}

/// Tells what became of a packet, if somebody watches.
#[inline(always)]
pub(crate) fn tell<P: Capture>(packet: P, interface: u32, point: Point, reason: Reason) {
    let Some(clock) = CLOCK.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: the pointer is to this CPU's own value, valid while the program runs.
    let reasons = unsafe { (*clock).reasons };
    if reasons >> (reason as u32) & 1 != 0 && !is_dry_run() {
        put_event(packet, interface, point as u32, reason as u32);
    }
}

/// Not inlined: rare, and the verifier shall walk it once. What finds no room is numbered alone, so whoever watches
/// sees that something is missing.
#[inline(never)]
fn put_event<P: Capture>(packet: P, interface: u32, point: u32, reason: u32) {
    let (Some(clock), Some(scratch)) = (CLOCK.get_ptr_mut(0), SCRATCH.get_ptr_mut(0)) else {
        return;
    };
    // SAFETY: the pointers are to this CPU's own values, valid while the program runs.
    unsafe {
        (*clock).events += 1;
        if (*clock).events_left == 0 {
            return;
        }
        (*clock).events_left -= 1;
    }
    let Some(mut event) = EVENTS.reserve::<Event>(0) else {
        return;
    };
    let record = event.as_mut_ptr();
    // SAFETY: the record is this program's own until it is submitted, and every field but the bytes behind the
    // packet's is written; helper calls without pointers.
    unsafe {
        (*record).time_ns = bpf_ktime_get_ns();
        (*record).number = (*clock).events;
        (*record).key = (*scratch).parsed.key;
        (*record).cpu = bpf_get_smp_processor_id() as u32;
        (*record).interface = interface;
        (*record).point = point;
        (*record).reason = reason;
        (*record).length_bytes = packet.length_bytes() as u32;
        (*record).captured_bytes = packet.capture(&mut (*record).bytes);
    }
    event.submit(0);
}

/// An entry of CONNTRACK in the map itself.
pub(crate) struct FlowEntry(*mut Flow);

impl Deref for FlowEntry {
    type Target = Flow;

    #[inline(always)]
    fn deref(&self) -> &Flow {
        // SAFETY: a found entry is readable while the program runs. The kernel may give an evicted
        // entry to another flow meanwhile, as with every value that is read from an LRU map.
        unsafe { &*self.0 }
    }
}

/// The flow from the map before the current one, while the agent moves flows: it is moved first, since
/// what would be noted in the former map from now is lost.
#[inline(never)]
fn move_flow(current: &FlowTable, key: &FlowKey) -> *mut Flow {
    let found = flow_table(&PREVIOUS).and_then(|previous| previous.get_ptr_mut(key));
    let Some(old) = found else {
        return core::ptr::null_mut();
    };
    if is_dry_run() {
        return old.cast();
    }
    // SAFETY: a found entry is readable while the program runs. Whoever was first has moved it, which is
    // as well; a map without memory leaves it where it is.
    let _ = current.insert(key, unsafe { &*old }, u64::from(BPF_NOEXIST));
    current.get_ptr_mut(key).unwrap_or(old).cast()
}

/// Adds to a per-CPU value; an id beyond the bound counts nowhere, since no map holds it either.
#[inline(always)]
fn add_traffic(map: &PerCpuArray<Traffic>, id: u32, more: &Traffic) {
    if let Some(traffic) = map.get_ptr_mut(id) {
        // SAFETY: the pointer is to this CPU's own value, valid while the program runs.
        unsafe {
            (*traffic).packets += more.packets;
            (*traffic).bytes += more.bytes;
            (*traffic).new_flows += more.new_flows;
        }
    }
}

impl Tables for KernelTables {
    type FlowSlot = FlowEntry;

    #[inline(always)]
    fn now_s(&self) -> u32 {
        self.now_s
    }

    #[inline(always)]
    fn random(&mut self) -> u32 {
        // SAFETY: a helper call without arguments.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn config(&self) -> Option<&Config> {
        CONFIG.get(0)
    }

    #[inline(always)]
    fn frontend(&self, key: &FrontendKey) -> Option<Frontend> {
        // SAFETY: copied out at once; an entry that is replaced meanwhile stays readable (RCU).
        unsafe { FRONTENDS.get(key) }.copied()
    }

    #[inline(always)]
    fn backend_service(&self, id: u32) -> Option<BackendService> {
        BACKEND_SERVICES.get(id).copied()
    }

    #[inline(always)]
    fn ring(&self, neg: u32) -> Option<Ring> {
        NEGS.get(neg).copied()
    }

    #[inline(always)]
    fn ring_slot(&self, slot: u32) -> Option<u32> {
        RING_SLOTS.get(slot).copied()
    }

    #[inline(always)]
    fn endpoint(&self, id: u32) -> Option<Endpoint> {
        ENDPOINTS.get(id).copied()
    }

    #[inline(always)]
    fn flow(&mut self, key: &FlowKey) -> Option<FlowEntry> {
        if !may_have_flows(&key.destination) {
            return None;
        }
        let current = flow_table(&CURRENT)?;
        if let Some(entry) = current.get_ptr_mut(key) {
            return Some(FlowEntry(entry.cast()));
        }
        flow_table(&PREVIOUS)?;
        let moved = move_flow(current, key);
        if moved.is_null() { None } else { Some(FlowEntry(moved)) }
    }

    #[inline(always)]
    fn record_flow(&mut self, slot: &FlowEntry, state: FlowState, now_s: u32) {
        if is_dry_run() {
            return;
        }
        // SAFETY: the slot was just found. Another CPU may write the same fields; either value holds.
        unsafe {
            (*slot.0).state = state as u32;
            (*slot.0).last_seen_s = now_s;
        }
    }

    #[inline(always)]
    fn mark_flow(&mut self, slot: &FlowEntry, bits: u32) {
        if is_dry_run() {
            return;
        }
        // SAFETY: the slot was just found. Another CPU may write the same field: a bit that is lost comes with the
        // next packet, or never, and means no more than what is not known.
        unsafe {
            (*slot.0).flags |= bits;
        }
    }

    #[inline(always)]
    fn put_flow(&mut self, key: &FlowKey, flow: &Flow) -> Result<(), TableFull> {
        if is_dry_run() {
            return Ok(());
        }
        let current = flow_table(&CURRENT).ok_or(TableFull)?;
        current.insert(key, words(flow), u64::from(BPF_ANY)).map_err(|_| TableFull)?;
        note_flow_to(&key.destination);
        Ok(())
    }

    #[inline(always)]
    fn put_new_flow(&mut self, key: &FlowKey, flow: &Flow) -> Result<Inserted, TableFull> {
        if is_dry_run() {
            let is_taken = self.flow(key).is_some();
            return Ok(if is_taken { Inserted::Taken } else { Inserted::New });
        }
        const EEXIST: i32 = -17;
        let current = flow_table(&CURRENT).ok_or(TableFull)?;
        if !move_flow(current, key).is_null() {
            return Ok(Inserted::Taken);
        }
        match current.insert(key, words(flow), u64::from(BPF_NOEXIST)) {
            Ok(()) => {
                note_flow_to(&key.destination);
                Ok(Inserted::New)
            }
            Err(EEXIST) => Ok(Inserted::Taken),
            Err(_) => Err(TableFull),
        }
    }

    #[inline(always)]
    fn affinity(&mut self, key: &AffinityKey) -> Option<Affinity> {
        // SAFETY: copied out at once.
        unsafe { AFFINITY.get(key) }.copied()
    }

    #[inline(always)]
    fn put_affinity(&mut self, key: &AffinityKey, affinity: &Affinity) {
        if !is_dry_run() {
            // An LRU map refuses only when the kernel has no memory; the flow goes on without.
            let _ = AFFINITY.insert(key, affinity, u64::from(BPF_ANY));
        }
    }

    #[inline(always)]
    fn socket_flow(&mut self, key: &SocketFlowKey) -> Option<SocketFlow> {
        // SAFETY: copied out at once.
        unsafe { SOCKET_FLOWS.get(key) }.copied()
    }

    #[inline(always)]
    fn put_socket_flow(&mut self, key: &SocketFlowKey, flow: &SocketFlow) -> Result<(), TableFull> {
        if is_dry_run() {
            return Ok(());
        }
        SOCKET_FLOWS.insert(key, flow, u64::from(BPF_ANY)).map_err(|_| TableFull)
    }

    #[inline(always)]
    fn is_maybe_vip(&self, address: &Address) -> bool {
        let (word, bit) = vip_filter::place(address);
        VIP_FILTER.get(word).is_some_and(|bits| bits & bit != 0)
    }

    #[inline(always)]
    fn is_source_allowed(&self, key: &SourceRangeKey) -> bool {
        let SourceRangeKey { prefix_bits, backend_service, client } = *key;
        SOURCE_RANGES.get(Key::new(prefix_bits, SourceRangeData { backend_service, client })).is_some()
    }

    #[inline(always)]
    fn is_node(&self, address: &Address) -> bool {
        NODES.get_ptr(address).is_some()
    }

    #[inline(always)]
    fn fragment(&mut self, key: &FragmentKey) -> Option<FragmentPorts> {
        // SAFETY: copied out at once.
        unsafe { FRAGMENTS.get(key) }.copied()
    }

    #[inline(always)]
    fn put_fragment(&mut self, key: &FragmentKey, ports: &FragmentPorts) {
        if !is_dry_run() {
            // An LRU map refuses only when the kernel has no memory; later fragments are then dropped
            // and counted.
            let _ = FRAGMENTS.insert(key, ports, u64::from(BPF_ANY));
        }
    }

    #[inline(always)]
    fn hold<P: Packet>(&mut self, packet: &P, way: HeldWay) -> Result<(), TableFull> {
        if is_dry_run() {
            return Ok(());
        }
        let mut held = HELD_FRAMES.reserve::<HeldFrame>(0).ok_or(TableFull)?;
        let record = held.as_mut_ptr();
        // SAFETY: the record is this program's own until it is submitted; bytes may hold anything.
        let copied = unsafe {
            (*record).interface = self.interface;
            (*record).way = way as u32;
            packet.copy_to(&mut (*record).bytes)
        };
        let Some(length_bytes) = copied else {
            held.discard(0);
            return Err(TableFull);
        };
        // SAFETY: as above.
        unsafe { (*record).length_bytes = length_bytes };
        held.submit(0);
        Ok(())
    }

    #[inline(always)]
    fn can_deliver(&self) -> bool {
        self.hook == Hook::Tc
    }

    #[inline(always)]
    fn route(&mut self, source: &Address, destination: &Address, length_bytes: u16) -> Route {
        route::find(self, source, destination, length_bytes)
    }

    #[inline(always)]
    fn count_traffic(
        &mut self,
        backend_service: u32,
        endpoint: u32,
        packets: u64,
        bytes: u64,
        new_flows: u64,
    ) {
        if is_dry_run() {
            return;
        }
        let more = Traffic { packets, bytes, new_flows };
        add_traffic(&SERVICE_TRAFFIC, backend_service, &more);
        add_traffic(&ENDPOINT_TRAFFIC, endpoint, &more);
    }

    #[inline(always)]
    fn count(&mut self, reason: Reason) {
        count(reason);
    }
}

/// Counts the one reason of a packet.
#[inline(always)]
pub(crate) fn count(reason: Reason) {
    if is_dry_run() {
        return;
    }
    if let Some(count) = REASONS.get_ptr_mut(reason as u32) {
        // SAFETY: the pointer is to this CPU's own value, valid while the program runs.
        unsafe { *count += 1 };
    }
}
