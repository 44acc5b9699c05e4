//! The simulated host keeps to what every host keeps to about a sandbox's life.

use std::sync::Arc;

use atoll_testkit::SimHost;
use atoll_testkit::conformance::Driver;
use atoll_testkit::conformance_life as rules;

fn driver() -> Driver {
    Arc::new(SimHost::new())
}

#[tokio::test]
async fn pause_and_resume_are_idempotent() {
    rules::pause_and_resume_are_idempotent(&driver()).await;
}

#[tokio::test]
async fn the_disk_alone_boots() {
    rules::the_disk_alone_boots(&driver()).await;
}

#[tokio::test]
async fn a_pause_and_a_template_of_another_life_are_refused() {
    rules::a_pause_and_a_template_of_another_life_are_refused(&driver()).await;
}

#[tokio::test]
async fn what_runs_is_promised_room_and_has_a_console() {
    rules::what_runs_is_promised_room_and_has_a_console(&driver()).await;
}

#[tokio::test]
async fn what_cannot_be_done_now_is_refused() {
    rules::what_cannot_be_done_now_is_refused(&driver()).await;
}

#[tokio::test]
async fn destroy_wins_over_pause_and_resume() {
    rules::destroy_wins_over_pause_and_resume(&driver()).await;
}

#[tokio::test]
async fn a_cancelled_pause_and_resume_end_all_the_same() {
    rules::a_cancelled_pause_and_resume_end_all_the_same(&driver()).await;
}

#[tokio::test]
async fn lost_replies_of_pause_and_resume_are_told_again() {
    rules::lost_replies_of_pause_and_resume_are_told_again(&driver()).await;
}

#[tokio::test]
async fn an_older_change_of_limits_never_wins() {
    rules::an_older_change_of_limits_never_wins(&driver()).await;
}

#[tokio::test]
async fn templates_are_made_copied_and_dropped() {
    rules::templates_are_made_copied_and_dropped(&driver()).await;
}

#[tokio::test]
async fn metrics_of_a_paused_one_can_be_flushed() {
    rules::metrics_of_a_paused_one_can_be_flushed(&driver()).await;
}

#[tokio::test]
async fn a_scrub_reads_what_is_kept() {
    rules::a_scrub_reads_what_is_kept(&driver()).await;
}
