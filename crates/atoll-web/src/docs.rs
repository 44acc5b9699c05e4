//! The API's documentation as a page, and its document as YAML.
//!
//! How it works: both are written from the OpenAPI document itself. The page is plain HTML without scripts; what it shows comes out of the
//! binary.
//!
//! Deliberately absent: trying calls from the page.

use std::fmt::Write as _;

use atoll_api::ErrorCode;
use serde_json::Value;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}\
h2{margin-top:2.5rem}code,pre{font-family:ui-monospace,monospace;font-size:13px}\
pre{overflow:auto;padding:.6rem;border:1px solid #8884;border-radius:4px}\
summary{cursor:pointer;padding:.3rem 0}summary b{display:inline-block;min-width:4.5rem}\
td,th{text-align:left;padding:.15rem .8rem .15rem 0;vertical-align:top}";

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The page.
pub(crate) fn page(document: &Value) -> String {
    let info = &document["info"];
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title} API</title><style>{STYLE}</style></head>\
         <body><h1>{title} API {version}</h1><p>{description}</p>\
         <p>The document itself: <a href=\"/openapi.json\">/openapi.json</a>, <a href=\"/openapi.yaml\">/openapi.yaml</a>. \
         Send an API key as <code>X-API-Key</code> or as <code>Authorization: Bearer</code>. \
         <code>/v1/capsules</code> is <code>/v1/sandboxes</code> under another name.</p><h2>Routes</h2>",
        title = escape(text(info, "title")),
        version = escape(text(info, "version")),
        description = escape(text(info, "description")),
    );
    let paths = document["paths"].as_object();
    for (path, item) in paths.into_iter().flatten().filter(|(path, _)| !path.starts_with("/v1/capsules")) {
        for (method, operation) in item.as_object().into_iter().flatten() {
            route(&mut page, path, method, operation);
        }
    }
    page.push_str("<h2>Errors</h2><p>Every error is an <code>application/problem+json</code> body with one of these codes.</p><table>");
    for (code, status, meaning) in ErrorCode::ALL {
        let name = code.as_str();
        let meaning = escape(meaning);
        let _ = write!(page, "<tr id=\"{name}\"><td><code>{name}</code></td><td>{status}</td><td>{meaning}</td></tr>");
    }
    page.push_str("</table><h2>Types</h2>");
    for (name, schema) in document["components"]["schemas"].as_object().into_iter().flatten() {
        let shown = serde_json::to_string_pretty(schema).unwrap_or_default();
        let (name, shown) = (escape(name), escape(&shown));
        let _ = write!(
            page,
            "<details id=\"type-{name}\"><summary><code>{name}</code></summary><pre>{shown}</pre></details>"
        );
    }
    page.push_str("</body></html>");
    page
}

fn route(page: &mut String, path: &str, method: &str, operation: &Value) {
    let method = escape(&method.to_ascii_uppercase());
    let (path, summary) = (escape(path), escape(text(operation, "summary")));
    let _ = write!(page, "<details><summary><b>{method}</b> <code>{path}</code> {summary}</summary>");
    let _ = write!(page, "<p>{}</p>", escape(text(operation, "description")));
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        let (name, place) = (escape(text(parameter, "name")), escape(text(parameter, "in")));
        let _ = write!(page, "<p><code>{name}</code> ({place}): {}</p>", escape(text(parameter, "description")));
    }
    for (what, part) in [("Body", &operation["requestBody"]["content"]), ("Answers", &operation["responses"])] {
        if !part.is_null() {
            let shown = escape(&serde_json::to_string_pretty(part).unwrap_or_default());
            let _ = write!(page, "<p>{what}</p><pre>{shown}</pre>");
        }
    }
    page.push_str("</details>");
}

/// A JSON document as YAML in block style; scalars stay as JSON writes them, which YAML reads.
pub(crate) fn yaml(value: &Value) -> String {
    let mut out = String::new();
    block(value, 0, &mut out);
    out
}

fn block(value: &Value, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                let _ = write!(out, "{indent}{}:", Value::from(key.as_str()));
                nested(value, depth, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                let _ = write!(out, "{indent}-");
                nested(item, depth, out);
            }
        }
        scalar => {
            let _ = writeln!(out, "{indent}{scalar}");
        }
    }
}

fn nested(value: &Value, depth: usize, out: &mut String) {
    let deep = value.as_object().is_some_and(|map| !map.is_empty()) || value.as_array().is_some_and(|a| !a.is_empty());
    if deep {
        out.push('\n');
        block(value, depth + 1, out);
    } else {
        let _ = writeln!(out, " {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_keeps_the_shape_and_quotes_what_yaml_would_misread() {
        let value = serde_json::json!({ "a": { "no": "yes", "n": 1 }, "list": [[], { "x": null }], "e": {} });
        let expected = "\"a\":\n  \"n\": 1\n  \"no\": \"yes\"\n\"e\": {}\n\"list\":\n  - []\n  -\n    \"x\": null\n";
        assert_eq!(yaml(&value), expected);
    }

    #[test]
    fn what_the_document_says_cannot_become_markup() {
        let page = page(&serde_json::json!({ "info": { "title": "<script>" }, "paths": {} }));
        assert!(!page.contains("<script>"), "{page}");
    }
}
