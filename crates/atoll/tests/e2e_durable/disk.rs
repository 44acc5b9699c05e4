//! A host whose disk is full: nothing new is begun, what runs stands still and goes on, and nothing is lost.
//!
//! How it works: the data directory lies on a small ext4 of its own (a file on a loop device of the test's), which another file fills. As
//! on any ext4 the last blocks are root's, so that Atoll can tell what happened while its VMs find the disk full.
//!
//! Deliberately absent: tmpfs. There the guest's memory lies on the same full disk, and a VM ends by SIGBUS.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use atoll_api::CreateSandboxRequest;
use atoll_client::{Client, ClientError};
use atoll_store::Store;
use nix::mount::{MntFlags, umount2};

use super::world::{LIMIT, World, request, shell, until};
use super::{PAUSE, checker};

/// Enough for a create, which wants 512 MiB to be free.
const SIZE: u64 = 1 << 30;

/// A file system of its own, over a directory.
pub(super) struct SmallDisk {
    at: PathBuf,
    filler: PathBuf,
}

impl SmallDisk {
    pub(super) fn over(at: PathBuf) -> Self {
        fs::create_dir_all(&at).unwrap();
        let image = at.with_extension("image");
        fs::File::create(&image).unwrap().set_len(SIZE).unwrap();
        run("mke2fs", &["-q", "-F", "-t", "ext4"], &[&image]);
        run("mount", &["-o", "loop"], &[&image, &at]);
        fs::remove_dir(at.join("lost+found")).unwrap();
        let filler = at.join("filler");
        Self { at, filler }
    }

    fn free(&self) -> u64 {
        let stat = nix::sys::statvfs::statvfs(&self.at).unwrap();
        stat.blocks_available() * stat.fragment_size()
    }

    /// Leaves so many bytes.
    pub(super) fn fill_up_to(&self, left: u64) {
        let file = fs::OpenOptions::new().create(true).append(true).open(&self.filler).unwrap();
        let before = i64::try_from(file.metadata().unwrap().len()).unwrap();
        let more = i64::try_from(self.free().saturating_sub(left)).unwrap();
        nix::fcntl::fallocate(&file, nix::fcntl::FallocateFlags::empty(), before, more).unwrap();
    }

    pub(super) fn make_room(&self) {
        fs::remove_file(&self.filler).unwrap();
    }
}

fn run(program: &str, words: &[&str], paths: &[&Path]) {
    let done = Command::new(program).args(words).args(paths).output().unwrap();
    assert!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stderr));
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // What still uses it keeps it until it has ended.
        let _ = umount2(&self.at, MntFlags::MNT_DETACH);
    }
}

/// What happened to a sandbox, the newest first.
async fn history(data: &Path, id: &str) -> Vec<String> {
    let store = Store::open_sqlite(&data.join("atoll.db")).await.unwrap();
    let found = store.happenings(&id.parse().unwrap(), 20).await.unwrap();
    store.close().await;
    found.iter().map(|happening| happening.kind.as_str().to_owned()).collect()
}

/// Of which sandboxes the audit log tells, whatever became of them: a row of the log comes with each that is written down.
async fn written(data: &Path) -> Vec<String> {
    let store = Store::open_sqlite(&data.join("atoll.db")).await.unwrap();
    let (team, _) = store.first_team_and_host().await.unwrap().unwrap();
    let rows = store.audit(&team, 100).await.unwrap();
    store.close().await;
    rows.into_iter().filter_map(|row| row.resource_id).collect()
}

async fn refused(client: &Client, request: &CreateSandboxRequest) -> String {
    match client.create(request).await {
        Err(ClientError::Refused(problem)) => format!("{} {}", problem.status, problem.detail),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_what_is_new_and_halts_what_runs_until_there_is_space() {
    let mut world = World::below("disk/data");
    let disk = SmallDisk::over(world.file("disk"));
    world.up().await;
    let (client, data) = (world.client(), world.data());
    let id = client.create(&request()).await.unwrap().id;

    // There is room for a create, and on all of this disk none for what a limit's pause of so much memory may write.
    let idle = |request: CreateSandboxRequest| CreateSandboxRequest { timeout_sec: Some(3600), ..request };
    let large = idle(CreateSandboxRequest { memory_mb: Some(1024), ..request() });
    let text = refused(&client, &large).await;
    assert!(text.starts_with("503") && text.contains("1088"), "what was missing is not told: {text}");
    disk.fill_up_to(32 << 20);
    for request in [request(), idle(request())] {
        let text = refused(&client, &request).await;
        assert!(text.starts_with("503") && text.contains("512"), "what was missing is not told: {text}");
    }
    assert_eq!(checker::sandboxes(&data).len(), 1, "something was made of what was refused");
    assert_eq!(written(&data).await, std::slice::from_ref(&id), "something was written of what was refused");

    // Its own disk has more room than the host's: the write is the guest's right, and meets the host's end.
    let line = "head -c 60000000 /dev/urandom > /root/big && sync && sha256sum < /root/big > /root/sum && sync; echo $? > /tmp/done";
    shell(&client, &id, &format!("({line}) >/dev/null 2>&1 &")).await.unwrap();
    let told = until("the VM to stand still", LIMIT, async || match history(&data, &id).await {
        kinds if kinds.iter().any(|kind| kind == "disk_full") => Ok(()),
        kinds => Err(format!("{kinds:?}")),
    });
    told.await.unwrap_or_else(|why| panic!("{why}\n{}", world.last_log()));
    disk.make_room();
    let on = until("the VM to go on", LIMIT, async || match history(&data, &id).await {
        kinds if kinds.first().is_some_and(|kind| kind == "goes_on") => Ok(()),
        kinds => Err(format!("{kinds:?}")),
    });
    on.await.unwrap_or_else(|why| panic!("{why}\n{}", world.last_log()));
    let written = until("the write", LIMIT, async || {
        tokio::time::sleep(PAUSE).await;
        let said = shell(&client, &id, "cat /tmp/done").await?;
        if said.exit_code == 0 { Ok(said.stdout) } else { Err(said.stderr) }
    });
    assert_eq!(written.await.unwrap(), "0\n");
    // From the disk, not from the guest's memory.
    let line = "echo 3 > /proc/sys/vm/drop_caches; sha256sum < /root/big | cmp - /root/sum && echo same";
    assert_eq!(shell(&client, &id, line).await.unwrap().stdout, "same\n");
    world.agrees().await;
    client.destroy(&id).await.unwrap();
    world.end();
    drop(disk);
}

/// Whether a process has used no time between two looks.
async fn stands_still(pid: u32) -> Result<(), String> {
    let ticks = || fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|error| error.to_string());
    let used = |stat: String| stat.rsplit(')').next().map(|rest| rest.split(' ').skip(12).take(2).collect::<String>());
    let before = used(ticks()?);
    tokio::time::sleep(10 * PAUSE).await;
    let after = used(ticks()?);
    if before == after { Ok(()) } else { Err(format!("{before:?} {after:?}")) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_halted_while_no_atoll_ran_is_told_once_at_the_next_start() {
    let mut world = World::below("disk/data");
    let disk = SmallDisk::over(world.file("disk"));
    world.up().await;
    let (client, data) = (world.client(), world.data());
    let made = client.create(&request()).await.unwrap();
    disk.fill_up_to(32 << 20);
    // It begins when nobody can tell any more of what comes of it.
    let begin = "head -c 60000000 /dev/urandom > /root/big && sync; echo $? > /tmp/done";
    let line = format!("(sleep 2; {begin}) >/dev/null 2>&1 &");
    shell(&client, &made.id, &line).await.unwrap();
    world.kill();
    assert_eq!(history(&data, &made.id).await.iter().filter(|kind| *kind == "disk_full").count(), 0);
    let full = until("the disk to be full", LIMIT, async || match disk.free() {
        0..0x10_0000 => Ok(()),
        free => Err(format!("{free} bytes are free")),
    });
    full.await.unwrap();
    let vmm = made.host.unwrap().vmm_pid.unwrap();
    until("the VM to stand still", LIMIT, async || stands_still(vmm).await).await.unwrap();

    world.up().await;
    let client = world.client();
    let kinds = async |kind: &str| history(&data, &made.id).await.iter().filter(|found| *found == kind).count();
    let told = until("what happened", LIMIT, async || match kinds("disk_full").await {
        0 => Err("nothing is told".to_owned()),
        times => Ok(times),
    });
    assert_eq!(told.await.unwrap(), 1);
    disk.make_room();
    let written = until("the write", LIMIT, async || match shell(&client, &made.id, "cat /tmp/done").await? {
        said if said.exit_code == 0 => Ok(said.stdout),
        said => Err(said.stderr),
    });
    assert_eq!(written.await.unwrap(), "0\n");
    assert_eq!((kinds("disk_full").await, kinds("goes_on").await), (1, 1));
    world.agrees().await;
    client.destroy(&made.id).await.unwrap();
    world.end();
    drop(disk);
}
