//! Atoll's own numbers, in Prometheus' text form.
//!
//! How it works: one table per process counts requests by route (as it is registered, so that there are few), method and status, with a
//! histogram of their times. What a stream does after its upgrade is counted beside them: how long its process took to start, and how
//! long each piece of output was under way in here. Gauges are asked for when the page is read.
//!
//! Deliberately absent: numbers of single sandboxes or teams; push.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::Response;
use http::Method;

/// Upper bounds of the histogram's buckets, in milliseconds.
const BUCKETS: [u64; 8] = [2, 5, 20, 100, 500, 2_000, 10_000, 60_000];

#[derive(Debug, Default, Clone)]
struct Times {
    /// How many took at most as long as the bucket's bound.
    buckets: [u64; BUCKETS.len()],
    count: u64,
    micros: u64,
}

const REQUEST_TIME: &str = "atoll_http_request_duration_seconds";

type Key = (String, &'static str, u16);

/// Both listeners of a process count here.
static REQUESTS: Mutex<BTreeMap<Key, Times>> = Mutex::new(BTreeMap::new());

/// The streams of one route, which is a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Streamed(pub(crate) &'static str);

/// What is counted of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Start,
    Output,
}

impl Part {
    const ALL: [(Self, &'static str, &'static str); 2] = [
        (
            Self::Start,
            "atoll_stream_start_duration_seconds",
            "Time from a stream's first frame to its process, or to the error.",
        ),
        (
            Self::Output,
            "atoll_stream_output_duration_seconds",
            "Time from the arrival of output to the client's having it, with the client's own slowness.",
        ),
    ];
}

static STREAMS: Mutex<BTreeMap<(Part, &'static str), Times>> = Mutex::new(BTreeMap::new());

impl Streamed {
    /// Begins to count.
    pub(crate) fn clock(self) -> StreamClock {
        StreamClock { route: self.0, begun: Instant::now() }
    }
}

/// A stretch of time of a stream.
#[derive(Debug)]
pub(crate) struct StreamClock {
    route: &'static str,
    begun: Instant,
}

impl StreamClock {
    /// The process was started or found, or cannot be.
    pub(crate) fn started(self) {
        self.count(Part::Start);
    }

    /// What came is written.
    pub(crate) fn written(self) {
        self.count(Part::Output);
    }

    fn count(self, part: Part) {
        let mut streams = STREAMS.lock().unwrap_or_else(PoisonError::into_inner);
        streams.entry((part, self.route)).or_default().add(self.begun.elapsed());
    }
}

/// Counts a request.
pub(crate) async fn layer(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map_or("none", |path| path.as_str()).to_owned();
    let method = name(request.method());
    let response = next.run(request).await;
    count((route, method, response.status().as_u16()), started.elapsed());
    response
}

/// Clients may send any method; the table holds those that are known.
fn name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

fn count(key: Key, took: Duration) {
    let mut requests = REQUESTS.lock().unwrap_or_else(PoisonError::into_inner);
    requests.entry(key).or_default().add(took);
}

impl Times {
    fn add(&mut self, took: Duration) {
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        for (bucket, bound) in self.buckets.iter_mut().zip(BUCKETS) {
            *bucket += u64::from(millis <= bound);
        }
        self.count += 1;
        self.micros = self.micros.saturating_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }
}

/// Numbers that are asked for when the page is read.
#[derive(Debug)]
pub(crate) struct Gauges {
    pub(crate) version: &'static str,
    pub(crate) streams: u64,
    /// Sandboxes that are not over, by status.
    pub(crate) sandboxes: BTreeMap<&'static str, u64>,
}

/// The whole page.
pub(crate) fn page(gauges: &Gauges) -> String {
    let mut page = String::new();
    // Writing to a String cannot fail, here and below.
    let _ = write!(
        page,
        "# HELP atoll_build_info Version of Atoll.\n# TYPE atoll_build_info gauge\n\
         atoll_build_info{{version=\"{}\"}} 1\n\
         # HELP atoll_streams_open Streams and terminals that are open.\n# TYPE atoll_streams_open gauge\n\
         atoll_streams_open {}\n\
         # HELP atoll_sandboxes Sandboxes that are not over, by status.\n# TYPE atoll_sandboxes gauge\n",
        gauges.version, gauges.streams
    );
    for (status, count) in &gauges.sandboxes {
        let _ = writeln!(page, "atoll_sandboxes{{status=\"{status}\"}} {count}");
    }
    if let Some(bytes) = resident() {
        let _ = write!(
            page,
            "# HELP process_resident_memory_bytes Resident memory.\n# TYPE process_resident_memory_bytes gauge\n\
             process_resident_memory_bytes {bytes}\n"
        );
    }
    histogram(&mut page, REQUEST_TIME, "Time from a request's head to its answer's.");
    let requests = REQUESTS.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for ((route, method, status), times) in &requests {
        let labels = format!("route=\"{route}\",method=\"{method}\",status=\"{status}\"");
        series(&mut page, REQUEST_TIME, &labels, times);
    }
    let streams = STREAMS.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for (part, name, help) in Part::ALL {
        histogram(&mut page, name, help);
        for ((_, route), times) in streams.iter().filter(|((of, _), _)| *of == part) {
            series(&mut page, name, &format!("route=\"{route}\""), times);
        }
    }
    page
}

fn histogram(page: &mut String, name: &str, help: &str) {
    let _ = write!(page, "# HELP {name} {help}\n# TYPE {name} histogram\n");
}

fn series(page: &mut String, name: &str, labels: &str, times: &Times) {
    for (count, bound) in times.buckets.iter().zip(BUCKETS) {
        let _ = writeln!(page, "{name}_bucket{{{labels},le=\"{}.{:03}\"}} {count}", bound / 1000, bound % 1000);
    }
    let _ = writeln!(page, "{name}_bucket{{{labels},le=\"+Inf\"}} {}", times.count);
    let _ = writeln!(page, "{name}_sum{{{labels}}} {}.{:06}", times.micros / 1_000_000, times.micros % 1_000_000);
    let _ = writeln!(page, "{name}_count{{{labels}}} {}", times.count);
}

/// Resident memory of this process, in bytes.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_add_up_and_every_line_is_a_sample() {
        let key = || ("/test/{id}".to_owned(), "GET", 200);
        count(key(), Duration::from_millis(3));
        count(key(), Duration::from_millis(700));
        let gauges = Gauges { version: "1", streams: 2, sandboxes: [("running", 3)].into() };
        let page = page(&gauges);
        let labels = "route=\"/test/{id}\",method=\"GET\",status=\"200\"";
        for line in [
            format!("atoll_http_request_duration_seconds_bucket{{{labels},le=\"0.005\"}} 1"),
            format!("atoll_http_request_duration_seconds_bucket{{{labels},le=\"2.000\"}} 2"),
            format!("atoll_http_request_duration_seconds_count{{{labels}}} 2"),
            format!("atoll_http_request_duration_seconds_sum{{{labels}}} 0.703000"),
            "atoll_sandboxes{status=\"running\"} 3".to_owned(),
        ] {
            assert!(page.lines().any(|found| found == line), "{line}\n{page}");
        }
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            assert!(line.rsplit_once(' ').is_some_and(|(_, value)| value.parse::<f64>().is_ok()), "{line}");
        }
    }
}
