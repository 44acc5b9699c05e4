//! Everything about one sandbox's network that can be decided without I/O.
//!
//! How it works: names and addresses follow from instance and slot; the rules are rendered as nft text, which the golden
//! tests hold. Two tables filter: one inside the namespace (the VMM cannot reach it, it only holds the TAP's descriptor)
//! and one on the host, which drops whatever a namespace's table should have.
//!
//! Deliberately absent: reading or changing anything.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use atoll_domain::{InstanceId, Network};

use crate::{Pool, Slot};

/// The guest's address, the same in every sandbox.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 2);
/// The gateway's address: the TAP in the namespace.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);
/// Length of the prefix that both share.
pub const PREFIX_LEN: u8 = 30;
/// The guest's hardware address.
pub const GUEST_MAC: [u8; 6] = [0x02, 0xfc, 0, 0, 0, 2];
/// The TAP's hardware address. A restored guest's ARP entry for its gateway stays true only because it is the same everywhere.
pub const GATEWAY_MAC: [u8; 6] = [0x02, 0xfc, 0, 0, 0, 1];
/// The TAP's name in the namespace.
pub const TAP: &str = "tap0";

/// What no sandbox reaches: this host, private, shared, link-local (with cloud metadata), test, multicast and reserved ranges.
const NOT_PUBLIC: &str = "0.0.0.0/8, 10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 169.254.0.0/16, 172.16.0.0/12, \
192.0.0.0/24, 192.0.2.0/24, 192.168.0.0/16, 198.18.0.0/15, 198.51.100.0/24, 203.0.113.0/24, 224.0.0.0/3";
/// Connections that one sandbox may have open.
const MAX_CONNECTIONS: u32 = 4096;
/// Packets that one sandbox may send in a second.
const MAX_PACKETS: u32 = 50_000;

/// What all sandboxes of an instance share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetConfig {
    /// The instance, in every name.
    pub instance: InstanceId,
    /// Addresses of the links.
    pub pool: Pool,
}

impl NetConfig {
    /// What the names of the instance's interfaces on the host begin with.
    pub fn interface_prefix(&self) -> String {
        format!("at{}.", self.instance)
    }

    /// The instance's table on the host.
    pub fn table(&self) -> String {
        format!("atoll_{}", self.instance)
    }

    /// What the names of the instance's namespaces begin with.
    pub fn netns_prefix(&self) -> String {
        format!("at-{}-", self.instance)
    }

    /// The namespace without any interface, shared by all VMMs of the instance.
    pub fn void_netns(&self) -> String {
        format!("at-{}-void", self.instance)
    }
}

/// One sandbox's network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetPlan {
    /// The claimed number.
    pub slot: Slot,
    /// Name of the namespace.
    pub netns: String,
    /// The host's end of the veth pair.
    pub interface: String,
    /// Its address.
    pub host_address: Ipv4Addr,
    /// The namespace's end's address, by which the host knows the sandbox.
    pub netns_address: Ipv4Addr,
    /// uid and gid of keeper and VMM.
    pub uid: u32,
    /// Whether the guest reaches anything besides its gateway.
    pub network: Network,
    /// The table inside the namespace, as nft text.
    pub rules: String,
}

impl NetPlan {
    /// Where the namespace is bound, so that `ip netns` sees it too.
    pub fn netns_path(&self) -> PathBuf {
        netns_path(&self.netns)
    }
}

pub(crate) fn netns_path(name: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(name)
}

/// The plan of a slot.
pub fn plan(config: &NetConfig, slot: Slot, network: Network) -> NetPlan {
    let (host_address, netns_address) = config.pool.link(slot.0);
    NetPlan {
        slot,
        netns: format!("{}{}", config.netns_prefix(), slot.0),
        interface: format!("{}{}", config.interface_prefix(), slot.0),
        host_address,
        netns_address,
        uid: slot.uid(),
        network,
        rules: match network {
            Network::Internet => internet_rules(),
            Network::None => closed_rules(),
        },
    }
}

/// Frames that claim another sender than the guest are dropped wherever they go.
fn from_guest_only() -> String {
    format!("iifname \"{TAP}\" ip saddr != {GUEST} drop\n    iifname \"{TAP}\" ether saddr != {} drop", mac(GUEST_MAC))
}

/// A restored guest still has connections that came through the keeper of its last life. Their segments get the answer that
/// tells it so; without one it would hold them for a quarter of an hour.
fn reset_stale() -> String {
    format!(
        "iifname \"{TAP}\" ip daddr {GATEWAY} tcp flags & (syn | rst) == 0x0 limit rate 200/second burst 50 packets reject with tcp reset"
    )
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|b| format!("{b:02x}")).join(":")
}

fn closed_rules() -> String {
    format!(
        "table inet atoll {{
  chain input {{
    type filter hook input priority filter; policy drop;
    iifname \"lo\" accept
    {spoof}
    iifname \"{TAP}\" ct state established accept
    {stale}
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
  }}
}}
",
        spoof = from_guest_only(),
        stale = reset_stale()
    )
}

fn internet_rules() -> String {
    format!(
        "table inet atoll {{
  set connections {{
    type ipv4_addr
    size 16
    flags dynamic
  }}
  chain input {{
    type filter hook input priority filter; policy drop;
    iifname \"lo\" accept
    {spoof}
    iifname \"{TAP}\" ct state established accept
    {stale}
    iifname \"{TAP}\" ip daddr {GATEWAY} udp dport 53 limit rate 2000/second burst 500 packets accept
    iifname \"{TAP}\" ip daddr {GATEWAY} tcp dport 53 limit rate 200/second burst 50 packets reject with tcp reset
    iifname \"{TAP}\" ip daddr {GATEWAY} icmp type echo-request limit rate 10/second accept
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
    meta nfproto ipv6 drop
    iifname \"eth0\" oifname \"{TAP}\" ct state established,related accept
    iifname \"{TAP}\" oifname \"eth0\" jump egress
  }}
  chain egress {{
    {spoof}
    limit rate over {MAX_PACKETS}/second burst 5000 packets drop
    ct state established,related accept
    ct state invalid drop
    ip daddr {{ {NOT_PUBLIC} }} reject with icmp type admin-prohibited
    udp dport {{ 53, 853 }} reject with icmp type admin-prohibited
    tcp dport {{ 53, 853 }} reject with tcp reset
    add @connections {{ ip saddr ct count over {MAX_CONNECTIONS} }} drop
    accept
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname \"eth0\" ip saddr {GUEST} masquerade
  }}
}}
",
        spoof = from_guest_only(),
        stale = reset_stale()
    )
}

/// The instance's table on the host, as nft text that replaces an older one in one step.
pub fn host_rules(config: &NetConfig) -> String {
    let (table, prefix, pool) = (config.table(), config.interface_prefix(), config.pool);
    format!(
        "table inet {table}
delete table inet {table}
table inet {table} {{
  chain input {{
    type filter hook input priority filter - 10; policy accept;
    iifname \"{prefix}*\" fib daddr type local drop
    iifname \"{prefix}*\" drop
  }}
  chain forward {{
    type filter hook forward priority filter - 10; policy accept;
    iifname \"{prefix}*\" jump from_sandbox
    oifname \"{prefix}*\" ct state established,related accept
    oifname \"{prefix}*\" drop
  }}
  chain from_sandbox {{
    meta nfproto ipv6 drop
    oifname \"at*\" drop
    ip saddr != {pool} drop
    ip daddr {{ {NOT_PUBLIC} }} drop
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    iifname \"{prefix}*\" ip saddr {pool} masquerade
  }}
}}
"
    )
}
