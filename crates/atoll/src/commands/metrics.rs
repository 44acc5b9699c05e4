//! `atoll metrics` and `atoll top`
//!
//! How it works: `metrics` prints the points of a range; `top` asks for the newest point of every running sandbox every two seconds, on a
//! terminal over the last answer, otherwise line after line.
//!
//! Deliberately absent: sorting. The order is that of `atoll ls`.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;
use atoll_api::{MetricPoint, Sandbox, SandboxMetrics, SandboxStatus};
use atoll_client::Client;
use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::time::sleep;

use crate::args::{Global, MetricsArgs, Output, TopArgs};
use crate::up::on_signal;
use crate::{connect, output};

const HEADERS: &[&str] = &["TIME", "CPU%", "MEMORY", "DISK", "GUEST MEMORY", "GUEST DISK"];
const TOP_HEADERS: &[&str] = &["ID", "CPU%", "MEMORY", "DISK", "GUEST MEMORY", "GUEST DISK"];
const ASK_EVERY: Duration = Duration::from_secs(2);
/// How many sandboxes are asked for at once.
const AT_ONCE: usize = 8;
/// Clears a terminal.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    // Sizes of files and memory lie far below 2^52 of the unit that they are shown in.
    #[allow(clippy::cast_precision_loss)]
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} GiB")
}

/// Shows what a sandbox used.
pub(crate) async fn metrics(client: &Client, global: &Global, args: &MetricsArgs) -> Result<()> {
    let id = connect::resolve(client, &args.id).await?;
    let metrics = client.metrics(&id, &args.range).await?;
    let terminal = output::stdout_is_terminal();
    match global.output {
        Output::Json => output::json(&metrics),
        Output::Table | Output::Name => output::print(&render(&metrics, terminal)),
    }
}

fn cells(first: String, point: &MetricPoint, terminal: bool) -> Vec<String> {
    let bytes = |n: u64| if terminal { size(n) } else { n.to_string() };
    let maybe = |n: Option<u64>| n.map_or_else(|| "-".to_owned(), bytes);
    let cpu = format!("{:.1}", point.cpu_pct);
    let (memory, disk) = (bytes(point.mem_bytes), bytes(point.disk_bytes));
    vec![first, cpu, memory, disk, maybe(point.guest_mem_bytes), maybe(point.guest_disk_bytes)]
}

fn render(metrics: &SandboxMetrics, terminal: bool) -> String {
    let row = |point: &MetricPoint| {
        let at = jiff::Timestamp::from_millisecond(point.timestamp_ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        cells(format!("{at:.3}"), point, terminal)
    };
    let rows: Vec<_> = metrics.points.iter().map(row).collect();
    output::table(Some(HEADERS), &rows, terminal)
}

/// Shows what running sandboxes use now.
pub(crate) async fn top(client: &Client, global: &Global, args: &TopArgs) -> Result<()> {
    let terminal = output::stdout_is_terminal();
    let stop = on_signal()?;
    loop {
        let now = newest(client).await?;
        let mut text = String::new();
        if terminal && !args.once && global.output == Output::Table {
            text.push_str(CLEAR);
        }
        match global.output {
            Output::Json => {
                let objects = now.iter().filter_map(|(id, point)| {
                    let point = point.as_ref()?;
                    Some(serde_json::json!({ "sandbox_id": id, "point": point }))
                });
                // One document a line, so that a program can read it as it comes. Writing to a String cannot fail.
                let _ = writeln!(text, "{}", objects.collect::<serde_json::Value>());
            }
            Output::Name => now.iter().for_each(|(id, _)| text.extend([id.as_str(), "\n"])),
            Output::Table => text.push_str(&render_top(&now, terminal)),
        }
        output::print(&text)?;
        if args.once || stop.token().run_until_cancelled(sleep(ASK_EVERY)).await.is_none() {
            return Ok(());
        }
    }
}

type Newest = Vec<(String, Option<MetricPoint>)>;

/// The newest point of every sandbox that runs; one that ends meanwhile is left out.
async fn newest(client: &Client) -> Result<Newest> {
    let running = |sandbox: &Sandbox| sandbox.status == SandboxStatus::Running;
    let ids: Vec<String> = client.sandboxes().await?.into_iter().filter(running).map(|sandbox| sandbox.id).collect();
    let asked = stream::iter(ids.into_iter().map(|id| async move {
        let metrics = client.metrics(&id, "10m").await.ok()?;
        Some((id, metrics.points.into_iter().next_back()))
    }));
    Ok(asked.buffered(AT_ONCE).filter_map(std::future::ready).collect().await)
}

fn render_top(now: &Newest, terminal: bool) -> String {
    let none = |id: &String| [vec![id.clone()], vec!["-".to_owned(); 5]].concat();
    let row = |(id, point): &(String, Option<MetricPoint>)| {
        point.as_ref().map_or_else(|| none(id), |point| cells(id.clone(), point, terminal))
    };
    let rows: Vec<_> = now.iter().map(row).collect();
    output::table(Some(TOP_HEADERS), &rows, terminal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point() -> MetricPoint {
        MetricPoint {
            timestamp_unix: 1_700_000_000,
            timestamp_ms: 1_700_000_000_500,
            cpu_pct: 12.34,
            mem_bytes: 64 << 20,
            disk_bytes: 5 << 30,
            guest_mem_bytes: Some(1000),
            guest_disk_bytes: None,
        }
    }

    #[test]
    fn points_are_plain_numbers_when_piped_and_have_units_on_a_terminal() {
        let metrics = SandboxMetrics { sandbox_id: "sb1".into(), range: "10m".into(), points: vec![point()] };
        let piped = render(&metrics, false);
        let line = piped.lines().next_back().unwrap();
        assert_eq!(line, "2023-11-14T22:13:20.500Z\t12.3\t67108864\t5368709120\t1000\t-");
        let shown = render(&metrics, true);
        assert!(shown.contains("64.0 MiB") && shown.contains("5.0 GiB") && shown.contains("1000 B"), "{shown}");
    }

    #[test]
    fn one_that_was_not_sampled_yet_has_a_line_too() {
        let now = vec![("sb1".to_owned(), Some(point())), ("sb2".to_owned(), None)];
        let text = render_top(&now, false);
        assert_eq!(text.lines().next_back(), Some("sb2\t-\t-\t-\t-\t-"));
    }
}
