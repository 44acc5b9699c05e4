//! The host agent in this process keeps to what every host keeps to: the suite of the testkit, with real VMs.
//!
//! How it works: one agent for all rules, because making images and network ready is the slow part; each rule has sandboxes of its own. It
//! needs keeper and guest agent inside the test program, as `cargo xtask test` builds it.
//!
//! Deliberately absent: faults that only a simulated host can be told to have.

use std::sync::Arc;

use atoll_domain::SandboxId;
use atoll_host::{DataDir, HostAgent, OnExit};
use atoll_testkit::conformance::{self, Driver};
use atoll_testkit::conformance_life;

use crate::driver::InProcess;
use crate::host_config::host_config;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_in_process_driver_keeps_every_rule_of_the_suite() {
    let dir = tempfile::Builder::new().prefix("atoll-e2e-").tempdir().unwrap();
    let root = dir.path().join("data");
    let (agent, instance) = start(&root).await;
    let driver: Driver = Arc::new(InProcess(agent.clone()));
    // In a task, so that a rule that is broken leaves no VM behind.
    let outcome = tokio::spawn(suite(driver, agent.clone())).await;
    agent.shutdown(OnExit::Destroy).await;
    let left = atoll_host::remains(&instance, &root, &[]);
    outcome.unwrap();
    assert!(left.is_empty(), "{left:#?}");
}

/// An agent of this process on a data directory.
pub(crate) async fn start(root: &std::path::Path) -> (HostAgent, atoll_domain::InstanceId) {
    let (data, lock) = DataDir::open(root).unwrap();
    let instance = data.instance().unwrap();
    let config = host_config(root);
    (HostAgent::start(config, data, lock).await.unwrap(), instance)
}

async fn suite(driver: Driver, agent: HostAgent) {
    conformance::replayed_create_has_its_effect_once(&driver).await;
    conformance::destroy_is_idempotent(&driver).await;
    conformance::a_stale_incarnation_is_refused(&driver).await;
    conformance::a_cancelled_create_can_be_joined_again(&driver).await;
    conformance::destroy_wins_over_create(&driver).await;
    conformance::a_cancelled_destroy_ends_all_the_same(&driver).await;
    conformance::metrics_are_flushed_without_an_end(&driver).await;
    conformance::streams_reach_the_agent_and_the_token_counts(&driver).await;
    conformance_life::pause_and_resume_are_idempotent(&driver).await;
    conformance_life::the_disk_alone_boots(&driver).await;
    conformance_life::a_pause_and_a_template_of_another_life_are_refused(&driver).await;
    conformance_life::what_runs_is_promised_room_and_has_a_console(&driver).await;
    conformance_life::what_cannot_be_done_now_is_refused(&driver).await;
    conformance_life::destroy_wins_over_pause_and_resume(&driver).await;
    conformance_life::a_cancelled_pause_and_resume_end_all_the_same(&driver).await;
    conformance_life::lost_replies_of_pause_and_resume_are_told_again(&driver).await;
    conformance_life::an_older_change_of_limits_never_wins(&driver).await;
    conformance_life::templates_are_made_copied_and_dropped(&driver).await;
    conformance_life::metrics_of_a_paused_one_can_be_flushed(&driver).await;
    conformance_life::a_scrub_reads_what_is_kept(&driver).await;
    let end = |id: SandboxId| {
        let agent = agent.clone();
        async move { kill_vmm(&agent, &id).await }
    };
    conformance::events_come_from_any_number_until_acknowledged(&driver, end).await;
}

/// Kills a sandbox's VMM, as the machine's out-of-memory killer would, and waits until the host has noticed.
async fn kill_vmm(agent: &HostAgent, id: &SandboxId) {
    let pid = agent.inspect(id).unwrap().vmm_pid.expect("it runs");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    let gone = || async { agent.inspect(id).is_err().then_some(()) };
    atoll_testkit::eventually("the host to notice", gone).await;
}
