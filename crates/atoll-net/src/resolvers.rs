//! Whom the host asks for names; the keeper asks the same.
//!
//! How it works: the `nameserver` lines of `/etc/resolv.conf`. Loopback and private addresses are fine, because the keeper's
//! upstream sockets live in the host's namespace.
//!
//! Deliberately absent: search domains and options: a guest's names are complete.

use std::net::{IpAddr, SocketAddr};

/// At most this many are used, as in glibc.
const MOST: usize = 3;
/// At most this much of the file is read.
const CAP: usize = 64 * 1024;

/// The host's resolvers, in order.
pub fn host_resolvers() -> Vec<SocketAddr> {
    let text = std::fs::read("/etc/resolv.conf").unwrap_or_default();
    parse_resolv_conf(&String::from_utf8_lossy(&text[..text.len().min(CAP)]))
}

/// Reads `nameserver` lines; a scope id is left out, as is what is no address.
pub fn parse_resolv_conf(text: &str) -> Vec<SocketAddr> {
    let address = |line: &str| -> Option<SocketAddr> {
        let mut words = line.split_whitespace();
        let word = (words.next()? == "nameserver").then(|| words.next())??;
        let address: IpAddr = word.split('%').next()?.parse().ok()?;
        Some(SocketAddr::new(address, 53))
    };
    text.lines().filter_map(address).take(MOST).collect()
}
