//! What can go wrong with a simulated host, on demand.
//!
//! How it works: faults are planned per method and used up in order, one a call. A [`Gate`] holds a call at a known point and tells that
//! it got there, so that a test decides what happens in between without any sleep.
//!
//! Deliberately absent: chance. What a property test needs it draws itself.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use atoll_domain::host::HostError;
use tokio::sync::watch;

use crate::within;

/// A method of `HostDriver`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// `create`
    Create,
    /// `destroy`
    Destroy,
    /// `pause`
    Pause,
    /// `resume`
    Resume,
    /// `make_template`
    MakeTemplate,
    /// `drop_template`
    DropTemplate,
    /// `templates`
    Templates,
    /// `set_lifetime`
    SetLifetime,
    /// `touch`
    Touch,
    /// `list`
    List,
    /// `inspect`
    Inspect,
    /// `secrets`
    Secrets,
    /// `console`.
    Console,
    /// `watch`
    Watch,
    /// `latest_event`
    LatestEvent,
    /// `acknowledge`
    Acknowledge,
    /// `open_stream`
    OpenStream,
    /// `metrics`
    Metrics,
    /// `flush_metrics`
    FlushMetrics,
    /// `scrub`
    Scrub,
    /// `capacity`
    Capacity,
}

/// What goes wrong with one call.
#[derive(Debug, Clone)]
pub enum Fault {
    /// It is refused; nothing happens.
    Refuse(HostError),
    /// It is slow: its effect waits for the gate. A create is seen as starting meanwhile and can be called off by a destroy.
    Hold(Gate),
    /// It has its effect, the answer waits for the gate.
    HoldAnswer(Gate),
    /// It has its effect, the answer is lost.
    LoseReply,
}

/// A point at which a call waits.
#[derive(Debug, Clone)]
pub struct Gate(Arc<(watch::Sender<bool>, watch::Sender<bool>)>);

impl Default for Gate {
    fn default() -> Self {
        Self(Arc::new((watch::Sender::new(false), watch::Sender::new(false))))
    }
}

impl Gate {
    /// A closed gate that nobody waits at.
    pub fn new() -> Self {
        Self::default()
    }

    /// Waits until a call stands at the gate.
    pub async fn reached(&self) {
        let mut reached = self.0.0.subscribe();
        within("a call to reach its gate", reached.wait_for(|reached| *reached))
            .await
            .expect("the gate holds the sender");
    }

    /// Lets everybody through, now and later.
    pub fn open(&self) {
        self.0.1.send_replace(true);
    }

    pub(crate) async fn pass(&self) {
        self.0.0.send_replace(true);
        let mut open = self.0.1.subscribe();
        open.wait_for(|open| *open).await.expect("the gate holds the sender");
    }
}

/// The faults that are planned and not used up.
#[derive(Debug, Default)]
pub(crate) struct Plan(HashMap<Method, VecDeque<Fault>>);

impl Plan {
    pub(crate) fn add(&mut self, method: Method, fault: Fault) {
        self.0.entry(method).or_default().push_back(fault);
    }

    pub(crate) fn take(&mut self, method: Method) -> Option<Fault> {
        self.0.get_mut(&method)?.pop_front()
    }
}
