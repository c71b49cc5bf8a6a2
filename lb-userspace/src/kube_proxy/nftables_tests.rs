use serde_json::json;

use super::*;
use crate::kube_proxy::Place;

/// The table of a Service shop/web with two endpoints, `externalTrafficPolicy: Local`, no endpoint here,
/// affinity, a load-balancer address with source ranges, and a Service shop/idle without endpoints; as
/// nft 1.0.6 lists it.
fn table() -> Value {
    let rule = |chain: &str, expr: Value| json!({"rule": {"family": "ip", "chain": chain, "expr": expr}});
    let chain = |name: &str| json!({"chain": {"family": "ip", "name": name}});
    let map =
        |name: &str, elements: Value| json!({"map": {"name": name, "map": "verdict", "elem": elements}});
    let saddr = json!({"payload": {"protocol": "ip", "field": "saddr"}});
    let local = json!({"fib": {"result": "type", "flags": ["saddr"]}});
    let pods = json!({"prefix": {"addr": "10.244.0.0", "len": 16}});
    let named = |parts: Value, comment: &str| json!({"elem": {"val": {"concat": parts}, "comment": comment}});
    let endpoint = |name: &str, address: &str| {
        rule(
            name,
            json!([
                {"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": "tcp"}},
                {"dnat": {"addr": address, "port": 8080}},
            ]),
        )
    };
    let mark = json!({"jump": {"target": "mark-for-masquerade"}});
    json!({"nftables": [
        {"metainfo": {"version": "1.0.6", "json_schema_version": 1}},
        {"table": {"family": "ip", "name": "kube-proxy"}},
        {"set": {"name": "nodeport-ips", "elem": ["192.0.2.11"]}},
        {"set": {"name": "affinity-A-shop/web/tcp/http__10.244.2.11/8080", "timeout": 10800}},
        map("service-ips", json!([
            [{"concat": ["10.96.0.10", "tcp", 80]}, {"goto": {"target": "service-A-shop/web/tcp/http"}}],
            [{"concat": ["198.51.100.10", "tcp", 80]}, {"goto": {"target": "external-A-shop/web/tcp/http"}}],
        ])),
        map("service-nodeports", json!([
            [{"concat": ["tcp", 30080]}, {"goto": {"target": "external-A-shop/web/tcp/http"}}],
        ])),
        map("no-endpoint-services", json!([
            [named(json!(["198.51.100.10", "tcp", 80]), "shop/web:http"), {"drop": null}],
            [named(json!(["10.96.0.11", "udp", 53]), "shop/idle:dns"), {"goto": {"target": "reject-chain"}}],
        ])),
        map("no-endpoint-nodeports", json!([
            [named(json!(["tcp", 30080]), "shop/web:http"), {"drop": null}],
        ])),
        map("firewall-ips", json!([
            [named(json!(["198.51.100.10", "tcp", 80]), "shop/web:http"),
             {"goto": {"target": "firewall-A-shop/web/tcp/http"}}],
        ])),
        chain("reject-chain"),
        chain("service-A-shop/web/tcp/http"),
        chain("external-A-shop/web/tcp/http"),
        chain("firewall-A-shop/web/tcp/http"),
        chain("endpoint-A-shop/web/tcp/http__10.244.2.11/8080"),
        chain("endpoint-B-shop/web/tcp/http__10.244.2.12/8080"),
        rule("reject-chain", json!([{"reject": {"type": "icmp", "expr": "port-unreachable"}}])),
        rule("service-A-shop/web/tcp/http", json!([
            {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": "10.96.0.10"}},
            {"match": {"op": "!=", "left": saddr, "right": pods}},
            mark,
        ])),
        rule("service-A-shop/web/tcp/http", json!([
            {"match": {"op": "==", "left": saddr, "right": "@affinity-A-shop/web/tcp/http__10.244.2.11/8080"}},
            {"goto": {"target": "endpoint-A-shop/web/tcp/http__10.244.2.11/8080"}},
        ])),
        rule("service-A-shop/web/tcp/http", json!([{"vmap": {
            "key": {"numgen": {"mode": "random", "mod": 2, "offset": 0}},
            "data": {"set": [
                [0, {"goto": {"target": "endpoint-A-shop/web/tcp/http__10.244.2.11/8080"}}],
                [1, {"goto": {"target": "endpoint-B-shop/web/tcp/http__10.244.2.12/8080"}}],
            ]},
        }}])),
        rule("external-A-shop/web/tcp/http", json!([
            {"match": {"op": "==", "left": saddr, "right": pods}},
            {"goto": {"target": "service-A-shop/web/tcp/http"}},
        ])),
        rule("external-A-shop/web/tcp/http", json!([{"match": {"op": "==", "left": local, "right": "local"}}, mark])),
        rule("external-A-shop/web/tcp/http", json!([
            {"match": {"op": "==", "left": local, "right": "local"}},
            {"goto": {"target": "service-A-shop/web/tcp/http"}},
        ])),
        rule("firewall-A-shop/web/tcp/http", json!([
            {"match": {"op": "!=", "left": saddr, "right":
                {"set": ["198.51.100.10", {"prefix": {"addr": "203.0.113.0", "len": 25}}]}}},
            {"drop": null},
        ])),
        rule("endpoint-A-shop/web/tcp/http__10.244.2.11/8080", json!([
            {"match": {"op": "==", "left": saddr, "right": "10.244.2.11"}}, mark,
        ])),
        rule("endpoint-A-shop/web/tcp/http__10.244.2.11/8080", json!([{"set": {
            "op": "update", "elem": saddr, "set": "@affinity-A-shop/web/tcp/http__10.244.2.11/8080",
        }}])),
        endpoint("endpoint-A-shop/web/tcp/http__10.244.2.11/8080", "10.244.2.11"),
        endpoint("endpoint-B-shop/web/tcp/http__10.244.2.12/8080", "10.244.2.12"),
    ]})
}

fn frontend(address: &str, port: u16, protocol: Protocol) -> super::super::Handling {
    let rules = parse(&table().to_string()).expect("kube-proxy's rules");
    let place = Place { address: address.parse().expect("an address"), port, protocol };
    rules.on_node(&BTreeSet::new()).remove(&place).expect("the frontend")
}

#[test]
fn cluster_ip_leads_to_all_endpoints_with_affinity() {
    let web = frontend("10.96.0.10", 80, Protocol::Tcp);
    assert_eq!(web.service, Some(ObjectName::new("shop", "web")));
    assert_eq!(web.internal.to_string(), "10.244.2.11:8080 10.244.2.12:8080");
    assert_eq!(web.external, web.internal);
    assert_eq!(web.affinity_timeout_s, Some(10_800));
    assert_eq!(web.source_ranges, None);
}

#[test]
fn local_policy_leads_insiders_everywhere_and_drops_outsiders() {
    let web = frontend("198.51.100.10", 80, Protocol::Tcp);
    assert_eq!(web.internal.to_string(), "10.244.2.11:8080 10.244.2.12:8080");
    assert_eq!(web.external, Outcome::Drop);
}

#[test]
fn source_ranges_are_those_of_the_firewall_chain() {
    let ranges = frontend("198.51.100.10", 80, Protocol::Tcp).source_ranges.expect("ranges");
    let texts: Vec<String> = ranges.iter().map(|(address, bits)| format!("{address}/{bits}")).collect();
    assert_eq!(texts, ["198.51.100.10/32", "203.0.113.0/25"]);
}

#[test]
fn a_service_without_endpoints_is_refused_and_named_by_its_comment() {
    let idle = frontend("10.96.0.11", 53, Protocol::Udp);
    assert_eq!((idle.internal, idle.external), (Outcome::Refuse, Outcome::Refuse));
    assert_eq!(idle.service, Some(ObjectName::new("shop", "idle")));
}

#[test]
fn node_ports_stand_on_the_addresses_of_the_set() {
    assert_eq!(frontend("192.0.2.11", 30_080, Protocol::Tcp).external, Outcome::Drop);
}

#[test]
fn node_ports_stand_on_all_addresses_where_there_is_no_set() {
    let mut table = table();
    table["nftables"][2] = json!({});
    let rules = parse(&table.to_string()).expect("kube-proxy's rules");
    let node: BTreeSet<IpAddr> = ["192.0.2.11", "192.0.2.12"].map(|a| a.parse().expect("an address")).into();
    let ports = rules.on_node(&node).into_keys().filter(|place| place.port == 30_080);
    assert_eq!(ports.map(|place| place.address).collect::<BTreeSet<_>>(), node);
}

fn error(text: &str) -> String {
    format!("{:#}", parse(text).expect_err("damage"))
}

#[test]
fn damaged_output_is_one_error() {
    let whole = table().to_string();
    let half = error(&whole[..whole.len() / 2]);
    assert!(half.starts_with("cannot read nft's output as JSON: EOF while parsing"), "{half}");
    assert_eq!(error("{}"), "nft's output has no list named nftables");
}

#[test]
fn a_table_of_somebody_else_is_an_error() {
    assert_eq!(
        error(r#"{"nftables": [{"table": {"family": "ip", "name": "kube-proxy"}}]}"#),
        "the table has no map service-ips: these are not the rules of a kube-proxy that is known"
    );
}

#[test]
fn a_rule_that_is_not_understood_is_an_error_with_its_chain() {
    let text = table().to_string().replace(r#"{"dnat":{"addr":"10.244.2.12","port":8080}}"#, r#"{"fwd":{}}"#);
    let told = error(&text);
    let expected = "cannot read a rule of the chain endpoint-B-shop/web/tcp/http__10.244.2.12/8080: ";
    assert!(told.starts_with(expected) && told.ends_with(": the expression fwd is unknown"), "{told}");
}
