//! Random changes of an input.
//!
//! How it works: a xorshift generator with a printed seed picks one to eight changes: bits, interesting numbers in either
//! byte order, runs that are removed, repeated or taken from another input, words of the target's dictionary.
//!
//! Deliberately absent: knowledge of any format; seeds and dictionary bring it.

/// Longest input that is made.
const LONGEST: usize = 64 * 1024;
/// Numbers at which length and offset checks tend to go wrong.
const NUMBERS: &[u32] = &[0, 1, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];

/// A small random number generator; the same seed gives the same run.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// Starts from a seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `limit`, which must not be 0.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % (limit as u64)).unwrap_or(0)
    }
}

/// Makes a new input of one or two old ones.
pub(crate) fn mutate(random: &mut Random, corpus: &[Vec<u8>], dictionary: &[&[u8]]) -> Vec<u8> {
    let mut input = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(8) {
        change(random, &mut input, corpus, dictionary);
    }
    input.truncate(LONGEST);
    input
}

fn change(random: &mut Random, input: &mut Vec<u8>, corpus: &[Vec<u8>], dictionary: &[&[u8]]) {
    let at = random.below(input.len() + 1);
    let end = (at + 1 + random.below(32)).min(input.len());
    match random.below(9) {
        0 if at < input.len() => input[at] ^= 1 << random.below(8),
        1 if at < input.len() => input[at] = u8::try_from(random.below(256)).unwrap_or(0),
        2 if at < input.len() => drop(input.drain(at..end)),
        3 if at < input.len() => {
            let run = input[at..end].repeat(1 + random.below(8));
            insert(input, at, &run);
        }
        4 => number(random, input, at),
        5 if !dictionary.is_empty() => insert(input, at, dictionary[random.below(dictionary.len())]),
        6 => {
            let other = &corpus[random.below(corpus.len())];
            let from = random.below(other.len() + 1);
            insert(input, at, &other[from..(from + 64).min(other.len())]);
        }
        7 => input.truncate(at),
        _ => input.insert(at, u8::try_from(random.below(256)).unwrap_or(0)),
    }
}

/// Writes an interesting number over what is there.
fn number(random: &mut Random, input: &mut [u8], at: usize) {
    let number = NUMBERS[random.below(NUMBERS.len())];
    let bytes = if random.below(2) == 0 { number.to_be_bytes() } else { number.to_le_bytes() };
    let width = [1, 2, 4][random.below(3)];
    for (to, from) in input.iter_mut().skip(at).zip(&bytes[4 - width..]) {
        *to = *from;
    }
}

fn insert(input: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    drop(input.splice(at..at, bytes.iter().copied()));
}
