//! Snapshots of a real guest: taken, restored, flattened, refused.

#[path = "../scene/mod.rs"]
mod scene;

mod generations;
mod guest;
mod refused;
