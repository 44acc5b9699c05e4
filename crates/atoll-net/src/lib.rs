//! The network of sandboxes: a namespace, a TAP and a veth pair each, with NAT and a filter.
//!
//! How it works: a sandbox claims a [`Slot`] of the machine; [`plan`] derives every name, address and rule from it without
//! I/O; [`apply`] carries the plan out by netlink on a thread of its own (a namespace is a property of a thread) and
//! [`remove`] undoes it, each any number of times. The guest sees the same addresses in every namespace, so that a
//! snapshot resumes anywhere.
//!
//! Deliberately absent: packets (nothing here forwards any), DNS (the keeper answers it), networks without root.

#![expect(unsafe_code, reason = "netlink attributes, TAP ioctls and libnftables are reached through libc")]

mod apply;
mod error;
mod foreign;
mod host;
mod leftovers;
mod netlink;
mod nft;
mod plan;
mod pool;
mod resolvers;
mod slots;
mod thread;

pub use apply::{apply, remove};
pub use error::NetError;
pub use foreign::{ForeignDrop, foreign_drops, parse_foreign_drops};
pub use host::{host_setup, host_teardown, remove_void_namespace, void_namespace};
pub use leftovers::{Leftover, leftovers, remove_leftover};
pub use plan::{GATEWAY, GATEWAY_MAC, GUEST, GUEST_MAC, NetConfig, NetPlan, PREFIX_LEN, TAP, host_rules, plan};
pub use pool::{Pool, choose_pool, keep_pool};
pub use resolvers::{host_resolvers, parse_resolv_conf};
pub use slots::{SLOTS, Slot, Slots};
