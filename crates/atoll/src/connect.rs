//! Which Atoll a command speaks to.
//!
//! How it works: `--url`, else `--data`, else `ATOLL_URL`, else the data directory of the settings. An address needs `ATOLL_API_KEY`; a
//! data directory's socket needs none.
//!
//! Deliberately absent: keys on the command line, where every user of the machine could read them.

use anyhow::Result;
use atoll_api::Sandbox;
use atoll_client::{ApiKey, Client, ClientError, Endpoint};

use crate::args::Global;
use crate::failure::Refusal;
use crate::settings::{Given, data_dir};

/// Length of a whole sandbox id.
const WHOLE_ID: usize = 27;

/// Where the Atoll is.
pub(crate) fn endpoint(global: &Global, given: &Given) -> Result<Endpoint> {
    let from_environment = || given.variable("ATOLL_URL").filter(|_| global.data.is_none());
    let Some(url) = global.url.as_deref().or_else(from_environment) else {
        return Ok(Endpoint::Data(data_dir(given)));
    };
    let Some(key) = given.variable("ATOLL_API_KEY") else {
        let text =
            "an address needs an API key: put it into ATOLL_API_KEY (`api_key` in the data directory's admin.json)";
        return Err(Refusal::NotAllowed(text.into()).into());
    };
    Ok(Endpoint::Http { url: url.to_owned(), key: Some(ApiKey::new(key)?) })
}

/// A client of it.
pub(crate) fn client(global: &Global, given: &Given) -> Result<Client> {
    Ok(Client::new(&endpoint(global, given)?)?)
}

/// The same, or nothing when no Atoll runs on the data directory.
pub(crate) fn client_if_running(global: &Global, given: &Given) -> Result<Option<Client>> {
    match Client::new(&endpoint(global, given)?) {
        Ok(client) => Ok(Some(client)),
        Err(ClientError::NotRunning { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The whole id behind an id or its beginning.
pub(crate) async fn resolve(client: &Client, text: &str) -> Result<String> {
    if text.len() == WHOLE_ID {
        return Ok(text.to_owned());
    }
    Ok(one_of(&client.sandboxes().await?, text)?.to_owned())
}

/// The one sandbox whose id begins so.
pub(crate) fn one_of<'a>(sandboxes: &'a [Sandbox], text: &str) -> Result<&'a str, Refusal> {
    let found: Vec<&str> = sandboxes.iter().map(|s| s.id.as_str()).filter(|id| id.starts_with(text)).collect();
    match found.as_slice() {
        [id] => Ok(id),
        [] => Err(Refusal::NotFound(format!("no sandbox whose id begins with `{text}`: see `atoll ls`"))),
        many => {
            let shown = many.iter().take(3).copied().collect::<Vec<_>>().join(", ");
            Err(Refusal::Usage(format!(
                "`{text}` is the beginning of {} sandboxes ({shown}): give more of it",
                many.len()
            )))
        }
    }
}
