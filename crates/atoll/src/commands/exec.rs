//! `atoll exec`

use anyhow::Result;
use atoll_api::{ExecRequest, ExecResponse};
use atoll_client::Client;

use super::variables;
use crate::args::{ExecArgs, Global, Output};
use crate::failure::ProgramEnded;
use crate::{connect, output};

/// Runs a program in a running sandbox and passes on its output and exit code.
pub(crate) async fn exec(client: &Client, global: &Global, args: &ExecArgs) -> Result<()> {
    let id = connect::resolve(client, &args.id).await?;
    let request = ExecRequest {
        timeout_sec: args.timeout,
        cwd: args.cwd.clone(),
        envs: variables(&args.env)?,
        user: args.user.clone(),
        ..command(&args.command)
    };
    pass_on(&client.exec(&id, &request).await?, global.output)
}

/// A command line as a request.
pub(crate) fn command(words: &[String]) -> ExecRequest {
    let mut words = words.iter().cloned();
    ExecRequest { cmd: words.next().unwrap_or_default(), args: words.collect(), ..ExecRequest::default() }
}

/// Prints what a program printed and ends as it ended.
pub(crate) fn pass_on(ended: &ExecResponse, format: Output) -> Result<()> {
    if format == Output::Json {
        output::json(ended)?;
    } else {
        let (stdout, stderr) = atoll_client::output_of(ended)?;
        output::write_stdout(&stdout)?;
        output::write_stderr(&stderr)?;
        if ended.stdout_truncated || ended.stderr_truncated {
            output::hint("the output was longer than is kept; the rest was dropped");
        }
    }
    match ended.exit_code {
        0 => Ok(()),
        code => Err(ProgramEnded(code).into()),
    }
}
