//! Files of 256 MiB, up and down, beside a plain TCP copy into and out of the same kind of file.
//!
//! How it works: up ends when the file is on the guest's disk (`sync FILE` through the same way; the plain copy calls fsync). The plain copy's
//! other end is a few lines of Python in the bare VM. What Atoll grew by meanwhile is its peak resident memory since the start of
//! the transfer.
//!
//! Deliberately absent: compression.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use atoll_api::ExecRequest;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::bare::BareVm;
use crate::memory::kib;
use crate::sockets::Sockets;
use crate::{Bench, Series};

const MIB: usize = 256;
const PIECE: usize = 1 << 20;
/// Rounds: some, or one where only a few pairs are wanted of the rest.
const ROUNDS: usize = 3;
const FEW: usize = 20;
const PORT: u16 = 5001;
const PATH: &str = "/root/bench.bin";
const LIMIT: Duration = Duration::from_secs(600);

/// The plain copy's end in the guest: first byte `w` takes a file, `r` sends it.
const SINK: &str = "import os,socket
s=socket.create_server(('0.0.0.0',5001))
while True:
    c,_=s.accept()
    with c:
        if c.recv(1)==b'w':
            with open('/root/bench.bin','wb',0) as f:
                while True:
                    b=c.recv(1<<18)
                    if not b: break
                    f.write(b)
                os.fsync(f.fileno())
            c.sendall(b'k')
        else:
            with open('/root/bench.bin','rb') as f: c.sendfile(f)
";

/// Takes the samples, in MiB a second, and what Atoll grew by.
pub(crate) async fn measure(bench: &Bench, id: &str, vm: &BareVm) -> Result<Vec<Series>> {
    let agent = vm.agent.clone();
    let sink = tokio::spawn(async move { BareVm::exec(&agent, "python3", &["-c", SINK]).await });
    let sockets = vm.sockets(PORT);
    let mut up = Series::new("upload of 256 MiB, MiB a second");
    let mut down = Series::new("download of 256 MiB, MiB a second");
    let mut grown = Series::new("growth of Atoll's resident memory in a transfer, MiB");
    let rate = |started: Instant| f64::from(u32::try_from(MIB).unwrap_or(u32::MAX)) / started.elapsed().as_secs_f64();
    let rounds = if bench.pairs < FEW { 1 } else { ROUNDS };
    for turn in 1..=rounds {
        let before = kib(bench.pid, "VmRSS")?;
        // 5: the peak counts from now on (see proc(5)).
        std::fs::write(format!("/proc/{}/clear_refs", bench.pid), "5")?;
        let started = Instant::now();
        upload(bench, id).await?;
        eprintln!("transfers: round {turn} of {rounds}, up");
        up.atoll.push(rate(started));
        let started = Instant::now();
        plain_up(&sockets).await?;
        eprintln!("transfers: round {turn} of {rounds}, plain up");
        up.bare.push(rate(started));
        let started = Instant::now();
        download(bench, id).await?;
        eprintln!("transfers: round {turn} of {rounds}, down");
        down.atoll.push(rate(started));
        let started = Instant::now();
        plain_down(&sockets).await?;
        eprintln!("transfers: round {turn} of {rounds}, plain down");
        down.bare.push(rate(started));
        grown.atoll.push((kib(bench.pid, "VmHWM")? - before) / 1024.0);
    }
    sink.abort();
    // Aborted is what was asked for.
    let _ = sink.await;
    Ok(vec![up, down, grown])
}

async fn upload(bench: &Bench, id: &str) -> Result<()> {
    let piece = Bytes::from(vec![0x5a; PIECE]);
    let pieces = stream::iter((0..MIB).map(move |_| Ok(piece.clone())));
    bench.client.write_file(id, PATH, pieces).await?;
    let sync =
        ExecRequest { cmd: "sync".into(), args: vec![PATH.into()], timeout_sec: Some(600), ..ExecRequest::default() };
    ensure!(bench.client.exec(id, &sync).await?.exit_code == 0, "sync failed");
    Ok(())
}

async fn download(bench: &Bench, id: &str) -> Result<()> {
    let mut pieces = bench.client.read_file(id, PATH).await?;
    let mut bytes = 0;
    while let Some(piece) = pieces.next().await {
        bytes += piece?.len();
    }
    ensure!(bytes == MIB * PIECE, "{bytes} bytes came");
    Ok(())
}

async fn open(sockets: &Sockets) -> Result<TcpStream> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match sockets.connect().await {
            Ok(stream) => return Ok(stream),
            // The guest's program may still be starting.
            Err(error) if Instant::now() > deadline => {
                return Err(error).context("the plain copy's end does not listen");
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn plain_up(sockets: &Sockets) -> Result<()> {
    let mut stream = open(sockets).await?;
    let copy = async {
        stream.write_all(b"w").await?;
        let piece = vec![0x5a; PIECE];
        for _ in 0..MIB {
            stream.write_all(&piece).await?;
        }
        stream.shutdown().await?;
        stream.read_exact(&mut [0; 1]).await.map(drop)
    };
    Ok(tokio::time::timeout(LIMIT, copy).await.context("the plain copy stands still")??)
}

async fn plain_down(sockets: &Sockets) -> Result<()> {
    let mut stream = open(sockets).await?;
    let copy = async {
        stream.write_all(b"r").await?;
        let (mut bytes, mut buffer) = (0, vec![0; PIECE]);
        loop {
            match stream.read(&mut buffer).await? {
                0 => return std::io::Result::Ok(bytes),
                n => bytes += n,
            }
        }
    };
    let bytes = tokio::time::timeout(LIMIT, copy).await.context("the plain copy stands still")??;
    ensure!(bytes == MIB * PIECE, "{bytes} bytes came");
    Ok(())
}
