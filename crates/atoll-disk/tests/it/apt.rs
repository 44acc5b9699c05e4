//! Both of apt's formats.
//!
//! How it works: texts as Debian's installer and its cloud images write them.
//!
//! Deliberately absent: the machine's own files.

use atoll_disk::{Source, parse_deb822, parse_one_line};
use proptest::prelude::*;

fn source(uri: &str, suite: &str, components: &[&str], signed_by: Option<&str>) -> Source {
    let components = components.iter().map(|word| (*word).to_owned()).collect();
    Source { uri: uri.into(), suite: suite.into(), components, signed_by: signed_by.map(str::to_owned) }
}

#[test]
fn one_line_each() {
    let text = "# deb http://off.example/debian bookworm main\n\
        deb http://mirror.example/debian bookworm main contrib # ours\n\
        deb-src http://mirror.example/debian bookworm main\n\
        deb [arch=amd64 signed-by=/usr/share/keyrings/k.gpg] https://s.example/debian-security bookworm-security main\n\
        deb http://mirror.example/debian\n\
        deb [arch=amd64 http://broken.example bookworm main\n";
    let security = "https://s.example/debian-security";
    assert_eq!(
        parse_one_line(text),
        [
            source("http://mirror.example/debian", "bookworm", &["main", "contrib"], None),
            source(security, "bookworm-security", &["main"], Some("/usr/share/keyrings/k.gpg")),
        ]
    );
}

#[test]
fn stanzas() {
    let text = "Types: deb deb-src\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\n\
        Components: main\n contrib\nSigned-By: /usr/share/keyrings/k.gpg\n\n\
        # off\nEnabled: no\nTypes: deb\nURIs: http://off.example\nSuites: bookworm\nComponents: main\n\n\
        Types: deb-src\nURIs: http://source.example\nSuites: bookworm\nComponents: main\n";
    let uri = "http://mirror.example/debian";
    let key = Some("/usr/share/keyrings/k.gpg");
    assert_eq!(
        parse_deb822(text),
        ["bookworm", "bookworm-updates"].map(|suite| source(uri, suite, &["main", "contrib"], key))
    );
}

proptest! {
    /// What others wrote is read without a panic, and nothing is made up.
    #[test]
    fn any_text_is_read(text in "(deb |Types: deb\n|URIs: |Suites: |\\[|\\]|signed-by=|http://x|[ -~\n\t]){0,40}") {
        for source in parse_one_line(&text).into_iter().chain(parse_deb822(&text)) {
            prop_assert!(text.contains(&source.uri) && text.contains(&source.suite));
        }
    }
}
