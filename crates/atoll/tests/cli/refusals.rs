//! What is refused, how it is said, and with which exit code. Those that need it run as root, as CI does.

use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::process::Command;

use crate::support::{Ended, atoll, binary, ended, run};

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn up(data: &std::path::Path, listen: &str) -> Ended {
    run(data, &["up", "--data", data.join("data").to_str().unwrap(), "--listen", listen])
}

#[test]
fn without_an_atoll_a_client_says_what_to_start_and_ends_with_6() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("none");
    for command in [vec!["ls"], vec!["get", "sb1"], vec!["create"], vec!["rm", "sb1"]] {
        let ended = run(dir.path(), &[&["--data", data.to_str().unwrap()], command.as_slice()].concat());
        assert_eq!(ended.code, Some(6), "{ended:?}");
        assert!(ended.stderr.contains("atoll up") && ended.stderr.contains("none"), "{ended:?}");
        assert_eq!(ended.stdout, "");
    }
    assert!(!data.exists(), "asking makes no directory");
    let exec = run(dir.path(), &["--data", data.to_str().unwrap(), "exec", "sb1", "--", "true"]);
    assert_eq!(exec.code, Some(125), "a failure of Atoll is never taken for the program's: {exec:?}");
}

#[test]
fn keeping_needs_a_running_atoll() {
    let dir = tempfile::tempdir().unwrap();
    let ended = run(dir.path(), &["--data", "none", "run", "--keep", "--", "true"]);
    assert_eq!(ended.code, Some(125), "{ended:?}");
    assert!(ended.stderr.contains("atoll up"), "{ended:?}");
}

#[test]
fn an_address_without_a_key_and_one_where_nobody_is() {
    let dir = tempfile::tempdir().unwrap();
    let no_key = run(dir.path(), &["--url", "http://127.0.0.1:9", "ls"]);
    assert_eq!(no_key.code, Some(4), "{no_key:?}");
    assert!(no_key.stderr.contains("ATOLL_API_KEY"), "{no_key:?}");
    // Bound and not listening any more: nobody answers there.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = atoll(dir.path(), &["ls"]);
    command.env("ATOLL_URL", format!("http://127.0.0.1:{port}")).env("ATOLL_API_KEY", "atoll_secret00");
    let nobody = ended(&command.output().unwrap());
    assert_eq!(nobody.code, Some(6), "{nobody:?}");
    assert!(nobody.stderr.contains("cannot be reached") && !nobody.stderr.contains("secret"), "{nobody:?}");
    let mut command = atoll(dir.path(), &["--url", "nonsense", "ls"]);
    assert_eq!(ended(&command.env("ATOLL_API_KEY", "k").output().unwrap()).code, Some(2));
}

#[test]
fn something_else_that_listens_is_told_from_an_atoll() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = [0; 4096];
        let _ = stream.read(&mut head).unwrap();
        stream.write_all(b"HTTP/1.1 418 Teapot\r\ncontent-length: 5\r\n\r\nshort").unwrap();
    });
    let dir = tempfile::tempdir().unwrap();
    let mut command = atoll(dir.path(), &["--url", &format!("http://{address}"), "ls"]);
    let ended = ended(&command.env("ATOLL_API_KEY", "k").output().unwrap());
    server.join().unwrap();
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("418") && ended.stderr.contains("not as an Atoll"), "{ended:?}");
}

#[test]
fn wrong_use_is_2_and_names_what_is_right() {
    let dir = tempfile::tempdir().unwrap();
    for arguments in
        [&["nosuch"][..], &["rm"], &["exec", "sb1"], &["rm", "--all"], &["ls", "--url", "u", "--data", "d"]]
    {
        let ended = run(dir.path(), arguments);
        assert_eq!(ended.code, Some(2), "{arguments:?}: {ended:?}");
        assert_eq!(ended.stdout, "");
    }
}

#[test]
fn settings_that_cannot_be_used_are_named() {
    let dir = tempfile::tempdir().unwrap();
    for (flag, value) in [("--listen", "nowhere"), ("--accelerator", "magic"), ("--on-exit", "x"), ("--log", "a=b=c")] {
        let data = dir.path().join("data");
        let ended = run(dir.path(), &["up", "--data", data.to_str().unwrap(), flag, value]);
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.stderr.contains(flag) && ended.stderr.contains(value), "{ended:?}");
        assert!(!data.exists(), "nothing is made before the settings are right");
    }
}

#[test]
fn a_port_in_use_names_the_port_and_the_way_out() {
    if !is_root() {
        return;
    }
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();
    let ended = up(dir.path(), &address);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains(&address) && ended.stderr.contains("--listen"), "{ended:?}");
    assert_eq!(ended.stdout, "");
}

#[test]
fn a_data_directory_of_another_user_is_refused_untouched() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o755)).unwrap();
    chown(&data, Some(12345), None).unwrap();
    let ended = up(dir.path(), "127.0.0.1:0");
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("12345") && ended.stderr.contains("--data"), "{ended:?}");
    assert_eq!(std::fs::read_dir(&data).unwrap().count(), 0);
    assert_eq!(std::fs::metadata(&data).unwrap().permissions().mode() & 0o777, 0o755);
}

#[test]
fn a_data_directory_in_use_names_who_uses_it() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let lock = std::fs::File::create(data.join("lock")).unwrap();
    std::io::Write::write_all(&mut &lock, b"4242\n").unwrap();
    let _held = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusiveNonblock).unwrap();
    let ended = up(dir.path(), "127.0.0.1:0");
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("4242") && ended.stderr.contains("in use"), "{ended:?}");
}

#[test]
fn without_qemu_it_says_what_to_install() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    // In a mount namespace of its own QEMU's program is something that is no file.
    let script =
        "mount --bind /dev/null /usr/bin/qemu-system-x86_64 && exec \"$0\" up --data \"$1\" --listen 127.0.0.1:0";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script]).arg(binary()).arg(&data);
    let ended = ended(&command.output().unwrap());
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("apt-get install qemu-system-x86"), "{ended:?}");
}

#[test]
fn without_root_it_says_how_to_become_it() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    // The binary may lie where only root can go.
    let copy = dir.path().join("atoll");
    std::fs::copy(binary(), &copy).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&copy);
    command.args(["up", "--listen", "127.0.0.1:0", "--data"]).arg(dir.path().join("data"));
    command.env("ATOLL_CACHE", dir.path().join("cache"));
    let ended = ended(&command.output().unwrap());
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("sudo"), "{ended:?}");
    assert!(!dir.path().join("data").exists());
}
