//! The loop: mutate, run, judge, keep.
//!
//! How it works: one thread runs inputs and judges panics, time and memory; a second one watches it, so that an input that
//! never ends is written down before the process does. Everything printed names the seed that repeats the run.
//!
//! Deliberately absent: several workers; `make soak` runs one target after the other on two cores.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::coverage::Seen;
use crate::memory;
use crate::mutate::{Random, mutate};
use crate::targets::Target;

/// An input that takes longer has failed: nothing here does more than parse.
const SLOW: Duration = Duration::from_secs(10);
/// Most inputs that are kept; beyond them a random one is replaced.
const KEPT: usize = 4096;

/// How a run is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    /// How long.
    pub(crate) time: Duration,
    /// Where the random numbers start.
    pub(crate) seed: u64,
}

/// What is being tried now, for the watcher.
type Current = Arc<Mutex<Option<(Instant, Vec<u8>)>>>;

/// Fuzzes one target.
pub(crate) fn run(target: &'static Target, settings: &Run) -> Result<()> {
    let mut corpus: Vec<Vec<u8>> = target.seeds.iter().map(|seed| seed.to_vec()).collect();
    corpus.extend(findings_of(target)?);
    corpus.push(Vec::new());
    let (mut seen, mut random) = (Seen::new(), Random::new(settings.seed));
    let current = Current::default();
    watch(target, Arc::clone(&current));
    std::panic::set_hook(Box::new(|_| {}));
    let deadline = Instant::now() + settings.time;
    for input in corpus.clone() {
        attempt(target, &input, &mut seen, &current)?;
    }
    let mut tried = corpus.len();
    while Instant::now() < deadline {
        let input = mutate(&mut random, &corpus, target.dictionary);
        tried += 1;
        if attempt(target, &input, &mut seen, &current)? {
            if corpus.len() < KEPT {
                corpus.push(input);
            } else {
                let at = random.below(corpus.len());
                corpus[at] = input;
            }
        }
    }
    let how = match seen.edges() {
        0 => "blind: this build counts no edges".to_owned(),
        edges => format!("{} of {edges} edges, {} inputs kept", seen.reached(), corpus.len()),
    };
    println!("{}: {tried} inputs, no failure ({how}; seed {})", target.name, settings.seed);
    Ok(())
}

/// Runs one input, with the panic's message on standard error.
pub(crate) fn replay(target: &'static Target, input: &[u8]) -> Result<()> {
    let begun = memory::begin();
    let started = Instant::now();
    (target.run)(input);
    let peak = memory::peak_since(begun);
    if peak > target.memory {
        bail!("{}: {peak} bytes of memory, at most {}", target.name, target.memory);
    }
    println!("{}: ok in {:?}, {peak} bytes", target.name, started.elapsed());
    Ok(())
}

/// Tries one input; true if it reached something new.
fn attempt(target: &'static Target, input: &[u8], seen: &mut Seen, current: &Current) -> Result<bool> {
    if let Ok(mut current) = current.lock() {
        *current = Some((Instant::now(), input.to_vec()));
    }
    seen.clear();
    let begun = memory::begin();
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    let peak = memory::peak_since(begun);
    let grew = seen.grew();
    if let Ok(mut current) = current.lock() {
        *current = None;
    }
    if let Err(panic) = outcome {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("(no message)");
        bail!("{}: panic: {text}\ninput: {}", target.name, keep(target, input)?.display());
    }
    if peak > target.memory {
        bail!(
            "{}: {peak} bytes of memory, at most {}\ninput: {}",
            target.name,
            target.memory,
            keep(target, input)?.display()
        );
    }
    Ok(grew)
}

/// Ends the process when an input takes too long.
fn watch(target: &'static Target, current: Current) {
    // It lives as long as the process, which ends with the run.
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_millis(200));
            let hung = match current.lock() {
                Ok(current) => {
                    current.as_ref().filter(|(since, _)| since.elapsed() > SLOW).map(|(_, input)| input.clone())
                }
                Err(_) => None,
            };
            if let Some(input) = hung {
                match keep(target, &input) {
                    Ok(path) => eprintln!("{}: still running after {SLOW:?}\ninput: {}", target.name, path.display()),
                    Err(error) => eprintln!("{}: still running after {SLOW:?}; {error:#}", target.name),
                }
                std::process::abort();
            }
        }
    });
}

/// Writes an input that failed where `replay` finds it.
fn keep(target: &Target, input: &[u8]) -> Result<PathBuf> {
    let dir = Path::new("target/fuzz");
    fs::create_dir_all(dir).context("cannot create target/fuzz")?;
    let path = dir.join(format!("{}-{}", target.name, std::process::id()));
    fs::write(&path, input).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// What was found in the past and is tried first ever after.
fn findings_of(target: &Target) -> Result<Vec<Vec<u8>>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let mut paths: Vec<PathBuf> = fs::read_dir(&dir)?.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).with_context(|| format!("cannot read {}", path.display()))).collect()
}
