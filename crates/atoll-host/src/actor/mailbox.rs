//! What an actor is asked, in the order in which it takes it.
//!
//! How it works: messages are taken as they come, but for those that `atoll_domain::actor` keeps until the work under way has ended: they
//! are taken first when it has. There are as many of them as the mailbox holds; further ones are taken at once, and so refused: whatever
//! else is asked, a destroy above all, is heard.
//!
//! Deliberately absent: answers, and what is done with a message.

use std::collections::VecDeque;

use atoll_domain::actor::{Event, State};
use tokio::sync::mpsc;

use super::{MAILBOX, Message};

/// A mailbox with room for what is kept for later.
pub(super) struct Mailbox {
    messages: mpsc::Receiver<Message>,
    kept: VecDeque<Message>,
}

impl Mailbox {
    pub(super) fn new(messages: mpsc::Receiver<Message>) -> Self {
        Self { messages, kept: VecDeque::new() }
    }

    /// The next one that can be decided about in this state; none when nobody can ask any more. Loses nothing when it is dropped.
    pub(super) async fn next(&mut self, state: State) -> Option<Message> {
        if let Some(at) = self.kept.iter().position(|message| !is_for_later(state, message)) {
            return self.kept.remove(at);
        }
        loop {
            let message = self.messages.recv().await?;
            if self.kept.len() >= MAILBOX || !is_for_later(state, &message) {
                return Some(message);
            }
            self.kept.push_back(message);
        }
    }

    /// Nobody can ask any more; what was asked is still taken.
    pub(super) fn close(&mut self) {
        self.messages.close();
    }
}

fn is_for_later(state: State, message: &Message) -> bool {
    let event = match message {
        Message::Pause { .. } => Event::Pause,
        Message::Resume { .. } => Event::Resume,
        _ => return false,
    };
    state.keeps_for_later(event)
}

#[cfg(test)]
mod tests {
    use atoll_domain::host::PauseMode;
    use tokio::sync::oneshot;

    use super::*;

    fn pause() -> Message {
        Message::Pause { call: None, mode: PauseMode::Memory, reply: oneshot::channel().0 }
    }

    #[tokio::test]
    async fn a_pause_is_taken_when_the_template_is_made_and_keeps_nothing_else_from_being_heard() {
        let (sender, receiver) = mpsc::channel(MAILBOX);
        let mut mailbox = Mailbox::new(receiver);
        sender.send(pause()).await.unwrap();
        sender.send(Message::Used).await.unwrap();
        assert!(matches!(mailbox.next(State::Copying).await, Some(Message::Used)));
        assert!(matches!(mailbox.next(State::Running).await, Some(Message::Pause { .. })));
        drop(sender);
        assert!(mailbox.next(State::Running).await.is_none());
    }

    #[tokio::test]
    async fn there_are_no_more_kept_than_a_mailbox_holds_and_the_rest_is_heard() {
        let (sender, receiver) = mpsc::channel(MAILBOX + 2);
        let mut mailbox = Mailbox::new(receiver);
        for _ in 0..=MAILBOX {
            sender.send(pause()).await.unwrap();
        }
        sender.send(Message::Used).await.unwrap();
        assert!(matches!(mailbox.next(State::Copying).await, Some(Message::Pause { .. })), "one too many");
        assert!(matches!(mailbox.next(State::Copying).await, Some(Message::Used)));
        assert_eq!(mailbox.kept.len(), MAILBOX);
    }
}
