//! The buffers that a file is read into on its way out, used again and again.
//!
//! How it works: a piece on the wire owns its buffer and hands it back when the last of it was sent. A fresh buffer of this size would be
//! fresh pages of the kernel's each time, which costs an emulated guest more than reading into it.
//!
//! Deliberately absent: sharing between transfers; a guest reads few files at a time.

use std::{
    io::{self, Read},
    sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
};

use bytes::Bytes;

use super::{PIECE, PIECES};

/// Gives out buffers of [`PIECE`] bytes.
pub(super) struct Buffers {
    returned: Receiver<Vec<u8>>,
    give_back: SyncSender<Vec<u8>>,
}

impl Buffers {
    /// None is made before it is needed.
    pub(super) fn new() -> Self {
        // Those that wait, the one that is sent and the one that is read into.
        let (give_back, returned) = sync_channel(PIECES + 2);
        Self { returned, give_back }
    }

    /// The next piece of a source, at most `wanted` bytes of it; empty at its end.
    ///
    /// # Errors
    /// What the source says.
    pub(super) fn read(&self, source: &mut impl Read, wanted: usize) -> io::Result<Bytes> {
        let mut buffer = match self.returned.try_recv() {
            Ok(buffer) => buffer,
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => vec![0; PIECE],
        };
        let wanted = wanted.min(buffer.len());
        let mut filled = 0;
        while filled < wanted {
            match source.read(&mut buffer[filled..wanted]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Bytes::from_owner(Piece { buffer, filled, give_back: self.give_back.clone() }))
    }
}

/// A buffer on its way out.
struct Piece {
    buffer: Vec<u8>,
    filled: usize,
    give_back: SyncSender<Vec<u8>>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        // Nobody takes it back once the file is read: then it is freed.
        let _ = self.give_back.try_send(std::mem::take(&mut self.buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_its_piece_was_sent() {
        let buffers = Buffers::new();
        let content = vec![7; 3 * PIECE / 2];
        let mut source = content.as_slice();
        let first = buffers.read(&mut source, usize::MAX).unwrap();
        let place = first.as_ptr();
        assert_eq!(first.len(), PIECE);
        drop(first);
        let second = buffers.read(&mut source, usize::MAX).unwrap();
        assert_eq!((second.as_ptr(), second.len()), (place, PIECE / 2));
        let end = buffers.read(&mut source, usize::MAX).unwrap();
        assert!(end.is_empty());
        assert_eq!(&second[..], &content[PIECE..]);
    }

    #[test]
    fn a_piece_outlives_its_reader() {
        let buffers = Buffers::new();
        let piece = buffers.read(&mut [1, 2, 3].as_slice(), 2).unwrap();
        drop(buffers);
        assert_eq!(&piece[..], [1, 2]);
    }
}
