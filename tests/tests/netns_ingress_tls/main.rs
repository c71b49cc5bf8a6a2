//! TLS of Ingresses as OpenSSL sees it: handshakes, clients that are verified, certificates that change, PROXY headers.
mod certificates;
mod clients;
mod handshakes;
mod openssl;
mod passed_on;
mod world;
