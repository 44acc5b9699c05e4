//! What a guest reaches and what it does not, each against a listener that answers the host.

use std::net::IpAddr;
use std::sync::Arc;

use atoll_api::CreateSandboxRequest;

use crate::guest::{Guest, small};
use crate::world::{BEYOND, OWN, PORT, PUBLIC, World, listen_beside};

/// Tries to connect from inside; prints what came, or why nothing did.
pub(crate) fn connect(address: &str, port: u16) -> String {
    format!(
        "import socket\n\
         try:\n s = socket.create_connection(('{address}', {port}), timeout=4); s.settimeout(4); print(s.recv(6).decode().strip())\n\
         except OSError as e:\n print('no:', type(e).__name__, e)\n"
    )
}

/// Sends a datagram from inside; prints what came back.
fn datagram(address: &str, port: u16) -> String {
    format!(
        "import socket\n\
         s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(3)\n\
         try:\n s.sendto(b'ping-me', ('{address}', {port})); print(s.recv(100).decode())\n\
         except OSError as e:\n print('no:', type(e).__name__)\n"
    )
}

/// Gives the guest an address and a way out by IPv6, so that it is not its own stack that says no.
async fn use_ipv6(guest: &Guest) {
    let line = "set -e; cd /proc/sys/net/ipv6/conf; echo 0 > all/disable_ipv6; echo 0 > eth0/disable_ipv6\n\
                ip -6 addr add fd78::2/64 dev eth0 nodad\n\
                ip -6 neigh replace fd78::1 lladdr 02:fc:00:00:00:01 dev eth0 nud permanent\n\
                ip -6 route add default via fd78::1 dev eth0\n\
                ip -6 route";
    let routes = guest.sh(line).await;
    assert!(routes.contains("default via fd78::1 dev eth0"), "{routes}");
}

async fn assert_unreached(guest: &Guest, address: &str) {
    let said = guest.python(&connect(address, PORT)).await;
    // Over IPv6 the guest has a route, so its own kernel refuses nothing: what it sends is never answered.
    let silence = if address.contains(':') { "no: TimeoutError" } else { "no:" };
    assert!(said.starts_with(silence), "the guest at {address}: {said}");
}

async fn guest(world: &World, network: &str) -> Guest {
    let server = Arc::clone(world.server.as_ref().unwrap());
    let request = CreateSandboxRequest { network: Some(network.into()), ..small() };
    let client = server.local();
    Guest::with(server, client, &request).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_reaches_public_addresses_and_nothing_else() {
    let world = World::start();
    for address in OWN.iter().chain(&BEYOND).chain([&PUBLIC]) {
        assert!(world.host_reaches(address).await, "the host itself does not reach {address}");
    }
    let (one, other) = tokio::join!(guest(&world, "internet"), guest(&world, "internet"));
    assert_eq!(one.python(&connect(PUBLIC, PORT)).await, "hello");
    assert_eq!(one.python(&datagram(PUBLIC, 9053)).await, "ping-me");

    // Names go through the keeper, though the host's resolver listens on its loopback.
    let name = "import socket; print(socket.gethostbyname('anything.example'))";
    assert_eq!(one.python(name).await, PUBLIC);
    assert!(*world.asked.lock().unwrap() > 0);
    assert_eq!(one.python(&connect("anything.example", PORT)).await, "hello");
    for port in [53, 853] {
        let said = one.python(&connect(PUBLIC, port)).await;
        assert!(said.starts_with("no:"), "a resolver of the guest's own choice on {port}: {said}");
    }
    assert!(one.python(&datagram(PUBLIC, 53)).await.starts_with("no:"));

    // In the namespaces of both somebody listens and answers the host.
    let mut listening = Vec::new();
    let links = [&one, &other].map(|guest| guest.sandbox.host_ip.clone().unwrap());
    for (guest, link) in [&one, &other].into_iter().zip(&links) {
        assert!(!world.host_reaches(link).await, "{link} answers before somebody listens there");
        listening.push(listen_beside(guest, PORT).await);
        assert!(world.host_reaches(link).await, "the host itself does not reach {link}");
    }

    // The host on each of its addresses, what lies beyond it in private, the gateway, its own link and its neighbour's.
    use_ipv6(&one).await;
    let own = world.host_addresses();
    assert!(own.len() > OWN.len() + 1, "the links to the sandboxes are among them: {own:?}");
    let links = links.iter().map(String::as_str);
    for address in own.iter().map(String::as_str).chain(BEYOND).chain(["172.16.0.1"]).chain(links) {
        if !address.parse::<IpAddr>().unwrap().is_loopback() {
            assert_unreached(&one, address).await;
        }
    }

    assert_spoofed_packets_stay(&world, &one).await;
    one.end().await;
    other.end().await;
}

/// Packets with a made-up source do not leave.
async fn assert_spoofed_packets_stay(world: &World, guest: &Guest) {
    let spoof = "import socket, struct\n\
                 s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)\n\
                 for src in ('10.77.0.2', '9.9.9.9', '172.16.0.9'):\n \
                 ip = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 32, 1, 0, 64, 17, 0, socket.inet_aton(src), socket.inet_aton('1.2.3.4'))\n \
                 s.sendto(ip + struct.pack('!HHHH', 4000, 9053, 12, 0) + b'fake', ('1.2.3.4', 0))\n\
                 print('sent')";
    assert_eq!(guest.python(spoof).await, "sent");
    // What was sent before this answer was sent before it arrived.
    assert_eq!(guest.python(&datagram(PUBLIC, 9053)).await, "ping-me");
    let seen: Vec<IpAddr> = world.seen.lock().unwrap().iter().copied().collect();
    assert_eq!(seen, ["1.2.3.1".parse::<IpAddr>().unwrap()], "only the host's own address was seen outside");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_network_a_guest_reaches_nothing_and_still_works() {
    let world = World::start();
    let guest = guest(&world, "none").await;
    use_ipv6(&guest).await;
    for address in OWN.iter().chain(&BEYOND).chain([&PUBLIC, &"172.16.0.1"]) {
        assert_unreached(&guest, address).await;
    }
    assert!(guest.python(&datagram(PUBLIC, 9053)).await.starts_with("no:"));
    let asked = *world.asked.lock().unwrap();
    let resolved = guest.exec(&["python3", "-c", "import socket; socket.gethostbyname('anything.example')"]).await;
    assert_ne!(resolved.exit_code, 0);
    assert_eq!(*world.asked.lock().unwrap(), asked, "no question went out");
    guest.write("/tmp/x", b"still here").await.unwrap();
    assert_eq!(guest.read("/tmp/x").await.unwrap(), b"still here");
    guest.end().await;
}
