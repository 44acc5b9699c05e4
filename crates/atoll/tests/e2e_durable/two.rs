//! Two instances on one machine: under load, when one of them is killed and cleaned, and when one is a copy of the other.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use atoll_api::{CreateSandboxRequest, HostFacts};
use atoll_client::Client;

use super::told::MEMORY;
use super::world::{World, request, shell};

const ROUNDS: usize = 2;
const AT_ONCE: usize = 2;

/// Creates, runs and ends sandboxes, several at once; those of the last round are left.
async fn load(world: &World) -> Vec<String> {
    let client = &world.client();
    let mut left = Vec::new();
    for round in 0..ROUNDS {
        let made = futures_util::future::join_all((0..AT_ONCE).map(|n| async move {
            let network = ["internet", "none"][n % 2];
            let request = CreateSandboxRequest { network: Some(network.into()), ..request() };
            let id = client.create(&request).await.unwrap().id;
            let said = shell(client, &id, &format!("echo {id} > /root/me; cat /root/me")).await.unwrap();
            assert_eq!(said.stdout.trim(), id);
            id
        }));
        left = made.await;
        if round + 1 < ROUNDS {
            let ends = left.iter().map(|id| client.destroy(id));
            futures_util::future::join_all(ends).await.into_iter().for_each(|ended| {
                ended.unwrap_or_else(|why| panic!("{why}\n{}", world.last_log()));
            });
        }
    }
    left
}

async fn facts(client: &Client, ids: &[String]) -> Vec<(HostFacts, Option<String>)> {
    let mut out = Vec::new();
    for id in ids {
        let sandbox = client.sandbox(id).await.unwrap();
        out.push((sandbox.host.unwrap(), sandbox.host_ip));
    }
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_instances_under_load_share_nothing_and_one_is_killed_and_cleaned_without_the_other() {
    let (mut one, other) = (World::running().await, World::running().await);
    let (left, right) = (one.client(), other.client());
    let (ones, others) = tokio::join!(load(&one), load(&other));
    one.agrees().await;
    other.agrees().await;
    let all = [facts(&left, &ones).await, facts(&right, &others).await].concat();
    let count = |named: Vec<String>| (named.iter().collect::<BTreeSet<_>>().len(), named.len());
    let uids = count(all.iter().map(|(facts, _)| facts.uid.unwrap().to_string()).collect());
    let spaces = count(all.iter().map(|(facts, _)| facts.namespace.clone().unwrap()).collect());
    let interfaces = count(all.iter().filter_map(|(facts, _)| facts.interface.clone()).collect());
    let addresses = count(all.iter().filter_map(|(_, address)| address.clone()).collect());
    assert_eq!([uids, spaces], [(2 * AT_ONCE, 2 * AT_ONCE); 2], "{all:?}");
    assert_eq!([interfaces, addresses], [(AT_ONCE, AT_ONCE); 2], "{all:?}");

    let data = one.data();
    let file = std::fs::read_to_string(data.join("instance.json")).unwrap();
    let file: serde_json::Value = serde_json::from_str(&file).unwrap();
    let instance = file["instance"].as_str().unwrap().to_owned().try_into().unwrap();
    one.end();
    let remains = atoll_host::remains(&instance, &data, &ones);
    assert!(remains.is_empty(), "{remains:?}");
    other.agrees().await;
    for id in &others {
        assert_eq!(shell(&right, id, "cat /root/me").await.unwrap().stdout.trim(), id);
    }
}

/// Copies what an Atoll has, sockets and all. What goes away meanwhile is not copied, which is told, and is no failure.
fn copy(from: &World, to: &World) {
    // There is none before the first time.
    let _ = fs::remove_dir_all(to.data());
    let copied = Command::new("cp").args(["-a", "-T", "--"]).args([from.data(), to.data()]).output().unwrap();
    let id = |world: &World| fs::read(world.data().join("instance.json")).unwrap_or_default();
    assert_eq!(id(to), id(from), "{}", String::from_utf8_lossy(&copied.stderr));
}

/// An Atoll on one of the two is refused, and says of which other it is a copy.
async fn refused(copy: &mut World, original: &World) {
    copy.start(&[]).unwrap();
    let never = copy.file("never");
    assert_eq!(copy.is_up(&never).await, Ok(false), "{}", copy.last_log());
    copy.kill();
    let said = copy.last_log();
    let path = |world: &World| fs::canonicalize(world.data()).unwrap().display().to_string();
    for word in [path(copy), path(original), format!("remove {}/instance.json", path(copy))] {
        assert!(said.contains(&word), "`{word}` is not in: {said}");
    }
}

/// One that ended and was not buried yet has no words.
fn runs(vmm: u32) -> bool {
    !fs::read(format!("/proc/{vmm}/cmdline")).unwrap_or_default().is_empty()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_atoll_on_a_copy_is_refused_by_name_until_the_copy_has_an_id_of_its_own() {
    let (mut one, mut other) = (World::running().await, World::empty());
    let client = one.client();
    let running = client.create(&request()).await.unwrap();
    let paused = client.create(&request()).await.unwrap().id;
    let (id, vmm) = (running.id, running.host.unwrap().vmm_pid.unwrap());
    for id in [&id, &paused] {
        shell(&client, id, "echo kept > /root/me; sync").await.unwrap();
    }
    client.pause(&paused, &MEMORY).await.unwrap();
    one.agrees().await;

    copy(&one, &other);
    refused(&mut other, &one).await;
    assert_eq!(shell(&client, &id, "cat /root/me").await.unwrap().stdout, "kept\n");
    one.agrees().await;

    // Its VM lives on without it.
    one.kill();
    refused(&mut other, &one).await;
    assert!(runs(vmm), "its VM was ended");

    // The way out that the refusal names.
    copy(&one, &other);
    fs::remove_file(other.data().join("instance.json")).unwrap();
    other.up().await;
    other.over(&id).await;
    other.client().resume(&paused, &MEMORY).await.unwrap();
    assert_eq!(shell(&other.client(), &paused, "cat /root/me").await.unwrap().stdout, "kept\n");
    other.agrees().await;
    assert!(runs(vmm), "its VM was ended");
    drop(other);

    one.up().await;
    assert_eq!(shell(&one.client(), &id, "cat /root/me").await.unwrap().stdout, "kept\n");
    one.agrees().await;
}
