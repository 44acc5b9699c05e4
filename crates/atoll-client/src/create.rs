//! Making a sandbox, once, over a connection that may be lost.
//!
//! How it works: every create carries an idempotency key of its own. When its answer is lost, the same request is sent again under the
//! same key: the server answers with the sandbox that the first one made, says that it is still at it, or makes it now. So a lost
//! connection, or a server that was started again meanwhile, leaves no sandbox that the caller does not hear of.
//!
//! Deliberately absent: trying again what the server refused for good, or when nobody was reached at all.

use std::time::{Duration, Instant};

use atoll_api::{CreateSandboxRequest, ErrorCode, Sandbox};
use reqwest::Method;

use crate::{Client, ClientError};

/// A create may have to build an image first.
const CREATE_LIMIT: Duration = Duration::from_secs(1800);
/// How long a server is looked for that was there and is not any more.
const LOST_LIMIT: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

impl Client {
    /// Makes a sandbox; answers when it runs.
    ///
    /// # Errors
    /// What the server refuses; a server that cannot be reached, or not any more.
    pub async fn create(&self, request: &CreateSandboxRequest) -> Result<Sandbox, ClientError> {
        let key = idempotency_key()?;
        let started = Instant::now();
        // Since when its answer is missing.
        let mut lost: Option<Instant> = None;
        let mut pause = FIRST_PAUSE;
        loop {
            let left = CREATE_LIMIT.saturating_sub(started.elapsed()).max(LOST_LIMIT);
            let post = self.request(Method::POST, &["sandboxes"], left).header("idempotency-key", &key).json(request);
            let error = match self.json(post).await {
                Ok(sandbox) => return Ok(sandbox),
                Err(error) => error,
            };
            let again = match &error {
                ClientError::Lost { .. } | ClientError::NoAnswer { .. } => true,
                // Before anything was sent nothing can be lost.
                ClientError::Unreachable { .. } => lost.is_some(),
                // The server stops: the next one is asked, under the same key.
                ClientError::Refused(problem) if problem.code == ErrorCode::HostUnavailable => problem.retryable,
                // The first one is still under way; only who lost it can meet that.
                ClientError::Refused(problem) if problem.code == ErrorCode::InProgress => {
                    lost = Some(Instant::now());
                    started.elapsed() < CREATE_LIMIT
                }
                _ => false,
            };
            if !again || lost.get_or_insert_with(Instant::now).elapsed() > LOST_LIMIT {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }
}

/// 128 random bits.
fn idempotency_key() -> Result<String, ClientError> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| ClientError::Setup(Box::new(error)))?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::Endpoint;

    const RUNNING: &str = r#"{"id":"sb1","status":"running","template":"base","vcpus":1,"memory_mb":512,
        "disk_mb":5120,"timeout_sec":0,"created_at":"2026-01-01T00:00:00Z","last_updated":"2026-01-01T00:00:00Z"}"#;

    /// Reads one request; answers its idempotency key.
    async fn asked(stream: &mut TcpStream) -> String {
        let (mut head, mut byte) = (String::new(), [0]);
        while !head.ends_with("\r\n\r\n") {
            stream.read_exact(&mut byte).await.unwrap();
            head.push(char::from(byte[0]));
        }
        assert!(head.starts_with("POST /v1/sandboxes "), "{head}");
        let key = head.lines().find_map(|line| line.strip_prefix("idempotency-key: "));
        key.expect("every create has a key").to_owned()
    }

    async fn answer(stream: &mut TcpStream, status: &str, body: &str) {
        let head = format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\n");
        let text = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(text.as_bytes()).await.unwrap();
    }

    async fn server() -> (TcpListener, Client) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let client = Client::new(&Endpoint::Http { url, key: None }).unwrap();
        (listener, client)
    }

    #[tokio::test]
    async fn a_create_whose_answer_was_lost_is_asked_again_under_the_same_key() {
        let (listener, client) = server().await;
        let served = async {
            let mut keys = Vec::new();
            // Cut off; then stopping; then still under way; then there.
            let (mut first, _) = listener.accept().await.unwrap();
            keys.push(asked(&mut first).await);
            drop(first);
            let (mut stopping, _) = listener.accept().await.unwrap();
            keys.push(asked(&mut stopping).await);
            let away = r#"{"type":"/docs","title":"t","status":503,"detail":"d","code":"host_unavailable","retryable":true,
                "error":{"code":"host_unavailable","message":"d"}}"#;
            answer(&mut stopping, "503 Service Unavailable", away).await;
            let (mut second, _) = listener.accept().await.unwrap();
            keys.push(asked(&mut second).await);
            let busy = r#"{"type":"/docs","title":"t","status":409,"detail":"d","code":"in_progress",
                "error":{"code":"in_progress","message":"d"}}"#;
            answer(&mut second, "409 Conflict", busy).await;
            let (mut third, _) = listener.accept().await.unwrap();
            keys.push(asked(&mut third).await);
            answer(&mut third, "201 Created", RUNNING).await;
            keys
        };
        let request = CreateSandboxRequest::default();
        let (made, keys) = tokio::join!(client.create(&request), served);
        assert_eq!(made.unwrap().id, "sb1");
        assert!(keys.iter().all(|key| *key == keys[0] && key.len() == 32), "{keys:?}");
    }

    #[tokio::test]
    async fn two_creates_have_two_keys_and_what_was_never_sent_is_not_tried_again() {
        let (listener, client) = server().await;
        let served = async {
            let mut keys = Vec::new();
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().await.unwrap();
                keys.push(asked(&mut stream).await);
                answer(&mut stream, "201 Created", RUNNING).await;
            }
            keys
        };
        let request = CreateSandboxRequest::default();
        let create = async { (client.create(&request).await.unwrap(), client.create(&request).await.unwrap()) };
        let (_, keys) = tokio::join!(create, served);
        assert_ne!(keys[0], keys[1]);
        drop(listener);
        assert!(matches!(client.create(&request).await, Err(ClientError::Unreachable { .. })));
    }
}
