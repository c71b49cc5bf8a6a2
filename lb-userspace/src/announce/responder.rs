//! Answers on the local network for the VIPs that a node announces, and tells its neighbours when it takes some over. A
//! thread of its own, with sockets alone: nothing is left when the agent is killed.
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::net::sockopt::set_ipv6_add_membership;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};
use tracing::warn;

use super::packet_socket::{self, Asks};
use super::{Mac, arp, ndp};
use crate::attach::{self, Settings};
use crate::clock::now_ms;

/// When neighbours are told of a VIP that was taken over, milliseconds after that: a frame may get lost.
const TELL_AT_MS: [u64; 3] = [0, 250, 1_000];

/// Time between two looks at the uplinks, milliseconds.
const LOOK_MS: u64 = 2_000;

/// Most frames that are sent in a second; further questions are left to be asked again.
const FRAMES_PER_SECOND_MAX: u32 = 2_000;

/// Longest frame that is read, bytes; a question is shorter.
const FRAME_BYTES_MAX: usize = 256;

/// The link to the thread.
#[derive(Clone, Debug)]
pub struct Responder {
    vips: Arc<Mutex<BTreeSet<IpAddr>>>,
    /// When another host was last heard to say that one of them is its.
    contested: Arc<Mutex<BTreeMap<IpAddr, u64>>>,
    wake: Arc<OwnedFd>,
}

impl Responder {
    /// Starts a thread that answers for no VIP yet, on the uplinks of these settings.
    ///
    /// # Errors
    /// The kernel gives no descriptor or thread.
    pub fn start(settings: Settings) -> Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let wake = Arc::new(wake.context("cannot make an event descriptor")?);
        let responder = Self { vips: Arc::default(), contested: Arc::default(), wake };
        let mut answerer = Answerer {
            shared: responder.clone(),
            settings,
            vips: BTreeSet::new(),
            uplinks: BTreeMap::new(),
            to_tell: BTreeSet::new(),
            looked_ms: 0,
            sent: (0, 0),
            fault: None,
        };
        let thread = std::thread::Builder::new().name("vips".into());
        thread.spawn(move || answerer.run()).context("cannot start a thread")?;
        Ok(responder)
    }

    /// Answers for these VIPs from now on and for no others; neighbours are told of those that are new.
    pub fn announce(&self, vips: BTreeSet<IpAddr>) {
        *self.vips.lock().unwrap_or_else(PoisonError::into_inner) = vips;
        // Full only where nobody has woken since the last time.
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
    }
}

impl Responder {
    /// When another host was last heard to say that a VIP is its, by the VIPs of this node; milliseconds of the node's clock.
    #[must_use]
    pub fn contested(&self) -> BTreeMap<IpAddr, u64> {
        self.contested.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn contest(&self, vip: IpAddr, now_ms: u64) {
        self.contested.lock().unwrap_or_else(PoisonError::into_inner).insert(vip, now_ms);
    }
}

/// An uplink and its sockets.
struct Uplink {
    mac: Mac,
    arp: OwnedFd,
    ndp: OwnedFd,
    told: OwnedFd,
    /// Members of the groups in which the VIPs are looked for; closing one leaves its group.
    groups: BTreeMap<Ipv6Addr, OwnedFd>,
}

struct Answerer {
    shared: Responder,
    settings: Settings,
    vips: BTreeSet<IpAddr>,
    /// By interface; none while there is no VIP.
    uplinks: BTreeMap<u32, Uplink>,
    /// When neighbours are to be told of a VIP.
    to_tell: BTreeSet<(u64, IpAddr)>,
    looked_ms: u64,
    /// Second, and frames sent in it.
    sent: (u64, u32),
    /// What was logged last.
    fault: Option<String>,
}

impl Answerer {
    fn run(&mut self) {
        loop {
            self.follow();
            self.tell();
            if let Err(error) = self.wait() {
                warn!(%error, "VIPs are not answered for any more");
                return;
            }
            self.answer();
        }
    }

    /// Takes the VIPs as they are wanted now, and looks at the uplinks where that is due.
    fn follow(&mut self) {
        let mut count = [0; 8];
        // Nothing to read is what it mostly finds.
        let _ = rustix::io::read(&*self.shared.wake, &mut count);
        let vips = self.shared.vips.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let now_ms = now_ms();
        let is_change = vips != self.vips;
        if !is_change && now_ms < self.looked_ms + LOOK_MS {
            return;
        }
        let new: Vec<IpAddr> = vips.difference(&self.vips).copied().collect();
        self.to_tell.retain(|(_, vip)| vips.contains(vip));
        let mut contested = self.shared.contested.lock().unwrap_or_else(PoisonError::into_inner);
        contested.retain(|vip, _| vips.contains(vip));
        drop(contested);
        self.to_tell.extend(new.iter().flat_map(|vip| TELL_AT_MS.map(|after_ms| (now_ms + after_ms, *vip))));
        self.vips = vips;
        self.looked_ms = now_ms;
        let looked = self.look();
        let fault = looked.err().map(|error| format!("{error:#}"));
        if fault != self.fault {
            if let Some(error) = &fault {
                warn!(error, "VIPs are not announced on all uplinks; trying again");
            }
            self.fault = fault;
        }
    }

    /// Opens and closes sockets as uplinks and VIPs come and go.
    fn look(&mut self) -> Result<()> {
        if self.vips.is_empty() {
            self.uplinks.clear();
            return Ok(());
        }
        let links = attach::uplinks(&self.settings)?;
        let is_there = |index: &u32, known: &Uplink| {
            links.iter().any(|link| link.index == *index && link.mac == Some(known.mac))
        };
        self.uplinks.retain(|index, known| is_there(index, known));
        let mut result = Ok(());
        for link in &links {
            let Some(mac) = link.mac else { continue };
            let opened = self.open(link.index, mac).with_context(|| format!("interface {}", link.name));
            result = result.and(opened);
        }
        result
    }

    fn open(&mut self, index: u32, mac: Mac) -> Result<()> {
        let uplink = match self.uplinks.entry(index) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let open = |asks| packet_socket::open(index, asks).context("cannot open a socket for frames");
                let (arp, ndp, told) = (open(Asks::Arp)?, open(Asks::Ndp)?, open(Asks::Nobody)?);
                new.insert(Uplink { mac, arp, ndp, told, groups: BTreeMap::new() })
            }
        };
        let of_v6 = self.vips.iter().filter_map(|vip| match vip {
            IpAddr::V6(vip) => Some(ndp::solicited_group(*vip)),
            IpAddr::V4(_) => None,
        });
        let groups: BTreeSet<Ipv6Addr> = of_v6.collect();
        uplink.groups.retain(|group, _| groups.contains(group));
        for group in groups {
            if let Entry::Vacant(new) = uplink.groups.entry(group) {
                new.insert(member(index, group).with_context(|| format!("cannot join group {group}"))?);
            }
        }
        Ok(())
    }

    /// Tells neighbours what is due.
    fn tell(&mut self) {
        let now_ms = now_ms();
        while let Some((at_ms, vip)) = self.to_tell.first().copied() {
            if at_ms > now_ms || !self.may_send(now_ms) {
                return;
            }
            self.to_tell.remove(&(at_ms, vip));
            for uplink in self.uplinks.values() {
                let frame = match vip {
                    IpAddr::V4(vip) => arp::announcement(uplink.mac, vip),
                    IpAddr::V6(vip) => ndp::announcement(uplink.mac, vip),
                };
                transmit(&uplink.arp, &frame);
            }
        }
    }

    /// Waits for a question, a change, or for what is due next.
    fn wait(&self) -> io::Result<()> {
        let mut descriptors = vec![PollFd::new(&*self.shared.wake, PollFlags::IN)];
        for uplink in self.uplinks.values() {
            descriptors.push(PollFd::new(&uplink.arp, PollFlags::IN));
            descriptors.push(PollFd::new(&uplink.ndp, PollFlags::IN));
            descriptors.push(PollFd::new(&uplink.told, PollFlags::IN));
        }
        let look_ms = (!self.vips.is_empty()).then_some(self.looked_ms + LOOK_MS);
        let next_ms = self.to_tell.first().map(|(at_ms, _)| *at_ms).into_iter().chain(look_ms).min();
        let wait_ms = next_ms.map(|at_ms| at_ms.saturating_sub(now_ms()).max(1));
        let timeout = wait_ms
            .map(|ms| Timespec { tv_sec: (ms / 1_000) as i64, tv_nsec: (ms % 1_000 * 1_000_000) as i64 });
        match poll(&mut descriptors, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Answers what is asked for a VIP.
    fn answer(&mut self) {
        let now_ms = now_ms();
        let mut answers = Vec::new();
        for (index, uplink) in &self.uplinks {
            for frame in frames(&uplink.arp) {
                self.hear(arp::owner(&frame).map(|(mac, vip)| (mac, vip.into())), now_ms);
                let asked = arp::request(&frame).filter(|asked| self.vips.contains(&asked.target.into()));
                answers.extend(asked.map(|asked| (*index, arp::reply(uplink.mac, &asked))));
            }
            for frame in frames(&uplink.ndp) {
                let asked =
                    ndp::solicitation(&frame).filter(|asked| self.vips.contains(&asked.target.into()));
                answers.extend(asked.map(|asked| (*index, ndp::advertisement(uplink.mac, &asked))));
            }
            for frame in frames(&uplink.told) {
                self.hear(ndp::owner(&frame).map(|(mac, vip)| (mac, vip.into())), now_ms);
            }
        }
        for (index, frame) in answers {
            if !self.may_send(now_ms) {
                return;
            }
            if let Some(uplink) = self.uplinks.get(&index) {
                // Whatever the frame is: the socket says only what is received by it.
                transmit(&uplink.arp, &frame);
            }
        }
    }

    /// Somebody says that an address is his.
    fn hear(&self, owner: Option<(Mac, IpAddr)>, now_ms: u64) {
        let Some((mac, vip)) = owner else { return };
        let is_own = self.uplinks.values().any(|uplink| uplink.mac == mac);
        if !is_own && self.vips.contains(&vip) {
            self.shared.contest(vip, now_ms);
        }
    }

    fn may_send(&mut self, now_ms: u64) -> bool {
        let second = now_ms / 1_000;
        if self.sent.0 != second {
            self.sent = (second, 0);
        }
        self.sent.1 += 1;
        self.sent.1 <= FRAMES_PER_SECOND_MAX
    }
}

/// A frame that gets lost is asked for again, or told once more.
fn transmit(socket: &OwnedFd, frame: &[u8]) {
    let _ = send(socket, frame, SendFlags::DONTWAIT);
}

/// The frames that wait, up to what may be answered in a second.
fn frames(socket: &OwnedFd) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut buffer = [0; FRAME_BYTES_MAX];
    while frames.len() < FRAMES_PER_SECOND_MAX as usize {
        match recv(socket, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((_, length)) => frames.push(buffer[..length.min(FRAME_BYTES_MAX)].to_vec()),
            Err(_) => break,
        }
    }
    frames
}

/// A member of a group on an interface, while the socket is open.
fn member(interface: u32, group: Ipv6Addr) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::INET6, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    set_ipv6_add_membership(&socket, &group, interface)?;
    Ok(socket)
}
