use bytemuck::Zeroable as _;
use lb_common::Address;
use lb_common::event::EVENT_PACKET_BYTES_MAX;

use super::*;

/// Ethernet, IPv4 and UDP headers from one socket to another, of a frame of 1,000 bytes.
fn frame(source: &str, destination: &str) -> Vec<u8> {
    let ends = [source, destination].map(|text| text.parse::<std::net::SocketAddrV4>().unwrap());
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    bytes.extend([0x45, 0, 3, 218, 0, 0, 0, 0, 64, 17, 0, 0]);
    ends.iter().for_each(|end| bytes.extend(end.ip().octets()));
    ends.iter().for_each(|end| bytes.extend(end.port().to_be_bytes()));
    bytes.extend([3, 198, 0, 0]);
    bytes
}

fn key(source: &str, destination: &str) -> FlowKey {
    let [source, destination] = [source, destination].map(|text| text.parse::<SocketAddr>().unwrap());
    FlowKey {
        source: Address::from(source.ip()),
        destination: Address::from(destination.ip()),
        source_port: Be16::new(source.port()),
        destination_port: Be16::new(destination.port()),
        protocol: 17,
    }
}

const CLIENT: &str = "203.0.113.7:40000";
const VIP: &str = "198.51.100.10:53";
const ENDPOINT: &str = "10.244.1.11:5353";

/// An event of a packet that came as `before` and is `after` now.
fn event(reason: Reason, before: [&str; 2], after: [&str; 2]) -> Event {
    let bytes = frame(after[0], after[1]);
    let mut event = Event::zeroed();
    event.bytes[..bytes.len()].copy_from_slice(&bytes);
    event.captured_bytes = bytes.len() as u32;
    event.length_bytes = 1_000;
    event.time_ns = 5;
    event.key = key(before[0], before[1]);
    event.reason = reason as u32;
    event
}

fn sighting(reason: Reason, before: [&str; 2], after: [&str; 2]) -> Sighting {
    Sighting::of(&event(reason, before, after), |ns| ns + 100).unwrap()
}

/// Client, VIP and endpoint.
fn ends_of(seen: &Sighting) -> [Option<String>; 3] {
    [seen.client, seen.vip, seen.endpoint].map(|end| end.map(|end| end.to_string()))
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn a_forwarded_packet_has_its_client_vip_and_endpoint() {
    let seen = sighting(Reason::ForwardNew, [CLIENT, VIP], ["192.0.2.11:11000", ENDPOINT]);
    assert_eq!(ends_of(&seen), [some(CLIENT), some(VIP), some(ENDPOINT)]);
    assert_eq!((seen.outcome, seen.reason, seen.protocol.as_deref()), ("forward", "new-flow", Some("UDP")));
    assert_eq!((seen.at_unix_ns, seen.length_bytes, seen.point), (105, 1_000, "xdp"));
}

#[test]
fn a_reply_has_them_the_other_way_round() {
    let seen = sighting(Reason::ForwardReply, [ENDPOINT, "192.0.2.11:11000"], [VIP, CLIENT]);
    assert_eq!(ends_of(&seen), [some(CLIENT), some(VIP), some(ENDPOINT)]);
}

#[test]
fn a_dropped_packet_and_an_answer_have_no_endpoint() {
    let dropped = sighting(Reason::DropSourceRange, [CLIENT, VIP], [CLIENT, VIP]);
    assert_eq!(ends_of(&dropped), [some(CLIENT), some(VIP), None]);
    let refused = sighting(Reason::RefuseNoEndpoint, [CLIENT, VIP], [VIP, CLIENT]);
    assert_eq!(ends_of(&refused), [some(CLIENT), some(VIP), None]);
}

#[test]
fn a_packet_that_passed_is_read_from_its_own_bytes() {
    let stale = [ENDPOINT, ENDPOINT];
    let seen = sighting(Reason::PassNotOurs, stale, [CLIENT, "192.0.2.11:22"]);
    assert_eq!(ends_of(&seen), [some(CLIENT), some("192.0.2.11:22"), None]);
    let mut arp = event(Reason::PassNotIp, stale, stale);
    arp.bytes[12..14].copy_from_slice(&[8, 6]);
    let seen = Sighting::of(&arp, |ns| ns).unwrap();
    assert_eq!((ends_of(&seen), seen.protocol), ([None, None, None], None));
}

#[test]
fn numbers_that_mean_nothing_here_are_no_sighting() {
    let mut unknown = event(Reason::ForwardNew, [CLIENT, VIP], [CLIENT, ENDPOINT]);
    unknown.reason = Reason::ALL.len() as u32;
    assert_eq!(Sighting::of(&unknown, |ns| ns), None);
    let mut elsewhere = event(Reason::ForwardNew, [CLIENT, VIP], [CLIENT, ENDPOINT]);
    elsewhere.point = 9;
    assert_eq!(Sighting::of(&elsewhere, |ns| ns), None);
    let mut long = event(Reason::ForwardNew, [CLIENT, VIP], [CLIENT, ENDPOINT]);
    long.captured_bytes = 4_000;
    assert_eq!(captured(&long).len(), EVENT_PACKET_BYTES_MAX);
}

#[test]
fn filters_must_all_hold() {
    let seen = sighting(Reason::ForwardNew, [CLIENT, VIP], [CLIENT, ENDPOINT]);
    let end = |text: &str| Some(text.parse::<End>().unwrap());
    let wants = |filter: Filter| filter.wants(&seen);
    assert!(wants(Filter::default()));
    assert!(wants(Filter { vip: end("198.51.100.10"), endpoint: end(ENDPOINT), ..Filter::default() }));
    assert!(!wants(Filter { vip: end("198.51.100.10:54"), ..Filter::default() }));
    assert!(!wants(Filter { client: end("203.0.113.8"), vip: end(VIP), ..Filter::default() }));
    assert!(!wants(Filter { endpoint: end("10.244.1.12"), ..Filter::default() }));
    assert!(wants(Filter { protocol: Some(Protocol::Udp), ..Filter::default() }));
    assert!(!wants(Filter { protocol: Some(Protocol::Tcp), ..Filter::default() }));
    assert!(!wants(Filter { reasons: vec![Reason::ForwardKnown], ..Filter::default() }));
    assert!("198.51.100.10:".parse::<End>().is_err());
}

#[test]
fn reasons_are_bits_and_none_means_all() {
    assert_eq!(Filter::default().reason_bits(), (1 << Reason::ALL.len()) - 1);
    let two = Filter { reasons: vec![Reason::ForwardKnown, Reason::DropUnallocated], ..Filter::default() };
    assert_eq!(two.reason_bits(), 1 | 1 << Reason::DropUnallocated as u32);
}

#[test]
fn gaps_in_a_cpus_numbers_are_missed_events() {
    let mut missed = Missed::default();
    for (cpu, number) in [(0, 7), (1, 100), (0, 8), (0, 11), (1, 101)] {
        let mut told = Event::zeroed();
        (told.cpu, told.number) = (cpu, number);
        missed.note(&told);
    }
    assert_eq!(missed.count(), 2);
}

#[test]
fn a_capture_file_is_laid_out_as_its_specification_says() {
    let mut bytes = Vec::new();
    let mut file = PcapFile::new(&mut bytes).unwrap();
    file.add(1_700_000_001_000_000_002, &[0xaa, 0xbb], 60).unwrap();
    let words = |numbers: &[u32]| numbers.iter().flat_map(|number| number.to_ne_bytes()).collect::<Vec<u8>>();
    let mut expected = words(&[0xa1b2_3c4d]);
    expected.extend([2u16, 4].iter().flat_map(|number| number.to_ne_bytes()));
    expected.extend(words(&[0, 0, 128, 1, 1_700_000_001, 2, 2, 60]));
    expected.extend([0xaa, 0xbb]);
    assert_eq!(bytes, expected);
}

#[test]
fn kernels_before_6_12_tell_nothing() {
    let is_since = |release| kernel_release::version(release) >= Some(SINCE);
    assert!(["6.12.117+deb12-amd64", "6.18.44", "7.0"].into_iter().all(is_since));
    assert!(!["6.1.0-57-amd64", "5.15.0", "6.11.9"].into_iter().any(is_since));
}
