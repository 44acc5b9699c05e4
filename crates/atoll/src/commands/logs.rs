//! `atoll logs`
//!
//! How it works: the server keeps the last 256 KiB of a sandbox's console; `-f` asks again and prints what is new, found by where the
//! last text ended. It is text out of a guest: on a terminal everything that a terminal would obey is taken out.
//!
//! Deliberately absent: lines from before the sandbox's start, and logs of its programs (they go to whoever runs them).

use std::time::Duration;

use anyhow::Result;
use atoll_api::ErrorCode;
use atoll_client::Client;
use tokio::time::sleep;

use crate::args::LogsArgs;
use crate::up::on_signal;
use crate::{connect, output};

const ASK_EVERY: Duration = Duration::from_secs(1);
/// How much of the last text must come again to be known by.
const KNOWN_BY: usize = 1024;

/// Prints what a sandbox's machine said.
pub(crate) async fn logs(client: &Client, args: &LogsArgs) -> Result<()> {
    let id = connect::resolve(client, &args.id).await?;
    let source = if args.agent { "agent" } else { "console" };
    let mut seen = client.logs(&id, source).await?;
    show(&seen)?;
    if !args.follow {
        return Ok(());
    }
    let stop = on_signal()?;
    while stop.token().run_until_cancelled(sleep(ASK_EVERY)).await.is_some() {
        let now = match client.logs(&id, source).await {
            Ok(now) => now,
            Err(error) if error.code() == Some(ErrorCode::InvalidState) => {
                output::hint(&format!("{id} has ended"));
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        match news(&seen, &now) {
            Some(new) => show(new)?,
            None => {
                output::hint("[some of the output was too fast to be seen]");
                show(&now)?;
            }
        }
        seen = now;
    }
    Ok(())
}

fn show(text: &[u8]) -> Result<()> {
    if output::stdout_is_terminal() { output::print(&harmless(text)) } else { output::write_stdout(text) }
}

/// Text that no terminal obeys.
fn harmless(text: &[u8]) -> String {
    String::from_utf8_lossy(text).chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

/// What came since, or nothing when the two have nothing in common.
fn news<'a>(seen: &[u8], now: &'a [u8]) -> Option<&'a [u8]> {
    if let Some(new) = now.strip_prefix(seen) {
        return Some(new);
    }
    let tail = &seen[seen.len().saturating_sub(KNOWN_BY)..];
    let at = now.windows(tail.len().max(1)).rposition(|window| window == tail)?;
    Some(&now[at + tail.len()..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn what_is_new_is_printed_once(lines in proptest::collection::vec("[a-z]{1,40}", 100..200), dropped in 0_usize..50, known in 60_usize..100) {
            let numbered: Vec<String> = lines.iter().enumerate().map(|(n, line)| format!("{n} {line}\n")).collect();
            let (seen, now) = (numbered[..known].concat(), numbered[dropped..].concat());
            let expected = numbered[known..].concat();
            if seen.len() > KNOWN_BY + numbered[..dropped].concat().len() {
                prop_assert_eq!(news(seen.as_bytes(), now.as_bytes()), Some(expected.as_bytes()));
            }
        }
    }

    #[test]
    fn nothing_in_common_is_told_and_nothing_obeyed() {
        assert_eq!(news(b"", b"all"), Some(&b"all"[..]));
        assert_eq!(news(b"old text", b"new text"), None);
        assert_eq!(harmless(b"a\x1b[2Jb\tc\r\n"), "a[2Jb\tc\n");
    }
}
