//! Real namespaces, made and removed. These tests need root.

use std::process::Command;

use atoll_domain::{InstanceId, Network};
use atoll_net::{
    Leftover, NetConfig, Pool, Slot, apply, host_setup, host_teardown, leftovers, plan, remove, remove_leftover,
    void_namespace,
};

fn config(id: &str) -> NetConfig {
    assert!(nix::unistd::geteuid().is_root(), "this test makes network namespaces: run it as root");
    NetConfig { instance: InstanceId::try_from(id.to_owned()).unwrap(), pool: Pool::parse("10.222.0.0/16").unwrap() }
}

fn run(words: &[&str]) -> String {
    let out = Command::new(words[0]).args(&words[1..]).output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

#[test]
fn a_plan_is_carried_out_and_undone_again_and_again() {
    let config = config("7e0001");
    host_setup(&config).unwrap();
    for round in 0..20 {
        let plan = plan(&config, Slot(5), Network::Internet);
        apply(&plan).unwrap();
        apply(&plan).unwrap();
        let links = run(&["ip", "-n", &plan.netns, "addr"]);
        assert!(links.contains("172.16.0.1/30") && links.contains("02:fc:00:00:00:01"), "{links}");
        assert!(links.contains("10.222.0.11/31"), "{links}");
        let rules = run(&["ip", "netns", "exec", &plan.netns, "nft", "list", "ruleset"]);
        assert!(rules.contains("masquerade") && rules.contains("169.254.0.0/16"), "{rules}");
        assert!(run(&["ip", "addr", "show", &plan.interface]).contains("10.222.0.10/31"));
        if round == 0 {
            let expected = [Leftover::Netns(plan.netns.clone()), Leftover::Interface(plan.interface.clone())];
            assert_eq!(leftovers(&config), expected);
        }
        remove(&plan).unwrap();
        remove(&plan).unwrap();
        assert_eq!(leftovers(&config), []);
    }
    host_teardown(&config).unwrap();
    assert!(!run(&["nft", "list", "tables"]).contains("atoll_7e0001"));
}

#[test]
fn two_instances_touch_only_their_own() {
    let (a, b) = (config("7e0002"), config("7e0003"));
    host_setup(&a).unwrap();
    host_setup(&b).unwrap();
    let (in_a, in_b) = (plan(&a, Slot(20), Network::Internet), plan(&b, Slot(21), Network::None));
    apply(&in_a).unwrap();
    apply(&in_b).unwrap();
    let void = void_namespace(&b).unwrap();
    assert!(void.exists());
    for leftover in leftovers(&a) {
        remove_leftover(&leftover).unwrap();
    }
    host_teardown(&a).unwrap();
    assert_eq!(leftovers(&a), []);
    assert_eq!(
        leftovers(&b),
        [Leftover::Netns(in_b.netns.clone())],
        "no veth without a network, and it is still there"
    );
    assert!(run(&["nft", "list", "tables"]).contains("atoll_7e0003"));
    remove(&in_b).unwrap();
    host_teardown(&b).unwrap();
    assert!(!void.exists());
}
