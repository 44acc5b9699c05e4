//! What sandboxes used, kept beyond the life of their VM.
//!
//! How it works: a row for each (sandbox, tier, millisecond). All points of a flush are one statement, however many they are; a point
//! that was flushed before stays as it is, so that a flush may be repeated.
//!
//! Deliberately absent: means; they are made where the samples are.

use atoll_domain::SandboxId;
use atoll_domain::metrics::{Joined, Point, Tier};
use sea_orm::Value;

use crate::rows::get;
use crate::{Store, StoreError, WriteTransaction};

const COLUMNS: usize = 8;
/// All tiers together hold 1728 points; both databases take more than twice as many values in a statement.
const MOST: usize = 2000;

impl Store {
    /// A sandbox's points of a tier, the oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn metric_points(&self, sandbox: &SandboxId, tier: Tier) -> Result<Vec<Point>, StoreError> {
        let sql = "SELECT ts_ms, cpu_pct, mem_bytes, disk_bytes, guest_mem_bytes, guest_disk_bytes \
                   FROM sandbox_metric_points WHERE sandbox_id = $1 AND tier = $2 ORDER BY ts_ms DESC LIMIT $3";
        let most = i64::try_from(tier.capacity()).unwrap_or(i64::MAX);
        let values = vec![sandbox.as_str().into(), tier.as_str().into(), most.into()];
        let rows = self.rows("read metrics", sql, values).await?;
        let read = |row: &sea_orm::QueryResult| {
            let bytes = |value: i64| value.unsigned_abs();
            Ok(Point {
                timestamp_ms: get(row, "ts_ms")?,
                cpu_pct: get(row, "cpu_pct")?,
                mem_bytes: bytes(get(row, "mem_bytes")?),
                disk_bytes: bytes(get(row, "disk_bytes")?),
                guest_mem_bytes: get::<Option<i64>>(row, "guest_mem_bytes")?.map(bytes),
                guest_disk_bytes: get::<Option<i64>>(row, "guest_disk_bytes")?.map(bytes),
            })
        };
        rows.iter().rev().map(read).collect()
    }
}

impl WriteTransaction {
    /// Keeps points; those that are there already stay as they are. Answers how many are new. What lies further back than a ring goes
    /// is forgotten: a sandbox that is paused again and again would else keep its whole life.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn insert_metric_points(&self, sandbox: &SandboxId, points: &[Joined]) -> Result<u64, StoreError> {
        let mut fresh = 0;
        for batch in points.chunks(MOST) {
            let rows: Vec<String> = (0..batch.len())
                .map(|row| {
                    let names: Vec<String> = (1..=COLUMNS).map(|n| format!("${}", row * COLUMNS + n)).collect();
                    format!("({})", names.join(", "))
                })
                .collect();
            let sql = format!(
                "INSERT INTO sandbox_metric_points (sandbox_id, tier, ts_ms, cpu_pct, mem_bytes, disk_bytes, \
                 guest_mem_bytes, guest_disk_bytes) VALUES {} ON CONFLICT (sandbox_id, tier, ts_ms) DO NOTHING",
                rows.join(", ")
            );
            let values = batch.iter().flat_map(|joined| values(sandbox, joined)).collect();
            fresh += self.execute("keep metrics", &sql, values).await?;
        }
        for tier in Tier::ALL {
            let newest =
                points.iter().filter(|joined| joined.tier == tier).map(|joined| joined.point.timestamp_ms).max();
            if let Some(newest) = newest {
                let sql = "DELETE FROM sandbox_metric_points WHERE sandbox_id = $1 AND tier = $2 AND ts_ms <= $3";
                let oldest = newest.saturating_sub(tier.span_ms());
                let values = vec![sandbox.as_str().into(), tier.as_str().into(), oldest.into()];
                self.execute("forget old metrics", sql, values).await?;
            }
        }
        Ok(fresh)
    }

    /// Forgets the finer tiers of a sandbox that is over; its 24 hours stay.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn drop_fine_metric_points(&self, sandbox: &SandboxId) -> Result<u64, StoreError> {
        let sql = "DELETE FROM sandbox_metric_points WHERE sandbox_id = $1 AND tier <> '24h'";
        self.execute("forget fine metrics", sql, vec![sandbox.as_str().into()]).await
    }
}

fn values(sandbox: &SandboxId, Joined { tier, point }: &Joined) -> [Value; COLUMNS] {
    let bytes = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    [
        sandbox.as_str().into(),
        tier.as_str().into(),
        point.timestamp_ms.into(),
        point.cpu_pct.into(),
        bytes(point.mem_bytes).into(),
        bytes(point.disk_bytes).into(),
        point.guest_mem_bytes.map(bytes).into(),
        point.guest_disk_bytes.map(bytes).into(),
    ]
}
