//! `atoll cp` both ways.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use crate::pty::OnTerminal;
use crate::server::Server;

/// A `tar` that says much more than anything on the way holds, before it reads.
const TALKATIVE: &str = "#!/bin/sh\nyes complaint | head -c 12000000 >&2\nexec /usr/bin/tar \"$@\"\n";

#[test]
fn files_and_folders_come_back_as_they_went_and_nothing_leads_out() {
    let server = Server::start();
    let id = server.create();
    let dir = server.dir();
    let from = dir.join("tree");
    std::fs::create_dir_all(from.join("sub/empty")).unwrap();
    let big: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(from.join("sub/big"), &big).unwrap();
    std::fs::write(from.join("run.sh"), "#!/bin/sh\necho ran\n").unwrap();
    std::fs::set_permissions(from.join("run.sh"), std::fs::Permissions::from_mode(0o755)).unwrap();
    symlink("sub/big", from.join("link")).unwrap();

    let there = format!("{id}:/root/");
    server.ok(&["cp", "tree", &there]);
    assert_eq!(server.ok(&["exec", &id, "--", "/root/tree/run.sh"]), "ran");
    server.ok(&["cp", &format!("{id}:/root/tree"), "back"]);
    let back = dir.join("back");
    assert!(std::fs::read(back.join("sub/big")).unwrap() == big);
    assert!(back.join("sub/empty").is_dir());
    assert_eq!(std::fs::read_link(back.join("link")).unwrap(), std::path::Path::new("sub/big"));
    assert_eq!(std::fs::metadata(back.join("run.sh")).unwrap().mode() & 0o777, 0o755);

    server.ok(&["cp", "tree/run.sh", &there]);
    assert_eq!(server.ok(&["exec", &id, "--", "/root/run.sh"]), "ran");
    assert_eq!(server.ok(&["cp", &format!("{id}:/root/run.sh"), "-"]), "#!/bin/sh\necho ran");
    server.ok(&["cp", &format!("{id}:/root/tree/sub/big"), "."]);
    assert!(std::fs::read(dir.join("big")).unwrap() == big);

    // On a terminal it says how far it is; elsewhere, and when it shall be quiet, it says nothing.
    let big_there = format!("{there}big");
    for arguments in [["cp", "tree", &there], ["cp", "tree/sub/big", &there], ["cp", &big_there, "again"]] {
        let mut copying = OnTerminal::start(&server.atoll(&arguments), 24, 80);
        copying.expect("iB");
        assert_eq!(copying.wait(), Some(0), "{arguments:?}");
    }
    let mut quiet = OnTerminal::start(&server.atoll(&["-q", "cp", &big_there, "again"]), 24, 80);
    assert_eq!((quiet.wait(), quiet.seen()), (Some(0), ""));
    let piped = server.run(&["cp", &big_there, "again"]);
    assert_eq!((piped.code, piped.stderr.as_str()), (Some(0), ""));
    assert!(std::fs::read(dir.join("again")).unwrap() == big);

    // A sandbox that says much and takes nothing meanwhile is listened to.
    std::fs::write(dir.join("tar"), TALKATIVE).unwrap();
    server.ok(&["cp", "tar", &format!("{id}:/usr/local/bin/tar")]);
    server.ok(&["exec", &id, "--", "chmod", "755", "/usr/local/bin/tar"]);
    server.ok(&["cp", "tree", &format!("{id}:/root/late")]);
    let same = "cmp /root/tree/sub/big /root/late/sub/big && rm -r /root/late /usr/local/bin/tar";
    server.ok(&["exec", &id, "--", "sh", "-c", same]);

    assert_eq!(server.run(&["cp", &format!("{id}:/nowhere"), "x"]).code, Some(3));
    assert_eq!(server.run(&["cp", "nowhere", &there]).code, Some(3));
    assert_eq!(server.run(&["cp", "a", "b"]).code, Some(2));

    server.ok(&["exec", &id, "--", "ln", "-s", "../../../../etc", "/root/tree/evil"]);
    let evil = server.run(&["cp", &format!("{id}:/root/tree"), "evil"]);
    assert_eq!(evil.code, Some(1), "{evil:?}");
    assert!(evil.stderr.contains("leads out"), "{evil:?}");
    assert!(std::fs::symlink_metadata(dir.join("evil/evil")).is_err());
}
