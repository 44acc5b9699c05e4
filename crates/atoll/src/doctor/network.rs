//! The host's network: the address pool, foreign packet filters, resolvers.
//!
//! How it works: asks atoll-net the same questions that a start asks.
//!
//! Deliberately absent: reaching anything on the internet.

use super::{Finding, Subject, read};

pub(super) fn examine(subject: &Subject) -> Vec<Finding> {
    let mut found = vec![root(), addresses(subject)];
    found.extend(firewall());
    found.push(resolvers());
    found
}

fn root() -> Finding {
    if crate::settings::is_root() {
        Finding::ok("root", "namespaces, TAPs and packet filters can be made")
    } else {
        Finding::fail("root", "not root: namespaces, TAPs and packet filters cannot be made", "run Atoll with sudo")
    }
}

/// What the instance on the data directory chose, and whether sandboxes have addresses of it.
fn addresses(subject: &Subject) -> Finding {
    let configured = subject.address_pool.as_deref();
    match atoll_host::chosen_pool(&subject.data) {
        Some((chosen, true)) => match atoll_net::choose_pool(Some(&chosen)) {
            Err(error) => Finding::fail(
                "addresses",
                format!("sandboxes have addresses of {chosen}, and: {error}"),
                "end the sandboxes and start Atoll again: it chooses another range then",
            ),
            Ok(_) if configured.is_some_and(|configured| configured != chosen) => Finding::warn(
                "addresses",
                format!("sandboxes have addresses of {chosen}, which is not the configured range"),
                "end the sandboxes and start Atoll again to change it",
            ),
            Ok(pool) => pool_found(pool),
        },
        chosen => match atoll_net::keep_pool(chosen.as_ref().map(|(pool, _)| pool.as_str()), configured, false) {
            Ok(pool) => pool_found(pool),
            Err(error) => {
                Finding::fail("addresses", error.to_string(), "set a range that nothing uses with --address-pool")
            }
        },
    }
}

fn pool_found(pool: atoll_net::Pool) -> Finding {
    Finding::ok("addresses", format!("{pool}, for {} sandboxes at once", pool.slots()))
}

fn firewall() -> Vec<Finding> {
    let mut found = match atoll_net::foreign_drops() {
        Ok(drops) if drops.is_empty() => vec![Finding::ok("firewall", "no chain of others drops what is forwarded")],
        Ok(drops) => drops.iter().map(dropped).collect(),
        Err(atoll_net::NetError::NftMissing) => {
            vec![Finding::fail("firewall", "nftables is not installed", "apt-get install nftables")]
        }
        Err(error) => vec![Finding::warn("firewall", error.to_string(), "run as root, and try `nft list ruleset`")],
    };
    if read("/proc/net/ip_tables_names").is_some_and(|names| names.lines().any(|name| name == "filter")) {
        let text = "legacy iptables has a filter table, which is not read here";
        found.push(Finding::note("firewall", text, "see `iptables-legacy -S FORWARD`: it must accept interfaces at+"));
    }
    found
}

fn dropped(drop: &atoll_net::ForeignDrop) -> Finding {
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

fn resolvers() -> Finding {
    let resolvers = atoll_net::host_resolvers();
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
