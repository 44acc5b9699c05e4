//! The last output of a process, with the byte offset of each piece.
//!
//! How it works: one counter runs over all output (both descriptors). What is older than the capacity is forgotten,
//! unless somebody still needs it: then it stays, up to the slack. A reader that comes too late is told how much it
//! missed.
//!
//! Deliberately absent: clocks and waiting.

use std::collections::VecDeque;

/// How large a piece of the ring grows before a new one is begun. It also bounds
/// the frames that readers get.
pub(crate) const PIECE: usize = 32 * 1024;

/// Where output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Stdout,
    Stderr,
    Pty,
}

/// What a reader gets next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Data { source: Source, offset: u64, bytes: Vec<u8> },
    Gap { offset: u64, bytes: u64 },
}

impl Piece {
    /// How many bytes of output are in it.
    pub(crate) fn data(&self) -> u64 {
        match self {
            Self::Data { bytes, .. } => bytes.len() as u64,
            Self::Gap { .. } => 0,
        }
    }

    /// Where the reader stands after it.
    pub(crate) fn end(&self) -> u64 {
        match self {
            Self::Data { offset, bytes, .. } => offset + bytes.len() as u64,
            Self::Gap { offset, bytes } => offset + bytes,
        }
    }
}

struct Chunk {
    source: Source,
    offset: u64,
    bytes: Vec<u8>,
}

/// Output of one process.
pub(crate) struct Ring {
    chunks: VecDeque<Chunk>,
    held: usize,
    end: u64,
    room: Room,
}

/// How much a ring may hold, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    /// For everybody.
    pub(crate) capacity: usize,
    /// More than that, for a reader that still needs it.
    pub(crate) slack: usize,
}

impl Ring {
    /// A ring that keeps at least the last `capacity` bytes.
    pub(crate) fn new(room: Room) -> Self {
        Self { chunks: VecDeque::new(), held: 0, end: 0, room }
    }

    pub(crate) fn capacity(&self) -> usize {
        self.room.capacity
    }

    /// How many bytes were written in all.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// How many bytes are kept.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    fn oldest(&self) -> u64 {
        self.end - self.held as u64
    }

    /// Adds output. Somebody may need all from an offset on.
    pub(crate) fn push(&mut self, source: Source, mut bytes: &[u8], needed: Option<u64>) {
        while !bytes.is_empty() {
            let room = match self.chunks.back() {
                Some(last) if last.source == source => PIECE.saturating_sub(last.bytes.len()),
                _ => 0,
            };
            if room == 0 {
                self.chunks.push_back(Chunk { source, offset: self.end, bytes: Vec::new() });
                continue;
            }
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            if let Some(last) = self.chunks.back_mut() {
                last.bytes.extend_from_slice(now);
            }
            self.end += now.len() as u64;
            self.held += now.len();
            bytes = later;
        }
        self.forget(needed);
    }

    /// Forgets what is older than may be kept.
    pub(crate) fn forget(&mut self, needed: Option<u64>) {
        while let Some(first) = self.chunks.front() {
            let length = first.bytes.len();
            let is_needed = needed.is_some_and(|needed| first.offset + length as u64 > needed);
            let limit = self.room.capacity + if is_needed { self.room.slack } else { 0 };
            if self.held - length < limit {
                break;
            }
            self.held -= length;
            self.chunks.pop_front();
        }
    }

    /// Forgets everything but how much there was.
    pub(crate) fn clear(&mut self) {
        self.chunks = VecDeque::new();
        self.held = 0;
    }

    /// What a reader at `from` gets next; `None` when there is nothing yet.
    pub(crate) fn read(&self, from: u64) -> Option<Piece> {
        if from >= self.end {
            return None;
        }
        let oldest = self.oldest();
        if from < oldest {
            return Some(Piece::Gap { offset: from, bytes: oldest - from });
        }
        let index = self.chunks.partition_point(|chunk| chunk.offset <= from).checked_sub(1)?;
        let chunk = self.chunks.get(index)?;
        let skip = usize::try_from(from - chunk.offset).ok()?;
        Some(Piece::Data { source: chunk.source, offset: from, bytes: chunk.bytes.get(skip..)?.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(capacity: usize) -> Ring {
        Ring::new(Room { capacity, slack: 0 })
    }

    fn read_all(ring: &Ring, mut from: u64) -> (Vec<u8>, u64) {
        let (mut bytes, mut missed) = (Vec::new(), 0);
        while let Some(piece) = ring.read(from) {
            from = piece.end();
            match piece {
                Piece::Data { bytes: more, .. } => bytes.extend(more),
                Piece::Gap { bytes, .. } => missed += bytes,
            }
        }
        (bytes, missed)
    }

    #[test]
    fn what_fits_is_kept_in_order_and_by_source() {
        let mut ring = ring(100);
        ring.push(Source::Stdout, b"ab", None);
        ring.push(Source::Stdout, b"cd", None);
        ring.push(Source::Stderr, b"ef", None);
        assert_eq!(ring.read(0), Some(Piece::Data { source: Source::Stdout, offset: 0, bytes: b"abcd".to_vec() }));
        assert_eq!(ring.read(5), Some(Piece::Data { source: Source::Stderr, offset: 5, bytes: b"f".to_vec() }));
        assert_eq!(ring.read(6), None);
        assert_eq!(ring.read(700), None);
    }

    #[test]
    fn bytes_and_gaps_add_up_to_the_total() {
        let mut ring = ring(3 * PIECE);
        let line = vec![7; 10_007];
        for _ in 0..40 {
            ring.push(Source::Stdout, &line, None);
            ring.push(Source::Stderr, &line[..13], None);
        }
        let total = 40 * (10_007 + 13);
        for from in [0, 1, 50_000, total - 1, total] {
            let (bytes, missed) = read_all(&ring, from);
            assert_eq!(bytes.len() as u64 + missed, total - from);
            assert!(from > 0 || bytes.len() >= 3 * PIECE);
        }
        assert!(ring.held() <= 4 * PIECE);
    }

    #[test]
    fn one_large_write_does_not_break_the_bound() {
        let mut ring = ring(PIECE);
        ring.push(Source::Pty, &vec![1; 10 * PIECE + 5], None);
        assert!(ring.held() <= 2 * PIECE);
        assert_eq!(ring.end(), 10 * PIECE as u64 + 5);
    }

    #[test]
    fn what_is_needed_stays_up_to_the_slack() {
        let mut ring = Ring::new(Room { capacity: PIECE, slack: 4 * PIECE });
        for _ in 0..5 {
            ring.push(Source::Stdout, &[1; PIECE], Some(0));
        }
        assert_eq!(read_all(&ring, 0), (vec![1; 5 * PIECE], 0));
        ring.push(Source::Stdout, &[2; PIECE], Some(0));
        assert!(matches!(ring.read(0), Some(Piece::Gap { .. })), "more than the slack is not kept");
        ring.forget(None);
        assert!(ring.held() <= 2 * PIECE, "nobody needs it any more");
    }
}
