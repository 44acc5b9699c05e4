//! Chains of others that cut sandboxes off, from rulesets as Docker, ufw and Atoll itself load them.

use atoll_net::{ForeignDrop, parse_foreign_drops};

const DOCKER: &str = r#"{"nftables":[{"metainfo":{"version":"1.0.6"}},
{"table":{"family":"ip","name":"filter","handle":1}},
{"chain":{"family":"ip","table":"filter","name":"FORWARD","handle":2,"type":"filter","hook":"forward","prio":0,"policy":"drop"}},
{"chain":{"family":"ip","table":"filter","name":"INPUT","handle":3,"type":"filter","hook":"input","prio":0,"policy":"drop"}},
{"chain":{"family":"inet","table":"atoll_0a1b2c","name":"forward","handle":1,"type":"filter","hook":"forward","prio":-10,"policy":"drop"}},
{"chain":{"family":"inet","table":"fw","name":"out","handle":1,"type":"filter","hook":"forward","prio":0,"policy":"accept"}},
{"chain":{"family":"inet","table":"fw","name":"jumped","handle":2}},
{"rule":{"family":"inet","table":"fw","chain":"out","handle":3,"expr":[{"match":{"op":"==","left":{"meta":{"key":"iifname"}},"right":"eth1"}},{"drop":null}]}}]}"#;

fn named(text: &str) -> Vec<String> {
    let name = |d: &ForeignDrop| format!("{} {} {} {}", d.family, d.table, d.chain, d.by_policy);
    parse_foreign_drops(text).unwrap().iter().map(name).collect()
}

#[test]
fn a_policy_that_drops_is_named_and_conditions_are_not_judged() {
    assert_eq!(named(DOCKER), ["ip filter FORWARD true"]);
}

#[test]
fn a_rule_without_conditions_drops_as_a_policy_does() {
    let rule = r#"{"match":{"op":"==","left":{"meta":{"key":"iifname"}},"right":"eth1"}},"#;
    assert_eq!(named(&DOCKER.replace(rule, "{\"counter\":{}},")), ["inet fw out false", "ip filter FORWARD true"]);
}

#[test]
fn something_else_than_a_ruleset_is_an_error() {
    for text in ["", "{}", "[]", "{\"nftables\": 3}", "Error: syntax"] {
        assert!(parse_foreign_drops(text).is_err(), "{text}");
    }
}
