//! What is left of requests in the log and the counters.
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::fixture::*;
use super::*;

fn values(lines: &Lines) -> Vec<serde_json::Value> {
    lines.text().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn stand(per_million: u32) -> (Stand, Lines, RawEndpoint) {
    let (lines, web) = (Lines::default(), RawEndpoint::named("web"));
    let mut service = BackendService::new("shop/web:80", vec![web.endpoint()]);
    service.log_per_million = per_million;
    let settings = Settings { access_log: Some(Box::new(lines.clone())), ..one_thread() };
    (Stand::of(settings, service), lines, web)
}

#[test]
fn a_request_is_one_line_of_the_access_log() {
    both_ways(|| {
        let (stand, lines, web) = stand(1_000_000);
        stand.ask(&get("/a?token=secret"));
        eventually("a line", || values(&lines).len() == 1);
        let mut line = values(&lines).remove(0);
        let taken =
            |line: &mut serde_json::Value, name: &str| line.as_object_mut().expect("fields").remove(name);
        assert!(
            taken(&mut line, "timeUnixMs")
                .and_then(|time| time.as_u64())
                .is_some_and(|time| time > 1_700_000_000_000)
        );
        assert!(taken(&mut line, "durationMs").is_some());
        assert!(
            taken(&mut line, "client").is_some_and(|client| client.to_string().starts_with("\"127.0.0.1:"))
        );
        assert_eq!(
            taken(&mut line, "requestId").expect("an id"),
            web.last().field("x-request-id").expect("an id")
        );
        let expected = serde_json::json!({
            "scheme": "http", "protocol": "HTTP/1.1", "method": "GET", "host": "shop.example", "path": "/a",
            "urlMap": "shop/web", "backendService": "shop/web:80", "endpoint": web.address.to_string(),
            "code": 200, "reason": null, "retries": 0, "answerBytes": 32,
        });
        assert_eq!(line, expected);
    });
}

#[test]
fn a_share_of_requests_is_logged() {
    both_ways(|| {
        let (all, lines, _web) = stand(250_000);
        let mut client = all.client();
        for _ in 0..1_000 {
            client.ask(&get("/"));
        }
        drop(client);
        all.front_end.stop(DEADLINE);
        // The log's thread has written what it was given once nobody sends: the count no longer moves then.
        eventually("about a quarter", || (170..=330).contains(&values(&lines).len()));
        let (none, lines, _web) = stand(0);
        none.ask(&get("/"));
        none.front_end.stop(DEADLINE);
        assert!(values(&lines).is_empty());
    });
}

#[test]
fn answers_are_counted_by_url_map_and_backend_service() {
    both_ways(|| {
        let web = RawEndpoint::start(|peer| {
            while let Some(request) = peer.request()? {
                let code = request.start()[5..8].to_owned();
                // The sizes of chunks are no bytes of a body.
                let rest = match code.as_str() {
                    "201" => "Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
                    _ => "Content-Length: 4\r\n\r\nbody",
                };
                write!(peer.stream, "HTTP/1.1 {code} X\r\n{rest}")?;
            }
            Ok(())
        });
        let service = BackendService::new("shop/web:80", vec![web.endpoint()]);
        let of_service = Arc::clone(&service.counters);
        let rules = vec![rule("shop.example", "/", Route::to(service))];
        let site = site(rules, Plain::Served);
        let of_site = Arc::clone(&site.counters);
        let stand = Stand::start(one_thread(), snapshot(Scheme::Http, site));
        let mut client = stand.client();
        for path in ["/200", "/201", "/302", "/404", "/500"] {
            client.ask(&get(path));
        }
        client.ask("GET / HTTP/1.1\r\nHost: none.example\r\n\r\n");
        assert_eq!(of_service.classes(), [0, 2, 1, 1, 1]);
        assert_eq!(of_site.classes(), [0, 2, 1, 2, 1]);
        assert_eq!(of_service.answer_bytes.load(Ordering::SeqCst), 20);
    });
}

#[test]
fn a_request_without_a_backend_service_is_logged_with_its_reason() {
    let (stand, lines, _web) = stand(0);
    let asked = [
        "GET /a?b HTTP/1.1\r\nHost: none.example\r\n\r\n",
        "GET /%2e%2e%2fa HTTP/1.1\r\nHost: shop.example\r\n\r\n",
        "GET http://other.example/ HTTP/1.1\r\nHost: shop.example\r\n\r\n",
        "OPTIONS / HTTP/1.1\r\nHost: shop.example\r\nMax-Forwards: 0\r\n\r\n",
        "GET /served HTTP/1.1\r\nHost: shop.example\r\n\r\n",
    ];
    for request in asked {
        stand.ask(request);
    }
    stand.front_end.stop(DEADLINE);
    eventually("a line for each but the last", || values(&lines).len() == asked.len() - 1);
    let told: Vec<_> = values(&lines)
        .iter()
        .map(|line| {
            assert!(line["backendService"].is_null(), "{line}");
            format!("{} {} {} {}", line["host"], line["path"], line["code"], line["reason"])
        })
        .collect();
    assert_eq!(
        told,
        [
            r#""none.example" "/a" 404 "no-rule""#,
            r#""shop.example" "/%2e%2e%2fa" 400 "path""#,
            r#""other.example" "/" 400 "host-mismatch""#,
            r#""shop.example" "/" 200 "last-hop""#,
        ]
    );
}

#[test]
fn a_flood_of_requests_without_a_backend_service_does_not_fill_the_log() {
    let (stand, lines, _web) = stand(0);
    let asked = 3 * record::UNROUTED_LINES_MAX;
    let began = std::time::Instant::now();
    let mut client = stand.client();
    for _ in 0..asked {
        client.ask("GET / HTTP/1.1\r\nHost: none.example\r\n\r\n");
    }
    let seconds = began.elapsed().as_secs() + 2;
    let totals = stand.front_end.totals();
    drop(client);
    stand.front_end.stop(DEADLINE);
    let dropped = totals.log_lines_dropped.load(Ordering::SeqCst);
    eventually("all lines that were not dropped", || {
        values(&lines).len() as u64 == u64::from(asked) - dropped
    });
    assert!(values(&lines).len() as u64 <= u64::from(record::UNROUTED_LINES_MAX) * seconds);
}
