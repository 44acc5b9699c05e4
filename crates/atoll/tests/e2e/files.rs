//! Files in both directions.

use atoll_api::ErrorCode;

use crate::guest::Guest;

#[tokio::test]
async fn files_come_back_as_they_went_in() {
    let guest = Guest::new().await;
    let large: Vec<u8> = (0..3_000_000_u32).flat_map(|n| n.to_le_bytes()).collect();
    for (path, bytes) in [
        ("/root/made/on/the/way/a b\u{e4}\n?#%", &b"\0\xff\r\n"[..]),
        ("/tmp/empty", &b""[..]),
        ("/root/large", &large),
        ("relative", &b"in the home"[..]),
    ] {
        guest.write(path, bytes).await.unwrap();
        assert!(guest.read(path).await.unwrap() == bytes, "{path:?} came back changed");
    }
    assert_eq!(guest.sh("cat /root/relative; stat -c ' %U %a' /root/relative").await, "in the home root 644");
    guest.write("/root/large", b"short").await.unwrap();
    assert_eq!(guest.read("/root/large").await.unwrap(), b"short", "a file is replaced as a whole");
    assert_eq!(guest.sh("echo -n seen > /root/by-command; sync; echo ok").await, "ok");
    assert_eq!(guest.read("/root/by-command").await.unwrap(), b"seen");
    guest.end().await;
}

#[tokio::test]
async fn what_cannot_be_read_or_written_is_told_as_such() {
    let guest = Guest::new().await;
    let missing = guest.read("/nowhere/at/all").await.unwrap_err();
    assert_eq!(missing.code(), Some(ErrorCode::NotFound));
    let folder = guest.read("/etc").await.unwrap_err();
    assert_eq!(folder.code(), Some(ErrorCode::InvalidRequest), "{folder:?}");
    for path in ["/etc", "/etc/hostname/below"] {
        let refused = guest.write(path, b"x").await.unwrap_err();
        let code = refused.code();
        assert!(
            matches!(
                code,
                Some(ErrorCode::InvalidRequest | ErrorCode::Forbidden | ErrorCode::NotFound | ErrorCode::Conflict)
            ),
            "{path}: {refused:?}"
        );
    }
    assert_eq!(guest.read("").await.unwrap_err().code(), Some(ErrorCode::InvalidRequest));
    guest.end().await;
}

#[tokio::test]
async fn a_full_disk_is_told_as_one_and_the_agent_goes_on() {
    let guest = Guest::new().await;
    // Most of it at once: writing all of it takes minutes on a busy machine.
    guest.sh("fallocate -l $(( $(df --output=avail -B1M /root | tail -1) - 16 ))M /root/most").await;
    let filled = guest.exec(&["dd", "if=/dev/zero", "of=/root/fill", "bs=1M"]).await;
    assert_eq!(filled.exit_code, 1, "the program hears of it itself");
    assert!(filled.stderr.contains("No space left on device"), "{}", filled.stderr);
    guest.sh("sync; echo").await;
    let refused = guest.write("/root/more", &[7; 1 << 20]).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::DiskFull), "{refused:?}");
    let atoll_client::ClientError::Refused(problem) = &refused else { panic!("{refused:?}") };
    assert_eq!(problem.status, 507);
    // While it is still full.
    assert_eq!(guest.sh("echo here; ls / | wc -l | tr -d 0-9").await, "here");
    assert!(guest.read("/etc/hostname").await.is_ok());
    guest.sh("rm -f /root/most /root/fill /root/more").await;
    guest.write("/root/more", &[7; 1 << 20]).await.unwrap();
    guest.end().await;
}
