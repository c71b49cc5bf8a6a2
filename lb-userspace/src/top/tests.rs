use lb_common::counters::Reason;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::*;
use crate::maps::StoredState::{Draining, Healthy, Unhealthy};

fn traffic(packets: u64, bytes: u64, new_flows: u64) -> Traffic {
    Traffic { packets, bytes, new_flows }
}

fn service(id: u32, name: &str, requests: Option<u64>, traffic: Traffic) -> ServiceSample {
    ServiceSample { id, name: name.into(), endpoints: 2, healthy: 1, traffic, requests }
}

fn endpoint(id: u32, address: &str, service: u32, state: StoredState, traffic: Traffic) -> EndpointSample {
    EndpointSample { id, address: address.parse().unwrap(), service, state, traffic }
}

fn used(entries: u64) -> Occupancy {
    Occupancy { entries, entries_max: 1_000 }
}

/// Two looks, two seconds apart.
fn looks() -> [Sample; 2] {
    let earlier = Sample {
        at_ms: 1_000,
        services: vec![
            service(0, "shop/web:http/TCP", Some(100), traffic(100, 10_000, 10)),
            service(1, "shop/cart:http/TCP", None, traffic(50, 5_000, 5)),
        ],
        endpoints: vec![
            endpoint(0, "192.0.2.11:8080", 0, Healthy, traffic(100, 10_000, 10)),
            endpoint(4, "192.0.2.21:8080", 1, Unhealthy, traffic(50, 5_000, 5)),
        ],
        reasons: vec![(Reason::ForwardKnown, 7), (Reason::DropSourceRange, 3), (Reason::RefuseTooBig, 9)],
        maps: vec![("CONNTRACK", used(30)), ("AFFINITY", used(910))],
        no_requests: None,
    };
    let mut later = earlier.clone();
    later.at_ms = 3_000;
    later.services[0] = service(0, "shop/web:http/TCP", Some(111), traffic(110, 11_000, 10));
    later.services[1].traffic = traffic(2_050, 3_005_000, 25);
    later.endpoints[0].traffic = traffic(102, 10_200, 10);
    later.endpoints.insert(1, endpoint(1, "[2001:db8::12]:8080", 0, Draining, traffic(8, 800, 2)));
    later.endpoints[2].traffic = traffic(2_050, 3_005_000, 25);
    later.reasons =
        vec![(Reason::ForwardKnown, 99), (Reason::DropSourceRange, 23), (Reason::RefuseTooBig, 9)];
    [earlier, later]
}

fn service_names(sort: Sort, filter: &str) -> Vec<String> {
    let [earlier, later] = looks();
    let view = View::of(&earlier, &later, sort, filter, 10);
    view.services.iter().map(|row| row.service.to_owned()).collect()
}

fn endpoint_addresses(filter: &str, rows_max: usize) -> Vec<String> {
    let [earlier, later] = looks();
    let view = View::of(&earlier, &later, Sort::Packets, filter, rows_max);
    view.endpoints.iter().map(|row| row.of.address.to_string()).collect()
}

#[test]
fn rates_are_of_a_second_and_the_most_packets_come_first() {
    let [earlier, later] = looks();
    let view = View::of(&earlier, &later, Sort::Packets, "", 10);
    let rates: Vec<(&str, Rate)> = view.services.iter().map(|row| (row.service, row.rate)).collect();
    let cart = Rate { packets: 1_000.0, bytes: 1_500_000.0, new_flows: 10.0, requests: None };
    let web = Rate { packets: 5.0, bytes: 500.0, new_flows: 0.0, requests: Some(5.5) };
    assert_eq!(rates, [("shop/cart:http/TCP", cart), ("shop/web:http/TCP", web)]);
}

#[test]
fn every_order_puts_its_own_first() {
    let [cart, web] = ["shop/cart:http/TCP", "shop/web:http/TCP"];
    assert_eq!(service_names(Sort::Bytes, ""), [cart, web]);
    assert_eq!(service_names(Sort::NewFlows, ""), [cart, web]);
    assert_eq!(service_names(Sort::Requests, ""), [web, cart]);
    assert_eq!(service_names(Sort::Name, ""), [cart, web]);
}

#[test]
fn an_endpoint_that_was_not_there_before_began_since() {
    let [earlier, later] = looks();
    let view = View::of(&earlier, &later, Sort::Packets, "2001:db8::12", 10);
    assert_eq!(view.endpoints[0].rate, Rate { packets: 4.0, bytes: 400.0, new_flows: 1.0, requests: None });
}

#[test]
fn an_id_that_another_endpoint_has_got_does_not_go_on_counting() {
    let [earlier, mut later] = looks();
    later.endpoints[0] = endpoint(0, "192.0.2.99:8080", 0, Healthy, traffic(106, 600, 1));
    let view = View::of(&earlier, &later, Sort::Packets, "192.0.2.99", 10);
    assert_eq!(view.endpoints[0].rate.packets, 53.0);
}

#[test]
fn requests_that_were_not_told_before_are_no_rate() {
    let [earlier, mut later] = looks();
    later.services[1].requests = Some(1_000_000);
    let view = View::of(&earlier, &later, Sort::Packets, "cart", 10);
    assert_eq!(view.services[0].rate.requests, Some(0.0));
}

#[test]
fn counters_that_were_set_back_are_no_rate() {
    let [mut earlier, later] = looks();
    earlier.services[0].traffic = traffic(1_000_000, 20_000_000, 1_000);
    let view = View::of(&earlier, &later, Sort::Packets, "web", 10);
    assert_eq!(view.services[0].rate.packets, 0.0);
}

#[test]
fn one_look_twice_has_no_rate() {
    let [_, later] = looks();
    let view = View::of(&later, &later, Sort::Packets, "cart", 10);
    assert_eq!((view.elapsed_ms, view.services[0].rate.packets), (0, 0.0));
}

#[test]
fn a_filter_is_about_names_of_backend_services_and_addresses() {
    assert_eq!(service_names(Sort::Packets, "web"), ["shop/web:http/TCP"]);
    assert_eq!(endpoint_addresses("web", 10), ["[2001:db8::12]:8080", "192.0.2.11:8080"]);
    assert_eq!(endpoint_addresses("192.0.2.2", 10), ["192.0.2.21:8080"]);
}

#[test]
fn rows_beyond_the_bound_are_the_least_ones_and_are_counted() {
    assert_eq!(endpoint_addresses("", 2), ["192.0.2.21:8080", "[2001:db8::12]:8080"]);
    let [earlier, later] = looks();
    let view = View::of(&earlier, &later, Sort::Packets, "", 1);
    assert_eq!((view.services.len(), view.services_count), (1, 2));
    assert_eq!((view.endpoints.len(), view.endpoints_count), (1, 3));
}

#[test]
fn only_what_is_lost_is_a_drop_and_what_is_lost_now_comes_first() {
    let [earlier, later] = looks();
    let view = View::of(&earlier, &later, Sort::Packets, "", 10);
    let drops: Vec<_> = view.drops.iter().map(|drop| (drop.reason, drop.rate, drop.total)).collect();
    assert_eq!(drops, [(Reason::DropSourceRange, 10.0, 23), (Reason::RefuseTooBig, 0.0, 9)]);
}

/// The cells of a screen's line that has a text.
fn line(screen: &str, part: &str) -> Vec<String> {
    let line = screen.lines().find(|line| line.contains(part)).unwrap_or_else(|| panic!("{part}: {screen}"));
    line.split(['│', ' ']).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn screen(page: &Page) -> String {
    let [earlier, later] = looks();
    text(&View::of(&earlier, &later, page.sort, &page.filter, 10), page).unwrap()
}

#[test]
fn a_screen_shows_rates_health_drops_and_maps() {
    let screen = screen(&Page::default());
    assert!(screen.starts_with("podway top: rates over 2.0 s, by packets\n"), "{screen}");
    assert_eq!(
        line(&screen, "│shop/cart:http/TCP"),
        ["shop/cart:http/TCP", "1000", "1500k", "10", "-", "1/2"]
    );
    assert_eq!(line(&screen, "│shop/web:http/TCP"), ["shop/web:http/TCP", "5.0", "500", "0", "5.5", "1/2"]);
    let of_endpoint = line(&screen, "2001:db8::12");
    assert_eq!(of_endpoint, ["[2001:db8::12]:8080", "shop/web:http/TCP", "4.0", "400", "1.0", "draining"]);
    assert_eq!(line(&screen, "source-range")[..4], ["source-range", "drop", "10", "23"]);
    assert!(line(&screen, "AFFINITY").ends_with(&["AFFINITY", "910", "1000", "91%"].map(str::to_owned)));
}

#[test]
fn a_screen_says_what_was_asked_for() {
    let page = Page { sort: Sort::Name, filter: "web".into(), is_paused: true, mode: Mode::Typing };
    let screen = screen(&page);
    assert!(screen.starts_with("podway top: rates over 2.0 s, by name, only \"web\", PAUSED\n"), "{screen}");
    assert!(screen.ends_with("\n/web_\n"), "{screen}");
    assert!(!screen.contains("cart"), "{screen}");
}

#[test]
fn a_screen_says_why_no_requests_are_known() {
    let [earlier, mut later] = looks();
    later.no_requests = Some("no agent answers".into());
    let view = View::of(&earlier, &later, Sort::Packets, "", 10);
    let screen = text(&view, &Page::default()).unwrap();
    assert!(screen.ends_with("(no requests: no agent answers)\n"), "{screen}");
}

#[test]
fn a_small_terminal_is_no_fault() {
    let [earlier, later] = looks();
    let view = View::of(&earlier, &later, Sort::Packets, "", 10);
    for (columns, rows) in [(1, 1), (20, 5), (300, 3), (80, 24)] {
        let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
        terminal.draw(|frame| draw(frame, &view, &Page::default())).unwrap();
        terminal.draw(|frame| draw(frame, &view, &Page { mode: Mode::Helping, ..Page::default() })).unwrap();
    }
}

fn pressed(codes: &[KeyCode]) -> (Page, Next) {
    let mut page = Page::default();
    let last = codes.iter().map(|code| page.press(KeyEvent::new(*code, KeyModifiers::NONE))).last();
    (page, last.unwrap())
}

#[test]
fn q_ends_it_but_in_a_filter_is_a_letter() {
    assert_eq!(pressed(&[KeyCode::Char('q')]).1, Next::End);
    let (page, next) = pressed(&[KeyCode::Char('/'), KeyCode::Char('q')]);
    assert_eq!((page.filter.as_str(), next), ("q", Next::GoOn));
}

#[test]
fn control_c_ends_it_also_in_a_filter() {
    let mut page = Page { mode: Mode::Typing, ..Page::default() };
    assert_eq!(page.press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Next::End);
}

#[test]
fn enter_keeps_a_filter_and_escape_takes_it_away() {
    let typed = [KeyCode::Char('/'), KeyCode::Char('w'), KeyCode::Char('x'), KeyCode::Backspace];
    let kept = pressed(&[&typed[..], &[KeyCode::Enter]].concat()).0;
    assert_eq!((kept.filter.as_str(), kept.mode), ("w", Mode::Watching));
    let gone = pressed(&[&typed[..], &[KeyCode::Esc]].concat()).0;
    assert_eq!((gone.filter.as_str(), gone.mode), ("", Mode::Watching));
    let later = pressed(&[&typed[..], &[KeyCode::Enter, KeyCode::Esc]].concat()).0;
    assert_eq!(later.filter, "");
}

#[test]
fn a_filter_has_an_end() {
    let typed = [vec![KeyCode::Char('/')], vec![KeyCode::Char('w'); 100]].concat();
    assert_eq!(pressed(&typed).0.filter.len(), 64);
}

#[test]
fn s_goes_through_all_orders_and_back() {
    let orders: Vec<Sort> = (1..=5).map(|times| pressed(&vec![KeyCode::Char('s'); times]).0.sort).collect();
    assert_eq!(orders, [Sort::Bytes, Sort::NewFlows, Sort::Requests, Sort::Name, Sort::Packets]);
}

#[test]
fn p_pauses_and_goes_on() {
    assert!(pressed(&[KeyCode::Char('p')]).0.is_paused);
    assert!(!pressed(&[KeyCode::Char('p'), KeyCode::Char(' ')]).0.is_paused);
}

#[test]
fn h_helps_until_the_next_key_which_does_nothing_else() {
    assert_eq!(pressed(&[KeyCode::Char('h')]).0.mode, Mode::Helping);
    assert_eq!(pressed(&[KeyCode::Char('?'), KeyCode::Char('q')]), (Page::default(), Next::GoOn));
}
