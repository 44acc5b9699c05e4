//! The last bytes of an endless stream.
//!
//! How it works: a bounded queue that knows the offset of its first byte, counted over everything that ever came.
//!
//! Deliberately absent: lines.

use std::collections::VecDeque;

/// Keeps at most so many bytes.
#[derive(Debug)]
pub struct Ring {
    bytes: VecDeque<u8>,
    capacity: usize,
    /// Offset of the first byte that is kept.
    start: u64,
}

impl Ring {
    /// An empty ring.
    pub fn new(capacity: usize) -> Self {
        Self { bytes: VecDeque::new(), capacity, start: 0 }
    }

    /// Appends, dropping the oldest.
    pub fn push(&mut self, bytes: &[u8]) {
        let skipped = bytes.len().saturating_sub(self.capacity);
        let kept = &bytes[skipped..];
        let surplus = (self.bytes.len() + kept.len()).saturating_sub(self.capacity);
        self.bytes.drain(..surplus);
        self.bytes.extend(kept);
        self.start += (surplus + skipped) as u64;
    }

    /// Offset behind the last byte.
    pub fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// At most `most` bytes from an offset on, with the offset of the first of them.
    pub fn from(&self, offset: u64, most: usize) -> (u64, Vec<u8>) {
        let first = offset.clamp(self.start, self.end());
        let skip = usize::try_from(first - self.start).unwrap_or(usize::MAX);
        (first, self.bytes.iter().skip(skip).take(most).copied().collect())
    }

    /// Everything that is kept, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.from(0, usize::MAX).1).trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_stay_true_when_old_bytes_go() {
        let mut ring = Ring::new(4);
        ring.push(b"ab");
        assert_eq!(ring.from(0, 9), (0, b"ab".to_vec()));
        ring.push(b"cde");
        assert_eq!((ring.end(), ring.from(0, 9)), (5, (1, b"bcde".to_vec())));
        ring.push(b"0123456789");
        assert_eq!((ring.end(), ring.from(12, 9)), (15, (12, b"789".to_vec())));
        assert_eq!(ring.from(99, 9), (15, vec![]));
        assert_eq!(ring.from(0, 2), (11, b"67".to_vec()));
    }
}
