//! Files that are not what they were: no guest ever sees them.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use atoll_keeper::client::{ClientError, SnapshotFiles};
use atoll_keeper::protocol::{Refusal, Then};
use atoll_keeper::spec::Memory;

use crate::generations::restore_of;
use crate::guest::{Guest, MEMORY_MB, prepare};
use crate::scene::Scene;

/// Changes one bit.
fn damage(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

#[tokio::test]
async fn what_was_cut_or_changed_is_refused_and_nothing_runs() {
    let scene = Scene::new(MEMORY_MB);
    let cold = prepare(&scene);
    let own = || Memory::File { path: scene.path("memory.raw") };
    let (mut keeper, connected) = Guest::start(&scene, own(), cold, None, 1).await;
    // Wherever the boot is: a snapshot of it can be taken.
    while connected.client.state().await.unwrap().run_state != "running" {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let whole = scene.path("whole");
    fs::create_dir(&whole).unwrap();
    let snapshot = connected.client.snapshot(SnapshotFiles::create(&whole).unwrap(), Then::Stay).await.unwrap();
    keeper.kill().unwrap();
    keeper.wait().unwrap();
    scene.wait_until_empty();

    let last = snapshot.diff_bytes - 1;
    type Harm = (&'static str, Box<dyn Fn(&Path)>);
    let harms: Vec<Harm> = vec![
        ("a changed page", Box::new(|dir| damage(&dir.join("diff"), 5000))),
        ("a changed table", Box::new(move |dir| damage(&dir.join("diff"), last))),
        (
            "a cut diff",
            Box::new(move |dir| File::options().write(true).open(dir.join("diff")).unwrap().set_len(last).unwrap()),
        ),
        ("an empty diff", Box::new(|dir| File::create(dir.join("diff")).unwrap().set_len(0).unwrap())),
        ("a diff of another version", Box::new(|dir| damage(&dir.join("diff"), 8))),
        ("a changed state", Box::new(|dir| damage(&dir.join("state"), 100))),
        (
            "a cut state",
            Box::new(|dir| File::options().write(true).open(dir.join("state")).unwrap().set_len(99).unwrap()),
        ),
    ];
    for (number, (name, harm)) in harms.iter().enumerate() {
        let dir = scene.path(&format!("harm{number}"));
        fs::create_dir(&dir).unwrap();
        for file in ["state", "diff"] {
            fs::copy(whole.join(file), dir.join(file)).unwrap();
        }
        harm(&dir);
        let claim = 2 + number as u64;
        let (mut keeper, connected) = Guest::start(&scene, own(), restore_of(&dir, &snapshot), None, claim).await;
        let refused = connected.client.await_restore().await;
        match refused {
            Err(ClientError::Refused(Refusal { code, message })) => {
                println!("{name}: {code}: {message}");
                assert_eq!(code, "corrupt", "{name}: {message}");
            }
            other => panic!("{name}: {other:?}"),
        }
        assert!(connected.client.resume().await.is_err(), "{name}");
        keeper.kill().unwrap();
        keeper.wait().unwrap();
        scene.wait_until_empty();
    }
    // Whole, it is taken.
    let (mut keeper, connected) = Guest::start(&scene, own(), restore_of(&whole, &snapshot), None, 100).await;
    connected.client.await_restore().await.unwrap();
    connected.client.resume().await.unwrap();
    keeper.kill().unwrap();
    keeper.wait().unwrap();
}
