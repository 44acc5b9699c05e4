//! A program in a guest by which a test sees that the guest is the one it was, and that its user code goes on.
//!
//! How it works: it counts in the guest's memory; beside it lie random bytes. Boot id, process and bytes are what must stay.
//!
//! Deliberately absent: the guest's disk. Nothing here waits for the host's.

use atoll_client::Client;

use super::world::{LIMIT, shell, until};

const BEGIN: &str = "head -c 1000000 /dev/urandom > /dev/shm/bytes; \
    (n=0; while :; do n=$((n+1)); echo $n > /dev/shm/new; mv /dev/shm/new /dev/shm/count; sleep 0.1; done) \
    >/dev/null 2>&1 & echo $! > /dev/shm/pid";
const FACTS: &str =
    "cat /proc/sys/kernel/random/boot_id /dev/shm/pid; sha256sum < /dev/shm/bytes; kill -0 $(cat /dev/shm/pid)";

/// A program that counts, with what must stay.
#[derive(Debug)]
pub(super) struct Counter {
    pub(super) id: String,
    facts: String,
}

impl Counter {
    /// Starts it in a sandbox.
    pub(super) async fn begin(client: &Client, id: &str) -> Self {
        shell(client, id, BEGIN).await.unwrap();
        let mut counter = Self { id: id.to_owned(), facts: String::new() };
        counter.facts = counter.look(client).await;
        counter.counts(client).await;
        counter
    }

    /// The same process of the same boot has the same memory and counts on.
    pub(super) async fn goes_on(&self, client: &Client) {
        assert_eq!(self.look(client).await, self.facts);
        self.counts(client).await;
    }

    async fn look(&self, client: &Client) -> String {
        let said = shell(client, &self.id, FACTS).await.unwrap();
        assert_eq!(said.exit_code, 0, "{said:?}");
        said.stdout
    }

    async fn counts(&self, client: &Client) {
        let first = self.count(client).await;
        let more = until("user code to go on", LIMIT, async || match self.count(client).await {
            count if count > first => Ok(()),
            count => Err(format!("it counts to {count}, and did to {first}")),
        });
        more.await.unwrap();
    }

    /// 0 before it began.
    async fn count(&self, client: &Client) -> u64 {
        let said = shell(client, &self.id, "cat /dev/shm/count").await.unwrap();
        said.stdout.trim().parse().unwrap_or(0)
    }
}
