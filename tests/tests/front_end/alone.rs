//! A front-end in a process of its own, whose memory nothing else is in.
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use lb_tests::process::Process;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConnection, StreamOwned};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::stand::{DEADLINE, HOST, HTTP_2, dial, trusting};

/// The process.
pub(crate) struct Alone {
    process: Process,
    pub(crate) address: SocketAddr,
    /// Of its certificate, which is there where it speaks TLS.
    folder: tempfile::TempDir,
}

impl Alone {
    /// Leads all requests to an endpoint.
    pub(crate) fn start(endpoint: SocketAddr, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_lb-front-end"));
        command.arg("--endpoint").arg(endpoint.to_string()).args(arguments);
        if arguments.contains(&"--tls") {
            command.arg("--certificate").arg(folder.path().join("tls.crt"));
        }
        let process = Process::start(command, "the front-end").unwrap();
        let address = process.line(DEADLINE).unwrap().parse().unwrap();
        Self { process, address, folder }
    }

    fn certificate(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(self.folder.path().join("tls.crt")).unwrap()
    }

    /// A connection of HTTP/2 by TLS.
    pub(crate) async fn dial_http_2(&self) -> TlsStream<tokio::net::TcpStream> {
        let stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let name = ServerName::try_from(HOST).unwrap();
        TlsConnector::from(trusting(self.certificate(), HTTP_2)).connect(name, stream).await.unwrap()
    }

    /// One that blocks.
    pub(crate) fn dial_http_2_blocking(&self) -> StreamOwned<ClientConnection, std::net::TcpStream> {
        let name = ServerName::try_from(HOST).unwrap();
        let tls = ClientConnection::new(trusting(self.certificate(), HTTP_2), name).unwrap();
        StreamOwned::new(tls, dial(self.address))
    }

    /// A line of `/proc/PID/status`, KiB.
    pub(crate) fn memory_kib(&self, line: &str) -> u64 {
        let path = PathBuf::from(format!("/proc/{}/status", self.process.id()));
        let status = std::fs::read_to_string(path).unwrap();
        let value = status.lines().find_map(|of| of.strip_prefix(line)).unwrap();
        value.trim_matches([':', ' ', '\t', 'k', 'B']).parse().unwrap()
    }

    /// Ends it.
    pub(crate) fn finish(self) {
        self.process.finish(DEADLINE).unwrap();
    }
}
