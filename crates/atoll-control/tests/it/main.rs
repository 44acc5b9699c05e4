//! The service layer with its real database and a simulated host: what it promises when something goes wrong in between.

mod access;
mod create;
mod destroy;
mod events;
mod exec;
mod life;
mod reconcile;
