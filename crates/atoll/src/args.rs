//! The command line.
//!
//! How it works: clap's derive; each command's struct is what its function takes. Help stays within a screen, with
//! examples for the commands that people start with.
//!
//! Deliberately absent: what the commands do ([`crate::commands`], [`crate::up`]).

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Run code you do not trust, each program in a microVM of its own.
#[derive(Debug, Parser)]
#[command(name = "atoll", version, max_term_width = 100, after_help = EXAMPLES, disable_help_subcommand = false)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  atoll run -- python3 -c 'print(6 * 7)'     one program, one VM, gone afterwards
  atoll up                                   API, control plane and host agent in one process
  atoll exec sb1x -- uname -r                another program in a running sandbox
  atoll shell sb1x                           a shell in it

Exit codes: 0 ok, 1 error, 2 usage, 3 not found, 4 refused, 5 wrong state, 6 no capacity or unreachable,
124 timeout, 130 interrupted; `run` and `exec` pass on the program's own, and 125 for a failure of Atoll.";

/// Options of every command.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Data directory: the Atoll that runs there is asked through its socket [env: ATOLL_DATA]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Address of an Atoll, with its API key in ATOLL_API_KEY [env: ATOLL_URL]
    #[arg(long, global = true, value_name = "URL", conflicts_with = "data")]
    pub(crate) url: Option<String>,
    /// Output: a table for people, the API's own JSON, or names only
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
    /// No progress, no hints
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    // Not documentation: with a sentence per value clap stretches every help over two screens.
    // Columns; one JSON document; ids only, one a line.
    Table,
    Json,
    Name,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run Atoll here: API, control plane and host agent in one process
    Up(UpArgs),
    /// Run one program in a sandbox of its own and destroy it afterwards
    Run(RunArgs),
    /// Create a sandbox and print its id
    Create(CreateArgs),
    /// List sandboxes
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Show one sandbox, with what belongs to it on its host
    Get(IdArgs),
    /// Destroy sandboxes
    Rm(RmArgs),
    /// Pause sandboxes to their host's disk
    Pause(PauseArgs),
    /// Resume paused sandboxes where they were
    Resume(ResumeArgs),
    /// Change how long a sandbox may live
    Update(UpdateArgs),
    /// Make a template of a sandbox
    Snapshot(SnapshotArgs),
    /// List and delete templates
    #[command(subcommand)]
    Template(TemplateCommand),
    /// Run a program in a running sandbox
    Exec(ExecArgs),
    /// Open a shell on a terminal in a running sandbox
    Shell(ShellArgs),
    /// Copy files and folders into a sandbox or out of it
    Cp(CopyArgs),
    /// Show what a sandbox's machine and agent said
    Logs(LogsArgs),
    /// Show what a sandbox used
    Metrics(MetricsArgs),
    /// Show what running sandboxes use now, again and again
    Top(TopArgs),
    /// Show what happened to a sandbox
    Events(EventsArgs),
    /// List the processes that were started in a sandbox and run
    Ps(IdArgs),
    /// Send a signal to a process in a sandbox
    Kill(KillArgs),
    /// Read everything again that is kept, and name what is damaged
    Scrub(LsArgs),
    /// Look at this machine: what helps or hinders, and what to do about it
    Doctor(DoctorArgs),
    /// Print a completion script
    Completion(CompletionArgs),
}

/// `atoll up`
#[derive(Debug, Clone, Args)]
pub(crate) struct UpArgs {
    /// Address and port of the API [default: 127.0.0.1:7070] [env: ATOLL_LISTEN]
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) listen: Option<String>,
    /// Cache of images and kernels [env: ATOLL_CACHE]
    #[arg(long, value_name = "DIR")]
    pub(crate) cache: Option<String>,
    /// What an orderly stop does with sandboxes: keep, pause what runs, or destroy all, paused ones too [default: keep] [env: ATOLL_ON_EXIT]
    #[arg(long, value_name = "WHAT")]
    pub(crate) on_exit: Option<String>,
    /// auto, kvm or tcg [default: auto] [env: ATOLL_ACCELERATOR]
    #[arg(long, value_name = "WHAT")]
    pub(crate) accelerator: Option<String>,
    /// IPv4 range for the links between host and sandboxes [env: ATOLL_ADDRESS_POOL]
    #[arg(long, value_name = "CIDR")]
    pub(crate) address_pool: Option<String>,
    /// Shapes of which a booted guest is kept, such as 1x512,2x1024; none for none [default: 1x512] [env: ATOLL_GOLDEN_SHAPES]
    #[arg(long, value_name = "SHAPES")]
    pub(crate) golden_shapes: Option<String>,
    /// How many MiB of disk those may take [default: 2048] [env: ATOLL_GOLDEN_BUDGET_MB]
    #[arg(long, value_name = "MIB")]
    pub(crate) golden_budget_mb: Option<String>,
    /// MiB a second that one sandbox may read, and write, of the disk; 0 for no limit [default: 0] [env: ATOLL_DISK_RATE_MB]
    #[arg(long, value_name = "MIB")]
    pub(crate) disk_rate_mb: Option<String>,
    /// KiB of each process's output that are kept for readers that come back, 64 to 16384 [default: 1024] [env: ATOLL_OUTPUT_KB]
    #[arg(long, value_name = "KIB")]
    pub(crate) output_kb: Option<String>,
    /// A level, or a filter such as `info,atoll_host=debug` [default: info] [env: ATOLL_LOG]
    #[arg(long, value_name = "FILTER")]
    pub(crate) log: Option<String>,
    /// text or json [default: text] [env: ATOLL_LOG_FORMAT]
    #[arg(long, value_name = "WHAT")]
    pub(crate) log_format: Option<String>,
    /// Print the effective configuration, each value with its source, and end
    #[arg(long)]
    pub(crate) print_config: bool,
    /// Print the reference of all settings as Markdown, and end
    #[arg(long, hide = true)]
    pub(crate) print_config_reference: bool,
}

/// The shape of a sandbox to be created.
#[derive(Debug, Clone, Args)]
pub(crate) struct ShapeArgs {
    /// What it starts from
    #[arg(long, default_value = "base")]
    pub(crate) template: String,
    /// Virtual CPUs [default: 1]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) vcpus: Option<i64>,
    /// Memory in MiB [default: 512]
    #[arg(long, value_name = "MIB", allow_negative_numbers = true)]
    pub(crate) memory: Option<i64>,
    /// Apparent size of the writable disk in MiB [default: 5120]
    #[arg(long, value_name = "MIB", allow_negative_numbers = true)]
    pub(crate) disk: Option<i64>,
    /// What it may reach: `internet` (default) or `none`
    #[arg(long)]
    pub(crate) network: Option<String>,
    /// Environment variable of every program in it; repeatable
    #[arg(short, long = "env", value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// A kernel of your own: vmlinux or bzImage on the host
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: Option<PathBuf>,
    /// A root file system of your own: ext4 image on the host
    #[arg(long, value_name = "FILE")]
    pub(crate) rootfs: Option<PathBuf>,
}

/// `atoll run`
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) shape: ShapeArgs,
    /// Keep the sandbox and print its id to stderr (needs a running Atoll)
    #[arg(long)]
    pub(crate) keep: bool,
    /// Seconds that the program may take [default: no limit, 30 with -o json]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub(crate) timeout: Option<i64>,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
}

/// `atoll create`
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    pub(crate) shape: ShapeArgs,
    #[command(flatten)]
    pub(crate) lifetime: LifetimeArgs,
    /// auto: restore a booted one where there is one; cold: boot
    #[arg(long, value_name = "HOW")]
    pub(crate) boot: Option<String>,
    /// Serve its agent to this machine on 127.0.0.1:49983, without a token
    #[arg(long)]
    pub(crate) debug_port: bool,
}

/// How long a sandbox may live.
#[derive(Debug, Clone, Args)]
pub(crate) struct LifetimeArgs {
    /// Seconds without a use after which its time is over; 0 means none
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub(crate) timeout: Option<i64>,
    /// Moment at which its time is over, such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    pub(crate) end_at: Option<String>,
    /// What happens then: pause (default) or destroy
    #[arg(long, value_name = "WHAT")]
    pub(crate) on_expiry: Option<String>,
    /// Resume it by its next use when it is paused
    #[arg(long, value_name = "YES", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(crate) auto_resume: Option<bool>,
    /// Longest run in seconds; 0 means no limit
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub(crate) max_lifetime: Option<i64>,
}

/// `atoll pause`
#[derive(Debug, Args)]
pub(crate) struct PauseArgs {
    /// The sandboxes: ids or the beginnings of them
    #[arg(required = true)]
    pub(crate) ids: Vec<String>,
    /// Keep the disk alone: a resume boots
    #[arg(long)]
    pub(crate) disk: bool,
}

/// `atoll resume`
#[derive(Debug, Args)]
pub(crate) struct ResumeArgs {
    /// The sandboxes: ids or the beginnings of them
    #[arg(required = true)]
    pub(crate) ids: Vec<String>,
    /// Boot from the disk and give up what is kept of the memory
    #[arg(long)]
    pub(crate) disk: bool,
}

/// `atoll update`
#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    /// The sandbox: its id or the beginning of it
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) lifetime: LifetimeArgs,
    /// Take its end_at away
    #[arg(long, conflicts_with = "end_at")]
    pub(crate) no_end_at: bool,
}

/// `atoll snapshot`
#[derive(Debug, Args)]
pub(crate) struct SnapshotArgs {
    /// The sandbox: its id or the beginning of it
    pub(crate) id: String,
    /// Name of the template; without it one is made
    pub(crate) name: Option<String>,
    /// In the place of a template of that name
    #[arg(long, requires = "name")]
    pub(crate) overwrite: bool,
}

/// `atoll template`
#[derive(Debug, Subcommand)]
pub(crate) enum TemplateCommand {
    /// List the team's templates
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Delete templates
    Rm(TemplateRmArgs),
}

/// `atoll template rm`
#[derive(Debug, Args)]
pub(crate) struct TemplateRmArgs {
    /// Their names
    #[arg(required = true)]
    pub(crate) names: Vec<String>,
}

/// `atoll metrics`
#[derive(Debug, Args)]
pub(crate) struct MetricsArgs {
    /// The sandbox: its id or the beginning of it
    pub(crate) id: String,
    /// How far back: 10m, 2h or 24h
    #[arg(long, default_value = "10m")]
    pub(crate) range: String,
}

/// `atoll top`
#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Once, and end
    #[arg(long)]
    pub(crate) once: bool,
}

/// `atoll events`
#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// The sandbox: its id or the beginning of it; the whole id of one that is over
    pub(crate) id: String,
    /// How many, the newest first
    #[arg(long, default_value_t = 50)]
    pub(crate) limit: u32,
}

/// `atoll ls`
#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// Without the line of column names
    #[arg(long)]
    pub(crate) no_headers: bool,
}

/// A command about one sandbox.
#[derive(Debug, Args)]
pub(crate) struct IdArgs {
    /// The sandbox: its id or the beginning of it
    pub(crate) id: String,
}

/// `atoll rm`
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// The sandboxes: ids or the beginnings of them
    #[arg(required_unless_present = "all")]
    pub(crate) ids: Vec<String>,
    /// All sandboxes of the team
    #[arg(long, conflicts_with = "ids", requires = "yes")]
    pub(crate) all: bool,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
}

/// `atoll exec`
#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// The sandbox: its id or the beginning of it
    pub(crate) id: String,
    /// Environment variable of the program; repeatable
    #[arg(short, long = "env", value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// Working directory
    #[arg(short = 'w', long, value_name = "DIR")]
    pub(crate) cwd: Option<String>,
    /// User in the sandbox [default: root]
    #[arg(short, long)]
    pub(crate) user: Option<String>,
    /// Pass standard input on
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the program a terminal (needs -i and a terminal here)
    #[arg(short, long, requires = "interactive", conflicts_with = "timeout")]
    pub(crate) tty: bool,
    /// Seconds that the program may take [default: no limit, 30 with -o json]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub(crate) timeout: Option<i64>,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
}

/// `atoll doctor`
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Cache of images and kernels [env: ATOLL_CACHE]
    #[arg(long, value_name = "DIR")]
    pub(crate) cache: Option<String>,
    /// IPv4 range that is to be used [env: ATOLL_ADDRESS_POOL]
    #[arg(long, value_name = "CIDR")]
    pub(crate) address_pool: Option<String>,
}

/// `atoll shell`
#[derive(Debug, Args)]
pub(crate) struct ShellArgs {
    /// The sandbox: its id or the beginning of it
    pub(crate) id: String,
    /// Come back to a shell that still runs, by its tag (see `atoll ps`)
    #[arg(long, value_name = "TAG", conflicts_with_all = ["env", "cwd", "user", "command"])]
    pub(crate) attach: Option<String>,
    /// Environment variable of the shell; repeatable
    #[arg(short, long = "env", value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// Working directory
    #[arg(short = 'w', long, value_name = "DIR")]
    pub(crate) cwd: Option<String>,
    /// User in the sandbox [default: root]
    #[arg(short, long)]
    pub(crate) user: Option<String>,
    /// Another program than /bin/bash, and its arguments
    #[arg(last = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
}

/// `atoll cp`
#[derive(Debug, Args)]
#[command(after_help = COPY_EXAMPLES)]
pub(crate) struct CopyArgs {
    /// A path here, `ID:PATH` in a sandbox, or `-` for standard input
    #[arg(allow_hyphen_values = true)]
    pub(crate) source: String,
    /// A path here, `ID:PATH` in a sandbox, or `-` for standard output
    #[arg(allow_hyphen_values = true)]
    pub(crate) target: String,
}

const COPY_EXAMPLES: &str = "\
Examples:
  atoll cp data.csv sb1x:/root/          into a directory, under its own name
  atoll cp sb1x:/root/results ./         a folder with all that is in it
  atoll cp sb1x:/etc/os-release -        to standard output";

/// `atoll logs`
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// The sandbox: its id or the beginning of it
    pub(crate) id: String,
    /// Go on with what comes, until the sandbox ends
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only what the agent inside said
    #[arg(long)]
    pub(crate) agent: bool,
}

/// `atoll kill`
#[derive(Debug, Args)]
pub(crate) struct KillArgs {
    /// The sandbox: its id or the beginning of it
    pub(crate) id: String,
    /// The process: its pid or tag (see `atoll ps`)
    pub(crate) process: String,
    /// The signal
    #[arg(short, long, default_value = "SIGTERM")]
    pub(crate) signal: String,
}

/// `atoll completion`
#[derive(Debug, Args)]
pub(crate) struct CompletionArgs {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}
