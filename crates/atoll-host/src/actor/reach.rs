//! The way into a running VM, as it is handed out.
//!
//! How it works: streams are made by the sandbox's keeper, and the actor says whether there is anything to connect to. A template is made
//! of a VM that goes on, so it can be reached all the while: a connection that is asked for in the moment in which the VM
//! stands still is made when it goes on. Who asks while it is not known yet waits ([`super::waiting`]).
//!
//! Deliberately absent: what a stream carries.

use std::sync::Arc;

use atoll_domain::actor::State;
use atoll_domain::host::HostError;

use super::Actor;
use super::usage::Usage;
use crate::dial::Sockets;
use crate::error::silent;

impl Actor {
    /// Hands the way into this VM out from now on, and asks its guest for what it uses; neither, when there is none.
    pub(super) fn follow(&mut self) {
        self.reach = self.alive.as_ref().map(|alive| alive.sockets.clone());
        self.usage = match &self.reach {
            Some(sockets) => {
                let secrets = self.secrets.borrow().clone();
                Usage::new(Arc::clone(&self.shared.metrics), self.spec.id.clone(), sockets.clone(), secrets)
            }
            None => Usage::none(),
        };
    }

    /// Streams were asked for while it was not known yet whether there is anything to connect to.
    pub(super) fn answer_parked(&mut self, state: State) {
        if state != State::Adopting {
            for reply in self.waiting.parked() {
                // The asker has gone.
                let _ = reply.send(self.sockets(state));
            }
        }
    }

    pub(super) fn sockets(&self, state: State) -> Result<Sockets, HostError> {
        match &self.reach {
            Some(sockets) if matches!(state, State::Running | State::Copying) => Ok(sockets.clone()),
            _ if state == State::Left => Err(silent(&self.shared)),
            _ if state == State::Refused => Err(HostError::WrongState { state: self.reason.clone() }),
            _ => Err(HostError::WrongState { state: state.as_str().into() }),
        }
    }
}
