//! What a guest's own processes and its neighbours cannot do, and what hungry ones cannot stop.

use crate::guest::{Guest, program};
use crate::network::connect;
use crate::world::{listen_beside, machine_reaches};

/// Where agents listen.
const AGENT: u16 = 49983;

/// Asks an agent by hand from inside a guest; prints the status, or what went wrong.
fn ask(method: &str, path: &str, token: &str) -> String {
    format!(
        "import http.client\n\
         try:\n c = http.client.HTTPConnection('127.0.0.1', {AGENT}, timeout=5)\n \
         c.request('{method}', '{path}', headers={{'X-Access-Token': '{token}', 'Content-Type': 'application/json'}}, body='{{}}' if '{method}' == 'POST' else None)\n \
         print(c.getresponse().status)\n\
         except OSError as e:\n print(type(e).__name__)\n"
    )
}

#[tokio::test]
async fn without_its_token_the_agent_answers_nobody_but_to_tell_its_health() {
    let guest = Guest::new().await;
    assert!(["200", "204"].contains(&guest.python(&ask("GET", "/health", "")).await.as_str()));
    for token in ["", "guess"] {
        for (method, path) in [
            ("GET", "/files?path=/etc/hostname"),
            ("POST", "/files?path=/tmp/x"),
            ("POST", "/process.Process/List"),
            ("POST", "/process.Process/Start"),
            ("POST", "/filesystem.Filesystem/ListDir"),
            ("POST", "/init"),
            ("GET", "/metrics"),
            ("GET", "/envs"),
        ] {
            let status = guest.python(&ask(method, path, token)).await;
            assert!(["401", "403", "404"].contains(&status.as_str()), "{method} {path} with {token:?}: {status}");
        }
    }
    // The token is not to be found by anybody inside, root or not.
    let token_in_env = guest.sh("cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n' | grep -ci token || true").await;
    assert_eq!(token_in_env, "0");
    guest.end().await;
}

#[tokio::test]
async fn no_guest_reaches_an_agents_port_in_its_neighbours_namespace_or_its_own() {
    let (guest, neighbour) = tokio::join!(Guest::new(), Guest::new());
    let mut listening = Vec::new();
    for beside in [&guest, &neighbour] {
        let link = beside.sandbox.host_ip.clone().unwrap();
        listening.push(listen_beside(beside, AGENT).await);
        assert!(machine_reaches(&link, AGENT).await, "the host itself does not reach {link}");
        let said = guest.python(&connect(&link, AGENT)).await;
        assert!(said.starts_with("no:"), "the guest reached {link}: {said}");
    }
    let said = guest.python(&connect("172.16.0.1", AGENT)).await;
    assert!(said.starts_with("no:"), "the guest reached its gateway: {said}");
    guest.end().await;
    neighbour.end().await;
}

#[tokio::test]
async fn the_agent_answers_while_user_code_eats_all_cpu_and_memory() {
    let guest = Guest::new().await;
    let hogs = "for i in 1 2 3 4 5 6 7 8; do (while :; do :; done) & done >/dev/null 2>&1; \
                (while :; do python3 -c 'x = []\nwhile True: x.append(bytearray(1 << 20))'; done) >/dev/null 2>&1 & echo started";
    assert_eq!(guest.sh(hogs).await, "started");
    for n in 0..5 {
        let done = guest.exec(&["echo", &n.to_string()]).await;
        assert_eq!(done.stdout, format!("{n}\n"));
        guest.write("/tmp/alive", b"yes").await.unwrap();
        guest.client.ping(guest.id()).await.unwrap();
    }
    assert_eq!(guest.read("/tmp/alive").await.unwrap(), b"yes");
    guest.end().await;
}

#[tokio::test]
async fn processes_without_end_do_not_take_the_agent_with_them() {
    let guest = Guest::new().await;
    let bomb = "bash -c 'f() { f | f & }; f' >/dev/null 2>&1 & sleep 2; echo lit";
    // The shell itself may find no process left.
    let lit = guest.try_exec(&program(&["bash", "-c", bomb])).await;
    assert!(lit.is_ok(), "{lit:?}");
    guest.client.ping(guest.id()).await.unwrap();
    guest.write("/tmp/alive", b"yes").await.unwrap();
    assert_eq!(guest.read("/tmp/alive").await.unwrap(), b"yes");
    guest.end().await;
}
