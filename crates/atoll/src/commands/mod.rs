//! The commands of a client: one file each.
//!
//! How it works: each takes its arguments and a client of the public API, prints what the API answered, and fails with the error that
//! says why.
//!
//! Deliberately absent: rules. What may be asked for is decided by the server, so that every client hears the same.

mod completion;
mod copy;
mod create;
mod doctor;
mod events;
mod exec;
mod get;
mod lifetime;
mod list;
mod logs;
mod metrics;
mod patience;
mod pause;
mod processes;
mod remove;
mod run;
mod scrub;
mod shell;
mod snapshot;

pub(crate) use completion::completion;
pub(crate) use copy::copy;
pub(crate) use create::create;
pub(crate) use doctor::doctor;
pub(crate) use events::events;
pub(crate) use exec::exec;
pub(crate) use get::get;
pub(crate) use lifetime::update;
pub(crate) use list::list;
pub(crate) use logs::logs;
pub(crate) use metrics::{metrics, top};
pub(crate) use pause::{pause, resume};
pub(crate) use processes::{kill, processes};
pub(crate) use remove::remove;
pub(crate) use run::run;
pub(crate) use scrub::scrub;
pub(crate) use shell::shell;
pub(crate) use snapshot::{remove_templates, snapshot, templates};

use std::collections::BTreeMap;
use std::path::Path;

use atoll_api::CreateSandboxRequest;

use crate::args::ShapeArgs;
use crate::failure::Refusal;

/// `NAME=VALUE` words as variables; nothing when there are none.
pub(crate) fn variables(words: &[String]) -> Result<Option<BTreeMap<String, String>>, Refusal> {
    let split = |word: &String| match word.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        // The word is not told: it may be a secret that lost its name.
        _ => Err(Refusal::Usage("-e takes NAME=VALUE".into())),
    };
    let variables: BTreeMap<_, _> = words.iter().map(split).collect::<Result<_, _>>()?;
    Ok(Some(variables).filter(|v| !v.is_empty()))
}

/// A file of this machine by its absolute path.
fn host_file(path: Option<&Path>) -> Result<Option<String>, Refusal> {
    let Some(path) = path else { return Ok(None) };
    let absolute = std::path::absolute(path).map_err(|error| Refusal::Usage(format!("{}: {error}", path.display())))?;
    match absolute.into_os_string().into_string() {
        Ok(text) => Ok(Some(text)),
        Err(_) => Err(Refusal::Usage(format!("{} is not UTF-8", path.display()))),
    }
}

/// What a shape asks for.
pub(crate) fn request(shape: &ShapeArgs) -> Result<CreateSandboxRequest, Refusal> {
    Ok(CreateSandboxRequest {
        template: Some(shape.template.clone()),
        vcpus: shape.vcpus,
        memory_mb: shape.memory,
        disk_mb: shape.disk,
        network: shape.network.clone(),
        envs: variables(&shape.env)?,
        kernel: host_file(shape.kernel.as_deref())?,
        rootfs: host_file(shape.rootfs.as_deref())?,
        ..CreateSandboxRequest::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_split_at_the_first_equals_sign_and_bad_ones_not_repeated() {
        let words = |list: &[&str]| list.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        assert_eq!(variables(&words(&["A=b=c", "D="])).unwrap().unwrap()["A"], "b=c");
        assert!(variables(&[]).unwrap().is_none());
        for bad in ["secret", "=secret"] {
            let error = variables(&words(&[bad])).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
