//! The range of addresses for the links between host and sandboxes.
//!
//! How it works: a slot takes a /31 of the pool. A configured range is checked against the host's routes and refused by
//! name when one covers it; without one the first default range that no route touches is taken. Routes over Atoll's own
//! interfaces do not count: two instances may share a pool, or have such that overlap ([`crate::Slots`]). What was chosen is kept: as long as
//! sandboxes have addresses of it whatever the routes say, and afterwards until it clashes or another is configured.
//!
//! Deliberately absent: IPv6.

use std::fmt;
use std::net::Ipv4Addr;

use crate::NetError;
use crate::slots::SLOTS;

/// Ranges tried in this order; none is a documented default of Docker, libvirt or Kubernetes.
const CANDIDATES: &[Pool] = &[
    Pool { network: Ipv4Addr::new(10, 213, 0, 0), prefix: 16 },
    Pool { network: Ipv4Addr::new(10, 214, 0, 0), prefix: 16 },
    Pool { network: Ipv4Addr::new(10, 87, 0, 0), prefix: 16 },
    Pool { network: Ipv4Addr::new(10, 147, 0, 0), prefix: 16 },
    Pool { network: Ipv4Addr::new(10, 61, 0, 0), prefix: 16 },
];
/// This network, loopback, link-local, multicast and what is reserved.
const RESERVED: &[Pool] = &[
    Pool { network: Ipv4Addr::UNSPECIFIED, prefix: 8 },
    Pool { network: Ipv4Addr::new(127, 0, 0, 0), prefix: 8 },
    Pool { network: Ipv4Addr::new(169, 254, 0, 0), prefix: 16 },
    Pool { network: Ipv4Addr::new(224, 0, 0, 0), prefix: 3 },
];
/// The smallest useful pool: 128 sandboxes.
const MAX_PREFIX: u8 = 24;
const MIN_PREFIX: u8 = 8;

/// An IPv4 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    network: Ipv4Addr,
    prefix: u8,
}

impl Pool {
    /// Reads `a.b.c.d/n`.
    ///
    /// # Errors
    /// When it is no network of /8 to /24.
    pub fn parse(text: &str) -> Result<Self, NetError> {
        let bad = |reason: &str| NetError::Pool { pool: text.chars().take(64).collect(), reason: reason.into() };
        let (address, prefix) = text.split_once('/').ok_or_else(|| bad("expected a network such as 10.213.0.0/16"))?;
        let network: Ipv4Addr = address.parse().map_err(|_| bad("expected a network such as 10.213.0.0/16"))?;
        let prefix: u8 = prefix.parse().map_err(|_| bad("expected a network such as 10.213.0.0/16"))?;
        if !(MIN_PREFIX..=MAX_PREFIX).contains(&prefix) {
            return Err(bad("the prefix must be between /8 and /24"));
        }
        let pool = Self { network, prefix };
        if network.to_bits() & !pool.mask() != 0 {
            return Err(bad("it has bits set behind its prefix"));
        }
        Ok(pool)
    }

    /// How many slots have an address here.
    pub fn slots(&self) -> u32 {
        SLOTS.min(1 << (31 - u32::from(self.prefix)))
    }

    /// The host's and the namespace's end of a slot's link.
    pub fn link(&self, slot: u32) -> (Ipv4Addr, Ipv4Addr) {
        let first = self.network.to_bits() + slot * 2;
        (Ipv4Addr::from_bits(first), Ipv4Addr::from_bits(first + 1))
    }

    fn mask(self) -> u32 {
        u32::MAX << (32 - u32::from(self.prefix))
    }

    fn overlaps(self, network: u32, mask: u32) -> bool {
        let common = self.mask() & mask;
        self.network.to_bits() & common == network & common
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

/// The pool to be used on this machine.
///
/// # Errors
/// When the configured one clashes with a route, or every default does.
pub fn choose_pool(configured: Option<&str>) -> Result<Pool, NetError> {
    let table = std::fs::read_to_string("/proc/net/route").map_err(NetError::file("read", "/proc/net/route"))?;
    choose(configured, &table)
}

/// The pool to be used where one was chosen before; `in_use` says whether sandboxes have addresses of that one.
///
/// # Errors
/// As [`choose_pool`]; one that was written down malformed.
pub fn keep_pool(chosen: Option<&str>, configured: Option<&str>, in_use: bool) -> Result<Pool, NetError> {
    let table = std::fs::read_to_string("/proc/net/route").map_err(NetError::file("read", "/proc/net/route"))?;
    keep(chosen, configured, in_use, &table)
}

fn keep(chosen: Option<&str>, configured: Option<&str>, in_use: bool, table: &str) -> Result<Pool, NetError> {
    match (chosen, configured) {
        (Some(chosen), _) if in_use => Pool::parse(chosen),
        (Some(chosen), None) => choose(Some(chosen), table).or_else(|_| choose(None, table)),
        _ => choose(configured, table),
    }
}

fn choose(configured: Option<&str>, table: &str) -> Result<Pool, NetError> {
    let routes = foreign_routes(table);
    let clash = |pool: &Pool| routes.iter().find(|(_, network, mask)| pool.overlaps(*network, *mask));
    match configured {
        Some(text) => {
            let pool = Pool::parse(text)?;
            let reserved = |range: &&Pool| pool.overlaps(range.network.to_bits(), range.mask());
            if let Some(range) = RESERVED.iter().find(reserved) {
                let reason = format!("no host has addresses of {range}; take a private range such as 10.213.0.0/16");
                return Err(NetError::Pool { pool: text.into(), reason });
            }
            match clash(&pool) {
                None => Ok(pool),
                Some((interface, network, mask)) => Err(NetError::Pool {
                    pool: text.into(),
                    reason: format!(
                        "the host has a route to {}/{} over {interface}; choose a range that nothing uses",
                        Ipv4Addr::from_bits(*network),
                        mask.count_ones()
                    ),
                }),
            }
        }
        None => CANDIDATES.iter().find(|pool| clash(pool).is_none()).copied().ok_or_else(|| NetError::Pool {
            pool: "default".into(),
            reason: "every default range is in use on this host; set one with --address-pool".into(),
        }),
    }
}

/// Routes of `/proc/net/route` that are neither the default route nor Atoll's own.
fn foreign_routes(table: &str) -> Vec<(String, u32, u32)> {
    let hex = |word: &str| u32::from_str_radix(word, 16).ok().map(u32::swap_bytes);
    let read = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        Some((words.first()?.to_string(), hex(words.get(1)?)?, hex(words.get(7)?)?))
    };
    let ours = |name: &str| {
        let bytes = name.as_bytes();
        bytes.len() > 9 && name.starts_with("at") && bytes[8] == b'.' && bytes[2..8].iter().all(u8::is_ascii_hexdigit)
    };
    table.lines().skip(1).filter_map(read).filter(|(name, _, mask)| *mask != 0 && !ours(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
        eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
        eth0\t0000D50A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n\
        at012abc.7\t0000D60A\t00000000\t0001\t0\t0\t0\tFEFFFFFF\t0\t0\t0\n";

    #[test]
    fn a_route_of_the_host_moves_the_default_and_refuses_the_configured() {
        assert_eq!(choose(None, TABLE).unwrap().to_string(), "10.214.0.0/16");
        let error = choose(Some("10.213.4.0/24"), TABLE).unwrap_err().to_string();
        assert!(error.contains("eth0") && error.contains("10.213.0.0/16"), "{error}");
        assert_eq!(choose(Some("10.99.0.0/20"), TABLE).unwrap().slots(), 2048);
    }

    #[test]
    fn a_choice_is_kept_while_sandboxes_have_its_addresses_and_until_it_clashes() {
        let kept = |chosen, configured, in_use| keep(chosen, configured, in_use, TABLE).unwrap().to_string();
        assert_eq!(kept(None, None, false), "10.214.0.0/16");
        assert_eq!(kept(Some("10.61.0.0/16"), None, false), "10.61.0.0/16", "not the first that is free");
        assert_eq!(kept(Some("10.213.0.0/16"), None, true), "10.213.0.0/16", "whatever the routes say");
        assert_eq!(kept(Some("10.213.0.0/16"), None, false), "10.214.0.0/16");
        assert_eq!(kept(Some("10.61.0.0/16"), Some("10.99.0.0/20"), true), "10.61.0.0/16");
        assert_eq!(kept(Some("10.61.0.0/16"), Some("10.99.0.0/20"), false), "10.99.0.0/20");
        assert!(keep(Some("nonsense"), None, true, TABLE).is_err());
    }

    #[test]
    fn malformed_pools_are_named() {
        for text in ["127.0.0.0/24", "0.0.0.0/8", "224.5.0.0/24", "169.254.4.0/24", "169.0.0.0/8", "255.0.0.0/8"] {
            let refused = choose(Some(text), TABLE).unwrap_err().to_string();
            assert!(refused.contains("private range"), "{text}: {refused}");
            assert!(keep(Some(text), None, true, TABLE).is_ok(), "{text}: sandboxes have its addresses");
        }
        for text in ["10.0.0.0", "x/16", "10.0.0.0/25", "10.0.0.0/7", "10.0.0.1/16", "10.0.0.0/x"] {
            assert!(matches!(Pool::parse(text), Err(NetError::Pool { .. })), "{text}");
        }
    }
}
