//! A pod that answers at once, late, or at length, as the path says.
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use lb_tests::topology::Host;
use lb_tests::wait::wait_until;

use crate::DEADLINE;

/// Bytes of a long answer: more than all buffers between a pod and its client hold.
pub(crate) const LONG_BYTES: usize = 32 * 1024 * 1024;

/// What is asked of it, and whether late answers may come.
#[derive(Default)]
struct State {
    asked: Mutex<Vec<String>>,
    may_go: Mutex<bool>,
    went: Condvar,
}

pub(crate) struct Endpoint(Arc<State>);

impl Endpoint {
    /// It listens when this returns, and ends with the test's process.
    pub(crate) fn start(pod: &Host, port: u16) -> Self {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let listener = pod.run_in_netns(|| TcpListener::bind(any)).unwrap().unwrap();
        let state = Arc::<State>::default();
        let of_requests = Arc::clone(&state);
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let state = Arc::clone(&of_requests);
                thread::spawn(move || {
                    // Whoever hangs up has what it wanted.
                    let _ = serve(stream, &state);
                });
            }
        });
        Self(state)
    }

    /// Waits until a path has been asked for.
    pub(crate) fn wait_for(&self, path: &str) {
        let is_asked = || self.0.asked.lock().unwrap().iter().any(|asked| asked == path);
        wait_until(DEADLINE, path, is_asked).unwrap();
    }

    /// Lets late answers come, and long ones end.
    pub(crate) fn go(&self) {
        *self.0.may_go.lock().unwrap() = true;
        self.0.went.notify_all();
    }
}

impl State {
    fn wait(&self) {
        let may_go = self.may_go.lock().unwrap();
        let waited = self.went.wait_timeout_while(may_go, DEADLINE, |may_go| !*may_go);
        drop(waited.unwrap());
    }
}

fn serve(mut stream: TcpStream, state: &State) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        if path != "/" {
            state.asked.lock().unwrap().push(path.clone());
        }
        let length = if path == "/long" { LONG_BYTES } else { 2 };
        let begin = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        match path.as_str() {
            "/long" => {
                let half = vec![b'x'; LONG_BYTES / 2];
                stream.write_all(begin.as_bytes())?;
                stream.write_all(&half)?;
                state.wait();
                stream.write_all(&half)?;
            }
            "/wait" => {
                state.wait();
                stream.write_all(format!("{begin}ok").as_bytes())?;
            }
            _ => stream.write_all(format!("{begin}ok").as_bytes())?,
        }
    }
}
