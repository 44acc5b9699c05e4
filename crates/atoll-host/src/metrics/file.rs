//! The file from which the next Atoll goes on with a sandbox's rings.
//!
//! How it works: records of one size, appended as points join the rings, never synced: they must outlive Atoll, not the machine. When it
//! has grown to twice what the rings hold it is written again from its beginning, in place: whatever a kill leaves is still whole
//! records, and those that repeat older times are skipped by the replay. It is made with the sandbox's directory and only opened
//! afterwards, so that a sample never races with the removal of that directory.
//!
//! Deliberately absent: trust. Records that make no sense end the reading.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use atoll_domain::metrics::{Joined, Point, Rings, Tier};

const NAME: &str = "metrics";
const RECORD: usize = 49;
/// No value.
const NONE: u64 = u64::MAX;

/// Most bytes before it is written again.
fn most() -> u64 {
    let points: usize = Tier::ALL.iter().map(|tier| tier.capacity()).sum();
    (2 * points * RECORD) as u64
}

/// Makes it, empty, in a sandbox's fresh directory.
pub(crate) fn create(dir: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(dir.join(NAME)).map(drop)
}

/// An open one.
#[derive(Debug)]
pub(super) struct PointFile {
    file: File,
    length: u64,
}

impl PointFile {
    /// Opens what is there; answers the rings that it comes to.
    pub(super) fn open(dir: &Path) -> io::Result<(Self, Rings)> {
        let file = OpenOptions::new().read(true).write(true).open(dir.join(NAME))?;
        let length = file.metadata()?.len().min(most() + (8 * RECORD) as u64);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        file.read_exact_at(&mut bytes, 0)?;
        let records: Vec<Joined> = bytes.chunks_exact(RECORD).map_while(read).collect();
        // What a kill cut short, or nobody wrote, is overwritten.
        let length = (records.len() * RECORD) as u64;
        Ok((Self { file, length }, Rings::replay(records)))
    }

    pub(super) fn append(&mut self, joined: &[Joined]) -> io::Result<()> {
        let bytes: Vec<u8> = joined.iter().flat_map(write).collect();
        self.file.write_all_at(&bytes, self.length)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Whether it is to be written again.
    pub(super) fn is_full(&self) -> bool {
        self.length >= most()
    }

    /// Writes it again from its beginning.
    pub(super) fn rewrite(&mut self, all: &[Joined]) -> io::Result<()> {
        self.length = 0;
        self.append(all)?;
        self.file.set_len(self.length)
    }
}

fn write(joined: &Joined) -> [u8; RECORD] {
    let Joined { tier, point } = joined;
    let mut record = [0; RECORD];
    record[0] = Tier::ALL.iter().position(|one| one == tier).map_or(0, |at| 1 + u8::try_from(at).unwrap_or(0));
    let words = [
        point.timestamp_ms.cast_unsigned(),
        point.cpu_pct.to_bits(),
        point.mem_bytes,
        point.disk_bytes,
        point.guest_mem_bytes.unwrap_or(NONE),
        point.guest_disk_bytes.unwrap_or(NONE),
    ];
    for (slot, word) in record[1..].chunks_exact_mut(8).zip(words) {
        slot.copy_from_slice(&word.to_le_bytes());
    }
    record
}

fn read(record: &[u8]) -> Option<Joined> {
    let tier = *Tier::ALL.get(usize::from(record.first()?.checked_sub(1)?))?;
    let mut words = record[1..].chunks_exact(8).map(|word| word.try_into().map_or(NONE, u64::from_le_bytes));
    let mut word = || words.next();
    let some = |value: u64| (value != NONE).then_some(value);
    let point = Point {
        timestamp_ms: word()?.cast_signed(),
        cpu_pct: f64::from_bits(word()?),
        mem_bytes: word()?,
        disk_bytes: word()?,
        guest_mem_bytes: some(word()?),
        guest_disk_bytes: some(word()?),
    };
    (point.cpu_pct.is_finite() && (0.0..=100.0).contains(&point.cpu_pct)).then_some(Joined { tier, point })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(n: u64) -> Point {
        Point {
            timestamp_ms: i64::try_from(n).unwrap() * 500,
            cpu_pct: 1.5,
            mem_bytes: n,
            disk_bytes: 2 * n,
            guest_mem_bytes: Some(n),
            guest_disk_bytes: None,
        }
    }

    #[test]
    fn hours_of_samples_stay_bounded_and_come_back_wherever_a_kill_cuts() {
        let dir = tempfile::tempdir().unwrap();
        create(dir.path()).unwrap();
        let (mut file, mut rings) = PointFile::open(dir.path()).unwrap();
        let mut rewrites = 0;
        for n in 0..20_000 {
            let joined = rings.push(point(n));
            if file.is_full() {
                rewrites += 1;
                let all = rings.all();
                // A kill in the middle of a rewrite: its first half over the old records.
                let half: Vec<u8> = all[..all.len() / 2].iter().flat_map(write).collect();
                file.file.write_all_at(&half, 0).unwrap();
                let (_, cut) = PointFile::open(dir.path()).unwrap();
                assert!(cut.newest() >= rings.newest().map(|at| at - 500), "no more than the last sample is missing");
                file.rewrite(&all).unwrap();
            } else {
                file.append(&joined).unwrap();
            }
        }
        assert!(rewrites > 2);
        assert!(std::fs::metadata(dir.path().join(NAME)).unwrap().len() <= most());
        let (_, again) = PointFile::open(dir.path()).unwrap();
        for tier in Tier::ALL {
            assert_eq!(again.points(tier), rings.points(tier), "{tier:?}");
        }
    }

    #[test]
    fn what_nobody_wrote_is_no_point() {
        let dir = tempfile::tempdir().unwrap();
        create(dir.path()).unwrap();
        let (mut file, mut rings) = PointFile::open(dir.path()).unwrap();
        file.append(&rings.push(point(1))).unwrap();
        file.file.write_all_at(&[9; 200], file.length).unwrap();
        let (again, read) = PointFile::open(dir.path()).unwrap();
        assert_eq!((again.length, read.points(Tier::TenMinutes)), (49, vec![point(1)]));
    }
}
