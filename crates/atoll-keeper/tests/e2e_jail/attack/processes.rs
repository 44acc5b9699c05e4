//! Other processes, and the attacker's own without end.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Outcome, any, errno, outcome};

const FORKS: usize = 200;

fn number(pid: u32) -> i32 {
    i32::try_from(pid).unwrap()
}

pub(crate) fn see(keeper: u32) -> Outcome {
    let own = std::process::id();
    let entries = fs::read_dir("/proc").map_err(|e| e.kind().to_string())?.flatten();
    let others = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).filter(|pid| *pid != own);
    let count = others.count();
    let named = fs::read(format!("/proc/{keeper}/status")).map_err(|e| e.kind().to_string()).map(|_| "by name".into());
    any([if count > 0 { Ok(format!("{count}")) } else { Err("none in /proc".into()) }, named])
}

pub(crate) fn trace(keeper: u32) -> Outcome {
    let pid = number(keeper);
    // SAFETY: PTRACE_SEIZE takes no pointers; the tracer's end detaches.
    unsafe {
        let seized = libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0);
        if seized == 0 {
            libc::ptrace(libc::PTRACE_INTERRUPT, pid, 0, 0);
            libc::waitpid(pid, std::ptr::null_mut(), 0);
            libc::ptrace(libc::PTRACE_DETACH, pid, 0, 0);
        }
        outcome(seized, "ptrace")
    }
}

pub(crate) fn read_memory(keeper: u32) -> Outcome {
    let opened = fs::File::open(format!("/proc/{keeper}/mem")).map_err(|e| e.kind().to_string()).map(|_| "mem".into());
    let mut byte = [0_u8];
    let local = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    // An address that is surely not mapped: the right to look is what is asked.
    let remote = libc::iovec { iov_base: std::ptr::dangling_mut::<libc::c_void>(), iov_len: 1 };
    // SAFETY: both vectors live across the call.
    let read = unsafe { libc::process_vm_readv(number(keeper), &raw const local, 1, &raw const remote, 1, 0) };
    any([opened, outcome(read as i64, "process_vm_readv")])
}

pub(crate) fn signal(keeper: u32) -> Outcome {
    // SAFETY: signal 0 does nothing; pidfd_open takes its arguments by value.
    unsafe {
        any([
            outcome(i64::from(libc::kill(number(keeper), 0)), "kill"),
            outcome(libc::syscall(libc::SYS_pidfd_open, number(keeper), 0), "pidfd_open"),
            outcome(i64::from(libc::kill(-1, 0)), "kill everybody"),
        ])
    }
}

/// Whether its whole group stands still too is seen by the test: the keeper must go on answering.
pub(crate) fn freeze(keeper: u32, inside: bool) -> Outcome {
    // SAFETY: signals are sent by number.
    unsafe {
        let stopped = libc::kill(number(keeper), libc::SIGSTOP);
        let outcome = outcome(i64::from(stopped), "SIGSTOP");
        // A jail that is broken altogether must not stop the machine.
        if inside && libc::getuid() != 0 {
            libc::kill(0, libc::SIGSTOP);
            libc::kill(-libc::getpgrp(), libc::SIGSTOP);
            libc::kill(-1, libc::SIGSTOP);
        } else {
            libc::kill(number(keeper), libc::SIGCONT);
        }
        outcome
    }
}

/// A child that was to die with its parent clears the signal and is still there when the parent has gone.
pub(crate) fn outlive() -> Outcome {
    let mut pipe = [0; 2];
    // SAFETY: the array lives across the call; the children end by _exit.
    unsafe {
        libc::pipe(pipe.as_mut_ptr());
        let parent = libc::fork();
        if parent == 0 {
            if libc::fork() == 0 {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
                let own = libc::getppid();
                let cleared = libc::prctl(libc::PR_SET_PDEATHSIG, 0, 0, 0, 0);
                let mut word = if cleared == 0 { *b"y" } else { *b"n" };
                let deadline = Instant::now() + Duration::from_secs(5);
                while cleared == 0 && libc::getppid() == own && Instant::now() < deadline {
                    std::thread::sleep(Duration::from_millis(1));
                }
                libc::write(pipe[1], word.as_mut_ptr().cast(), 1);
            } else {
                std::thread::sleep(Duration::from_millis(50));
            }
            libc::_exit(0);
        }
        libc::close(pipe[1]);
        let mut word = [0_u8];
        let read = libc::read(pipe[0], word.as_mut_ptr().cast(), 1);
        libc::close(pipe[0]);
        libc::waitpid(parent, std::ptr::null_mut(), 0);
        match (read, word[0]) {
            (1, b'y') => Ok("outlived its parent".into()),
            (1, _) => Err("prctl: EPERM".into()),
            _ => Err("died with its parent".into()),
        }
    }
}

pub(crate) fn fork_bomb() -> Outcome {
    let mut children = Vec::new();
    let mut refused = None;
    while children.len() < FORKS && refused.is_none() {
        // SAFETY: the child only waits for its end.
        match unsafe { libc::fork() } {
            0 => loop {
                // SAFETY: waits for a signal.
                unsafe { libc::pause() };
            },
            -1 => refused = Some(errno()),
            child => children.push(child),
        }
    }
    for child in &children {
        // SAFETY: children of ours.
        unsafe {
            libc::kill(*child, libc::SIGKILL);
            libc::waitpid(*child, std::ptr::null_mut(), 0);
        }
    }
    match refused {
        None => Ok(format!("{FORKS} forks")),
        Some(why) => Err(format!("{} forks, then {why}", children.len())),
    }
}

pub(crate) fn dump_core(scratch: &Path) -> Outcome {
    let unlimited = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the child ends by a signal; the limit lives across the call.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            let raised = libc::setrlimit(libc::RLIMIT_CORE, &raw const unlimited);
            let _ = std::env::set_current_dir(scratch);
            libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0);
            if raised != 0 {
                // Without a higher limit: the core that the old one allows.
                let _ = raised;
            }
            libc::signal(libc::SIGABRT, libc::SIG_DFL);
            libc::abort();
        }
        let mut status = 0;
        libc::waitpid(child, &raw mut status, 0);
        if libc::WCOREDUMP(status) { Ok("dumped".into()) } else { Err("no core".into()) }
    }
}

/// A child in a session of its own that ignores what can be ignored.
pub(crate) fn leave_a_child() {
    // SAFETY: the child only waits.
    unsafe {
        if libc::fork() == 0 {
            libc::setsid();
            for signal in 1..32 {
                libc::signal(signal, libc::SIG_IGN);
            }
            loop {
                libc::pause();
            }
        }
    }
}
