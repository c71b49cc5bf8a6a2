use std::net::SocketAddr;

use http::header::HOST as HOST_FIELD;

use super::*;

fn client(peer: &str, is_trusted: bool) -> Client {
    let local: SocketAddr = "[2001:db8::1]:443".parse().expect("an address");
    Client::new(peer.parse().expect("an address"), local, None, is_trusted)
}

fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    let pair = |(name, value): &(&'static str, &'static str)| {
        (HeaderName::from_static(name), HeaderValue::from_static(value))
    };
    let mut headers = HeaderMap::new();
    for (name, value) in fields.iter().map(pair) {
        headers.append(name, value);
    }
    headers
}

#[test]
fn an_ipv6_client_is_quoted() {
    let mut fields = headers(&[]);
    say_who_asks(&mut fields, &client("[2001:db8::9]:1", false), &HeaderValue::from_static("a.example"));
    assert_eq!(fields["x-forwarded-for"], "2001:db8::9");
    assert_eq!(fields["forwarded"], "for=\"[2001:db8::9]\";host=\"a.example\";proto=http");
}

#[test]
fn each_request_of_a_connection_names_its_own_host() {
    let client = client("192.0.2.9:1", false);
    let forwarded = |host: &'static str| {
        let mut fields = headers(&[]);
        say_who_asks(&mut fields, &client, &HeaderValue::from_static(host));
        fields.remove("forwarded")
    };
    for host in ["a", "a", "b", "a"] {
        let element = format!("for=192.0.2.9;host=\"{host}\";proto=http");
        assert_eq!(forwarded(host).as_ref().and_then(|value| value.to_str().ok()), Some(&*element));
    }
}

#[test]
fn a_request_has_a_name_of_32_digits() {
    let mut fields = headers(&[("x-request-id", "mine")]);
    let id =
        request_id(&mut fields, &client("192.0.2.9:1", false), 0x00ab_cdef_0123_4567_89ab_cdef_0123_4567);
    assert_eq!(id, "00abcdef0123456789abcdef01234567");
    assert_eq!(fields["x-request-id"], id);
}

#[test]
fn a_mapped_client_is_its_ipv4_address() {
    let mut fields = headers(&[]);
    say_who_asks(&mut fields, &client("[::ffff:192.0.2.9]:1", false), &HeaderValue::from_static("a"));
    assert_eq!(fields["x-forwarded-for"], "192.0.2.9");
}

#[test]
fn the_client_behind_a_trusted_proxy_is_the_last_that_it_names() {
    let host = HeaderValue::from_static("a");
    let address = |is_trusted, list: &'static str| {
        let client = client("192.0.2.9:1", is_trusted);
        let mut fields = headers(&[("x-forwarded-for", list)]);
        say_who_asks(&mut fields, &client, &host);
        client_address(&fields, &client).to_string()
    };
    assert_eq!(address(true, "198.51.100.1, 203.0.113.5"), "203.0.113.5");
    assert_eq!(address(true, "nonsense"), "192.0.2.9");
    assert_eq!(address(false, "198.51.100.1"), "192.0.2.9");
}

#[test]
fn cookies_become_one_field() {
    let mut fields = headers(&[("cookie", "a=1"), ("cookie", "b=2")]);
    join_cookies(&mut fields);
    assert_eq!(fields.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2"]);
}

#[test]
fn te_keeps_trailers_alone() {
    let mut fields = headers(&[("te", "gzip, trailers;q=1")]);
    remove_hop_by_hop(&mut fields);
    assert!(!fields.contains_key(TE));
    let mut fields = headers(&[("te", "gzip, Trailers")]);
    remove_hop_by_hop(&mut fields);
    assert_eq!(fields[TE], "trailers");
}

#[test]
fn fields_named_in_any_connection_field_are_taken_out() {
    let mut fields = headers(&[
        ("connection", "x-a, "),
        ("connection", "host,X-B"),
        ("x-a", "1"),
        ("x-b", "1"),
        ("host", "a"),
    ]);
    remove_hop_by_hop(&mut fields);
    assert_eq!(fields.keys().collect::<Vec<_>>(), [&HOST_FIELD]);
}

#[test]
fn an_upgrade_must_be_meant_and_be_one() {
    let wanted = |fields: &[_]| wanted_upgrade(&headers(fields)).map(|value| value.as_bytes().to_vec());
    assert_eq!(wanted(&[("connection", "Upgrade"), ("upgrade", "websocket")]), Some(b"websocket".to_vec()));
    assert_eq!(wanted(&[("upgrade", "websocket")]), None);
    assert_eq!(wanted(&[("connection", "upgrade"), ("upgrade", "h2c")]), None);
    assert_eq!(wanted(&[("connection", "upgrade"), ("upgrade", "a"), ("upgrade", "b")]), None);
}

#[test]
fn a_length_beside_a_coding_goes_with_it() {
    let mut fields = headers(&[("content-length", "99"), ("transfer-encoding", "chunked"), ("x", "1")]);
    remove_hop_by_hop(&mut fields);
    assert_eq!(fields, headers(&[("x", "1")]));
    let mut fields = headers(&[("content-length", "99")]);
    remove_hop_by_hop(&mut fields);
    assert_eq!(fields, headers(&[("content-length", "99")]));
}
