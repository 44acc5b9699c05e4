//! Where the machine gets its Debian packages from.
//!
//! How it works: reads `/etc/apt/sources.list` and `sources.list.d` in both of apt's formats and keeps the lines that
//! serve Debian's own suites, so that images and kernels come from the mirror that the machine's owner chose.
//!
//! Deliberately absent: mirrors of our own, other architectures, source packages.

use std::fs;
use std::path::Path;

/// The release that templates are made of.
pub(crate) const SUITE: &str = "bookworm";

/// One place of packages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its address.
    pub uri: String,
    /// `bookworm`, `bookworm-updates`, `bookworm-security`.
    pub suite: String,
    /// `main` …
    pub components: Vec<String>,
    /// Key file or fingerprint, if it names one.
    pub signed_by: Option<String>,
}

impl Source {
    /// The line of a `sources.list`.
    pub(crate) fn line(&self) -> String {
        let options = self.signed_by.as_ref().map(|key| format!(" [signed-by={key}]")).unwrap_or_default();
        format!("deb{options} {} {} {}", self.uri, self.suite, self.components.join(" "))
    }
}

/// The machine's sources of Debian's [`SUITE`]; empty when it has none.
pub fn machine_sources() -> Vec<Source> {
    let mut all = Vec::new();
    if let Ok(text) = fs::read_to_string("/etc/apt/sources.list") {
        all.extend(parse_one_line(&text));
    }
    let mut files: Vec<_> = fs::read_dir("/etc/apt/sources.list.d")
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    files.sort();
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        match file.extension().and_then(|e| e.to_str()) {
            Some("sources") => all.extend(parse_deb822(&text)),
            Some("list") => all.extend(parse_one_line(&text)),
            _ => {}
        }
    }
    let ours = [SUITE.to_owned(), format!("{SUITE}-updates"), format!("{SUITE}-security")];
    all.retain(|s| ours.contains(&s.suite) && s.components.iter().any(|c| c == "main"));
    for source in &mut all {
        source.components.retain(|c| c == "main");
        // An inline key spans lines and does not fit a one-line source; apt's own trust store has it then.
        source.signed_by = source.signed_by.take().filter(|key| Path::new(key).is_absolute());
    }
    all.dedup();
    all
}

/// Reads `deb [options] URI suite component…` lines.
pub fn parse_one_line(text: &str) -> Vec<Source> {
    text.lines().filter_map(one_line).collect()
}

fn one_line(line: &str) -> Option<Source> {
    let line = line.split('#').next()?.trim();
    let mut rest = line.strip_prefix("deb")?.strip_prefix([' ', '\t'])?.trim_start();
    let mut signed_by = None;
    if let Some(after) = rest.strip_prefix('[') {
        let (options, tail) = after.split_once(']')?;
        let find = |option: &str| option.strip_prefix("signed-by=").map(str::to_owned);
        signed_by = options.split_whitespace().find_map(find);
        rest = tail.trim_start();
    }
    let mut words = rest.split_whitespace().map(str::to_owned);
    let (uri, suite) = (words.next()?, words.next()?);
    Some(Source { uri, suite, components: words.collect(), signed_by })
}

/// Reads deb822 stanzas (`Types:`, `URIs:`, `Suites:`, `Components:`, `Signed-By:`).
pub fn parse_deb822(text: &str) -> Vec<Source> {
    let mut out = Vec::new();
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text.lines().chain([""]) {
        if line.trim().is_empty() {
            out.extend(stanza(&fields));
            fields.clear();
        } else if line.starts_with('#') {
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    out
}

fn stanza(fields: &[(String, String)]) -> Vec<Source> {
    let get = |name: &str| fields.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v.as_str());
    let off = matches!(get("enabled"), "no" | "false");
    if off || !get("types").split_whitespace().any(|kind| kind == "deb") {
        return Vec::new();
    }
    let components: Vec<String> = get("components").split_whitespace().map(str::to_owned).collect();
    let signed_by = Some(get("signed-by").to_owned()).filter(|key| !key.is_empty());
    let mut out = Vec::new();
    for uri in get("uris").split_whitespace() {
        for suite in get("suites").split_whitespace() {
            let components = components.clone();
            out.push(Source { uri: uri.into(), suite: suite.into(), components, signed_by: signed_by.clone() });
        }
    }
    out
}
