//! Netns tier: `podway top` shows real traffic, as text and in a terminal that is as before when it has ended.
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use lb_tests::agent::{Options, Podway};
use lb_tests::cluster::Cluster;
use lb_tests::need;
use lb_tests::traffic::{Dial, Dialing};
use lb_tests::wait::wait_until;
use lb_userspace::model::Protocol;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(20);
/// When a dial is given up: soon, since what is dropped is dialled over and over.
const TIMEOUT: Duration = Duration::from_millis(100);
/// Between two dials.
const INTERVAL: Duration = Duration::from_millis(10);

/// A cluster and the binary, or `None` where the machine lacks a need.
fn world() -> Option<(Cluster, PathBuf)> {
    let need = need::netns()?;
    let podway = Podway { binary: need.podway.clone(), ebpf_object: Some(need.ebpf_object) };
    Some((Cluster::start(&podway, Options::default()).unwrap(), need.podway))
}

/// The words of a line that has a text, without the frames of tables.
fn line(screen: &str, part: &str) -> Option<Vec<String>> {
    let line = screen.lines().find(|line| line.contains(part))?;
    Some(line.split(['│', ' ']).filter(|word| !word.is_empty()).map(str::to_owned).collect())
}

/// Dials a Service that answers, and one whose packets are dropped, until both are let go.
fn traffic(cluster: &Cluster) -> [Dialing; 2] {
    [("near", Protocol::Tcp), ("far-local", Protocol::Udp)].map(|(service, protocol)| {
        let to = cluster.load_balancer_addresses(service, protocol)[0];
        Dialing::start(
            cluster.topology.client(),
            &Dial { timeout: TIMEOUT, ..Dial::every(INTERVAL, protocol, to) },
        )
        .unwrap()
    })
}

#[test]
fn one_screen_is_text_with_the_rates_of_what_happens_meanwhile() {
    let Some((cluster, _)) = world() else { return };
    let _traffic = traffic(&cluster);
    let mut text = String::new();
    // The first dials may begin after the second look.
    wait_until(DEADLINE, "traffic has a rate", || {
        text = cluster.agents[0].podway(&["top", "--once"]).unwrap();
        let near = line(&text, "│shop/near:tcp/TCP").expect("the Service");
        let drop = line(&text, "no-local-endpoint");
        near[1..4].iter().all(|rate| rate != "0") && drop.is_some_and(|words| words[2] != "0")
    })
    .unwrap();
    let near = line(&text, "│shop/near:tcp/TCP").unwrap();
    let idle = line(&text, "│shop/empty:tcp/TCP").unwrap();
    // No Ingress leads to it.
    assert_eq!(near[4..], ["-", "4/4"], "{text}");
    assert_eq!(idle[1..], ["0", "0", "0", "-", "0/0"], "{text}");
    assert_eq!(line(&text, "no-local-endpoint").unwrap()[..2], ["no-local-endpoint", "drop"], "{text}");
    let pod = format!("{}:8080", cluster.topology.pod("web-a-1").v4());
    let of_pod = text.lines().find(|line| line.contains(&pod) && line.contains("shop/near:tcp/TCP"));
    assert!(of_pod.is_some_and(|line| line.contains("healthy")), "{text}");
    assert_eq!(line(&text, "│CONNTRACK").unwrap().last().unwrap(), "0%", "{text}");
}

/// A terminal of its own, with a shell in it. Dropping it ends both.
struct Terminal {
    dir: TempDir,
}

impl Terminal {
    fn start(script: &str) -> Self {
        let terminal = Self { dir: TempDir::with_prefix("podway-top-").unwrap() };
        let started = terminal.tmux(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            "140",
            "-y",
            "50",
            "sh",
            "-c",
            script,
        ]);
        assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
        terminal
    }

    fn tmux(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("tmux");
        command.env("TERM", "xterm-256color").env_remove("TMUX").arg("-u");
        command.arg("-S").arg(self.dir.path().join("socket")).args(arguments).output().expect("tmux")
    }

    fn press(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }

    fn screen(&self) -> String {
        String::from_utf8_lossy(&self.tmux(&["capture-pane", "-p"]).stdout).into_owned()
    }

    fn fact(&self, format: &str) -> String {
        let told = self.tmux(&["display-message", "-p", format]);
        String::from_utf8_lossy(&told.stdout).trim().to_owned()
    }

    fn wait(&self, what: &str, is_seen: impl Fn(&str) -> bool) {
        let waited = wait_until(DEADLINE, what, || is_seen(&self.screen()));
        waited.unwrap_or_else(|error| panic!("{error:#}: {}", self.screen()));
    }

    /// The program that the shell waits for.
    fn program(&self) -> Pid {
        let shell = self.fact("#{pane_pid}");
        let children = std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).unwrap();
        Pid::from_raw(children.split_whitespace().next().expect("a child").parse().unwrap()).unwrap()
    }

    /// The terminal is again as a shell has it: the former screen, lines, echo, a cursor.
    fn assert_restored(&self, status: &str) {
        self.wait("the shell goes on", |screen| screen.contains(status));
        let facts = ["#{alternate_on}", "#{cursor_flag}"].map(|format| self.fact(format));
        assert_eq!(facts, ["0", "1"], "{}", self.screen());
        let screen = self.screen();
        assert!(screen.contains(" icanon ") && screen.contains(" echo "), "{screen}");
        assert!(!screen.contains("-icanon") && !screen.contains("-echo "), "{screen}");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

#[test]
fn keys_sort_filter_and_end_it_and_the_terminal_is_restored() {
    let Some((cluster, binary)) = world() else { return };
    let [pins, run_dir] = [cluster.topology.pins("node-a"), cluster.topology.run_dir("node-a")];
    let top =
        format!("{} top --pin-path {} --run-dir {}", binary.display(), pins.display(), run_dir.display());
    let terminal = Terminal::start(&format!(
        "{top}; echo by key $?; stty -a; read line; {top}; status=$?; clear; echo by signal $status; stty -a; read line"
    ));
    let services = |screen: &str| -> Vec<String> {
        let rows = screen.lines().filter_map(|line| line.strip_prefix("│shop/"));
        rows.filter_map(|row| Some(row.split_whitespace().next()?.to_owned())).collect()
    };
    terminal.wait("it shows Services", |screen| services(screen).len() > 3);
    terminal.press("s");
    terminal.wait("s sorts by another rate", |screen| screen.contains(", by bytes"));
    for key in ["/", "n", "e", "a", "r"] {
        terminal.press(key);
    }
    terminal.wait("a filter leaves what has its text", |screen| {
        let left = services(screen);
        !left.is_empty() && left.iter().all(|service| service.starts_with("near:"))
    });
    terminal.press("Enter");
    terminal.press("q");
    terminal.assert_restored("by key 0");
    terminal.press("Enter");
    terminal.wait("it shows Services again", |screen| services(screen).len() > 3);
    kill_process(terminal.program(), Signal::TERM).unwrap();
    terminal.assert_restored("by signal 0");
}

#[test]
fn a_terminal_that_goes_takes_it_along() {
    let Some((cluster, binary)) = world() else { return };
    let [pins, run_dir] = [cluster.topology.pins("node-a"), cluster.topology.run_dir("node-a")];
    let terminal = Terminal::start(&format!(
        "{} top --pin-path {} --run-dir {}; read line",
        binary.display(),
        pins.display(),
        run_dir.display()
    ));
    terminal.wait("it shows Services", |screen| screen.contains("│shop/"));
    let program = terminal.program();
    terminal.tmux(&["kill-server"]);
    // What has ended and was not waited for yet has no command line.
    let command = format!("/proc/{}/cmdline", program.as_raw_nonzero());
    wait_until(DEADLINE, "it has ended", || std::fs::read(&command).map_or(true, |words| words.is_empty()))
        .unwrap();
}
