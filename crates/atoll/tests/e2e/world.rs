//! A small internet: what a host with its network sees, made of two namespaces, so that nothing of the real machine plays a part.
//!
//! How it works: Atoll runs in one namespace (its addresses are public, private and IPv6, its resolv.conf names a loopback resolver), a
//! second one stands for everything beyond: a public address, private and shared ranges, cloud metadata. Every listener is
//! real and is first asked from the host's namespace, so that "the guest cannot" means something.
//!
//! Deliberately absent: routes or addresses in the machine's own namespace.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use tempfile::NamedTempFile;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

use crate::guest::Guest;
use crate::server::{Data, Server, binary};

/// Where every listener listens.
pub(crate) const PORT: u16 = 8080;
/// The public address beyond.
pub(crate) const PUBLIC: &str = "1.2.3.4";
/// Other addresses beyond that the host reaches and no guest may.
pub(crate) const BEYOND: [&str; 5] = ["10.77.0.1", "192.168.77.1", "169.254.169.254", "100.64.7.1", "fd77::1"];
/// The host's own.
pub(crate) const OWN: [&str; 3] = ["1.2.3.1", "10.77.0.2", "fd77::2"];
const GREETING: &[u8] = b"hello\n";
const LIMIT: Duration = Duration::from_secs(10);

/// The namespaces, what listens in them, and the Atoll between.
pub(crate) struct World {
    host: String,
    beyond: String,
    pub(crate) server: Option<Arc<Server>>,
    /// Sources of the datagrams that came to the public address.
    pub(crate) seen: Arc<Mutex<BTreeSet<IpAddr>>>,
    /// Names that the resolver was asked for, as raw questions.
    pub(crate) asked: Arc<Mutex<usize>>,
    services: JoinSet<()>,
    resolv: NamedTempFile,
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.expect("these tests need `ip`: apt-get install iproute2");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs something in a namespace, by its name or its absolute path, on a thread of its own.
fn inside<T: Send + 'static>(namespace: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let path = Path::new("/run/netns").join(namespace);
    let entered = std::thread::spawn(move || {
        setns(File::open(path).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
        work()
    });
    entered.join().unwrap()
}

impl World {
    /// Makes it and starts Atoll in it.
    pub(crate) fn start() -> Self {
        let tag = atoll_testkit::ids::sandbox().as_str()[20..].to_owned();
        let (host, beyond) = (format!("e2e-{tag}-host"), format!("e2e-{tag}-net"));
        let mut resolv = NamedTempFile::new().unwrap();
        resolv.write_all(b"nameserver 127.0.0.1\n").unwrap();
        let mut world = Self {
            host,
            beyond,
            server: None,
            seen: Arc::default(),
            asked: Arc::default(),
            services: JoinSet::new(),
            resolv,
        };
        world.wire();
        world.listen();
        let script = "mount --bind \"$1\" /etc/resolv.conf && shift && exec \"$@\"";
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", world.host));
        command.args(["unshare", "--mount", "--propagation", "slave", "sh", "-c", script, "sh"]);
        command.arg(world.resolv.path()).arg(binary());
        world.server = Some(Arc::new(Server::start_as(Arc::new(Data::new()), command)));
        world
    }

    fn wire(&self) {
        let (host, beyond) = (&self.host, &self.beyond);
        ip(&format!("netns add {host}"));
        ip(&format!("netns add {beyond}"));
        ip(&format!("-n {host} link set lo up"));
        ip(&format!("-n {beyond} link set lo up"));
        ip(&format!("-n {host} link add up0 type veth peer name down0 netns {beyond}"));
        for address in ["1.2.3.1/24", "10.77.0.2/24", "fd77::2/64"] {
            ip(&format!("-n {host} addr add {address} dev up0{}", nodad(address)));
        }
        for address in
            ["1.2.3.4/24", "10.77.0.1/24", "192.168.77.1/32", "169.254.169.254/32", "100.64.7.1/32", "fd77::1/64"]
        {
            ip(&format!("-n {beyond} addr add {address} dev down0{}", nodad(address)));
        }
        ip(&format!("-n {host} link set up0 up"));
        ip(&format!("-n {beyond} link set down0 up"));
        ip(&format!("-n {host} route add default via {PUBLIC}"));
    }

    /// Everything that listens; the sockets belong to their namespace, the tasks to the test's runtime.
    fn listen(&mut self) {
        for namespace in [self.host.clone(), self.beyond.clone()] {
            let ports = if namespace == self.beyond { vec![PORT, 53, 853] } else { vec![PORT] };
            for port in ports {
                // One socket for both families.
                let listener = inside(&namespace, move || TcpListener::bind(("::", port)).unwrap());
                self.services.spawn(greet(listener));
            }
        }
        for port in [53, 9053] {
            let socket = inside(&self.beyond.clone(), move || UdpSocket::bind(("0.0.0.0", port)).unwrap());
            self.services.spawn(echo(socket, Arc::clone(&self.seen)));
        }
        let resolver = inside(&self.host.clone(), || UdpSocket::bind("127.0.0.1:53").unwrap());
        self.services.spawn(resolve(resolver, Arc::clone(&self.asked)));
    }

    /// Whether the host itself gets an answer from there.
    pub(crate) async fn host_reaches(&self, address: &str) -> bool {
        let target = SocketAddr::new(address.parse().unwrap(), PORT);
        let host = self.host.clone();
        greeted(move || inside(&host, move || TcpStream::connect_timeout(&target, LIMIT))).await
    }

    /// Every address that the host has now, those of its links to sandboxes too.
    pub(crate) fn host_addresses(&self) -> Vec<String> {
        let output = Command::new("ip").args(["-n", &self.host, "-br", "addr"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let words = text.lines().flat_map(|line| line.split_whitespace().skip(2));
        let addresses = words.filter_map(|word| word.split('/').next()).map(str::to_owned);
        addresses.filter(|address| address.parse::<IpAddr>().is_ok() && !address.starts_with("fe80")).collect()
    }
}

fn nodad(address: &str) -> &'static str {
    if address.contains(':') { " nodad" } else { "" }
}

/// Listens in a sandbox's own namespace until it is dropped, and opens the way between it and the host, so that an answer is there to be
/// had: the host's side is let in there, and what it answers is let in here.
pub(crate) async fn listen_beside(guest: &Guest, port: u16) -> JoinSet<()> {
    let facts = guest.server.local().sandbox(guest.id()).await.unwrap().host.unwrap();
    let (name, interface) = (facts.namespace.unwrap(), facts.interface.unwrap());
    let instance = name.split('-').nth(1).unwrap();
    // By way of the server, which may have a network and mounts of its own.
    let server = format!("/proc/{}", guest.server.pid());
    let namespace = format!("{server}/root/run/netns/{name}");
    nft(&namespace, &format!("insert rule inet atoll input iifname eth0 tcp dport {port} accept"));
    let answers = format!(
        "insert rule inet atoll_{instance} input iifname {interface} tcp sport {port} ct state established accept"
    );
    nft(&format!("{server}/ns/net"), &answers);
    let listener = inside(&namespace, move || TcpListener::bind(("0.0.0.0", port)).unwrap());
    let mut listening = JoinSet::new();
    listening.spawn(greet(listener));
    listening
}

fn nft(namespace: &str, rule: &str) {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={namespace}")).arg("nft").args(rule.split(' '));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{rule}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Whether the machine's own namespace gets an answer from there.
pub(crate) async fn machine_reaches(address: &str, port: u16) -> bool {
    let target = SocketAddr::new(address.parse().unwrap(), port);
    greeted(move || TcpStream::connect_timeout(&target, LIMIT)).await
}

/// Whether what is connected to says what every listener here says.
async fn greeted(connect: impl FnOnce() -> std::io::Result<TcpStream> + Send + 'static) -> bool {
    let Ok(stream) = tokio::task::spawn_blocking(connect).await.unwrap() else { return false };
    stream.set_nonblocking(true).unwrap();
    let mut stream = tokio::net::TcpStream::from_std(stream).unwrap();
    let mut said = [0; GREETING.len()];
    let read = tokio::time::timeout(LIMIT, stream.read_exact(&mut said)).await;
    matches!(read, Ok(Ok(_))) && said == GREETING
}

async fn greet(listener: TcpListener) {
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    while let Ok((mut stream, _)) = listener.accept().await {
        // Whoever asked may have gone.
        let _ = stream.write_all(GREETING).await;
    }
}

async fn echo(socket: UdpSocket, seen: Arc<Mutex<BTreeSet<IpAddr>>>) {
    socket.set_nonblocking(true).unwrap();
    let socket = tokio::net::UdpSocket::from_std(socket).unwrap();
    let mut datagram = [0; 2048];
    while let Ok((length, from)) = socket.recv_from(&mut datagram).await {
        seen.lock().unwrap().insert(from.ip());
        // A source that was made up has nobody to answer.
        let _ = socket.send_to(&datagram[..length], from).await;
    }
}

/// Answers every question for an IPv4 address with the public one, every other with nothing.
async fn resolve(socket: UdpSocket, asked: Arc<Mutex<usize>>) {
    socket.set_nonblocking(true).unwrap();
    let socket = tokio::net::UdpSocket::from_std(socket).unwrap();
    let mut datagram = [0; 2048];
    while let Ok((length, from)) = socket.recv_from(&mut datagram).await {
        *asked.lock().unwrap() += 1;
        if let Some(answer) = answer(&datagram[..length]) {
            let _ = socket.send_to(&answer, from).await;
        }
    }
}

fn answer(question: &[u8]) -> Option<Vec<u8>> {
    let mut end = 12;
    while *question.get(end)? != 0 {
        end += 1 + usize::from(question[end]);
    }
    end += 5;
    let kind = question.get(end - 4..end - 2)?;
    let count = u8::from(kind == [0, 1]);
    let mut out = question.get(..2)?.to_vec();
    out.extend([0x81, 0x80, 0, 1, 0, count, 0, 0, 0, 0]);
    out.extend(question.get(12..end)?);
    if count == 1 {
        out.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 1, 2, 3, 4]);
    }
    Some(out)
}

impl Drop for World {
    fn drop(&mut self) {
        self.server.take();
        self.services.abort_all();
        for name in [&self.host, &self.beyond] {
            // What is left of it after a failed start.
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}
