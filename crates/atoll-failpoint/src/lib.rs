//! Places at which a test can make Atoll die, or stand still.
//!
//! How it works: what writes intent or outcome down names its step by an enum made with [`steps!`], and calls [`reach`] before and
//! after it. The enum lists itself, so the kill matrix has a case for every step there is, and one that no case reaches fails
//! it. Three variables steer a process: `ATOLL_FAILPOINT=<step>.<before|after>` picks the place, `ATOLL_FAILPOINT_HOLD=<file>`
//! makes it stand still there (the file says that it does; removing it lets it go on) instead of dying by SIGKILL, and
//! `ATOLL_FAILPOINT_LOG=<file>` gets a line for every place that is reached.
//!
//! Deliberately absent: all of it in a build without debug assertions: there [`reach`] is nothing, and no variable is read.

/// Which side of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// Nothing of it is done.
    Before,
    /// It is on disk.
    After,
}

impl Edge {
    /// How it stands in a failpoint's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
        }
    }
}

/// Makes an enum of steps that knows their names and all of its variants.
#[macro_export]
macro_rules! steps {
    ($(#[$doc:meta])* $vis:vis enum $name:ident { $($(#[$step_doc:meta])* $step:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        $vis enum $name { $($(#[$step_doc])* $step,)* }

        impl $name {
            /// Every step there is.
            pub const ALL: &'static [Self] = &[$(Self::$step,)*];

            /// The name by which a failpoint is picked.
            pub fn name(self) -> &'static str {
                match self { $(Self::$step => $text,)* }
            }

            /// Says that the step is about to be done.
            #[allow(dead_code, reason = "some steps are bracketed by their caller")]
            pub fn before(self) {
                $crate::reach(self.name(), $crate::Edge::Before);
            }

            /// Says that the step is done.
            #[allow(dead_code, reason = "some steps are bracketed by their caller")]
            pub fn after(self) {
                $crate::reach(self.name(), $crate::Edge::After);
            }
        }
    };
}

/// Says that a step was reached; dies or waits there if a test wants it.
#[inline]
pub fn reach(step: &str, edge: Edge) {
    #[cfg(debug_assertions)]
    armed::reach(step, edge);
    #[cfg(not(debug_assertions))]
    let _ = (step, edge);
}

#[cfg(debug_assertions)]
mod armed {
    use std::fs::{self, OpenOptions};
    use std::io::Write as _;
    use std::path::PathBuf;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    use super::Edge;

    struct Armed {
        place: Option<String>,
        hold: Option<PathBuf>,
        log: Option<PathBuf>,
        held: AtomicBool,
    }

    fn armed() -> Option<&'static Armed> {
        static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
        let read = || {
            let text = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
            let (place, log) = (text("ATOLL_FAILPOINT"), text("ATOLL_FAILPOINT_LOG").map(PathBuf::from));
            let hold = text("ATOLL_FAILPOINT_HOLD").map(PathBuf::from);
            let any = place.is_some() || log.is_some();
            any.then(|| Armed { place, hold, log, held: AtomicBool::new(false) })
        };
        ARMED.get_or_init(read).as_ref()
    }

    pub(super) fn reach(step: &str, edge: Edge) {
        let Some(armed) = armed() else { return };
        let name = format!("{step}.{}", edge.as_str());
        if let Some(log) = &armed.log
            && let Ok(mut file) = OpenOptions::new().append(true).create(true).open(log)
        {
            // A place that is missing in the log fails the test that reads it.
            let _ = file.write_all(format!("{name}\n").as_bytes());
        }
        if armed.place.as_deref() != Some(name.as_str()) {
            return;
        }
        match &armed.hold {
            None => {
                // Nothing is unwound, flushed or closed: what a power cut, or `kill -9`, leaves.
                let _ = kill(Pid::this(), Signal::SIGKILL);
            }
            // Once: what comes by later must not wait for a test that has gone on.
            Some(file) if !armed.held.swap(true, Ordering::SeqCst) => {
                if fs::write(file, &name).is_ok() {
                    while file.exists() {
                        std::thread::sleep(Duration::from_millis(2));
                    }
                }
            }
            Some(_) => {}
        }
    }
}
