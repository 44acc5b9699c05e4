//! Output of a process as frames that lose nothing.
//!
//! How it works: one counter runs over all output. Text goes as text; a character that was cut by a read waits for its rest (three bytes at most);
//! what is not UTF-8 goes as base64. What waits is sent as it is when anything else comes, so the order stays.
//!
//! Deliberately absent: I/O.

use atoll_api::{Encoding, Output, StreamFrame};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Where output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// Standard output, or a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Makes frames of output.
#[derive(Debug)]
pub(crate) struct Framer {
    /// Where the output ends that has come in, in bytes.
    offset: u64,
    /// The beginning of a character whose rest is still to come.
    waits: Option<(Source, Vec<u8>)>,
}

impl Framer {
    /// Begins at a byte of the process's output.
    pub(crate) fn new(offset: u64) -> Self {
        Self { offset, waits: None }
    }

    /// Takes what was written; at most two frames come of it.
    pub(crate) fn push(&mut self, source: Source, bytes: &[u8]) -> Vec<StreamFrame> {
        let mut frames = Vec::new();
        if self.waits.as_ref().is_some_and(|(other, _)| *other != source) {
            frames.extend(self.flush());
        }
        let mut all = self.waits.take().map(|(_, begun)| begun).unwrap_or_default();
        let begin = self.offset - all.len() as u64;
        all.extend_from_slice(bytes);
        self.offset += bytes.len() as u64;
        if let Err(error) = std::str::from_utf8(&all)
            && error.error_len().is_none()
        {
            self.waits = Some((source, all.split_off(error.valid_up_to())));
        }
        if !all.is_empty() {
            frames.push(frame(source, all, begin));
        }
        frames
    }

    /// Takes note of output that was missed.
    pub(crate) fn gap(&mut self, bytes: u64) -> Vec<StreamFrame> {
        let mut frames: Vec<_> = self.flush().into_iter().collect();
        frames.push(StreamFrame::Gap { bytes, offset: self.offset });
        self.offset += bytes;
        frames
    }

    /// What waits, as it is.
    pub(crate) fn flush(&mut self) -> Option<StreamFrame> {
        let (source, bytes) = self.waits.take()?;
        let begin = self.offset - bytes.len() as u64;
        Some(frame(source, bytes, begin))
    }
}

fn frame(source: Source, bytes: Vec<u8>, offset: u64) -> StreamFrame {
    let (data, encoding) = match String::from_utf8(bytes) {
        Ok(text) => (text, Encoding::Utf8),
        Err(error) => (STANDARD.encode(error.as_bytes()), Encoding::Base64),
    };
    let output = Output { data, encoding, offset };
    match source {
        Source::Stdout => StreamFrame::Stdout(output),
        Source::Stderr => StreamFrame::Stderr(output),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a reader makes of frames: all bytes with their offsets, by source.
    fn read(frames: &[StreamFrame]) -> Vec<(u64, Source, u8)> {
        let mut all = Vec::new();
        for frame in frames {
            let (source, output) = match frame {
                StreamFrame::Stdout(output) => (Source::Stdout, output),
                StreamFrame::Stderr(output) => (Source::Stderr, output),
                _ => continue,
            };
            let bytes = match output.encoding {
                Encoding::Utf8 => output.data.clone().into_bytes(),
                Encoding::Base64 => STANDARD.decode(&output.data).unwrap(),
            };
            all.extend((output.offset..).zip(bytes).map(|(at, byte)| (at, source, byte)));
        }
        all
    }

    #[test]
    fn every_byte_arrives_once_in_order_however_it_was_cut() {
        let text = "aé€😀".as_bytes();
        let noise = [0xff, 0xc3, 0x28, 0x00, 0xf0, 0x9f];
        let all: Vec<u8> = [text, &noise, text].concat();
        for size in 1..=all.len() {
            let mut framer = Framer::new(7);
            let (mut frames, mut expected) = (Vec::new(), Vec::new());
            for (index, piece) in all.chunks(size).enumerate() {
                let source = if index % 3 == 2 { Source::Stderr } else { Source::Stdout };
                frames.extend(framer.push(source, piece));
                let begin = 7 + (index * size) as u64;
                expected.extend((begin..).zip(piece).map(|(at, byte)| (at, source, *byte)));
            }
            frames.extend(framer.flush());
            assert_eq!(read(&frames), expected, "cut every {size} bytes");
        }
    }

    #[test]
    fn a_character_that_was_cut_stays_text() {
        let mut framer = Framer::new(0);
        let mut frames = framer.push(Source::Stdout, b"na\xc3");
        frames.extend(framer.push(Source::Stdout, b"\xafve"));
        let texts: Vec<_> = frames
            .iter()
            .map(|frame| matches!(frame, StreamFrame::Stdout(o) if o.encoding == Encoding::Utf8))
            .collect();
        assert_eq!(texts, [true, true], "{frames:?}");
    }

    #[test]
    fn a_gap_moves_the_offset() {
        let mut framer = Framer::new(0);
        framer.push(Source::Stdout, b"ab\xe2");
        let frames = framer.gap(100);
        assert_eq!(frames.len(), 2, "what waited goes first: {frames:?}");
        assert_eq!(frames[1], StreamFrame::Gap { bytes: 100, offset: 3 });
        let after = framer.push(Source::Stderr, b"x");
        assert!(matches!(&after[..], [StreamFrame::Stderr(output)] if output.offset == 103), "{after:?}");
    }
}
