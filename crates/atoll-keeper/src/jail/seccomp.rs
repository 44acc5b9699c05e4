//! The system calls that a VMM has no use for.
//!
//! How it works: a classic BPF program, written by hand and installed before the VMM is executed, so it holds whatever QEMU's own
//! `-sandbox` does. Calls on the list give EPERM; `clone` gives EPERM when it asks for a namespace; `clone3` gives
//! ENOSYS, because its flags lie in memory that a filter cannot read and libraries then fall back to `clone`; `prctl` gives EPERM
//! for the parent-death signal, which a VMM could otherwise clear to outlive its keeper; the x32 variants and other
//! architectures kill.
//!
//! Deliberately absent: an allow list. QEMU's needs change with its version; what opens new doors is known.

use std::io;

use crate::KeeperError;

const LOAD_WORD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_AT_LEAST: u16 = 0x35;
const JUMP_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCHITECTURE: u32 = 4;
const OFFSET_FIRST_ARGUMENT: u32 = 16;

const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0x8000_0000;
const ERRNO: u32 = 0x0005_0000;
const X32: u32 = 0x4000_0000;
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;
/// Every CLONE_NEW… flag that `clone` takes.
const NEW_NAMESPACES: u32 = 0x7e02_0080 & !0x80;

/// Denied with EPERM.
pub const DENIED: &[i64] = &[
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_kcmp,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_process_madvise,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_socket,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_reboot,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_personality,
    libc::SYS_lookup_dcookie,
    libc::SYS_mknodat,
];

fn statement(code: u16, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt: 0, jf: 0, k }
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

/// The program.
pub fn program() -> Vec<libc::sock_filter> {
    let number = |call: i64| u32::try_from(call).unwrap_or(u32::MAX);
    let deny = ERRNO | libc::EPERM.cast_unsigned();
    let absent = ERRNO | libc::ENOSYS.cast_unsigned();
    let mut out = vec![
        statement(LOAD_WORD, OFFSET_ARCHITECTURE),
        jump(JUMP_EQUAL, ARCHITECTURE, 1, 0),
        statement(RETURN, KILL),
        statement(LOAD_WORD, OFFSET_NUMBER),
        jump(JUMP_AT_LEAST, X32, 0, 1),
        statement(RETURN, KILL),
        jump(JUMP_EQUAL, number(libc::SYS_clone3), 0, 1),
        statement(RETURN, absent),
        jump(JUMP_EQUAL, number(libc::SYS_clone), 0, 4),
        statement(LOAD_WORD, OFFSET_FIRST_ARGUMENT),
        jump(JUMP_ANY_BIT, NEW_NAMESPACES, 0, 1),
        statement(RETURN, deny),
        statement(RETURN, ALLOW),
        jump(JUMP_EQUAL, number(libc::SYS_prctl), 0, 4),
        statement(LOAD_WORD, OFFSET_FIRST_ARGUMENT),
        jump(JUMP_EQUAL, libc::PR_SET_PDEATHSIG.cast_unsigned(), 0, 1),
        statement(RETURN, deny),
        statement(RETURN, ALLOW),
    ];
    for call in DENIED {
        out.push(jump(JUMP_EQUAL, number(*call), 0, 1));
        out.push(statement(RETURN, deny));
    }
    out.push(statement(RETURN, ALLOW));
    out
}

/// Installs the program for this process and all that it starts; needs no_new_privs.
///
/// # Errors
/// What the kernel says.
pub fn install(program: &mut [libc::sock_filter]) -> Result<(), KeeperError> {
    let length = u16::try_from(program.len()).unwrap_or(u16::MAX);
    let filter = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    // SAFETY: the program lives across the call, which copies it.
    let done = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter, 0, 0) };
    if done == 0 { Ok(()) } else { Err(KeeperError::step("install the seccomp filter")(io::Error::last_os_error())) }
}
