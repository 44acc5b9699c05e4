//! `Range: bytes=…`: one range of a file of known size.
//!
//! How it works: pure: header and size give the whole, a part, or nothing; what cannot be read asks for the whole.
//!
//! Deliberately absent: several ranges in one answer.

/// What a range header means for a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Range {
    /// All of it: no range, several, or one that cannot be read.
    Whole,
    /// From `start` up to and including `last`.
    Part { start: u64, last: u64 },
    /// Nothing of it lies in the file.
    Outside,
}

/// Reads a range header for a file of `size` bytes.
pub(crate) fn parse(header: Option<&str>, size: u64) -> Range {
    let Some((first, last)) = header
        .and_then(|header| header.trim().strip_prefix("bytes="))
        .filter(|ranges| !ranges.contains(','))
        .and_then(|range| range.trim().split_once('-'))
    else {
        return Range::Whole;
    };
    match (first.trim(), last.trim()) {
        ("", "") => Range::Whole,
        ("", suffix) => match suffix.parse::<u64>() {
            Err(_) => Range::Whole,
            Ok(0) => Range::Outside,
            Ok(_) if size == 0 => Range::Outside,
            Ok(length) => Range::Part { start: size.saturating_sub(length), last: size - 1 },
        },
        (first, last) => {
            let last = if last.is_empty() { Ok(u64::MAX) } else { last.parse() };
            match (first.parse::<u64>(), last) {
                (Ok(start), Ok(last)) if start > last => Range::Whole,
                (Ok(start), Ok(_)) if start >= size => Range::Outside,
                (Ok(start), Ok(last)) => Range::Part { start, last: last.min(size - 1) },
                _ => Range::Whole,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let part = |start, last| Range::Part { start, last };
        for (header, size, wanted) in [
            ("bytes=0-0", 10, part(0, 0)),
            ("bytes=2-", 10, part(2, 9)),
            ("bytes=2-400", 10, part(2, 9)),
            ("bytes=-3", 10, part(7, 9)),
            ("bytes=-30", 10, part(0, 9)),
            ("bytes=10-", 10, Range::Outside),
            ("bytes=-0", 10, Range::Outside),
            ("bytes=0-", 0, Range::Outside),
            ("bytes=5-2", 10, Range::Whole),
            ("bytes=0-1,4-5", 10, Range::Whole),
            ("bytes=a-b", 10, Range::Whole),
            ("lines=1-2", 10, Range::Whole),
            ("bytes=99999999999999999999-", 10, Range::Whole),
        ] {
            assert_eq!(parse(Some(header), size), wanted, "{header}");
        }
        assert_eq!(parse(None, 10), Range::Whole);
    }
}
