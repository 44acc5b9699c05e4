//! `multipart/form-data`, piece by piece: bounded memory whatever the sizes.
//!
//! How it works: a parser that is fed bytes and asked for events; it keeps only what could be the beginning of a
//! boundary.
//!
//! Deliberately absent: other fields than a name and a file name, and forms within forms.

use bytes::{Buf, Bytes, BytesMut};

use crate::error::AgentError;

/// How large the head of one part may be.
const HEAD_LIMIT: usize = 16 * 1024;
/// The longest boundary that the standard allows.
const BOUNDARY_LIMIT: usize = 70;

/// What comes next in a form.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Nothing until more is fed.
    More,
    /// A part begins.
    Part {
        field: String,
        file_name: Option<String>,
    },
    /// Some of the part's content.
    Data(Bytes),
    EndOfPart,
    EndOfForm,
}

enum State {
    Preamble,
    Head,
    Content,
    AfterBoundary,
    Done,
}

/// A form that is being read.
pub(crate) struct Parser {
    /// `\r\n--boundary`
    delimiter: Vec<u8>,
    buffer: BytesMut,
    state: State,
}

fn malformed(what: &str) -> AgentError {
    AgentError::Invalid(format!("the form is malformed: {what}"))
}

impl Parser {
    /// A parser for a `Content-Type`.
    pub(crate) fn new(content_type: &str) -> Result<Self, AgentError> {
        let boundary = parameter(content_type, "boundary")
            .filter(|boundary| (1..=BOUNDARY_LIMIT).contains(&boundary.len()))
            .ok_or_else(|| malformed("Content-Type has no boundary of 1 to 70 bytes"))?;
        Ok(Self {
            delimiter: format!("\r\n--{boundary}").into_bytes(),
            // The first boundary may stand at the very beginning.
            buffer: BytesMut::from(&b"\r\n"[..]),
            state: State::Preamble,
        })
    }

    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    pub(crate) fn next(&mut self) -> Result<Event, AgentError> {
        loop {
            match self.state {
                State::Done => return Ok(Event::EndOfForm),
                State::Preamble => {
                    let Some(at) = find(&self.buffer, &self.delimiter) else {
                        self.keep_tail();
                        return Ok(Event::More);
                    };
                    self.buffer.advance(at + self.delimiter.len());
                    self.state = State::AfterBoundary;
                }
                State::AfterBoundary => {
                    if self.buffer.len() < 2 {
                        return Ok(Event::More);
                    }
                    match &self.buffer[..2] {
                        b"--" => self.state = State::Done,
                        b"\r\n" => {
                            self.buffer.advance(2);
                            self.state = State::Head;
                        }
                        _ => return Err(malformed("a boundary that goes on")),
                    }
                }
                State::Head => return self.head(),
                State::Content => return Ok(self.content()),
            }
        }
    }

    fn head(&mut self) -> Result<Event, AgentError> {
        let Some(end) = find(&self.buffer, b"\r\n\r\n") else {
            if self.buffer.len() > HEAD_LIMIT {
                return Err(malformed("the head of a part is too large"));
            }
            return Ok(Event::More);
        };
        let head = self.buffer.split_to(end);
        self.buffer.advance(4);
        let head = String::from_utf8_lossy(&head);
        let disposition = head
            .split("\r\n")
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.trim().eq_ignore_ascii_case("content-disposition"))
            .map(|(_, value)| value.to_owned())
            .ok_or_else(|| malformed("a part without Content-Disposition"))?;
        self.state = State::Content;
        Ok(Event::Part {
            field: parameter(&disposition, "name").unwrap_or_default(),
            file_name: parameter(&disposition, "filename").filter(|name| !name.is_empty()),
        })
    }

    fn content(&mut self) -> Event {
        if let Some(at) = find(&self.buffer, &self.delimiter) {
            if at > 0 {
                return Event::Data(self.buffer.split_to(at).freeze());
            }
            self.buffer.advance(self.delimiter.len());
            self.state = State::AfterBoundary;
            return Event::EndOfPart;
        }
        // The tail may be the beginning of a delimiter.
        let safe = self.buffer.len().saturating_sub(self.delimiter.len() - 1);
        if safe == 0 {
            return Event::More;
        }
        Event::Data(self.buffer.split_to(safe).freeze())
    }

    fn keep_tail(&mut self) {
        let excess = self.buffer.len().saturating_sub(self.delimiter.len() - 1);
        self.buffer.advance(excess);
    }
}

/// Finds the first occurrence; jumps from one first byte to the next.
fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut from = 0;
    while let Some(at) = haystack.get(from..)?.iter().position(|byte| *byte == first).map(|at| from + at) {
        if haystack[at..].starts_with(needle) {
            return Some(at);
        }
        from = at + 1;
    }
    None
}

/// A parameter of a header value, quoted or not.
fn parameter(value: &str, name: &str) -> Option<String> {
    let mut rest = value.split_once(';')?.1;
    loop {
        let (key, after) = rest.split_once('=')?;
        let (found, left) = match after.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => match after.split_once(';') {
                Some((found, left)) => (found.trim().to_owned(), left),
                None => (after.trim().to_owned(), ""),
            },
        };
        if key.trim().eq_ignore_ascii_case(name) {
            return Some(found);
        }
        rest = left.trim_start().trim_start_matches(';');
    }
}

/// Reads up to the closing quote. Browsers write quotes as `%22`, others as `\"`.
fn unquote(text: &str) -> (String, &str) {
    let mut found = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (found.replace("%22", "\""), &text[at + 1..]),
            '\\' => match characters.next() {
                Some((_, next @ ('"' | '\\'))) => found.push(next),
                Some((_, next)) => found.extend(['\\', next]),
                None => {}
            },
            other => found.push(other),
        }
    }
    (found, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: &[u8] = b"--XX\r\nContent-Disposition: form-data; name=\"note\"\r\n\r\nhello\r\n--XX\r\n\
        content-disposition: form-data; name=\"file\"; filename=\"/tmp/a \\\"b\\\".bin\"\r\nContent-Type: x/y\r\n\r\n\
        line\r\n--X not a boundary\r\n\r\n--XX\r\nContent-Disposition: form-data; name=file; filename=e\r\n\r\n\r\n--XX--\r\nepilogue";

    fn read(pieces: impl Iterator<Item = &'static [u8]>) -> Vec<(String, Option<String>, Vec<u8>)> {
        let mut parser = Parser::new("multipart/form-data; boundary=XX").unwrap();
        let mut pieces = pieces;
        let mut parts = Vec::new();
        let mut current = None;
        loop {
            match parser.next().unwrap() {
                Event::More => parser.feed(pieces.next().expect("more input")),
                Event::Part { field, file_name } => current = Some((field, file_name, Vec::new())),
                Event::Data(data) => current.as_mut().unwrap().2.extend_from_slice(&data),
                Event::EndOfPart => parts.push(current.take().unwrap()),
                Event::EndOfForm => return parts,
            }
        }
    }

    #[test]
    fn a_form_reads_the_same_however_it_is_cut() {
        let wanted = vec![
            ("note".to_owned(), None, b"hello".to_vec()),
            ("file".to_owned(), Some("/tmp/a \"b\".bin".to_owned()), b"line\r\n--X not a boundary\r\n".to_vec()),
            ("file".to_owned(), Some("e".to_owned()), vec![]),
        ];
        for size in [1, 2, 3, 5, 7, 64, FORM.len()] {
            assert_eq!(read(FORM.chunks(size)), wanted, "pieces of {size}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for kind in ["multipart/form-data", "multipart/form-data; boundary="] {
            assert!(Parser::new(kind).is_err());
        }
        let mut parser = Parser::new("multipart/form-data; boundary=\"XX\"").unwrap();
        parser.feed(b"--XXzz");
        assert!(parser.next().is_err());
        let mut parser = Parser::new("multipart/form-data; boundary=XX").unwrap();
        parser.feed(b"--XX\r\n");
        parser.feed(&vec![b'h'; HEAD_LIMIT + 1]);
        assert!(parser.next().is_err());
    }
}
