//! Carrying a plan out, and undoing it.
//!
//! How it works: on a thread of its own a namespace is made and filled from inside (loopback, TAP, veth, route, rules), then
//! bound to its name; the host's end of the pair is set up last, so that nothing flows before the rules are there. Both
//! functions may be called again after any failure.
//!
//! Deliberately absent: the order among sandboxes; each plan touches only its own names.

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::path::Path;

use atoll_domain::Network;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::netlink::{Netlink, persistent_tap};
use crate::plan::netns_path;
use crate::thread::{current, enter, enter_new, need_root, on_own_thread};
use crate::{GATEWAY, GATEWAY_MAC, GUEST, GUEST_MAC, NetError, NetPlan, PREFIX_LEN, TAP, nft};

const INNER: &str = "eth0";

/// Makes the namespace, the TAP, the veth pair and the rules of a plan. What an earlier try left is replaced.
///
/// # Errors
/// The step that failed; call [`remove`] then.
pub fn apply(plan: &NetPlan) -> Result<(), NetError> {
    need_root()?;
    remove(plan)?;
    on_own_thread(|| {
        let host = current()?;
        enter_new()?;
        write_sysctl("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1")?;
        write_sysctl("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")?;
        nft::load(&plan.rules)?;
        let mut inside = Netlink::open()?;
        inside.up("lo", None)?;
        persistent_tap(TAP)?;
        inside.up(TAP, Some(GATEWAY_MAC))?;
        inside.address(TAP, GATEWAY, PREFIX_LEN)?;
        inside.neighbour(TAP, GUEST, GUEST_MAC)?;
        if plan.network == Network::Internet {
            inside.veth(INNER, &plan.interface, host.as_raw_fd())?;
            inside.up(INNER, None)?;
            inside.address(INNER, plan.netns_address, 31)?;
            write_sysctl("/proc/sys/net/ipv4/ip_forward", "1")?;
        }
        bind(&plan.netns)?;
        if plan.network == Network::Internet {
            enter(&host)?;
            let mut outside = Netlink::open()?;
            outside.up(&plan.interface, None)?;
            outside.address(&plan.interface, plan.host_address, 31)?;
            write_sysctl(&format!("/proc/sys/net/ipv4/conf/{}/rp_filter", plan.interface), "1")?;
            // The route needs the other end to be up.
            inside.default_route(plan.host_address)?;
        }
        Ok(())
    })
}

/// Removes what [`apply`] made; what is not there is no error.
///
/// # Errors
/// The step that failed.
pub fn remove(plan: &NetPlan) -> Result<(), NetError> {
    need_root()?;
    // Deleted by name: a closed connection can pin the namespace, and with it the pair, for seconds.
    remove_interface(&plan.interface)?;
    remove_netns(&plan.netns)
}

pub(crate) fn remove_interface(interface: &str) -> Result<(), NetError> {
    on_own_thread(|| Netlink::open()?.delete(interface))
}

/// Binds this thread's namespace to a name.
pub(crate) fn bind(name: &str) -> Result<(), NetError> {
    let path = netns_path(name);
    let parent = Path::new("/run/netns");
    fs::create_dir_all(parent).map_err(NetError::file("create", parent))?;
    File::create(&path).map_err(NetError::file("create", &path))?;
    let source = Some("/proc/thread-self/ns/net");
    mount(source, &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(|errno| NetError::file("bind a namespace to", &path)(errno.into()))
}

/// Removes a named namespace; one that is not there is no error.
pub(crate) fn remove_netns(name: &str) -> Result<(), NetError> {
    let path = netns_path(name);
    loop {
        // EINVAL: not mounted (any more); a crash may have mounted twice.
        match umount2(&path, MntFlags::MNT_DETACH) {
            Ok(()) => {}
            Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => break,
            Err(errno) => return Err(NetError::file("unmount", &path)(errno.into())),
        }
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(NetError::file("remove", &path)),
    }
}

pub(crate) fn write_sysctl(path: &str, value: &str) -> Result<(), NetError> {
    match fs::write(path, value) {
        // A kernel without IPv6 has nothing to switch off.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && path.contains("/ipv6/") => Ok(()),
        other => other.map_err(NetError::file("write", path)),
    }
}
