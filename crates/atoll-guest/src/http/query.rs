//! Query strings: `a=b&c=d`, percent-encoded.
//!
//! How it works: split at `&` and `=`, percent and plus decoded; of several values the first.
//!
//! Deliberately absent: lists and nested names.

use percent_encoding::percent_decode_str;

/// The value of a name, decoded. Of several, the first.
pub(crate) fn value(query: Option<&str>, name: &str) -> Option<String> {
    query?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(key) == name).then(|| decode(value))
    })
}

fn decode(text: &str) -> String {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::value;

    #[test]
    fn names_and_values_are_decoded() {
        let query = Some("username=&path=%2Fa%20b%2Bc+d&x");
        assert_eq!(value(query, "path").as_deref(), Some("/a b+c d"));
        assert_eq!(value(query, "username").as_deref(), Some(""));
        assert_eq!(value(query, "x").as_deref(), Some(""));
        assert_eq!(value(query, "y"), None);
        assert_eq!(value(None, "y"), None);
    }
}
