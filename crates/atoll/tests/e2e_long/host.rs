//! The host agent in a process of its own, so that it can be killed.
//!
//! How it works: the test program starts itself with the name of one ignored test, which serves on a Unix socket: a connection is one
//! call, a line of JSON each way, or a stream into a guest after the line. When its standard input ends (the test was killed),
//! it ends every sandbox and itself.
//!
//! Deliberately absent: the control plane.

use std::path::{Path, PathBuf};

use atoll_domain::SandboxId;
use atoll_domain::host::{Call, CreateSandbox, HostError, MakeTemplate, PauseMode, ResumeSandbox};
use atoll_host::{DataDir, HostAgent, OnExit};
use serde::{Deserialize, Serialize};
use serde_json::{Value, to_value};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};

use crate::host_config::host_config;

/// Names the directory that the host agent's process serves.
pub(crate) const DIRECTORY: &str = "ATOLL_LONG_HOST";
/// The socket in it.
pub(crate) const SOCKET: &str = "host.sock";

/// A call to the host agent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Ask {
    Create(Call, CreateSandbox),
    Destroy(Call, SandboxId),
    Pause(Call, SandboxId),
    Resume(Call, SandboxId, ResumeSandbox),
    Template(Call, SandboxId, String),
    DropTemplate(String),
    Templates,
    List,
    /// What follows the answer are the stream's bytes.
    Stream(SandboxId, u16),
    /// Stops in an orderly way and ends the process.
    Stop {
        destroy: bool,
    },
}

#[test]
#[ignore = "the process that the long test starts and kills"]
fn host_process() {
    let Some(dir) = std::env::var_os(DIRECTORY).map(PathBuf::from) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(serve(&dir));
    // Whatever a task still holds ends with the process.
    #[allow(clippy::exit, reason = "it is the process's own end")]
    std::process::exit(0);
}

async fn serve(dir: &Path) {
    let root = dir.join("data");
    let (data, lock) = DataDir::open(&root).unwrap();
    let config = host_config(&root);
    let agent = HostAgent::start(config, data, lock).await.unwrap();
    let socket = dir.join(SOCKET);
    // Of a process that was killed.
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).unwrap();
    let (stopped, mut stop) = tokio::sync::mpsc::channel::<()>(1);
    let mut stdin = tokio::io::stdin();
    let mut nothing = [0];
    let mut calls = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                calls.spawn(answer(agent.clone(), accepted.unwrap().0, stopped.clone()));
            }
            _ = stdin.read(&mut nothing) => {
                agent.shutdown(OnExit::Destroy).await;
                return;
            }
            _ = stop.recv() => return,
        }
    }
}

async fn answer(agent: HostAgent, stream: UnixStream, stopped: tokio::sync::mpsc::Sender<()>) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    if stream.read_line(&mut line).await.is_err() {
        return;
    }
    let ask: Ask = serde_json::from_str(&line).unwrap();
    let stopping = matches!(ask, Ask::Stop { .. });
    let (answer, guest) = match ask {
        Ask::Stream(id, port) => match agent.open_stream(&id, port).await {
            Ok(guest) => (Ok(Value::Null), Some(guest)),
            Err(error) => (Err(error), None),
        },
        other => (call(&agent, other).await, None),
    };
    let mut text = serde_json::to_vec(&answer).unwrap();
    text.push(b'\n');
    // The other side may be gone; what was asked for is done all the same.
    let _ = stream.write_all(&text).await;
    let _ = stream.flush().await;
    if let Some(mut guest) = guest {
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut guest).await;
    }
    if stopping {
        let _ = stopped.send(()).await;
    }
}

async fn call(agent: &HostAgent, ask: Ask) -> Result<Value, HostError> {
    let value = |value: serde_json::Result<Value>| Ok(value.unwrap());
    match ask {
        Ask::Create(call, request) => value(to_value(agent.create(call, request).await?)),
        Ask::Destroy(call, id) => value(to_value(agent.destroy(call, id).await?)),
        Ask::Pause(call, id) => value(to_value(agent.pause(call, id, PauseMode::Memory).await?)),
        Ask::Resume(call, id, request) => value(to_value(agent.resume(call, id, request).await?)),
        Ask::Template(call, id, template) => {
            value(to_value(agent.make_template(call, id, MakeTemplate { template }).await?))
        }
        Ask::DropTemplate(template) => value(to_value(agent.drop_template(template).await?)),
        Ask::Templates => value(to_value(agent.templates())),
        Ask::List => value(to_value(agent.list())),
        Ask::Stop { destroy } => {
            agent.shutdown(if destroy { OnExit::Destroy } else { OnExit::Keep }).await;
            Ok(Value::Null)
        }
        Ask::Stream(..) => Err(HostError::NotFound),
    }
}
