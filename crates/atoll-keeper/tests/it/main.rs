//! What the keeper's parts promise, through their public interfaces.

mod hostile;
mod memory;
