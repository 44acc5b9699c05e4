//! How long work tells where it is.
//!
//! How it works: the work calls [`Progress::event`]; the command line draws a bar or prints a line per phase.
//!
//! Deliberately absent: drawing.

/// Something that happened in long work.
#[derive(Debug, Clone, PartialEq)]
pub enum ProgressEvent {
    /// A phase began, for example `image base`.
    Started(String),
    /// How far it is, for people: the last line that a tool printed.
    Detail(String),
    /// It ended well; seconds that it took.
    Finished(String, f64),
    /// It was there already.
    Cached(String),
}

/// Hears of progress and may call the work off.
pub trait Progress: Send + Sync {
    /// Something happened.
    fn event(&self, event: ProgressEvent);

    /// Whether the work should stop.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _event: ProgressEvent) {}
}
