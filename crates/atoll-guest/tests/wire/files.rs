//! Files and identity through the wire: the real agent, the real client, on this
//! machine. Needs root.

use std::{
    os::unix::fs::{MetadataExt, symlink},
    path::Path,
};

use crate::support::{Agent, TOKEN, init, run, shell};
use atoll_guest_client::{Code, EntryKind, FileBody, ReadRange, Reason};

async fn read(agent: &Agent, path: &str, range: Option<ReadRange>) -> Vec<u8> {
    let reader = agent.client().read_file(path, Some("root"), range).await.unwrap();
    reader.read_to_end(64 << 20).await.unwrap().to_vec()
}

#[tokio::test]
async fn a_file_comes_back_and_belongs_to_its_user() {
    let agent = Agent::start();
    std::fs::set_permissions(agent.dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = agent.path("new/deep/ä file.bin");
    let content: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    let body = FileBody::reader(std::io::Cursor::new(content.clone()));
    let written = agent.client().write_file(&path, Some("nobody"), body).await.unwrap();
    assert_eq!((written.path.as_str(), written.name.as_str()), (path.as_str(), "ä file.bin"));
    assert!(read(&agent, &path, None).await == content);
    let file = std::fs::metadata(&path).unwrap();
    let parent = std::fs::metadata(agent.path("new")).unwrap();
    assert_eq!((file.uid(), file.mode() & 0o7777), (65534, 0o644));
    assert_eq!((parent.uid(), parent.mode() & 0o7777), (65534, 0o755));
    assert_eq!(std::fs::metadata(agent.dir.path()).unwrap().uid(), 0, "what was there stays");
    // A shorter file leaves nothing of the longer one.
    agent.client().write_file(&path, Some("nobody"), FileBody::bytes("short")).await.unwrap();
    assert_eq!(read(&agent, &path, None).await, b"short");
    let whole = agent.client().read_file(&path, Some("root"), None).await.unwrap();
    assert_eq!((whole.size(), whole.is_partial()), (Some(5), false));
}

#[tokio::test]
async fn parts_of_a_file() {
    let agent = Agent::start();
    let path = agent.path("digits");
    std::fs::write(&path, "0123456789").unwrap();
    let part = |start, last| Some(ReadRange { start, last });
    assert_eq!(read(&agent, &path, part(2, Some(4))).await, b"234");
    assert_eq!(read(&agent, &path, part(7, None)).await, b"789");
    let reader = agent.client().read_file(&path, Some("root"), part(8, Some(99))).await.unwrap();
    assert!(reader.is_partial());
    assert_eq!(reader.content_range(), Some("bytes 8-9/10"));
    let error = agent.client().read_file(&path, Some("root"), part(10, None)).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::InvalidArgument));
    assert!(!read(&agent, "/proc/version", None).await.is_empty(), "files without a size are read too");
}

#[tokio::test]
async fn what_is_no_file_is_refused() {
    let agent = Agent::start();
    let client = agent.client();
    let path = agent.path("fifo");
    nix::unistd::mkfifo(path.as_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let folder = agent.dir.path().display().to_string();
    for (path, user, code, reason) in [
        (folder.as_str(), "root", Code::InvalidArgument, Some(Reason::IsDirectory)),
        ("/does/not/exist", "root", Code::NotFound, None),
        (path.as_str(), "root", Code::InvalidArgument, None),
        ("/etc/passwd", "no-such-user", Code::Unauthenticated, Some(Reason::UnknownUser)),
    ] {
        let error = client.read_file(path, Some(user), None).await.unwrap_err();
        assert_eq!((error.code(), error.reason()), (Some(code), reason), "reading {path}: {error}");
    }
    for (path, code) in [(folder.as_str(), Code::InvalidArgument), (path.as_str(), Code::InvalidArgument)] {
        let error = client.write_file(path, Some("root"), FileBody::bytes("x")).await.unwrap_err();
        assert_eq!(error.code(), Some(code), "writing {path}: {error}");
    }
}

/// Unmounts at its end, whatever happened.
struct Mounted(String);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.as_str(), nix::mount::MntFlags::MNT_DETACH);
    }
}

#[tokio::test]
async fn a_full_disk_is_told_and_the_agent_goes_on() {
    let agent = Agent::start();
    let folder = agent.path("small");
    std::fs::create_dir(&folder).unwrap();
    nix::mount::mount(Some("tmpfs"), folder.as_str(), Some("tmpfs"), nix::mount::MsFlags::empty(), Some("size=65536"))
        .unwrap();
    let _mounted = Mounted(folder.clone());
    let body = FileBody::bytes(vec![1; 4 << 20]);
    let error = agent.client().write_file(&format!("{folder}/large"), Some("root"), body).await.unwrap_err();
    assert_eq!((error.code(), error.reason()), (Some(Code::ResourceExhausted), Some(Reason::DiskFull)), "{error}");
    assert_eq!(run(&agent.client(), &shell("exit 7")).await.unwrap().exit_code, Some(7));
}

#[tokio::test]
async fn a_large_file_costs_little_memory() {
    let agent = Agent::start();
    let path = agent.path("large");
    let piece = bytes::Bytes::from(vec![7; 1 << 20]);
    let pieces = futures_util::stream::iter((0..128).map(move |_| Ok(piece.clone())));
    agent.client().write_file(&path, Some("root"), FileBody::stream(pieces)).await.unwrap();
    let mut reader = agent.client().read_file(&path, Some("root"), None).await.unwrap();
    let mut length = 0;
    while let Some(piece) = reader.next().await.unwrap() {
        length += piece.len();
    }
    assert_eq!(length, 128 << 20);
    assert!(agent.resident() < 32 << 20, "{} bytes", agent.resident());
}

#[tokio::test]
async fn the_tree_can_be_looked_at_and_changed() {
    let agent = Agent::start();
    let client = agent.client();
    let root = agent.dir.path().display().to_string();
    let at = |name: &str| format!("{root}/{name}");
    let made = client.make_dir(&at("a/b"), Some("nobody")).await.unwrap();
    assert_eq!((made.kind, made.name.as_str(), made.owner.as_str()), (EntryKind::Directory, "b", "nobody"));
    assert_eq!(made.permissions, "drwxr-xr-x");
    let again = client.make_dir(&at("a/b"), Some("nobody")).await.unwrap_err();
    assert_eq!(again.code(), Some(Code::AlreadyExists));
    std::fs::write(at("a/file"), "12345").unwrap();
    symlink(at("a/file"), at("a/link")).unwrap();
    let link = client.stat(&at("a/link"), Some("root")).await.unwrap();
    assert_eq!((link.kind, link.symlink_target), (EntryKind::File, Some(at("a/file"))));
    let file = client.stat(&at("a/file"), Some("root")).await.unwrap();
    assert_eq!((file.size, file.mode, file.permissions.as_str()), (5, 0o644, "-rw-r--r--"));
    assert!(file.modified_us > 1_700_000_000_000_000);
    let moved = client.mv(&at("a/file"), &at("c/d/file"), Some("root")).await.unwrap();
    assert_eq!(moved.path, at("c/d/file"));
    let names = |entries: Vec<atoll_guest_client::Entry>| -> Vec<String> {
        entries.iter().map(|entry| entry.path.strip_prefix(&root).unwrap().to_owned()).collect()
    };
    assert_eq!(names(client.list_dir(&root, 0, Some("root")).await.unwrap()), ["/a", "/c"]);
    assert_eq!(
        names(client.list_dir(&root, 3, Some("root")).await.unwrap()),
        ["/a", "/a/b", "/a/link", "/c", "/c/d", "/c/d/file"]
    );
    client.remove(&at("c"), Some("root")).await.unwrap();
    client.remove(&at("c"), Some("root")).await.unwrap();
    assert!(!Path::new(&at("c")).exists());
    let missing = client.stat(&at("c"), Some("root")).await.unwrap_err();
    assert_eq!(missing.code(), Some(Code::NotFound));
    let no_folder = client.list_dir(&at("a/link"), 1, Some("root")).await.unwrap_err();
    assert_eq!(no_folder.code(), Some(Code::NotFound), "the link dangles by now");
}

#[tokio::test]
async fn without_the_token_only_health_answers() {
    let agent = Agent::start();
    agent.client().init(&init()).await.unwrap();
    let stranger = agent.client_with(Some("a-wrong-token-entirely"), atoll_guest_client::Limits::default());
    for client in [agent.client(), stranger] {
        client.health().await.unwrap();
        let refused = [
            client.list().await.unwrap_err(),
            client.metrics().await.unwrap_err(),
            client.init(&init()).await.unwrap_err(),
            client.read_file("/etc/passwd", Some("root"), None).await.unwrap_err(),
            client.write_file("/tmp/never", Some("root"), FileBody::bytes("x")).await.unwrap_err(),
            client.stat("/etc/passwd", Some("root")).await.unwrap_err(),
            run(&client, &shell("true")).await.unwrap_err(),
        ];
        for error in refused {
            assert_eq!(
                (error.code(), error.reason()),
                (Some(Code::Unauthenticated), Some(Reason::BadToken)),
                "{error}"
            );
        }
    }
    assert!(!Path::new("/tmp/never").exists());
    let owner = agent.client_with(Some(TOKEN), atoll_guest_client::Limits::default());
    assert!(owner.list().await.unwrap().is_empty());
    let metrics = owner.metrics().await.unwrap();
    assert!(metrics.mem_total > 0 && metrics.disk_total > 0 && metrics.cpu_count > 0);
    let mut changed = init();
    changed.env_vars = Some([("GREETING".to_owned(), "hello".to_owned())].into());
    owner.init(&changed).await.unwrap();
    let done = run(&owner, &shell("echo $GREETING")).await.unwrap();
    assert_eq!(done.stdout, b"hello\n");
}

#[tokio::test]
async fn once_user_code_has_run_a_token_cannot_be_taken_over() {
    let agent = Agent::start();
    agent.client().init(&init()).await.unwrap();
    let owner = agent.client_with(Some(TOKEN), atoll_guest_client::Limits::default());
    run(&owner, &shell("true")).await.unwrap();
    let error = agent.client().init(&init()).await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::BadToken));
}
