//! `atoll rm`
//!
//! How it works: each id in turn; one that fails is told and does not keep the others from it, but it makes the exit
//! code.
//!
//! Deliberately absent: patterns.

use anyhow::Result;
use atoll_client::Client;

use crate::args::{Global, Output, RmArgs};
use crate::{connect, output};

/// Destroys sandboxes, each in turn; one that fails does not keep the others from it.
pub(crate) async fn remove(client: &Client, global: &Global, args: &RmArgs) -> Result<()> {
    let ids: Vec<String> = if args.all {
        client.sandboxes().await?.into_iter().map(|sandbox| sandbox.id).collect()
    } else {
        args.ids.clone()
    };
    let mut destroyed = Vec::new();
    let mut failed = None;
    for text in &ids {
        match one(client, text).await {
            Ok(id) => destroyed.push(id),
            Err(error) if ids.len() == 1 => return Err(error),
            Err(error) => {
                output::hint(&format!("error: {text}: {error:#}"));
                failed = Some(error);
            }
        }
    }
    let printed = match global.output {
        Output::Json => output::json(&destroyed),
        Output::Table | Output::Name => {
            output::print(&destroyed.iter().map(|id| format!("{id}\n")).collect::<String>())
        }
    };
    printed?;
    match failed {
        Some(error) => Err(error.context("not all of them could be destroyed")),
        None => Ok(()),
    }
}

async fn one(client: &Client, text: &str) -> Result<String> {
    let id = connect::resolve(client, text).await?;
    client.destroy(&id).await?;
    Ok(id)
}
