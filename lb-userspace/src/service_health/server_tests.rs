use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::super::ServiceHealth;
use super::*;
use crate::plan::Family;

const DEADLINE: Duration = Duration::from_secs(10);

/// A running server, what it shall do, and what it could not.
struct Server {
    wanted: watch::Sender<Wanted>,
    problems: watch::Receiver<Vec<Problem>>,
}

impl Server {
    fn start() -> Self {
        let (wanted, receiver) = watch::channel(Wanted::default());
        let (sender, problems) = watch::channel(Vec::new());
        tokio::spawn(follow(receiver, sender, Duration::from_millis(10)));
        Self { wanted, problems }
    }

    fn want(&self, services: &[(u16, &str, u32)]) {
        let services = services.iter().map(|(port, name, local_endpoints)| {
            let service = ObjectName::new("shop", name);
            let local_endpoints = [(Family::V4, *local_endpoints)].into();
            (*port, ServiceHealth { service, local_endpoints })
        });
        self.wanted.send_replace(Wanted {
            addresses: vec![Ipv4Addr::LOCALHOST.into()],
            services: Arc::new(services.collect()),
            is_proxy_healthy: true,
        });
    }

    async fn problems(&mut self, count: usize) -> Vec<Problem> {
        let found = timeout(DEADLINE, self.problems.wait_for(|problems| problems.len() == count)).await;
        found.expect("in time").expect("a server").clone()
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("an address").port()
}

async fn ask_once(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n").await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

/// Asks until the answer is the expected one: the server follows in its own time.
async fn answers(port: u16, is_expected: impl Fn(&std::io::Result<String>) -> bool) {
    let seen = timeout(DEADLINE, async {
        while !is_expected(&ask_once(port).await) {
            tokio::task::yield_now().await;
        }
    });
    assert!(seen.await.is_ok(), "last answer: {:?}", ask_once(port).await);
}

fn says(part: &'static str) -> impl Fn(&std::io::Result<String>) -> bool {
    move |answer| answer.as_ref().is_ok_and(|text| text.contains(part))
}

#[tokio::test]
async fn each_port_answers_for_its_own_service() {
    let (web, cart) = (free_port(), free_port());
    let server = Server::start();
    server.want(&[(web, "web", 2), (cart, "cart", 0)]);
    answers(web, says(r#""name":"web"},"localEndpoints":2"#)).await;
    answers(cart, says("503 Service Unavailable")).await;
}

#[tokio::test]
async fn the_answer_follows_the_plan() {
    let port = free_port();
    let server = Server::start();
    server.want(&[(port, "web", 1)]);
    answers(port, says("200 OK")).await;
    server.want(&[(port, "web", 0)]);
    answers(port, says("503 Service Unavailable")).await;
}

#[tokio::test]
async fn a_port_that_is_given_up_is_closed() {
    let port = free_port();
    let server = Server::start();
    server.want(&[(port, "web", 1)]);
    answers(port, says("200 OK")).await;
    server.want(&[]);
    answers(port, |answer| {
        answer.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    })
    .await;
}

#[tokio::test]
async fn a_request_that_is_under_way_is_answered_after_the_port_is_given_up() {
    let port = free_port();
    let mut server = Server::start();
    server.want(&[(port, "web", 1)]);
    answers(port, says("200 OK")).await;
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.expect("a connection");
    stream.write_all(b"GET / HTTP/1.1\r\n").await.expect("half a request");
    // The accepting task has had its turn once another connection was served.
    answers(port, says("200 OK")).await;
    server.want(&[]);
    answers(port, Result::is_err).await;
    stream.write_all(b"Host: node\r\n\r\n").await.expect("the rest");
    let mut text = String::new();
    timeout(DEADLINE, stream.read_to_string(&mut text)).await.expect("in time").expect("an answer");
    assert!(text.starts_with("HTTP/1.1 404"), "{text}");
    assert_eq!(server.problems(0).await, []);
}

#[tokio::test]
async fn a_port_in_use_is_a_problem_until_it_is_free() {
    let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let (port, other) = (taken.local_addr().expect("an address").port(), free_port());
    let mut server = Server::start();
    server.want(&[(port, "web", 1), (other, "cart", 1)]);
    let problems = server.problems(1).await;
    assert_eq!(
        problems[0].to_string(),
        format!(
            "Service shop/web: cannot answer health checks on 127.0.0.1:{port} (healthCheckNodePort): \
             Address already in use (os error 98); load balancers will avoid this node until the port is free"
        )
    );
    answers(other, says("200 OK")).await;
    drop(taken);
    answers(port, says("200 OK")).await;
    assert_eq!(server.problems(0).await, []);
}

#[tokio::test]
async fn all_addresses_of_both_families_answer_where_none_is_chosen() {
    let port = free_port();
    let server = Server::start();
    server.want(&[(port, "web", 1)]);
    server.wanted.send_modify(|wanted| wanted.addresses.clear());
    answers(port, says("200 OK")).await;
    assert!(TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await.is_ok());
}

#[test]
fn of_two_services_with_one_port_the_second_is_a_problem() {
    use crate::plan::fixture::{node, service};
    use crate::plan::{Desired, ReadinessAlone};
    let mut desired = Desired::default();
    for name in ["cart", "web"] {
        let facts =
            crate::model::Service { health_check_node_port: Some(30_999), ..service(name, "10.96.0.1") };
        let plan =
            crate::plan::service(&facts, &[], &crate::model::BackendConfigs::new(), &node(), &ReadinessAlone);
        desired.replace(&facts.name, Some(plan));
    }
    let (services, problems) = super::super::services(&desired);
    assert_eq!(services[&30_999].service, ObjectName::new("shop", "cart"));
    assert_eq!(
        problems[0].to_string(),
        "Service shop/web: cannot answer health checks on port 30999 (healthCheckNodePort): Service shop/cart \
         has it; change one of the two"
    );
}
