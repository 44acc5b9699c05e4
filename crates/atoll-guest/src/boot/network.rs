//! The network: loopback, and `eth0` with the address that every sandbox has.
//!
//! How it works: addresses are the same in every sandbox, so that a snapshot resumes anywhere. They are set through
//! ioctls: a guest image need not hold `ip`.
//!
//! Deliberately absent: DHCP, and IPv6 on `eth0`: the host drops it, and programs would try it first.
#![expect(unsafe_code, reason = "the interface ioctls have no safe wrapper")]

use std::{
    ffi::CStr,
    fs, io,
    net::Ipv4Addr,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use super::{BootError, Step};
use crate::console;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 2);
const MASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 252);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);
const MAC: [u8; 6] = [0x02, 0xfc, 0, 0, 0, 2];
/// The kernel's constants, in the widths of its structures.
#[expect(clippy::cast_possible_truncation, reason = "small constants")]
const UP: libc::c_short = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
#[expect(clippy::cast_possible_truncation, reason = "a small constant")]
const INET: libc::sa_family_t = libc::AF_INET as libc::sa_family_t;
const LOOPBACK: &CStr = c"lo";
const ETHERNET: &CStr = c"eth0";
/// How long the network device may take to appear.
const PATIENCE: Duration = Duration::from_secs(5);

/// Brings the network up.
pub(crate) fn up() -> Result<(), BootError> {
    let socket = socket().step("opening a socket")?;
    flags_up(&socket, LOOPBACK).step("bringing lo up")?;
    if !appeared("/sys/class/net/eth0") {
        console::say("no network device: the machine has only its loopback");
        return Ok(());
    }
    // Without IPv6 in the kernel there is nothing to switch off.
    let _ = fs::write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "1");
    set_mac(&socket).step("setting the MAC of eth0")?;
    set_address(&socket, libc::SIOCSIFADDR, ADDRESS).step("setting the address of eth0")?;
    set_address(&socket, libc::SIOCSIFNETMASK, MASK).step("setting the netmask of eth0")?;
    flags_up(&socket, ETHERNET).step("bringing eth0 up")?;
    default_route(&socket).step("setting the default route")
}

fn appeared(path: &str) -> bool {
    let until = Instant::now() + PATIENCE;
    while !Path::new(path).exists() {
        if Instant::now() > until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

fn socket() -> io::Result<OwnedFd> {
    // SAFETY: a system call without pointers; the descriptor is new.
    unsafe {
        let raw = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(raw))
    }
}

fn request(name: &CStr) -> libc::ifreq {
    // SAFETY: all zeroes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (target, byte) in request.ifr_name.iter_mut().zip(name.to_bytes()) {
        *target = byte.cast_signed();
    }
    request
}

fn ioctl<T>(socket: &OwnedFd, number: libc::Ioctl, argument: &mut T) -> io::Result<()> {
    // SAFETY: callers pass the structure that `number` takes.
    if unsafe { libc::ioctl(socket.as_raw_fd(), number, std::ptr::from_mut(argument)) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn flags_up(socket: &OwnedFd, name: &CStr) -> io::Result<()> {
    let mut request = request(name);
    ioctl(socket, libc::SIOCGIFFLAGS, &mut request)?;
    // SAFETY: the kernel has just filled the flags in.
    unsafe {
        request.ifr_ifru.ifru_flags |= UP;
    }
    ioctl(socket, libc::SIOCSIFFLAGS, &mut request)
}

fn set_mac(socket: &OwnedFd) -> io::Result<()> {
    let mut request = request(ETHERNET);
    let mut data = [0; 14];
    for (target, byte) in data.iter_mut().zip(MAC) {
        *target = byte.cast_signed();
    }
    request.ifr_ifru.ifru_hwaddr = libc::sockaddr { sa_family: libc::ARPHRD_ETHER, sa_data: data };
    ioctl(socket, libc::SIOCSIFHWADDR, &mut request)
}

fn address(address: Ipv4Addr) -> libc::sockaddr {
    let mut data = [0; 14];
    for (target, byte) in data[2..].iter_mut().zip(address.octets()) {
        *target = byte.cast_signed();
    }
    libc::sockaddr { sa_family: INET, sa_data: data }
}

fn set_address(socket: &OwnedFd, number: libc::Ioctl, value: Ipv4Addr) -> io::Result<()> {
    let mut request = request(ETHERNET);
    request.ifr_ifru.ifru_addr = address(value);
    ioctl(socket, number, &mut request)
}

fn default_route(socket: &OwnedFd) -> io::Result<()> {
    // SAFETY: all zeroes are a valid rtentry.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = address(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = address(Ipv4Addr::UNSPECIFIED);
    route.rt_gateway = address(GATEWAY);
    route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
    match ioctl(socket, libc::SIOCADDRT, &mut route) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        result => result,
    }
}
