//! The few rtnetlink requests that a sandbox's network needs, and the TAP.
//!
//! How it works: one request, one acknowledgement, on a socket that belongs to the namespace in which it was opened. Messages
//! are written by hand: header, fixed part, attributes, all aligned to four bytes.
//!
//! Deliberately absent: dumps, events, IPv6.

use std::ffi::CString;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use crate::NetError;

const HEADER: usize = 16;
/// What `struct ifinfomsg` takes.
const LINK: usize = 16;
const VETH_INFO_PEER: u16 = 1;
const ATTRIBUTE_NESTED: u16 = 0x8000;

/// A socket to rtnetlink in the namespace of the thread that opened it.
pub(crate) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

/// A message under construction.
struct Message {
    bytes: Vec<u8>,
}

impl Message {
    fn new(kind: u16, flags: i32, fixed: &[u8]) -> Self {
        let flags = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags).unwrap_or_default();
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(fixed);
        Self { bytes }
    }

    fn attribute(mut self, kind: u16, data: &[u8]) -> Self {
        let length = u16::try_from(4 + data.len()).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(data);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    /// An attribute whose content `fill` appends.
    fn nest(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        let mut filled = fill(self);
        let length = u16::try_from(filled.bytes.len() - start).unwrap_or(u16::MAX);
        filled.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        filled.bytes[start + 2..start + 4].copy_from_slice(&(kind | ATTRIBUTE_NESTED).to_ne_bytes());
        filled
    }

    fn raw(mut self, data: &[u8]) -> Self {
        self.bytes.extend_from_slice(data);
        self
    }
}

fn name(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

/// `struct ifinfomsg` of an interface, to be set up or left.
fn link(index: u32, up: bool) -> [u8; LINK] {
    let mut fixed = [0; LINK];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    if up {
        let flag = libc::IFF_UP.to_ne_bytes();
        fixed[8..12].copy_from_slice(&flag);
        fixed[12..16].copy_from_slice(&flag);
    }
    fixed
}

impl Netlink {
    /// Opens a socket in this thread's namespace.
    pub(crate) fn open() -> Result<Self, NetError> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: socket() takes no pointers.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) };
        if fd < 0 {
            return Err(NetError::step("open a netlink socket")(io::Error::last_os_error()));
        }
        // SAFETY: the descriptor is fresh and owned by nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { socket, sequence: 0 })
    }

    /// Sets an interface up, with a hardware address if one is given.
    pub(crate) fn up(&mut self, interface: &str, mac: Option<[u8; 6]>) -> Result<(), NetError> {
        let index = index_of(interface)?;
        if let Some(mac) = mac {
            let message = Message::new(libc::RTM_NEWLINK, 0, &link(index, false)).attribute(libc::IFLA_ADDRESS, &mac);
            self.request(message).map_err(NetError::step(format!("set the address of {interface}")))?;
        }
        let message = Message::new(libc::RTM_NEWLINK, 0, &link(index, true));
        self.request(message).map_err(NetError::step(format!("set {interface} up")))
    }

    /// Gives an interface an address.
    pub(crate) fn address(&mut self, interface: &str, address: Ipv4Addr, prefix: u8) -> Result<(), NetError> {
        let index = index_of(interface)?.to_ne_bytes();
        let fixed = [2, prefix, 0, 0, index[0], index[1], index[2], index[3]];
        let octets = address.octets();
        let message = Message::new(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_REPLACE, &fixed)
            .attribute(libc::IFA_LOCAL, &octets)
            .attribute(libc::IFA_ADDRESS, &octets);
        self.request(message).map_err(NetError::step(format!("give {interface} the address {address}")))
    }

    /// Notes a neighbour for good, so that it is never asked for.
    pub(crate) fn neighbour(&mut self, interface: &str, address: Ipv4Addr, mac: [u8; 6]) -> Result<(), NetError> {
        let index = index_of(interface)?.to_ne_bytes();
        let permanent = libc::NUD_PERMANENT.to_ne_bytes();
        let fixed = [2, 0, 0, 0, index[0], index[1], index[2], index[3], permanent[0], permanent[1], 0, 0];
        let message = Message::new(libc::RTM_NEWNEIGH, libc::NLM_F_CREATE | libc::NLM_F_REPLACE, &fixed)
            .attribute(libc::NDA_DST, &address.octets())
            .attribute(libc::NDA_LLADDR, &mac);
        self.request(message).map_err(NetError::step(format!("note the neighbour {address}")))
    }

    /// Makes a veth pair: `inner` in this namespace, `outer` in the one that `outer_netns` names.
    pub(crate) fn veth(&mut self, inner: &str, outer: &str, outer_netns: RawFd) -> Result<(), NetError> {
        let peer = |message: Message| {
            message
                .raw(&link(0, false))
                .attribute(libc::IFLA_IFNAME, &name(outer))
                .attribute(libc::IFLA_NET_NS_FD, &outer_netns.to_ne_bytes())
        };
        let message = Message::new(libc::RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &link(0, false))
            .attribute(libc::IFLA_IFNAME, &name(inner))
            .nest(libc::IFLA_LINKINFO, |message| {
                let message = message.attribute(libc::IFLA_INFO_KIND, b"veth");
                message.nest(libc::IFLA_INFO_DATA, |message| message.nest(VETH_INFO_PEER, peer))
            });
        self.request(message).map_err(NetError::step(format!("make the veth pair {inner}, {outer}")))
    }

    /// The default route.
    pub(crate) fn default_route(&mut self, gateway: Ipv4Addr) -> Result<(), NetError> {
        let fixed = [
            2,
            0,
            0,
            0,
            libc::RT_TABLE_MAIN,
            libc::RTPROT_BOOT,
            libc::RT_SCOPE_UNIVERSE,
            libc::RTN_UNICAST,
            0,
            0,
            0,
            0,
        ];
        let message = Message::new(libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_REPLACE, &fixed)
            .attribute(libc::RTA_GATEWAY, &gateway.octets());
        self.request(message).map_err(NetError::step(format!("set the default route to {gateway}")))
    }

    /// Removes an interface; one that is not there is no error.
    pub(crate) fn delete(&mut self, interface: &str) -> Result<(), NetError> {
        let message =
            Message::new(libc::RTM_DELLINK, 0, &link(0, false)).attribute(libc::IFLA_IFNAME, &name(interface));
        match self.request(message) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            other => other.map_err(NetError::step(format!("remove {interface}"))),
        }
    }

    fn request(&mut self, mut message: Message) -> io::Result<()> {
        self.sequence += 1;
        let length = u32::try_from(message.bytes.len()).unwrap_or(u32::MAX);
        message.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        message.bytes[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        let bytes = &message.bytes;
        // SAFETY: the pointer and length describe a live buffer.
        uninterrupted(|| unsafe { libc::send(self.socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) })?;
        let mut answer = [0u8; 8192];
        loop {
            let (fd, room) = (self.socket.as_raw_fd(), answer.len());
            // SAFETY: the pointer and length describe a live buffer.
            let n = uninterrupted(|| unsafe { libc::recv(fd, answer.as_mut_ptr().cast(), room, 0) })?;
            let word = |at: usize| answer.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes);
            if n < HEADER + 4 || word(8) != Some(self.sequence) {
                continue;
            }
            let kind = i32::from(u16::from_ne_bytes([answer[4], answer[5]]));
            if kind == libc::NLMSG_ERROR {
                let code = word(HEADER).map_or(0, u32::cast_signed);
                return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
            }
        }
    }
}

/// A call that a signal cut short before anything was done is made again.
fn uninterrupted(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        match usize::try_from(call()) {
            Ok(done) => return Ok(done),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

/// The index of an interface in this thread's namespace.
fn index_of(interface: &str) -> Result<u32, NetError> {
    let text = CString::new(interface).map_err(|e| NetError::step("name an interface")(e.into()))?;
    // SAFETY: the pointer is a NUL-terminated string that outlives the call.
    match unsafe { libc::if_nametoindex(text.as_ptr()) } {
        0 => Err(NetError::step(format!("find {interface}"))(io::Error::last_os_error())),
        index => Ok(index),
    }
}

/// Makes a TAP that stays when its descriptor is closed.
pub(crate) fn persistent_tap(interface: &str) -> Result<(), NetError> {
    let path = "/dev/net/tun";
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path);
    let file = file.map_err(NetError::file("open", path))?;
    // SAFETY: an all-zero ifreq is valid; it is plain data.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = i16::try_from(flags).unwrap_or_default();
    // SAFETY: TUNSETIFF reads and writes the ifreq, which lives across the call.
    let made = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    // SAFETY: TUNSETPERSIST takes its argument by value.
    if made < 0 || unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETPERSIST, 1) } < 0 {
        return Err(NetError::step(format!("make the TAP {interface}"))(io::Error::last_os_error()));
    }
    Ok(())
}
