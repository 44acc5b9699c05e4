//! SSH host keys: a copy is another machine, a resumed sandbox is the same one.
//!
//! How it works: files that look like keys, and a program in `ssh-keygen`'s place that says how often it was called and with what.
//!
//! Deliberately absent: real keys; finding their primes takes an emulated processor long.

use atoll_domain::host::PauseMode;

use crate::scene::Scene;

const SETTING: &str = "mkdir -p /etc/ssh; echo old > /etc/ssh/ssh_host_rsa_key; echo old > /etc/ssh/ssh_host_rsa_key.pub; \
    echo stays > /etc/ssh/sshd_config; touch /root/asked; \
    printf '#!/bin/sh\\necho \"$@\" >> /root/asked\\nhead -c 9 /dev/urandom | base64 > /etc/ssh/ssh_host_rsa_key\\n' > /usr/bin/ssh-keygen; \
    chmod 755 /usr/bin/ssh-keygen";
const LOOK: &str = "ls /etc/ssh; cat /etc/ssh/sshd_config /root/asked";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_has_others_and_a_resumed_one_its_own() {
    let scene = Scene::new().await;
    let mut source = scene.create(|_| {}).await;
    source.sh(SETTING).await;
    let before = source.sh(LOOK).await;
    source.pause(PauseMode::Memory).await;
    source.resume(PauseMode::Memory).await;
    source.template("t1").await;
    let key = "cat /etc/ssh/ssh_host_rsa_key";
    assert_eq!(
        (source.sh(LOOK).await, source.sh(key).await),
        (before, "old".into()),
        "the same machine, the same keys"
    );
    let token = source.request.secrets.token.clone();
    let from = || {
        let token = token.clone();
        |request: &mut atoll_domain::host::CreateSandbox| {
            request.spec.snapshot = Some("t1".into());
            request.inherited = Some(token);
        }
    };
    let (one, two) = (scene.create(from()).await, scene.create(from()).await);
    for copy in [&one, &two] {
        let look = copy.sh(LOOK).await;
        assert!(!look.contains("ssh_host_rsa_key.pub"), "{look}");
        assert!(look.ends_with("stays\n-A"), "{look}");
        assert_ne!(copy.sh(key).await, "old");
    }
    assert_ne!(one.sh(key).await, two.sh(key).await);
    drop((source, one, two));
    scene.end().await;
}
