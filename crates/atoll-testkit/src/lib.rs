//! Parts for tests: a simulated host, a clock that is set by hand, a control plane on both.
//!
//! How it works: what is simulated says so in its name ([`SimHost`], [`sim_guest::SimGuest`]); everything else in a [`ControlBox`] is the
//! real part (SQLite in a directory of its own, the real service layer). [`conformance`] holds what every `HostDriver`
//! keeps to, so that the simulated host and a real one are tried by the same words.
//!
//! Deliberately absent: anything that ships, assertions about time.

mod clock;
pub mod conformance;
pub mod conformance_life;
mod control_box;
mod faults;
pub mod ids;
pub mod sim_guest;
mod sim_host;
mod sim_life;
mod wait;

pub use clock::ManualClock;
pub use control_box::ControlBox;
pub use faults::{Fault, Gate, Method};
pub use sim_host::SimHost;
pub use wait::{BOOTS, DEADLINE, eventually, patiently, within};
