//! How the building of images is shown.
//!
//! How it works: on a terminal a bar per phase with the tool's last line; otherwise one line when a phase begins and one when it ends.
//! The bars hear of an orderly stop, so that a build does not hold it up.
//!
//! Deliberately absent: percentages. The tools behind do not know them either.

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use atoll_disk::{Progress, ProgressEvent};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio_util::sync::CancellationToken;

const TICK: Duration = Duration::from_millis(120);
/// Longest piece of a tool's line that is shown.
const DETAIL: usize = 60;

/// How much is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Nothing.
    Silent,
    /// A line per phase.
    Lines,
    /// Bars on a terminal.
    Bars,
}

/// Shows progress on standard error.
#[derive(Debug)]
pub(crate) struct BuildProgress {
    style: Style,
    bars: MultiProgress,
    stop: CancellationToken,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    current: Option<String>,
    open: HashMap<String, ProgressBar>,
}

impl BuildProgress {
    /// Progress that is called off with `stop`.
    pub(crate) fn new(style: Style, bars: MultiProgress, stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self { style, bars, stop, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Under it bars are only put in and taken out.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line(&self, text: &str) {
        // Nobody to tell is no reason to stop building.
        let _ = self.bars.suspend(|| writeln!(std::io::stderr().lock(), "{text}"));
    }

    fn begin(&self, phase: String) {
        match self.style {
            Style::Silent => {}
            Style::Lines => self.line(&format!("{phase}: building, this is done once")),
            Style::Bars => {
                let bar = self.bars.add(ProgressBar::new_spinner());
                if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} {elapsed:.dim} {wide_msg:.dim}") {
                    bar.set_style(style);
                }
                bar.set_prefix(phase.clone());
                bar.enable_steady_tick(TICK);
                let mut state = self.state();
                state.open.insert(phase.clone(), bar);
                state.current = Some(phase);
            }
        }
    }

    fn end(&self, phase: &str, seconds: f64) {
        if let Some(bar) = self.state().open.remove(phase) {
            bar.finish_and_clear();
        }
        if self.style != Style::Silent {
            self.line(&format!("{phase}: built in {seconds:.1} s"));
        }
    }
}

impl Progress for BuildProgress {
    fn event(&self, event: ProgressEvent) {
        match event {
            ProgressEvent::Started(phase) => self.begin(phase),
            ProgressEvent::Detail(text) => {
                let state = self.state();
                if let Some(bar) = state.current.as_ref().and_then(|phase| state.open.get(phase)) {
                    // A tool's output may hold what a terminal would obey.
                    let clean: String = text.chars().filter(|c| !c.is_control()).take(DETAIL).collect();
                    bar.set_message(clean);
                }
            }
            ProgressEvent::Finished(phase, seconds) => self.end(&phase, seconds),
            ProgressEvent::Cached(_) => {}
        }
    }

    fn cancelled(&self) -> bool {
        self.stop.is_cancelled()
    }
}
