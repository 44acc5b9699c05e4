//! Before a snapshot and after: standing still, another life, another token. Needs root.

use atoll_guest_client::{
    Code, GuestClient, GuestError, InitRequest, Limits, PrepareRequest, ProcessEvent, Reason, Selector,
};

use crate::support::{Agent, TOKEN, UserGroup, eventually, init, outcome, run, shell, started};

const FREEZE: PrepareRequest = PrepareRequest { sync: false, freeze: true, timeout_ms: 10_000 };

fn with_token(agent: &Agent, token: &str) -> GuestClient {
    agent.client_with(Some(token), Limits::default())
}

/// A program that counts up in a file as fast as it can.
fn counter(path: &str) -> String {
    format!("i=0; while :; do i=$((i+1)); echo $i > {path}; done")
}

fn count(path: &str) -> u64 {
    std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

#[tokio::test]
async fn user_code_stands_still_and_the_agent_does_not() {
    let Some(group) = UserGroup::new() else {
        return;
    };
    let agent = Agent::start_in(&group);
    let client = agent.client();
    let path = agent.path("count");
    let (_stream, pid) = started(&client, &shell(&counter(&path))).await;
    eventually("the first count", || count(&path) > 0).await;
    assert!(client.prepare_snapshot(&FREEZE).await.unwrap().frozen);
    let stood = count(&path);
    // The agent serves all this while nothing else moves.
    for _ in 0..50 {
        client.health().await.unwrap();
        client.stat(&path, Some("root")).await.unwrap();
    }
    assert_eq!(count(&path), stood);
    let error = run(&client, &shell("true")).await.unwrap_err();
    assert_eq!((error.code(), error.reason()), (Some(Code::Unavailable), Some(Reason::Frozen)), "{error}");
    client.unfreeze().await.unwrap();
    eventually("the next count", || count(&path) > stood).await;
    run(&client, &shell("true")).await.unwrap();
    // A frozen process can be killed.
    client.prepare_snapshot(&FREEZE).await.unwrap();
    client.signal(&Selector::Pid(pid), 9).await.unwrap();
    let ended = client.connect(&Selector::Pid(pid), u64::MAX).await;
    assert_eq!(outcome(&mut ended.unwrap()).await.unwrap().signal, Some(9));
    client.unfreeze().await.unwrap();
}

#[tokio::test]
async fn whoever_cannot_be_frozen_in_time_goes_on() {
    let Some(group) = UserGroup::new() else {
        return;
    };
    let agent = Agent::start_in(&group);
    let client = agent.client();
    let path = agent.path("count");
    let (_stream, pid) = started(&client, &shell(&counter(&path))).await;
    eventually("the first count", || count(&path) > 0).await;
    // Writing the disk back counts too; together they may or may not make it in a millisecond.
    let hurried = PrepareRequest { sync: true, freeze: true, timeout_ms: 1 };
    match client.prepare_snapshot(&hurried).await {
        Ok(prepared) => {
            assert!(prepared.frozen);
            client.unfreeze().await.unwrap();
        }
        Err(error) => assert_eq!(error.code(), Some(Code::Unavailable), "{error}"),
    }
    let before = count(&path);
    eventually("the next count", || count(&path) > before).await;
    client.signal(&Selector::Pid(pid), 9).await.unwrap();
}

#[tokio::test]
async fn a_second_life_has_another_token_and_none_of_the_old_connections() {
    let Some(group) = UserGroup::new() else {
        return;
    };
    let agent = Agent::start_in(&group);
    let first = InitRequest { generation: Some("one".into()), ..init() };
    agent.client().init(&first).await.unwrap();
    let old = with_token(&agent, TOKEN);
    let path = agent.path("count");
    let (mut stream, pid) = started(&old, &shell(&counter(&path))).await;
    eventually("the first count", || count(&path) > 0).await;
    old.prepare_snapshot(&FREEZE).await.unwrap();
    // A stranger cannot wake it; the same life again cuts nobody off.
    let second = InitRequest {
        access_token: Some("the-token-of-another-life".into()),
        env_vars: Some([("LIFE".to_owned(), "two".to_owned())].into()),
        generation: Some("two".into()),
        ..InitRequest::default()
    };
    assert_eq!(agent.client().init(&second).await.unwrap_err().code(), Some(Code::Unauthenticated));
    let stood = count(&path);
    old.init(&second).await.unwrap();
    eventually("the next count", || count(&path) > stood).await;
    let cut = loop {
        match stream.next().await {
            Ok(Some(ProcessEvent::Keepalive)) => {}
            other => break other,
        }
    };
    assert!(matches!(cut, Err(GuestError::Protocol(_))), "{cut:?}");
    assert_eq!(old.list().await.unwrap_err().reason(), Some(Reason::BadToken));
    let new = with_token(&agent, "the-token-of-another-life");
    assert_eq!(new.list().await.unwrap().len(), 1);
    let told = run(&new, &shell("echo $LIFE")).await.unwrap();
    assert_eq!(told.stdout, b"two\n");
    new.signal(&Selector::Pid(pid), 9).await.unwrap();
}

#[tokio::test]
async fn the_same_life_keeps_its_connections() {
    let agent = Agent::start();
    let life = InitRequest { generation: Some("one".into()), ..init() };
    agent.client().init(&life).await.unwrap();
    let client = with_token(&agent, TOKEN);
    let mut start = shell("read x; echo done");
    start.stdin = true;
    let (mut stream, pid) = started(&client, &start).await;
    client.init(&life).await.unwrap();
    client.send_input(&Selector::Pid(pid), "\n".into(), false).await.unwrap();
    assert_eq!(outcome(&mut stream).await.unwrap().stdout, b"done\n");
}

#[tokio::test]
async fn what_comes_before_a_snapshot_needs_the_token() {
    let agent = Agent::start();
    agent.client().init(&init()).await.unwrap();
    let stranger = agent.client();
    let refusals = [
        stranger.prepare_snapshot(&FREEZE).await.map(drop),
        stranger.unfreeze().await,
        stranger.sync().await,
        stranger.grow_disk().await.map(drop),
    ];
    for refusal in refusals {
        assert_eq!(refusal.unwrap_err().reason(), Some(Reason::BadToken));
    }
    let client = with_token(&agent, TOKEN);
    // Without a control group nothing can be frozen, and that is said.
    assert!(!client.prepare_snapshot(&FREEZE).await.unwrap().frozen);
    client.sync().await.unwrap();
    assert_eq!(client.grow_disk().await.unwrap_err().code(), Some(Code::AlreadyExists));
    let health = client.health().await.unwrap();
    assert!(health.protocol >= 1 && health.agent.is_some());
}
