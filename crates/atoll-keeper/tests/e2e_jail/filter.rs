//! The keeper's own filter, tried without QEMU's and as root: nothing else would deny these calls.

use atoll_keeper::jail::seccomp;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

/// The errno of a call, 0 when it succeeded.
fn errno_of(result: i64) -> i32 {
    if result >= 0 { 0 } else { std::io::Error::last_os_error().raw_os_error().unwrap_or(0) }
}

/// Runs a call in a child, with the filter or without, and answers its errno.
fn errno_in_child(filtered: bool, call: fn() -> i64) -> i32 {
    // SAFETY: this program has one thread here.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            nix::sys::prctl::set_no_new_privs().unwrap();
            if filtered {
                seccomp::install(&mut seccomp::program()).unwrap();
            }
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(errno_of(call())) }
        }
        ForkResult::Parent { child } => match waitpid(child, None).unwrap() {
            WaitStatus::Exited(_, code) => code,
            other => panic!("{other:?}"),
        },
    }
}

fn clone_with(flags: i32) -> i64 {
    // SAFETY: like fork; a null stack means a copy of ours, and the child ends at once.
    unsafe {
        let pid = libc::syscall(libc::SYS_clone, i64::from(flags | libc::SIGCHLD), 0, 0, 0, 0);
        if pid == 0 {
            libc::_exit(0);
        }
        pid
    }
}

macro_rules! call {
    ($($word:expr),+) => {
        // SAFETY: the kernel checks the arguments.
        || unsafe { libc::syscall($($word),+) }
    };
}

pub(crate) fn denies_what_opens_namespaces() {
    let denied: &[(&str, fn() -> i64)] = &[
        ("unshare", call!(libc::SYS_unshare, libc::CLONE_NEWNS)),
        ("setns", call!(libc::SYS_setns, own_network(), libc::CLONE_NEWNET)),
        ("mount", call!(libc::SYS_mount, c"t".as_ptr(), c"/mnt".as_ptr(), c"tmpfs".as_ptr(), libc::MS_REMOUNT, 0)),
        ("clone user", || clone_with(libc::CLONE_NEWUSER)),
        ("clone mount", || clone_with(libc::CLONE_NEWNS)),
        ("clone network", || clone_with(libc::CLONE_NEWNET)),
        ("clone pid", || clone_with(libc::CLONE_NEWPID)),
        ("clone ipc", || clone_with(libc::CLONE_NEWIPC)),
        ("clone uts", || clone_with(libc::CLONE_NEWUTS)),
        ("clone cgroup", || clone_with(libc::CLONE_NEWCGROUP)),
        ("clearing the death signal", call!(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, 0, 0, 0, 0)),
    ];
    for (name, call) in denied {
        assert_eq!(errno_in_child(true, *call), libc::EPERM, "{name}");
        let without = errno_in_child(false, *call);
        assert_ne!((without, *name != "mount"), (libc::EPERM, true), "{name} fails without the filter too");
    }
    let clone3: fn() -> i64 = call!(libc::SYS_clone3, std::ptr::null::<u8>(), 0);
    assert_eq!(errno_in_child(true, clone3), libc::ENOSYS);
    assert_ne!(errno_in_child(false, clone3), libc::ENOSYS);
    assert_eq!(errno_in_child(true, || clone_with(0)), 0, "an ordinary fork is allowed");
    assert_eq!(errno_in_child(true, call!(libc::SYS_prctl, libc::PR_GET_DUMPABLE, 0, 0, 0, 0)), 0);
}

fn own_network() -> i32 {
    use std::os::fd::IntoRawFd as _;
    std::fs::File::open("/proc/self/ns/net").unwrap().into_raw_fd()
}
