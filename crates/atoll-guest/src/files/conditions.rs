//! Conditional requests: whether a file is sent, and whether a range of it may be.
//!
//! How it works: pure: what the headers mean for a file with a tag and a time, in the order that RFC 9110 (section
//! 13.2.2) gives. A date that cannot be read is as if it were absent.
//!
//! Deliberately absent: caching.

use std::time::SystemTime;

use http::{HeaderMap, HeaderName, header};

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Send what is asked for.
    Send,
    /// Send the whole, whatever part is asked for.
    SendWhole,
    /// 304: the caller has it.
    NotModified,
    /// 412: it is not what the caller takes it for.
    Failed,
}

/// Judges a request for a file. `tag` is the quoted entity tag of what would be sent, `modified`
/// when the file was last written, in whole seconds.
pub(crate) fn judge(headers: &HeaderMap, tag: &str, modified: SystemTime) -> Verdict {
    if has(headers, header::IF_MATCH) {
        if !names(headers, header::IF_MATCH, tag, false) {
            return Verdict::Failed;
        }
    } else if date(headers, header::IF_UNMODIFIED_SINCE).is_some_and(|since| modified > since) {
        return Verdict::Failed;
    }
    if has(headers, header::IF_NONE_MATCH) {
        if names(headers, header::IF_NONE_MATCH, tag, true) {
            return Verdict::NotModified;
        }
    } else if date(headers, header::IF_MODIFIED_SINCE).is_some_and(|since| modified <= since) {
        return Verdict::NotModified;
    }
    match headers.get(header::IF_RANGE).and_then(|value| value.to_str().ok()) {
        None => Verdict::Send,
        Some(value) if value.trim() == tag => Verdict::Send,
        Some(value) if httpdate::parse_http_date(value.trim()).is_ok_and(|date| date == modified) => Verdict::Send,
        Some(_) => Verdict::SendWhole,
    }
}

fn has(headers: &HeaderMap, name: HeaderName) -> bool {
    headers.contains_key(name)
}

/// Whether a list of tags names this one. `weak` also takes those that only mean the same content.
fn names(headers: &HeaderMap, name: HeaderName, tag: &str, weak: bool) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|found| found == "*" || found == tag || weak && found.strip_prefix("W/") == Some(tag))
}

fn date(headers: &HeaderMap, name: HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(name)?.to_str().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    const TAG: &str = "\"1-a\"";
    const BEFORE: &str = "Thu, 01 Jan 1970 00:16:39 GMT";
    const THEN: &str = "Thu, 01 Jan 1970 00:16:40 GMT";

    fn verdict(pairs: &[(HeaderName, &str)]) -> Verdict {
        let headers = pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        judge(&headers, TAG, UNIX_EPOCH + Duration::from_secs(1000))
    }

    #[test]
    fn headers_are_judged_one_by_one() {
        for (name, value, wanted) in [
            (header::IF_NONE_MATCH, TAG, Verdict::NotModified),
            (header::IF_NONE_MATCH, "\"x\", W/\"1-a\"", Verdict::NotModified),
            (header::IF_NONE_MATCH, "*", Verdict::NotModified),
            (header::IF_NONE_MATCH, "\"x\"", Verdict::Send),
            (header::IF_MODIFIED_SINCE, THEN, Verdict::NotModified),
            (header::IF_MODIFIED_SINCE, BEFORE, Verdict::Send),
            (header::IF_MODIFIED_SINCE, "yesterday", Verdict::Send),
            (header::IF_MATCH, TAG, Verdict::Send),
            (header::IF_MATCH, "W/\"1-a\"", Verdict::Failed),
            (header::IF_UNMODIFIED_SINCE, BEFORE, Verdict::Failed),
            (header::IF_UNMODIFIED_SINCE, THEN, Verdict::Send),
            (header::IF_RANGE, TAG, Verdict::Send),
            (header::IF_RANGE, THEN, Verdict::Send),
            (header::IF_RANGE, "\"x\"", Verdict::SendWhole),
            (header::IF_RANGE, BEFORE, Verdict::SendWhole),
        ] {
            assert_eq!(verdict(&[(name.clone(), value)]), wanted, "{name}: {value}");
        }
    }

    #[test]
    fn tags_go_before_dates() {
        assert_eq!(verdict(&[(header::IF_NONE_MATCH, "\"x\""), (header::IF_MODIFIED_SINCE, THEN)]), Verdict::Send);
        assert_eq!(verdict(&[(header::IF_MATCH, TAG), (header::IF_UNMODIFIED_SINCE, BEFORE)]), Verdict::Send);
        assert_eq!(verdict(&[]), Verdict::Send);
    }
}
