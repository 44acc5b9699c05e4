//! How much input may be on its way to a program.
//!
//! How it works: the server says in its first frame how much it lets wait, and then how much was taken; what was sent and not taken is
//! never more. A server that says nothing of it is sent everything, and stops reading where it has no more room.
//!
//! Deliberately absent: waiting.

/// The input of one stream.
#[derive(Debug, Default)]
pub(crate) struct Window {
    room: Room,
    sent: u64,
    taken: u64,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Room {
    /// The first frame has not come.
    #[default]
    Unknown,
    Endless,
    Bytes(u64),
}

impl Window {
    /// What the server says; nothing means that it does not bound it.
    pub(crate) fn open(&mut self, bytes: Option<u64>) {
        self.room = bytes.map_or(Room::Endless, Room::Bytes);
    }

    /// So much was taken in all.
    pub(crate) fn taken(&mut self, bytes: u64) {
        self.taken = self.taken.max(bytes);
    }

    pub(crate) fn sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }

    /// Whether so much more may be sent.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        match self.room {
            Room::Unknown => false,
            Room::Endless => true,
            Room::Bytes(most) => self.sent.saturating_sub(self.taken) + bytes as u64 <= most,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_on_its_way_than_fits() {
        let mut window = Window::default();
        assert!(!window.has_room(1), "the server has not spoken yet");
        window.open(Some(10));
        window.sent(6);
        assert!(window.has_room(4) && !window.has_room(5));
        window.taken(2);
        assert!(window.has_room(6) && !window.has_room(7));
        window.open(None);
        assert!(window.has_room(1 << 40));
    }
}
