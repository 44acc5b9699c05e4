//! What would widen the attacker's own world: capabilities, namespaces, the kernel's larger doors.

use std::ffi::CString;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::{Outcome, any, outcome};

/// Runs a call in a child, so that what it changes is the child's alone.
fn in_child(what: &str, call: impl FnOnce() -> i64) -> Outcome {
    // SAFETY: the child makes one call and ends.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            let done = call();
            libc::_exit(if done >= 0 { 0 } else { nix::errno::Errno::last_raw() });
        }
        if child < 0 {
            return outcome(-1, "fork");
        }
        let mut status = 0;
        libc::waitpid(child, &raw mut status, 0);
        match (libc::WIFEXITED(status), libc::WEXITSTATUS(status)) {
            (true, 0) => Ok(what.into()),
            (true, code) => Err(format!("{what}: {:?}", nix::errno::Errno::from_raw(code))),
            (false, _) => Err(format!("{what}: killed")),
        }
    }
}

fn empty_file(scratch: &Path, name: &str) -> CString {
    CString::new(scratch.join(name).as_os_str().as_bytes()).unwrap()
}

pub(crate) fn capability() -> Outcome {
    let header = [0x2008_0522_u32, 0];
    // CAP_SYS_ADMIN and CAP_SYS_PTRACE, effective and permitted.
    let bits = 1_u32 << 21 | 1 << 19;
    let data = [bits, bits, 0, 0, 0, 0];
    // SAFETY: both structures live across the call and have the kernel's shape.
    let set = in_child("capset", || unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) });
    // SAFETY: takes its arguments by value.
    let ambient = in_child("ambient", || unsafe {
        i64::from(libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, 21, 0, 0))
    });
    any([set, ambient])
}

pub(crate) fn root() -> Outcome {
    // SAFETY: takes its arguments by value.
    in_child("setresuid", || unsafe { i64::from(libc::setresuid(0, 0, 0)) })
}

pub(crate) fn io_uring() -> Outcome {
    let mut parameters = [0_u8; 120];
    // SAFETY: the structure has the kernel's size and lives across the call.
    in_child("io_uring_setup", || unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) })
}

pub(crate) fn bpf() -> Outcome {
    // BPF_MAP_CREATE: an array with keys of 4 bytes, values of 4 bytes, one entry.
    let attributes = [2_u32, 4, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    // SAFETY: the attributes live across the call.
    in_child("bpf", || unsafe { libc::syscall(libc::SYS_bpf, 0, attributes.as_ptr(), 72) })
}

pub(crate) fn perf() -> Outcome {
    // PERF_TYPE_SOFTWARE, size 64 (the first version), PERF_COUNT_SW_CPU_CLOCK.
    let mut attributes = [0_u32; 16];
    (attributes[0], attributes[1]) = (1, 64);
    // SAFETY: the attributes live across the call.
    in_child("perf_event_open", || unsafe {
        libc::syscall(libc::SYS_perf_event_open, attributes.as_ptr(), 0, -1, -1, 0)
    })
}

pub(crate) fn userfaultfd() -> Outcome {
    // SAFETY: takes its argument by value.
    in_child("userfaultfd", || unsafe { libc::syscall(libc::SYS_userfaultfd, 0) })
}

pub(crate) fn keyring() -> Outcome {
    // SAFETY: KEYCTL_JOIN_SESSION_KEYRING with a null name makes an anonymous one.
    in_child("keyctl", || unsafe { libc::syscall(libc::SYS_keyctl, 1, 0) })
}

pub(crate) fn device(scratch: &Path) -> Outcome {
    let name = empty_file(scratch, "device");
    any([name, c"/device".to_owned(), c"/dev/device".to_owned()].into_iter().take(1).map(|name| {
        in_child("mknod", || {
            // SAFETY: the name lives across the calls.
            unsafe {
                let made = libc::mknod(name.as_ptr(), libc::S_IFCHR | 0o600, libc::makedev(1, 5));
                libc::unlink(name.as_ptr());
                i64::from(made)
            }
        })
    }))
}

pub(crate) fn unshare() -> Outcome {
    let kinds = [
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWNS,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWCGROUP,
    ];
    // SAFETY: takes its argument by value.
    any(kinds.map(|kind| in_child("unshare", || unsafe { i64::from(libc::unshare(kind)) })))
}

pub(crate) fn setns() -> Outcome {
    let own = std::fs::File::open("/proc/self/ns/net");
    let fd = own.as_ref().map_or(0, |file| file.as_raw_fd());
    // SAFETY: takes its arguments by value.
    in_child("setns", || unsafe { i64::from(libc::setns(fd, libc::CLONE_NEWNET)) })
}

pub(crate) fn mount(scratch: &Path) -> Outcome {
    let place = if scratch.exists() { empty_file(scratch, "") } else { c"/".to_owned() };
    in_child("mount", || {
        // SAFETY: the names live across the calls; the mount goes with the child's namespace.
        unsafe {
            if libc::unshare(libc::CLONE_NEWNS) == 0 {
                libc::mount(
                    c"none".as_ptr(),
                    c"/".as_ptr(),
                    std::ptr::null(),
                    libc::MS_REC | libc::MS_PRIVATE,
                    std::ptr::null(),
                );
            }
            let tmpfs = c"tmpfs".as_ptr();
            i64::from(libc::mount(tmpfs, place.as_ptr(), tmpfs, 0, std::ptr::null()))
        }
    })
}

pub(crate) fn clone_namespaces() -> Outcome {
    let kinds = [libc::CLONE_NEWUSER, libc::CLONE_NEWNS, libc::CLONE_NEWNET, libc::CLONE_NEWPID, libc::CLONE_NEWCGROUP];
    any(kinds.map(|kind| {
        in_child("clone", || {
            // SAFETY: like fork; the child ends at once.
            unsafe {
                let pid = libc::syscall(libc::SYS_clone, i64::from(kind | libc::SIGCHLD), 0, 0, 0, 0);
                if pid == 0 {
                    libc::_exit(0);
                }
                pid
            }
        })
    }))
}

pub(crate) fn clone3() -> Outcome {
    // struct clone_args of the first version; exit_signal is the fifth word.
    let mut arguments = [0_u64; 8];
    arguments[4] = u64::try_from(libc::SIGCHLD).unwrap();
    in_child("clone3", || {
        // SAFETY: the arguments live across the call; the child ends at once.
        unsafe {
            let pid = libc::syscall(libc::SYS_clone3, arguments.as_ptr(), 64);
            if pid == 0 {
                libc::_exit(0);
            }
            pid
        }
    })
}
