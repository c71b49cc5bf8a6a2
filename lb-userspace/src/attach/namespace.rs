//! The kernel's number for a network namespace, by which the socket hooks know the node's own one.
use anyhow::{Context, Result};
use nix::sys::socket::getsockopt;
use nix::{getsockopt_impl, sockopt_impl};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

sockopt_impl!(
    /// `SO_NETNS_COOKIE` (Linux 5.14): the number of the socket's network namespace.
    NamespaceCookie,
    GetOnly,
    libc::SOL_SOCKET,
    libc::SO_NETNS_COOKIE,
    u64
);

/// The cookie of this process's network namespace.
///
/// # Errors
/// The kernel gives no socket, or is older than Linux 5.14.
pub fn namespace_cookie() -> Result<u64> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
    let socket = socket.context("cannot open a socket")?;
    getsockopt(&socket, NamespaceCookie).context("cannot read SO_NETNS_COOKIE; it needs Linux 5.14")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_keeps_its_cookie() {
        let cookie = namespace_cookie().unwrap();
        assert_ne!(cookie, 0);
        assert_eq!(namespace_cookie().unwrap(), cookie);
    }
}
