//! The host's network: the address pool, foreign packet filters, resolvers.
//!
//! How it works: asks atoll-net the same questions that a start asks.
//!
//! Deliberately absent: reaching anything on the internet.

use std::net::SocketAddr;

use atoll_net::{ForeignDrop, NetError, Pool, choose_pool, keep_pool};

use super::{Finding, Subject, read};

pub(super) fn examine(subject: &Subject) -> Vec<Finding> {
    let (chosen, configured) = (atoll_host::chosen_pool(&subject.data), subject.address_pool.as_deref());
    let usable = match &chosen {
        Some((chosen, true)) => choose_pool(Some(chosen)),
        chosen => keep_pool(chosen.as_ref().map(|(pool, _)| pool.as_str()), configured, false),
    };
    let in_use = chosen.filter(|(_, in_use)| *in_use).map(|(pool, _)| pool);
    let mut found = vec![root(crate::settings::is_root()), addresses(in_use.as_deref(), configured, usable)];
    found.extend(firewall(atoll_net::foreign_drops()));
    found.extend(legacy(&read("/proc/net/ip_tables_names").unwrap_or_default()));
    found.push(resolvers(&atoll_net::host_resolvers()));
    found
}

fn root(is_root: bool) -> Finding {
    if is_root {
        Finding::ok("root", "namespaces, TAPs and packet filters can be made")
    } else {
        Finding::fail("root", "not root: namespaces, TAPs and packet filters cannot be made", "run Atoll with sudo")
    }
}

/// The range that sandboxes have addresses of, if there are such; else the one that the next start takes. `usable` is what the host's
/// routes say of it.
fn addresses(in_use: Option<&str>, configured: Option<&str>, usable: Result<Pool, NetError>) -> Finding {
    match (in_use, usable) {
        (Some(chosen), Err(error)) => Finding::fail(
            "addresses",
            format!("sandboxes have addresses of {chosen}, and: {error}"),
            "end the sandboxes and start Atoll again: it chooses another range then",
        ),
        (Some(chosen), Ok(_)) if configured.is_some_and(|configured| configured != chosen) => Finding::warn(
            "addresses",
            format!("sandboxes have addresses of {chosen}, which is not the configured range"),
            "end the sandboxes and start Atoll again to change it",
        ),
        (_, Ok(pool)) => Finding::ok("addresses", format!("{pool}, for {} sandboxes at once", pool.slots())),
        (None, Err(error)) => {
            Finding::fail("addresses", error.to_string(), "set a range that nothing uses with --address-pool")
        }
    }
}

fn firewall(drops: Result<Vec<ForeignDrop>, NetError>) -> Vec<Finding> {
    match drops {
        Ok(drops) if drops.is_empty() => vec![Finding::ok("firewall", "no chain of others drops what is forwarded")],
        Ok(drops) => drops.iter().map(dropped).collect(),
        Err(NetError::NftMissing) => {
            vec![Finding::fail("firewall", "nftables is not installed", "apt-get install nftables")]
        }
        Err(error) => vec![Finding::warn("firewall", error.to_string(), "run as root, and try `nft list ruleset`")],
    }
}

/// Filters of the older kind, by the tables that are loaded.
fn legacy(tables: &str) -> Option<Finding> {
    tables.lines().any(|name| name == "filter").then(|| {
        let text = "legacy iptables has a filter table, which is not read here";
        Finding::note("firewall", text, "see `iptables-legacy -S FORWARD`: it must accept interfaces at+")
    })
}

fn dropped(drop: &ForeignDrop) -> Finding {
    let chain = format!("{} {} {}", drop.family, drop.table, drop.chain);
    let how = if drop.by_policy { "by its policy" } else { "by a rule without conditions" };
    let remedy = format!(
        "nft insert rule {chain} iifname \"at*\" accept; nft insert rule {chain} oifname \"at*\" ct state established,related accept"
    );
    Finding::warn(
        "firewall",
        format!("chain {chain} drops what sandboxes send {how}; Atoll's own accept does not override it"),
        remedy,
    )
}

fn resolvers(resolvers: &[SocketAddr]) -> Finding {
    if resolvers.is_empty() {
        return Finding::warn(
            "dns",
            "the host names no resolver: sandboxes resolve nothing",
            "name one in /etc/resolv.conf",
        );
    }
    let list: Vec<String> = resolvers.iter().map(ToString::to_string).collect();
    Finding::ok("dns", format!("asked for sandboxes: {}", list.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::super::{Level, judged};
    use super::*;

    fn pool(text: &str) -> Result<Pool, NetError> {
        Pool::parse(text)
    }

    fn clash() -> Result<Pool, NetError> {
        Err(NetError::Pool { pool: "10.213.0.0/16".into(), reason: "the host has a route to it over eth0".into() })
    }

    #[test]
    fn a_range_that_something_uses_fails_with_the_way_out() {
        let free = addresses(None, None, pool("10.213.0.0/16"));
        judged(&free, Level::Ok, "");
        assert!(free.found.contains("10.213.0.0/16"), "{free:?}");
        let poor = addresses(None, Some("10.213.0.0/16"), clash());
        judged(&poor, Level::Fail, "--address-pool");
        assert!(poor.found.contains("eth0"), "{poor:?}");
    }

    #[test]
    fn a_range_that_sandboxes_have_is_changed_by_ending_them() {
        judged(&addresses(Some("10.213.0.0/16"), None, pool("10.213.0.0/16")), Level::Ok, "");
        judged(&addresses(Some("10.213.0.0/16"), Some("10.213.0.0/16"), pool("10.213.0.0/16")), Level::Ok, "");
        let other = addresses(Some("10.213.0.0/16"), Some("10.99.0.0/20"), pool("10.213.0.0/16"));
        judged(&other, Level::Warn, "end the sandboxes");
        let poor = addresses(Some("10.213.0.0/16"), None, clash());
        judged(&poor, Level::Fail, "chooses another range");
        assert!(poor.found.contains("eth0"), "{poor:?}");
    }

    #[test]
    fn every_chain_of_others_that_drops_is_named_with_the_rules_that_let_sandboxes_through() {
        let chain = |table: &str, by_policy| ForeignDrop {
            family: "ip".into(),
            table: table.into(),
            chain: "FORWARD".into(),
            by_policy,
        };
        let quiet = firewall(Ok(Vec::new()));
        assert_eq!(quiet.len(), 1);
        judged(&quiet[0], Level::Ok, "");
        let found = firewall(Ok(vec![chain("filter", true), chain("fw", false)]));
        assert_eq!(found.len(), 2);
        for (finding, (table, how)) in found.iter().zip([("filter", "policy"), ("fw", "without conditions")]) {
            judged(finding, Level::Warn, &format!("nft insert rule ip {table} FORWARD iifname \"at*\" accept"));
            judged(finding, Level::Warn, "oifname \"at*\" ct state established,related accept");
            assert!(finding.found.contains(how), "{finding:?}");
        }
        judged(&firewall(Err(NetError::NftMissing))[0], Level::Fail, "apt-get install nftables");
        judged(&firewall(Err(NetError::Nft { reason: "denied".into() }))[0], Level::Warn, "as root");
        judged(&legacy("nat\nfilter\n").unwrap(), Level::Note, "iptables-legacy");
        assert_eq!(legacy("nat\nfilters\n"), None);
    }

    #[test]
    fn without_root_or_a_resolver_it_says_what_to_do() {
        judged(&root(true), Level::Ok, "");
        judged(&root(false), Level::Fail, "sudo");
        judged(&resolvers(&["192.0.2.1:53".parse().unwrap()]), Level::Ok, "");
        judged(&resolvers(&[]), Level::Warn, "/etc/resolv.conf");
    }
}
