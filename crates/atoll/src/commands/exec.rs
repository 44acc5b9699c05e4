//! `atoll exec`: a program in a running sandbox, as if it ran here.
//!
//! How it works: output comes as it is written, standard output and error apart, and the exit code is the program's. `-i` passes standard
//! input on to its end, `-it` gives the program a terminal ([`super::shell`]). A lost connection is taken up again from the byte
//! where it broke; with `-i` it ends in an error instead, because nobody can say which input arrived. The first interrupt kills
//! the program. Output that was lost, because whoever reads it here stood still, is an error. `-o json` waits and prints the API's
//! one document.
//!
//! Deliberately absent: shells. The first word is the program.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use atoll_api::{ErrorCode, ExecRequest, ExecResponse, StreamStart};
use atoll_client::{Client, ExecEvent, ExecStream};
use tokio_util::sync::CancellationToken;

use super::patience::Patience;
use super::shell::exec_on_terminal;
use super::variables;
use crate::args::{ExecArgs, Global, Output};
use crate::failure::{Interrupted, ProgramEnded, may_pass, refused};
use crate::terminal::Input;
use crate::up::on_signal;
use crate::{connect, output};

/// How long a lost connection is tried again.
const TRY_FOR: Duration = Duration::from_secs(60);
/// How long an interrupted program has to end.
const END: Duration = Duration::from_secs(3);

/// Runs a program in a running sandbox and passes on its output and exit code.
pub(crate) async fn exec(client: &Client, global: &Global, args: &ExecArgs) -> Result<()> {
    let id = connect::resolve(client, &args.id).await?;
    if args.tty {
        return exec_on_terminal(client, &id, args).await;
    }
    let request = ExecRequest {
        timeout_sec: args.timeout,
        cwd: args.cwd.clone(),
        envs: variables(&args.env)?,
        user: args.user.clone(),
        ..command(&args.command)
    };
    if global.output == Output::Json {
        return pass_on(&client.exec(&id, &request).await?, global.output);
    }
    let stop = on_signal()?;
    let code = follow(client, &id, &request, args.interactive, stop.token()).await?;
    as_program(code)
}

/// A command line as a request.
pub(crate) fn command(words: &[String]) -> ExecRequest {
    let mut words = words.iter().cloned();
    ExecRequest { cmd: words.next().unwrap_or_default(), args: words.collect(), ..ExecRequest::default() }
}

/// Ends as a program ended.
pub(crate) fn as_program(code: i32) -> Result<()> {
    match code {
        0 => Ok(()),
        code => Err(ProgramEnded(code).into()),
    }
}

/// Prints what a program printed and ends as it ended.
pub(crate) fn pass_on(ended: &ExecResponse, format: Output) -> Result<()> {
    if format == Output::Json {
        output::json(ended)?;
    } else {
        let (stdout, stderr) = atoll_client::output_of(ended)?;
        output::write_stdout(&stdout)?;
        output::write_stderr(&stderr)?;
    }
    as_program(ended.exit_code)
}

/// Starts a program and passes on what it writes, as it writes it; answers its exit code.
pub(crate) async fn follow(
    client: &Client,
    id: &str,
    request: &ExecRequest,
    interactive: bool,
    stop: &CancellationToken,
) -> Result<i32> {
    let start = StreamStart {
        cmd: request.cmd.clone(),
        args: request.args.clone(),
        cwd: request.cwd.clone(),
        envs: request.envs.clone(),
        user: request.user.clone(),
        tag: None,
        timeout_sec: request.timeout_sec,
        stdin: interactive,
        input_acks: interactive,
        // As at a pipe: whoever reads here wants every byte.
        backpressure: true,
    };
    let input = interactive.then(Input::stdin).transpose().context("standard input cannot be read")?;
    let stream = client.exec_stream(id, start).await?;
    let mut program = Followed { stream, input, tag: None, lost: 0, patience: Patience::new(TRY_FOR) };
    loop {
        let lost = match program.go_on(stop).await {
            Ok(Ended::Exit(code)) if program.lost == 0 => return Ok(code),
            Ok(Ended::Exit(code)) => {
                let lost = program.lost;
                bail!(
                    "{lost} bytes of output were lost: whoever reads it here was too slow (the program ended with {code})"
                )
            }
            Ok(Ended::Interrupted) => return Err(program.end(client, id).await),
            Ok(Ended::NotStarted(error)) if error.code == Some(ErrorCode::InvalidRequest) => {
                // The plain call tells a program that is not there from wrong input, with the exit code of a shell.
                let ended = client.exec(id, request).await?;
                pass_on(&ended, Output::Table)?;
                return Ok(0);
            }
            Ok(Ended::NotStarted(error)) => return Err(refused(error)),
            Err(error) => error,
        };
        if !may_pass(&lost) {
            return Err(lost);
        }
        match &program.tag {
            None => {
                return Err(
                    lost.context(format!("the program may have been started all the same: see `atoll ps {id}`"))
                );
            }
            Some(tag) if interactive => {
                let why = "its input was under way, so it is not taken up again; if it has not ended it runs on as";
                return Err(lost.context(format!("{why} `{tag}`: see `atoll ps {id}`")));
            }
            Some(_) => {}
        }
        program.reconnect(client, id, lost, stop).await?;
    }
}

/// A program whose output is passed on.
struct Followed {
    stream: ExecStream,
    input: Option<Input>,
    tag: Option<String>,
    /// Bytes of output that never came.
    lost: u64,
    patience: Patience,
}

/// How following ended.
enum Ended {
    Exit(i32),
    NotStarted(atoll_api::StreamError),
    Interrupted,
}

impl Followed {
    async fn go_on(&mut self, stop: &CancellationToken) -> Result<Ended> {
        let mut started = self.tag.is_some();
        loop {
            let (is_fed, has_room) = (started && self.input.is_some(), self.stream.has_room());
            let reading = async {
                match &mut self.input {
                    Some(input) => input.read().await,
                    None => std::future::pending().await,
                }
            };
            // A program that says nothing may have read: room for more wakes, too.
            let heard = async {
                if is_fed && !has_room { self.stream.room().await } else { self.stream.next().await.map(Some) }
            };
            tokio::select! {
                event = heard => match event? {
                    None => {}
                    Some(event) => match event {
                    ExecEvent::Started { tag, .. } => {
                        started = true;
                        self.patience.heard();
                        self.tag = self.tag.take().or(tag);
                    }
                    ExecEvent::Stdout(bytes) => output::write_stdout(&bytes)?,
                    ExecEvent::Stderr(bytes) => output::write_stderr(&bytes)?,
                    ExecEvent::Gap(bytes) => {
                        self.lost += bytes;
                        output::hint(&format!("[{bytes} bytes of output were lost]"));
                    }
                    ExecEvent::Exit(code) => return Ok(Ended::Exit(code)),
                    ExecEvent::Error(error) if started => return Err(refused(error)),
                    ExecEvent::Error(error) => return Ok(Ended::NotStarted(error)),
                    },
                },
                bytes = reading, if is_fed && has_room => {
                    let bytes = bytes.context("standard input cannot be read")?;
                    if bytes.is_empty() {
                        self.input = None;
                        self.stream.close_input().await?;
                    } else {
                        self.stream.input(&bytes).await?;
                    }
                }
                () = stop.cancelled() => return Ok(Ended::Interrupted),
            }
        }
    }

    /// Takes a lost stream up again, from the byte where it broke.
    async fn reconnect(
        &mut self,
        client: &Client,
        id: &str,
        lost: anyhow::Error,
        stop: &CancellationToken,
    ) -> Result<()> {
        let Some(tag) = &self.tag else { return Err(lost) };
        if self.patience.is_fresh() {
            output::hint("the connection was lost, reconnecting");
        }
        let mut why = lost;
        loop {
            match stop.run_until_cancelled(self.patience.another()).await {
                Some(true) => {}
                Some(false) => return Err(why),
                None => return Err(Interrupted.into()),
            }
            match client.exec_reattach(id, tag, self.stream.offset()).await {
                Ok(stream) => {
                    self.stream = stream;
                    return Ok(());
                }
                Err(error) if error.is_final() => return Err(error.into()),
                Err(error) => why = error.into(),
            }
        }
    }

    /// Kills the program.
    async fn end(&mut self, client: &Client, id: &str) -> anyhow::Error {
        if !self.stream.end(END).await
            && let Some(tag) = &self.tag
        {
            // Input that nobody reads may stand in the way of the stream's own.
            if let Err(error) = client.signal(id, tag, "KILL").await {
                output::hint(&format!("the program may still run in {id}: {error}"));
            }
        }
        Interrupted.into()
    }
}
