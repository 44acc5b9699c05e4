//! The service layer of the control plane.

pub mod ports;
