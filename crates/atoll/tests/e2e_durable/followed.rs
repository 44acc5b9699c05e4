//! `atoll exec` over the end of the Atoll that it follows a program through.
//!
//! How it works: the command itself, on the data directory; its program ends when it is told to, through the Atoll that came after.
//!
//! Deliberately absent: terminals, whose connections are cut in e2e_cli.

use std::fs::{self, File};
use std::process::{Command, Stdio};

use super::world::{LIMIT, World, binary, request, shell, until};

/// Writes on while nobody listens, and ends with a code of its own.
const PROGRAM: &str = "n=0; while [ ! -e /tmp/go ]; do n=$((n+1)); echo line $n; sleep 0.05; done; echo last; exit 7";

/// Follows a program through one Atoll, which ends, and through the next.
async fn outlives(end: impl FnOnce(&mut World)) {
    let mut world = World::running().await;
    let id = world.client().create(&request()).await.unwrap().id;
    let (said, complained) = (world.file("said"), world.file("complained"));
    let mut command = Command::new(binary());
    command.arg("--data").arg(world.data()).args(["exec", &id, "--", "/bin/sh", "-c", PROGRAM]).stdin(Stdio::null());
    command.stdout(File::create(&said).unwrap()).stderr(File::create(&complained).unwrap());
    let mut followed = command.env_remove("ATOLL_API_KEY").env_remove("ATOLL_URL").spawn().unwrap();
    let text = |path| fs::read_to_string(path).unwrap();
    let begun = async || if text(&said).contains("line 5\n") { Ok(()) } else { Err(text(&complained)) };
    until("the first lines", LIMIT, begun).await.unwrap();
    end(&mut world);
    let noticed = async || if text(&complained).contains("reconnecting") { Ok(()) } else { Err(text(&complained)) };
    until("its notice", LIMIT, noticed).await.unwrap();
    let so_far = text(&said).len();
    world.up().await;
    // Before that its program would be one that ended while nobody was there.
    let back = async || if text(&said).len() > so_far { Ok(()) } else { Err(text(&complained)) };
    until("its return", LIMIT, back).await.unwrap();
    shell(&world.client(), &id, "touch /tmp/go").await.unwrap();
    let ended = async || followed.try_wait().unwrap().ok_or_else(|| text(&complained));
    let ended = until("its end", LIMIT, ended).await.unwrap();
    let (out, complained) = (text(&said), text(&complained));
    assert_eq!(ended.code(), Some(7), "{complained}");
    let lines: Vec<&str> = out.lines().collect();
    let wanted: Vec<String> = (1..lines.len()).map(|n| format!("line {n}")).chain(["last".to_owned()]).collect();
    assert!(lines == wanted, "{} lines came, not each once", lines.len());
    world.agrees().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_goes_on_over_a_killed_atoll() {
    outlives(World::kill).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_goes_on_over_an_atoll_that_was_stopped() {
    outlives(|world| assert!(world.stop(), "{}", world.last_log())).await;
}
