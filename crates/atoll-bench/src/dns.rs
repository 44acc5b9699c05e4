//! What a name costs through the keeper.
//!
//! How it works: a resolver of our own, which answers every question at once with the same address, stands in two places: where Atoll's
//! keepers ask (Atoll is started with a `resolv.conf` that names it), and at the gateway's address in the bare VM's namespace, where
//! a keeper would listen. A program in either guest asks the gateway the same questions: one after the other, and 32 at a time
//! as a rate. The difference is the keeper's.
//!
//! Deliberately absent: a resolver that is far away; the keeper adds the same to it.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use atoll_api::{CreateSandboxRequest, ExecRequest};
use atoll_guest_client::GuestClient;
use serde::Deserialize;

use crate::bare::BareVm;
use crate::{Bench, Series};

const PORT: u16 = 53;
/// Questions of one round, one after the other.
const EACH: usize = 20;
/// Questions of one round, 32 at a time.
const MANY: usize = 500;
/// How often the resolver looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(100);

/// The program in the guests.
const ASK: &str = "import json,socket,struct,sys,time
each,many=int(sys.argv[1]),int(sys.argv[2])
s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)
s.connect(('172.16.0.1',53))
s.settimeout(20)
def ask(i):
    s.send(struct.pack('>HHHHHH',i,0x100,1,0,0,0)+b'\\x05bench\\x04test\\x00\\x00\\x01\\x00\\x01')
def told():
    a=s.recv(512)
    assert a[2]&0x80 and a[-4:]==bytes([192,0,2,53]),a
    return a[0]<<8|a[1]
ms=[]
for i in range(each+5):
    t=time.perf_counter()
    ask(i)
    assert told()==i
    if i>=5: ms.append((time.perf_counter()-t)*1000)
t=time.perf_counter()
for i in range(32): ask(i)
for i in range(32,many):
    told()
    ask(i)
for i in range(32): told()
print(json.dumps({'ms':ms,'rate':many/(time.perf_counter()-t)}))
";

#[derive(Debug, Deserialize)]
struct Asked {
    ms: Vec<f64>,
    rate: f64,
}

/// Takes the samples.
pub(crate) async fn measure(bench: &Bench) -> Result<Vec<Series>> {
    let at = SocketAddr::from((bench.resolver.context("--resolver is needed")?, PORT));
    let _upstream = Resolver::start(UdpSocket::bind(at).with_context(|| format!("cannot listen on {at}"))?)?;
    let sandbox = bench.client.create(&CreateSandboxRequest::default()).await?;
    let vm = bench.parts.boot().await?;
    let gateway = vm.sockets(PORT).udp(SocketAddr::from((atoll_net::GATEWAY, PORT)))?;
    let _direct = Resolver::start(gateway)?;
    let mut latency = Series::new("a name asked of the gateway, ms");
    let mut rate = Series::new("names answered, 32 asked at a time, a second");
    let rounds = bench.pairs.div_ceil(EACH).max(3);
    for turn in 1..=rounds {
        let atoll = through_atoll(bench, &sandbox.id).await?;
        let bare = direct(&vm.agent).await?;
        latency.atoll.extend(atoll.ms);
        latency.bare.extend(bare.ms);
        rate.atoll.push(atoll.rate);
        rate.bare.push(bare.rate);
        eprintln!("names: round {turn} of {rounds}");
    }
    bench.client.destroy(&sandbox.id).await?;
    Ok(vec![latency, rate])
}

fn words() -> [String; 4] {
    ["-c".into(), ASK.into(), EACH.to_string(), MANY.to_string()]
}

async fn through_atoll(bench: &Bench, id: &str) -> Result<Asked> {
    let request =
        ExecRequest { cmd: "python3".into(), args: words().to_vec(), timeout_sec: Some(120), ..ExecRequest::default() };
    let ended = bench.client.exec(id, &request).await?;
    ensure!(ended.exit_code == 0, "the asking program ended with {}: {}", ended.exit_code, ended.stderr);
    Ok(serde_json::from_str(&ended.stdout)?)
}

async fn direct(agent: &GuestClient) -> Result<Asked> {
    let words = words();
    let printed = BareVm::exec(agent, "python3", &words.each_ref().map(String::as_str)).await?;
    Ok(serde_json::from_slice(&printed)?)
}

/// Answers every question with 192.0.2.53, on a thread that ends with it.
struct Resolver {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Resolver {
    fn start(socket: UdpSocket) -> Result<Self> {
        socket.set_read_timeout(Some(LOOK))?;
        let over = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while !ended.load(Ordering::Relaxed) {
                if let Ok((length, asker)) = socket.recv_from(&mut buffer) {
                    // One that cannot be told asks again, or fails.
                    let _ = socket.send_to(&answer(&buffer[..length]), asker);
                }
            }
        });
        Ok(Self { over, thread: Some(thread) })
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has nothing to tell.
            let _ = thread.join();
        }
    }
}

/// The question, turned into its answer.
fn answer(question: &[u8]) -> Vec<u8> {
    let mut answer = question.to_vec();
    if answer.len() < 12 {
        return answer;
    }
    // An answer, recursion available, no error; one record.
    (answer[2], answer[3], answer[7]) = (0x81, 0x80, 1);
    // The name asked for (a pointer to it), A, IN, 60 s, four bytes.
    answer.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
    answer.extend(Ipv4Addr::new(192, 0, 2, 53).octets());
    answer
}
