//! What can be configured, where each value comes from, and the generated reference of it.
//!
//! How it works: one table ([`SETTINGS`]) names every setting with its flag, its `ATOLL_*` variable, its default and a
//! sentence about it. A value is looked up as flag, then environment, then the file `.env` in the working directory, then
//! default. `--print-config` prints the effective values with their sources; `docs/configuration.md` is generated from
//! the same table and drift-tested.
//!
//! Deliberately absent: what each value does (see the crate that takes it), and any other reading of the environment.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use atoll_domain::golden::GoldenShape;

/// One setting.
#[derive(Debug)]
pub(crate) struct Setting {
    /// The long flag without its dashes, and the key in `--print-config`.
    pub(crate) name: &'static str,
    /// The environment variable.
    pub(crate) env: &'static str,
    /// The default as text; empty for "none".
    pub(crate) default: &'static str,
    /// What it is, in one sentence.
    pub(crate) help: &'static str,
}

/// Every setting of a running Atoll.
pub(crate) const SETTINGS: &[Setting] = &[
    Setting {
        name: "listen",
        env: "ATOLL_LISTEN",
        default: "127.0.0.1:7070",
        help: "Address and port of the HTTP API; port 0 takes a free one.",
    },
    Setting {
        name: "data",
        env: "ATOLL_DATA",
        default: "",
        help: "Data directory; without it /var/lib/atoll for root, else $XDG_DATA_HOME/atoll or ~/.local/share/atoll.",
    },
    Setting {
        name: "cache",
        env: "ATOLL_CACHE",
        default: "",
        help: "Cache of images and kernels; without it /var/cache/atoll for root, else $XDG_CACHE_HOME/atoll or ~/.cache/atoll, then /var/cache/atoll for reading.",
    },
    Setting {
        name: "on-exit",
        env: "ATOLL_ON_EXIT",
        default: "keep",
        help: "What an orderly stop does with sandboxes: keep (what runs, runs on, and the next start takes it over), pause (what runs, to the disk, memory and all; what cannot be paused runs on) or destroy (all of them, paused ones too; templates stay).",
    },
    Setting {
        name: "accelerator",
        env: "ATOLL_ACCELERATOR",
        default: "auto",
        help: "auto (KVM when a guest really boots under it, else emulation), kvm or tcg.",
    },
    Setting {
        name: "address-pool",
        env: "ATOLL_ADDRESS_POOL",
        default: "",
        help: "IPv4 range for the links between host and sandboxes, at least a /24 (a /31 each); without it the first default range that no route of the host covers.",
    },
    Setting {
        name: "golden-shapes",
        env: "ATOLL_GOLDEN_SHAPES",
        default: "1x512",
        help: "Shapes (VCPUSxMEMORY_MB, comma separated, the more important first) of which a booted guest is kept, so that a create restores it; none for none.",
    },
    Setting {
        name: "golden-budget-mb",
        env: "ATOLL_GOLDEN_BUDGET_MB",
        default: "2048",
        help: "How many MiB of disk those may take; 0 keeps none.",
    },
    Setting {
        name: "disk-rate-mb",
        env: "ATOLL_DISK_RATE_MB",
        default: "0",
        help: "MiB a second that one sandbox's VMM may read, and write, of the disk below the data directory; 0 for no limit. With control groups v1 writes through the page cache are not counted.",
    },
    Setting {
        name: "output-kb",
        env: "ATOLL_OUTPUT_KB",
        default: "1024",
        help: "How many KiB of each process's output a sandbox keeps, so that a reader whose connection was lost comes back without losing a byte (64 to 16384).",
    },
    Setting {
        name: "log",
        env: "ATOLL_LOG",
        default: "info",
        help: "What is logged: a level or a filter such as `info,atoll_host=debug`.",
    },
    Setting { name: "log-format", env: "ATOLL_LOG_FORMAT", default: "text", help: "How: text or json." },
];

/// Where a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Flag,
    Environment,
    EnvFile,
    Default,
}

impl Source {
    fn as_str(self) -> &'static str {
        match self {
            Self::Flag => "flag",
            Self::Environment => "environment",
            Self::EnvFile => ".env",
            Self::Default => "default",
        }
    }
}

/// The raw values that a program was given.
#[derive(Debug, Default)]
pub(crate) struct Given {
    /// By flag name.
    pub(crate) flags: BTreeMap<&'static str, String>,
    /// The process environment, `ATOLL_*` only, plus HOME and XDG_*.
    pub(crate) environment: BTreeMap<String, String>,
    /// What `.env` holds.
    pub(crate) env_file: BTreeMap<String, String>,
}

impl Given {
    /// Reads environment and `.env` of this process.
    pub(crate) fn from_process() -> Result<Self> {
        let environment =
            std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect();
        let env_file = match std::fs::read_to_string(".env") {
            Ok(text) => parse_env_file(&text)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error).context("cannot read .env in the working directory"),
        };
        Ok(Self { flags: BTreeMap::new(), environment, env_file })
    }

    /// Notes a flag if it was given.
    pub(crate) fn flag(&mut self, name: &'static str, value: Option<String>) {
        if let Some(value) = value {
            self.flags.insert(name, value);
        }
    }

    /// The value of one variable that is not a setting (`ATOLL_URL`, `ATOLL_API_KEY`).
    pub(crate) fn variable(&self, name: &str) -> Option<&str> {
        let found = self.environment.get(name).or_else(|| self.env_file.get(name));
        found.map(String::as_str).filter(|v| !v.is_empty())
    }

    fn find(&self, setting: &Setting) -> (String, Source) {
        let nonempty = |v: &&String| !v.is_empty();
        if let Some(value) = self.flags.get(setting.name) {
            (value.clone(), Source::Flag)
        } else if let Some(value) = self.environment.get(setting.env).filter(nonempty) {
            (value.clone(), Source::Environment)
        } else if let Some(value) = self.env_file.get(setting.env).filter(nonempty) {
            (value.clone(), Source::EnvFile)
        } else {
            (setting.default.to_owned(), Source::Default)
        }
    }

    /// The value of a setting, or nothing when it is empty.
    fn text(&self, name: &str) -> Option<String> {
        let setting = SETTINGS.iter().find(|setting| setting.name == name)?;
        Some(self.find(setting).0).filter(|value| !value.is_empty())
    }

    /// The effective configuration as TOML, each line with its source.
    pub(crate) fn print(&self) -> String {
        let mut out = String::new();
        for setting in SETTINGS {
            let (mut value, source) = self.find(setting);
            if value.is_empty() {
                value = match setting.name {
                    "data" => data_dir(self).display().to_string(),
                    _ => value,
                };
            }
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{} = {:?} # {}", setting.name, value, source.as_str());
        }
        out
    }
}

/// Reads `NAME=value` lines; `#` starts a comment, `export ` and one pair of quotes are taken off.
fn parse_env_file(text: &str) -> Result<BTreeMap<String, String>> {
    let mut out = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        let Some((name, value)) = line.split_once('=') else {
            // The line itself may hold a secret, so only its number is told.
            bail!(".env line {}: expected NAME=value", index + 1);
        };
        let value = value.trim();
        let bare = ['"', '\''].iter().find_map(|q| value.strip_prefix(*q)?.strip_suffix(*q));
        out.insert(name.trim().to_owned(), bare.unwrap_or(value).to_owned());
    }
    Ok(out)
}

/// What an orderly stop does with running sandboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnExit {
    /// Leaves them running.
    Keep,
    /// Puts them on the disk, with their memory.
    Pause,
    /// Ends them all.
    Destroy,
}

/// The checked settings of a running Atoll.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) listen: SocketAddr,
    pub(crate) data: PathBuf,
    pub(crate) cache: Option<PathBuf>,
    pub(crate) on_exit: OnExit,
    pub(crate) accelerator: String,
    pub(crate) address_pool: Option<String>,
    pub(crate) golden_shapes: Vec<GoldenShape>,
    pub(crate) golden_budget_mb: u64,
    pub(crate) disk_rate_mb: u64,
    pub(crate) output_kb: u64,
    pub(crate) log: String,
    pub(crate) log_json: bool,
}

impl Settings {
    /// Checks what was given.
    pub(crate) fn from_given(given: &Given) -> Result<Self> {
        let listen = given.text("listen").unwrap_or_default();
        let on_exit = match given.text("on-exit").as_deref() {
            Some("keep") | None => OnExit::Keep,
            Some("pause") => OnExit::Pause,
            Some("destroy") => OnExit::Destroy,
            Some(other) => bail!("--on-exit `{other}` is not known; use keep, pause or destroy"),
        };
        let accelerator = given.text("accelerator").unwrap_or_default();
        if !matches!(accelerator.as_str(), "auto" | "kvm" | "tcg") {
            bail!("--accelerator `{accelerator}` is not known; use auto, kvm or tcg");
        }
        let log_json = match given.text("log-format").as_deref() {
            Some("json") => true,
            Some("text") | None => false,
            Some(other) => bail!("--log-format `{other}` is not known; use text or json"),
        };
        Ok(Self {
            listen: listen
                .parse()
                .with_context(|| format!("--listen `{listen}` is not an address and port such as 127.0.0.1:7070"))?,
            data: data_dir(given),
            cache: given.text("cache").map(PathBuf::from),
            on_exit,
            accelerator,
            address_pool: given.text("address-pool"),
            golden_shapes: golden_shapes(&given.text("golden-shapes").unwrap_or_default())?,
            golden_budget_mb: mebibytes(given, "golden-budget-mb")?,
            disk_rate_mb: mebibytes(given, "disk-rate-mb")?,
            output_kb: output_kb(&given.text("output-kb").unwrap_or_default())?,
            log: given.text("log").unwrap_or_default(),
            log_json,
        })
    }
}

fn golden_shapes(text: &str) -> Result<Vec<GoldenShape>> {
    let words = text.split(',').map(str::trim).filter(|word| !word.is_empty() && *word != "none");
    words
        .map(|word| GoldenShape::parse(word).map_err(|e| anyhow::anyhow!("--golden-shapes `{word}`: {}", e.detail)))
        .collect()
}

fn output_kb(text: &str) -> Result<u64> {
    let number = text.parse().ok().filter(|kb| (64..=16 * 1024).contains(kb));
    number.with_context(|| format!("--output-kb `{text}` is not a number of KiB from 64 to 16384"))
}

fn mebibytes(given: &Given, name: &str) -> Result<u64> {
    const MOST: u64 = 16 * 1024 * 1024;
    let text = given.text(name).unwrap_or_default();
    let number = text.parse().ok().filter(|mb| *mb <= MOST);
    number.with_context(|| format!("--{name} `{text}` is not a number of MiB from 0 to {MOST}"))
}

/// The data directory that counts.
pub(crate) fn data_dir(given: &Given) -> PathBuf {
    if let Some(dir) = given.text("data") {
        return absolute(Path::new(&dir));
    }
    if is_root() {
        return PathBuf::from("/var/lib/atoll");
    }
    let home = given.variable("HOME").unwrap_or("/");
    match given.variable("XDG_DATA_HOME") {
        Some(base) => PathBuf::from(base).join("atoll"),
        None => PathBuf::from(home).join(".local/share/atoll"),
    }
}

/// A path that stays right when the working directory changes.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The generated reference, as Markdown.
pub(crate) fn reference() -> String {
    let mut out = String::from(
        "# Configuration\n\nGenerated from the table in `crates/atoll/src/settings.rs` (`atoll up --print-config-reference`); do not edit.\n\
         A value is taken from the flag, else the environment, else the file `.env` in the working directory, else the default.\n\n\
         | flag | environment | default | what it is |\n|---|---|---|---|\n",
    );
    for setting in SETTINGS {
        let default = if setting.default.is_empty() { "" } else { setting.default };
        let _ = writeln!(
            out,
            "| `--{}` | `{}` | {} | {} |",
            setting.name,
            setting.env,
            if default.is_empty() { "-".to_owned() } else { format!("`{default}`") },
            setting.help
        );
    }
    out.push_str("\nClients of a running Atoll also read `ATOLL_URL` and `ATOLL_API_KEY` (see `atoll help`).\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_beats_the_environment_and_that_beats_the_file() {
        let mut given = Given::default();
        given.env_file.insert("ATOLL_LISTEN".into(), "127.0.0.1:1".into());
        assert_eq!(Settings::from_given(&given).unwrap().listen.port(), 1);
        given.environment.insert("ATOLL_LISTEN".into(), "127.0.0.1:2".into());
        assert_eq!(Settings::from_given(&given).unwrap().listen.port(), 2);
        given.flag("listen", Some("127.0.0.1:3".into()));
        assert_eq!(Settings::from_given(&given).unwrap().listen.port(), 3);
    }

    #[test]
    fn env_files_are_read_and_bad_lines_named_by_number_only() {
        let read = parse_env_file("# c\nexport A=\"x y\"\nB='z'\n\nC=d=e\n").unwrap();
        assert_eq!(read["A"], "x y");
        assert_eq!(read["B"], "z");
        assert_eq!(read["C"], "d=e");
        let error = parse_env_file("A=1\nsecret").unwrap_err().to_string();
        assert!(error.contains("line 2") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn wrong_values_name_the_flag_and_the_way_out() {
        for (flag, value) in [
            ("listen", "nowhere"),
            ("on-exit", "x"),
            ("accelerator", "x"),
            ("log-format", "x"),
            ("golden-shapes", "1x"),
            ("golden-budget-mb", "-1"),
            ("disk-rate-mb", "fast"),
            ("output-kb", "63"),
        ] {
            let mut given = Given::default();
            given.flag(SETTINGS.iter().find(|s| s.name == flag).unwrap().name, Some(value.into()));
            let error = format!("{:#}", Settings::from_given(&given).unwrap_err());
            assert!(error.contains(&format!("--{flag}")), "{error}");
        }
    }
}
