//! The rules are a contract: a change shows as a change of a committed file.

use atoll_domain::{InstanceId, Network};
use atoll_net::{NetConfig, Pool, Slot, host_rules, parse_resolv_conf, plan};

fn config() -> NetConfig {
    NetConfig {
        instance: InstanceId::try_from("0a1b2c".to_owned()).unwrap(),
        pool: Pool::parse("10.213.0.0/16").unwrap(),
    }
}

#[test]
fn plan_with_internet() {
    let plan = plan(&config(), Slot(300), Network::Internet);
    insta::assert_snapshot!("internet", format!("{plan:#?}\n{}", plan.rules));
}

#[test]
fn plan_without_network() {
    let plan = plan(&config(), Slot(0), Network::None);
    insta::assert_snapshot!("none", format!("{plan:#?}\n{}", plan.rules));
}

#[test]
fn table_of_the_host() {
    insta::assert_snapshot!("host", host_rules(&config()));
}

#[test]
fn resolvers_are_read_whatever_the_file_holds() {
    let text = "# c\nnameserver 127.0.0.53\nsearch x\nnameserver fe80::1%eth0\nnameserver nonsense\nnameserver 10.0.0.1\nnameserver 9.9.9.9\n";
    let found: Vec<String> = parse_resolv_conf(text).iter().map(ToString::to_string).collect();
    assert_eq!(found, ["127.0.0.53:53", "[fe80::1]:53", "10.0.0.1:53"]);
}
