//! The state machine of one sandbox on its host.
