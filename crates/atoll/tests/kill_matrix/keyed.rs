//! Requests under an idempotency key, sent again after a restart.
//!
//! How it works: plain HTTP over the data directory's socket, because the client sends no keys. A request that was under way when Atoll
//! died is refused as such until it is known what came of it; then every one of its repetitions has the same answer.
//!
//! Deliberately absent: an opinion about whether the first one was carried out.

use std::path::Path;
use std::time::Duration;

use atoll_client::Client;
use atoll_store::{Store, exec_route};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::world::{LIMIT, MEMORY_MB, until};

/// How long a request of a dead Atoll may be refused as being under way.
const SETTLED: Duration = Duration::from_secs(40);

/// A sandbox that is asked for under a key.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) key: String,
    /// Whether it boots.
    pub(crate) cold: bool,
}

/// Makes a sandbox under a key.
pub(crate) async fn create(data: &Path, wanted: &Wanted) -> Result<String, String> {
    let body = json!({"memory_mb": MEMORY_MB, "boot": if wanted.cold { "cold" } else { "auto" }});
    let answer = post(data, "/v1/sandboxes", &wanted.key, &body).await?;
    answer["id"].as_str().map(str::to_owned).ok_or_else(|| format!("no id in {answer}"))
}

/// Starts a process under a key.
pub(crate) async fn start(data: &Path, id: &str, key: &str) -> Result<u64, String> {
    let body = json!({"cmd": "sleep", "args": ["4242"], "background": true});
    let answer = post(data, &format!("/v1/sandboxes/{id}/exec"), key, &body).await?;
    answer["pid"].as_u64().ok_or_else(|| format!("no pid in {answer}"))
}

/// A create that may have been cut off makes one sandbox, however often it is sent again.
pub(crate) async fn create_settles(data: &Path, wanted: &Wanted) -> Result<String, String> {
    let id = until("a create that is sent again", SETTLED, async || create(data, wanted).await).await?;
    let again = create(data, wanted).await?;
    if again == id { Ok(id) } else { Err(format!("one key made {id} and {again}")) }
}

/// The same of a start.
pub(crate) async fn start_settles(data: &Path, client: &Client, id: &str, key: &str) -> Result<(), String> {
    let pid = until("a start that is sent again", SETTLED, async || start(data, id, key).await).await?;
    let again = start(data, id, key).await?;
    let running = client.processes(id).await.map_err(|e| e.to_string())?.processes;
    let made: Vec<u32> =
        running.iter().filter(|p| p.args.first().is_some_and(|a| a == "4242")).map(|p| p.pid).collect();
    if again != pid || !made.iter().map(|pid| u64::from(*pid)).eq([pid]) {
        return Err(format!("one key started {made:?}, and answered {pid} and {again}"));
    }
    match open_starts(data, id).await? {
        open if open.is_empty() => Ok(()),
        open => Err(format!("answered, and still without an outcome: {open:?}")),
    }
}

/// The keys of a sandbox's starts of which nobody knows what came of them.
async fn open_starts(data: &Path, id: &str) -> Result<Vec<String>, String> {
    let id = id.parse().map_err(|_| format!("{id} is no id"))?;
    let store = Store::open_sqlite(&data.join("atoll.db")).await.map_err(|e| e.to_string())?;
    let kept = store.kept_requests().await;
    store.close().await;
    let open = kept.map_err(|e| e.to_string())?.into_iter().filter(|(place, kept)| {
        let is_start = place.route == exec_route(&id);
        is_start && kept.outcome.is_none()
    });
    Ok(open.map(|(place, _)| place.key).collect())
}

/// A POST; anything but success is an error.
async fn post(data: &Path, path: &str, key: &str, body: &Value) -> Result<Value, String> {
    let exchange = async {
        let mut socket = UnixStream::connect(data.join("run/atoll.sock")).await?;
        let body = body.to_string();
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nidempotency-key: {key}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        socket.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = tokio::time::timeout(LIMIT, exchange).await.map_err(|_| "no answer".to_owned())?;
    let answer = answer.map_err(|e| e.to_string())?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("half an answer")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    if !status.starts_with('2') {
        return Err(format!("{status}: {body}"));
    }
    serde_json::from_str(body).map_err(|e| format!("{e}: {body}"))
}
