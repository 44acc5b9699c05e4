//! Commands: their output, their exit codes, their ends.

use atoll_api::{Encoding, ErrorCode, ExecRequest};

use crate::guest::{Guest, PATIENCE, program};

#[tokio::test]
async fn commands_end_as_they_end() {
    let guest = Guest::new().await;
    let done = guest.exec(&["bash", "-c", "echo out; echo err >&2; exit 7"]).await;
    assert_eq!((done.stdout.as_str(), done.stderr.as_str(), done.exit_code), ("out\n", "err\n", 7));
    assert_eq!((done.sandbox_id.as_str(), done.encoding), (guest.id(), Encoding::Utf8));
    let missing = guest.exec(&["no-such-program"]).await;
    assert!(missing.exit_code == 127 && missing.stderr.contains("no-such-program"), "{missing:?}");
    let folder = guest.exec(&["/etc/hostname"]).await;
    assert_eq!(folder.exit_code, 126, "{folder:?}");
    let killed = guest.exec(&["bash", "-c", "kill -9 $$"]).await;
    assert_eq!(killed.exit_code, 137);
    let quoted = guest.exec(&["printf", "%s|", "a b", "$HOME", "*", "", "\u{e4}"]).await;
    assert_eq!(quoted.stdout, "a b|$HOME|*||\u{e4}|", "no shell reads the arguments");
    let binary = guest.exec(&["printf", r"\xff\x00\x01"]).await;
    assert_eq!((binary.encoding, binary.stdout.as_str()), (Encoding::Base64, "/wAB"));
    assert_eq!(guest.exec(&["bash", "-c", "read -r x; echo \"[$x]\""]).await.stdout, "[]\n", "no input is an end");
    guest.end().await;
}

#[tokio::test]
async fn place_variables_and_user_count() {
    let guest = Guest::new().await;
    let mut request = ExecRequest {
        cwd: Some("/usr/lib".into()),
        user: Some("user".into()),
        envs: Some([("GREETING".to_owned(), "hello there".to_owned())].into()),
        ..program(&["bash", "-c", "pwd; id -un; echo $HOME; echo $GREETING"])
    };
    let done = guest.try_exec(&request).await.unwrap();
    assert_eq!(done.stdout, "/usr/lib\nuser\n/home/user\nhello there\n");
    for (field, cwd, user) in
        [("/cwd", "/nowhere", "root"), ("/cwd", "/etc/hostname", "root"), ("/user", "/", "nobody9")]
    {
        request.cwd = Some(cwd.into());
        request.user = Some(user.into());
        let line = format!("POST /v1/sandboxes/{}/exec", guest.id());
        let body = serde_json::to_vec(&request).unwrap();
        let refused = crate::wire::send(&guest.server, &line, "application/json", &body).await;
        assert_eq!(
            (refused.status, refused.json()["errors"][0]["pointer"].as_str()),
            (400, Some(field)),
            "{refused:?}"
        );
    }
    guest.end().await;
}

#[tokio::test]
async fn a_deadline_kills_the_whole_group_and_is_504() {
    let guest = Guest::new().await;
    let line = "sleep 1000 & sleep 1001 & wait";
    let request = ExecRequest { timeout_sec: Some(2), ..program(&["bash", "-c", line]) };
    let refused = guest.try_exec(&request).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::Timeout), "{refused:?}");
    let gone =
        "for i in $(seq 600); do pgrep -x sleep >/dev/null || { echo gone; exit; }; sleep 0.05; done; pgrep -a sleep";
    assert_eq!(guest.sh(gone).await, "gone");
    guest.end().await;
}

#[tokio::test]
async fn what_a_command_left_in_the_background_lives_on() {
    let guest = Guest::new().await;
    let line =
        "nohup bash -c 'while [ ! -e /tmp/go ]; do sleep 0.1; done; echo done > /tmp/told' >/dev/null 2>&1 & echo $!";
    let pid = guest.sh(line).await;
    assert_eq!(guest.sh(&format!("kill -0 {pid} && echo lives")).await, "lives");
    guest.sh("touch /tmp/go").await;
    let told = "for i in $(seq 600); do [ -s /tmp/told ] && break; sleep 0.1; done; cat /tmp/told";
    assert_eq!(guest.sh(told).await, "done");
    // One that keeps the output open does not hold the answer up.
    let held = guest.exec(&["bash", "-c", "sleep 500 & echo ready"]).await;
    assert_eq!((held.stdout.as_str(), held.exit_code), ("ready\n", 0));
    assert_eq!(guest.sh("pgrep -x sleep | wc -l").await, "1");
    guest.end().await;
}

#[tokio::test]
async fn much_output_is_kept_up_to_its_bound_and_the_exit_code_comes() {
    let guest = Guest::new().await;
    let line = "head -c 17000000 /dev/zero | tr '\\0' x; exit 3";
    let done = guest.exec(&["bash", "-c", line]).await;
    assert_eq!((done.exit_code, done.stdout_truncated, done.stderr_truncated), (3, true, false));
    assert_eq!(done.stdout.len(), 16 << 20);
    guest.end().await;
}

#[tokio::test]
async fn a_client_that_goes_away_does_not_end_its_command() {
    let guest = Guest::new().await;
    let (client, id) = (guest.client.clone(), guest.id().to_owned());
    let request =
        program(&["bash", "-c", "touch /tmp/began; while [ ! -e /tmp/go ]; do sleep 0.1; done; touch /tmp/done"]);
    let task = tokio::spawn(async move { client.exec(&id, &request).await });
    guest.sh("for i in $(seq 600); do [ -e /tmp/began ] && exit; sleep 0.1; done; exit 1").await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    guest.sh("touch /tmp/go; for i in $(seq 600); do [ -e /tmp/done ] && exit; sleep 0.1; done; exit 1").await;
    guest.end().await;
}

#[tokio::test]
async fn many_commands_at_once_all_answer() {
    let guest = Guest::new().await;
    let many = (0..16).map(|n| {
        let (client, id) = (guest.client.clone(), guest.id().to_owned());
        async move {
            let request = ExecRequest { timeout_sec: Some(PATIENCE), ..program(&["echo", &n.to_string()]) };
            client.exec(&id, &request).await.unwrap().stdout
        }
    });
    let all = futures_util::future::join_all(many).await;
    assert_eq!(all, (0..16).map(|n| format!("{n}\n")).collect::<Vec<_>>());
    guest.end().await;
}
