//! HTTP/1.1 case by case (RFC 9110, RFC 9112): what passes, and what an endpoint and a client see of it.
use lb_userspace::l7::serve::{Protocol, Settings};

use crate::messages::{Client, Message, Scripted, Then, ok};
use crate::stand::{Stand, service};

/// A request, and what comes of it.
struct Case {
    section: &'static str,
    sent: &'static str,
    code: u16,
    then: Then,
    /// What the endpoint sees: its first line, then fields that it has (`name: value`) or has not (`!name`). Empty
    /// where it sees nothing.
    seen: &'static [&'static str],
}

const REQUESTS: &[Case] = &[
    Case {
        section: "9112 §3.2.2: the absolute form is the origin form to an endpoint",
        sent: "GET http://shop.example/a?b HTTP/1.1\r\nHost: shop.example\r\n\r\n",
        code: 200,
        then: Then::Stays,
        seen: &["GET /a?b HTTP/1.1", "host: shop.example"],
    },
    Case {
        section: "9112 §3.2.2: an absolute target without a path is the root",
        sent: "GET http://shop.example HTTP/1.1\r\nHost: shop.example\r\n\r\n",
        code: 200,
        then: Then::Stays,
        seen: &["GET / HTTP/1.1"],
    },
    Case {
        section: "9112 §3.2.3: the authority form has no endpoint",
        sent: "CONNECT shop.example:443 HTTP/1.1\r\nHost: shop.example:443\r\n\r\n",
        code: 400,
        then: Then::Closes,
        seen: &[],
    },
    Case {
        section: "9112 §3.2.4: no rule takes the asterisk form",
        sent: "OPTIONS * HTTP/1.1\r\nHost: shop.example\r\n\r\n",
        code: 400,
        then: Then::Closes,
        seen: &[],
    },
    Case {
        section: "9110 §9.3.7: OPTIONS of a path passes",
        sent: "OPTIONS /a HTTP/1.1\r\nHost: shop.example\r\n\r\n",
        code: 200,
        then: Then::Stays,
        seen: &["OPTIONS /a HTTP/1.1"],
    },
    Case {
        section: "9110 §9.1: a method that nobody knows passes",
        sent: "BREW /pot HTTP/1.1\r\nHost: shop.example\r\n\r\n",
        code: 200,
        then: Then::Stays,
        seen: &["BREW /pot HTTP/1.1"],
    },
    Case {
        section: "9110 §7.6.2: Max-Forwards is one less at the endpoint",
        sent: "OPTIONS /a HTTP/1.1\r\nHost: shop.example\r\nMax-Forwards: 7\r\n\r\n",
        code: 200,
        then: Then::Stays,
        seen: &["OPTIONS /a HTTP/1.1", "max-forwards: 6"],
    },
    Case {
        section: "9110 §7.6.2: Max-Forwards of zero goes no further",
        sent: "OPTIONS /a HTTP/1.1\r\nHost: shop.example\r\nMax-Forwards: 0\r\n\r\n",
        code: 200,
        then: Then::Stays,
        seen: &[],
    },
    Case {
        section: "9110 §7.6.2: TRACE too",
        sent: "TRACE /a HTTP/1.1\r\nHost: shop.example\r\nMax-Forwards: 0\r\n\r\n",
        code: 200,
        then: Then::Stays,
        seen: &[],
    },
    Case {
        section: "9110 §7.6.2: other methods do not heed it",
        sent: "GET /a HTTP/1.1\r\nHost: shop.example\r\nMax-Forwards: 0\r\n\r\n",
        code: 200,
        then: Then::Stays,
        seen: &["GET /a HTTP/1.1", "max-forwards: 0"],
    },
    Case {
        section: "9110 §7.6.1: what Connection names stays on its side",
        sent: "GET /a HTTP/1.1\r\nHost: shop.example\r\nConnection: x-one, X-Two\r\nX-One: 1\r\n\
               X-Two: 2\r\nX-Three: 3\r\n\r\n",
        code: 200,
        then: Then::Stays,
        seen: &["GET /a HTTP/1.1", "!x-one", "!x-two", "x-three: 3", "!connection"],
    },
    Case {
        section: "9110 §7.6.1: two Connection fields are one list",
        sent: "GET /a HTTP/1.1\r\nHost: shop.example\r\nConnection: x-one\r\nConnection: x-two\r\n\
               X-One: 1\r\nX-Two: 2\r\n\r\n",
        code: 200,
        then: Then::Stays,
        seen: &["GET /a HTTP/1.1", "!x-one", "!x-two"],
    },
    Case {
        section: "9110 §10.1.4: TE is for the next hop alone",
        sent: "GET /a HTTP/1.1\r\nHost: shop.example\r\nConnection: TE\r\nTE: trailers, deflate\r\n\r\n",
        code: 200,
        then: Then::Stays,
        seen: &["GET /a HTTP/1.1", "!te"],
    },
    Case {
        section: "9110 §7.8: an upgrade that Connection does not name is none",
        sent: "GET /a HTTP/1.1\r\nHost: shop.example\r\nUpgrade: websocket\r\n\r\n",
        code: 200,
        then: Then::Stays,
        seen: &["GET /a HTTP/1.1", "!upgrade"],
    },
    Case {
        section: "9113 §3.1: an upgrade to h2c is ignored",
        sent: "GET /a HTTP/1.1\r\nHost: shop.example\r\nConnection: Upgrade, HTTP2-Settings\r\n\
               Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAA\r\n\r\n",
        code: 200,
        then: Then::Stays,
        seen: &["GET /a HTTP/1.1", "!upgrade", "!http2-settings"],
    },
    Case {
        section: "9112 §9.6: the client closes after this request",
        sent: "GET /a HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n",
        code: 200,
        then: Then::Closes,
        seen: &["GET /a HTTP/1.1", "!connection"],
    },
    Case {
        section: "9112 §9.3: HTTP/1.0 is closed",
        sent: "GET /a HTTP/1.0\r\nHost: shop.example\r\n\r\n",
        code: 200,
        then: Then::Closes,
        seen: &["GET /a HTTP/1.1", "via: 1.0 podway"],
    },
    Case {
        section: "9112 §9.3: unless it asks to be kept",
        sent: "GET /a HTTP/1.0\r\nHost: shop.example\r\nConnection: keep-alive\r\n\r\n",
        code: 200,
        then: Then::Stays,
        seen: &["GET /a HTTP/1.1", "!connection"],
    },
    Case {
        section: "9110 §10.1.1: an expectation in HTTP/1.0 is ignored",
        sent: "POST /a HTTP/1.0\r\nHost: shop.example\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nok",
        code: 200,
        then: Then::Closes,
        seen: &["POST /a HTTP/1.1", "!expect", "content-length: 2"],
    },
    Case {
        section: "9112 §7.1.1: chunk extensions stay on their side",
        sent: "POST /a HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\n\r\n\
               2;x=y\r\nok\r\n0;z\r\n\r\n",
        code: 200,
        then: Then::Stays,
        seen: &["POST /a HTTP/1.1", "transfer-encoding: chunked"],
    },
    Case {
        section: "9112 §7.1.2: trailers that are announced pass",
        sent: "POST /a HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
               2\r\nok\r\n0\r\nX-Sum: 17\r\n\r\n",
        code: 200,
        then: Then::Stays,
        seen: &["POST /a HTTP/1.1", "transfer-encoding: chunked", "x-sum: 17"],
    },
    Case {
        section: "9112 §7.1.2: others stay on their side",
        sent: "POST /a HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\n\r\n\
               2\r\nok\r\n0\r\nX-Sum: 17\r\n\r\n",
        code: 200,
        then: Then::Stays,
        seen: &["POST /a HTTP/1.1", "transfer-encoding: chunked", "!x-sum"],
    },
    Case {
        section: "9112 §2.2: one empty line before a request is skipped",
        sent: "\r\nGET /a HTTP/1.1\r\nHost: shop.example\r\n\r\n",
        code: 200,
        then: Then::Stays,
        seen: &["GET /a HTTP/1.1"],
    },
    Case {
        section: "9110 §5.5: a value may have bytes above 127",
        // Two bytes, as UTF-8 has it.
        sent: "GET /a HTTP/1.1\r\nHost: shop.example\r\nX-Name: caf\u{e9}\r\n\r\n",
        code: 200,
        then: Then::Stays,
        seen: &["GET /a HTTP/1.1", "x-name: caf\u{c3}\u{a9}"],
    },
    Case {
        section: "9110 §8.6: GET may have a body",
        sent: "GET /a HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 2\r\n\r\nok",
        code: 200,
        then: Then::Stays,
        seen: &["GET /a HTTP/1.1", "content-length: 2"],
    },
];

/// Whether a request as the endpoint saw it is as a case says.
fn check_seen(seen: &Message, expected: &[&str], section: &str) {
    assert_eq!(seen.start, expected[0], "{section}");
    for fact in &expected[1..] {
        match (fact.strip_prefix('!'), fact.split_once(": ")) {
            (Some(name), _) => assert_eq!(seen.field(name), None, "{section}"),
            (None, Some((name, value))) => assert_eq!(seen.field(name), Some(value), "{section}"),
            _ => panic!("{section}: no fact: {fact}"),
        }
    }
}

#[test]
fn requests_pass_as_the_rfcs_say() {
    for case in REQUESTS {
        let web = Scripted::telling();
        let stand = Stand::with(web.address, Protocol::Http);
        let mut client = Client::dial(stand.plain);
        let answer = client.ask(case.sent);
        assert_eq!(answer.code(), case.code, "{}: {answer:?}", case.section);
        match case.seen {
            [] => assert!(web.seen().is_empty(), "{}: {:?}", case.section, web.seen()),
            expected => check_seen(&web.last(), expected, case.section),
        }
        match case.then {
            Then::Closes => assert!(client.is_closed(), "{}", case.section),
            Then::Stays => {
                let next = client.ask("GET /next HTTP/1.1\r\nHost: shop.example\r\n\r\n");
                assert_eq!(next.text(), "GET /next HTTP/1.1", "{}", case.section);
            }
        }
    }
}

/// An endpoint's answer, and what its client gets.
struct Answered {
    section: &'static str,
    method: &'static str,
    said: &'static [u8],
    then: Then,
    code: u16,
    body: &'static str,
    /// Fields that the client gets (`name: value`) or does not (`!name`).
    fields: &'static [&'static str],
}

const ANSWERS: &[Answered] = &[
    Answered {
        section: "9112 §7.1: a chunked answer stays chunked, without its extensions",
        method: "GET",
        said: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nok\r\n0\r\n\r\n",
        then: Then::Stays,
        code: 200,
        body: "ok",
        fields: &["transfer-encoding: chunked", "!content-length"],
    },
    Answered {
        section: "9112 §7.1.2: trailers of an answer stay on their side",
        method: "GET",
        said: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 17\r\n\r\n",
        then: Then::Stays,
        code: 200,
        body: "ok",
        fields: &["!x-sum"],
    },
    Answered {
        section: "9112 §6.3: an answer that ends with its connection is chunked to the client",
        method: "GET",
        said: b"HTTP/1.1 200 OK\r\n\r\nok",
        then: Then::Closes,
        code: 200,
        body: "ok",
        fields: &["transfer-encoding: chunked", "!content-length"],
    },
    Answered {
        section: "9112 §6.3: a coding overrides a length",
        method: "GET",
        said:
            b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        then: Then::Stays,
        code: 200,
        body: "ok",
        fields: &["transfer-encoding: chunked", "!content-length"],
    },
    Answered {
        section: "9112 §6.3: two lengths are no answer",
        method: "GET",
        said: b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokk",
        then: Then::Closes,
        code: 502,
        body: "502: the endpoint gave no whole answer\n",
        fields: &["x-podway-reason: protocol"],
    },
    Answered {
        section: "9112 §4: what is no status line is no answer",
        method: "GET",
        said: b"SSH-2.0-OpenSSH_9.2\r\n",
        then: Then::Closes,
        code: 502,
        body: "502: the endpoint gave no whole answer\n",
        fields: &["x-podway-reason: protocol"],
    },
    Answered {
        section: "9110 §15.2: informational answers are passed over",
        method: "GET",
        said: b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
                HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        then: Then::Stays,
        code: 200,
        body: "ok",
        fields: &["!link"],
    },
    Answered {
        section: "9110 §15.2.2: nobody switches who was not asked to",
        method: "GET",
        said: b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
        then: Then::Closes,
        code: 502,
        body: "502: the endpoint gave no whole answer\n",
        fields: &["x-podway-reason: protocol"],
    },
    Answered {
        section: "9110 §15.3.5: 204 has no body and no length",
        method: "GET",
        said: b"HTTP/1.1 204 No Content\r\n\r\n",
        then: Then::Stays,
        code: 204,
        body: "",
        fields: &["!content-length", "!transfer-encoding"],
    },
    Answered {
        section: "9110 §15.4.5: 304 has no body, whatever length it names",
        method: "GET",
        said: b"HTTP/1.1 304 Not Modified\r\nContent-Length: 17\r\nETag: \"a\"\r\n\r\n",
        then: Then::Stays,
        code: 304,
        body: "",
        fields: &["!content-length", "!transfer-encoding", "etag: \"a\""],
    },
    Answered {
        section: "9110 §9.3.2: HEAD says what GET would have",
        method: "HEAD",
        said: b"HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n",
        then: Then::Stays,
        code: 200,
        body: "",
        fields: &["content-length: 17"],
    },
    Answered {
        section: "9110 §9.3.2: HEAD of a chunked answer has no body either",
        method: "HEAD",
        said: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        then: Then::Stays,
        code: 200,
        body: "",
        fields: &[],
    },
    Answered {
        section: "9112 §9.6: the endpoint's close is not the client's",
        method: "GET",
        said: b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        then: Then::Closes,
        code: 200,
        body: "ok",
        fields: &["!connection"],
    },
    Answered {
        section: "9112 §2.3: an endpoint of HTTP/1.0 is answered for in HTTP/1.1",
        method: "GET",
        said: b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        then: Then::Closes,
        code: 200,
        body: "ok",
        fields: &["via: 1.0 podway"],
    },
    Answered {
        section: "9110 §7.6.1: what the endpoint's Connection names stays on its side",
        method: "GET",
        said: b"HTTP/1.1 200 OK\r\nConnection: x-one\r\nX-One: 1\r\nX-Two: 2\r\nContent-Length: 2\r\n\r\nok",
        then: Then::Stays,
        code: 200,
        body: "ok",
        fields: &["!x-one", "x-two: 2", "!connection"],
    },
    Answered {
        section: "9110 §15: a code that nobody knows passes",
        method: "GET",
        said: b"HTTP/1.1 299 Odd\r\nContent-Length: 2\r\n\r\nok",
        then: Then::Stays,
        code: 299,
        body: "ok",
        fields: &[],
    },
];

#[test]
fn answers_pass_as_the_rfcs_say() {
    for case in ANSWERS {
        let (said, then) = (case.said, case.then);
        let web = Scripted::start(move |request| match request.start.contains(" /next ") {
            true => (ok("next"), Then::Stays),
            false => (said.to_vec(), then),
        });
        let stand = Stand::with(web.address, Protocol::Http);
        let mut client = Client::dial(stand.plain);
        client.send(format!("{} /a HTTP/1.1\r\nHost: shop.example\r\n\r\n", case.method));
        let answer = client.answer(case.method);
        let answer = answer.unwrap_or_else(|error| panic!("{}: {error}", case.section));
        assert_eq!((answer.code(), answer.text().as_str()), (case.code, case.body), "{}", case.section);
        assert!(answer.start.starts_with("HTTP/1.1 "), "{}: {}", case.section, answer.start);
        let start = answer.start.clone();
        check_seen(&answer, &[&[start.as_str()][..], case.fields].concat(), case.section);
        // The client's connection goes on, and answers belong to their requests.
        let next = client.ask("GET /next HTTP/1.1\r\nHost: shop.example\r\n\r\n");
        assert_eq!(next.text(), "next", "{}", case.section);
    }
}

#[test]
fn bytes_behind_an_answer_are_nobodys_answer() {
    let web = Scripted::start(|request| match request.start.contains(" /first ") {
        true => {
            let surplus = [ok("first"), ok("poison")].concat();
            (surplus, Then::Stays)
        }
        false => (ok(&request.start), Then::Stays),
    });
    let settings = Settings { threads: 1, ..Settings::default() };
    let stand = Stand::of(settings, service(web.address, Protocol::Http));
    for number in 0..20 {
        let mut client = Client::dial(stand.plain);
        assert_eq!(client.ask("GET /first HTTP/1.1\r\nHost: shop.example\r\n\r\n").text(), "first");
        let answer = client.ask(&format!("GET /{number} HTTP/1.1\r\nHost: shop.example\r\n\r\n"));
        assert_eq!((answer.code(), answer.text()), (200, format!("GET /{number} HTTP/1.1")));
    }
}

#[test]
fn a_row_of_requests_is_answered_in_turn_whatever_they_are() {
    let web = Scripted::telling();
    let stand = Stand::with(web.address, Protocol::Http);
    let mut client = Client::dial(stand.plain);
    client.send(
        "GET /1 HTTP/1.1\r\nHost: shop.example\r\n\r\n\
         POST /2 HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 3\r\n\r\nabc\
         HEAD /3 HTTP/1.1\r\nHost: shop.example\r\n\r\n\
         POST /4 HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n\
         GET /5 HTTP/1.1\r\nHost: none.example\r\n\r\n\
         GET /6 HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n\
         GET /7 HTTP/1.1\r\nHost: shop.example\r\n\r\n",
    );
    let mut told = |method| {
        let answer = client.answer(method).unwrap();
        (answer.code(), answer.text())
    };
    assert_eq!(told("GET"), (200, "GET /1 HTTP/1.1".to_owned()));
    assert_eq!(told("POST"), (200, "POST /2 HTTP/1.1".to_owned()));
    assert_eq!(told("HEAD"), (200, String::new()));
    assert_eq!(told("POST"), (200, "POST /4 HTTP/1.1".to_owned()));
    assert_eq!(told("GET").0, 404);
    assert_eq!(told("GET"), (200, "GET /6 HTTP/1.1".to_owned()));
    assert!(client.is_closed(), "what follows a request that closes is not answered");
    assert!(web.seen().iter().all(|request| !request.start.contains("/7")));
}
