//! `atoll doctor`.
//!
//! How it works: every check of `doctor/` is run and printed; one that keeps sandboxes from running makes the exit
//! code.
//!
//! Deliberately absent: mending anything.

use anyhow::{Result, bail};

use crate::args::{DoctorArgs, Global, Output};
use crate::doctor::{self, Subject};
use crate::settings::{Given, Settings};
use crate::{output, up};

/// Looks at this machine and prints what was found; fails when sandboxes cannot run here.
pub(crate) async fn doctor(global: &Global, args: DoctorArgs, mut given: Given) -> Result<()> {
    given.flag("cache", args.cache);
    given.flag("address-pool", args.address_pool);
    let settings = Settings::from_given(&given)?;
    let cache = up::open_cache(&given, settings.cache.as_deref())?.root().to_owned();
    let subject = Subject { data: settings.data, cache, address_pool: settings.address_pool };
    let findings = tokio::task::spawn_blocking(move || doctor::examine(&subject)).await?;
    match global.output {
        Output::Json => output::json(&findings)?,
        Output::Table | Output::Name => output::print(&doctor::render(&findings))?,
    }
    if doctor::healthy(&findings) {
        return Ok(());
    }
    bail!("sandboxes cannot run here until what is marked FAIL is mended")
}
