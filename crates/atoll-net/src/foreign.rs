//! Packet filters that are not ours and that drop what sandboxes send.
//!
//! How it works: an accept in Atoll's chain does not override another chain's drop, so Docker's or ufw's forward chain silently cuts
//! sandboxes off. The whole ruleset is read as JSON from `nft`, and every base chain of another owner on the forward hook is named
//! that drops by policy or by a rule that matches nothing in particular.
//!
//! Deliberately absent: changing anybody's rules, and judging rules that match on something.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::NetError;

const LIMIT: Duration = Duration::from_secs(5);
/// A machine with more rules than this is not described here.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// A chain that drops.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ForeignDrop {
    /// `ip` or `inet`.
    pub family: String,
    /// Its table.
    pub table: String,
    /// Its name.
    pub chain: String,
    /// Whether its policy drops; else a rule without conditions does.
    pub by_policy: bool,
}

/// Every such chain of this machine.
///
/// # Errors
/// When `nft` is missing, slow or says something else than JSON.
pub fn foreign_drops() -> Result<Vec<ForeignDrop>, NetError> {
    let mut command = Command::new("nft");
    command.args(["-j", "list", "ruleset"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => NetError::NftMissing,
        _ => NetError::step("start nft")(error),
    })?;
    let output = child.stdout.take();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        if let Some(output) = output {
            // What was read until then is judged by the parser.
            let _ = output.take(MAX_BYTES).read_to_string(&mut text);
        }
        text
    });
    let started = Instant::now();
    while child.try_wait().map_err(NetError::step("wait for nft"))?.is_none() {
        if started.elapsed() > LIMIT {
            // Killed or ended by itself meanwhile; both are an end.
            let _ = child.kill();
            let _ = child.wait();
            return Err(NetError::Nft { reason: "nft did not list the rules within 5 s".into() });
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let text = reader.join().map_err(|_| NetError::Thread)?;
    parse_foreign_drops(&text)
}

/// Reads what `nft -j list ruleset` prints.
///
/// # Errors
/// When it is something else.
pub fn parse_foreign_drops(text: &str) -> Result<Vec<ForeignDrop>, NetError> {
    let unreadable = || NetError::Nft { reason: "`nft -j list ruleset` printed something that is no ruleset".into() };
    let read: Value = serde_json::from_str(text).map_err(|_| unreadable())?;
    let objects = read["nftables"].as_array().ok_or_else(unreadable)?;
    let mut found = BTreeSet::new();
    for chain in objects.iter().filter_map(|object| object.get("chain")).filter_map(base_chain) {
        let dropping = |rule: &Value| {
            let word = |name: &str| rule[name].as_str();
            word("family") == Some(&chain.family)
                && word("table") == Some(&chain.table)
                && word("chain") == Some(&chain.chain)
                && drops_everything(&rule["expr"])
        };
        let by_rule = || objects.iter().filter_map(|object| object.get("rule")).any(dropping);
        if chain.by_policy || by_rule() {
            found.insert(chain);
        }
    }
    Ok(found.into_iter().collect())
}

/// A base chain of somebody else on a hook that sandboxes' packets pass.
fn base_chain(chain: &Value) -> Option<ForeignDrop> {
    let word = |name: &str| chain[name].as_str().map(str::to_owned);
    let (family, table, hook) = (word("family")?, word("table")?, word("hook")?);
    // A host's input chain never sees what is forwarded.
    let passed = matches!(family.as_str(), "ip" | "inet") && hook == "forward" && !table.starts_with("atoll_");
    let by_policy = word("policy").as_deref() == Some("drop");
    passed.then_some(ForeignDrop { family, table, chain: word("name")?, by_policy })
}

/// Whether a rule has a verdict and no condition; counters and logs are none.
fn drops_everything(expressions: &Value) -> bool {
    let Some(list) = expressions.as_array() else { return false };
    let has = |name: &str| list.iter().any(|e| e.get(name).is_some());
    let conditional =
        list.iter().any(|e| !["counter", "log", "drop", "reject"].iter().any(|known| e.get(known).is_some()));
    !conditional && (has("drop") || has("reject"))
}
