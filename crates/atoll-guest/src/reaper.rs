//! PID 1 after the boot: reaps what nobody else waits for, and ends the machine when the agent dies.
//!
//! How it works: it waits for any child; the agent's end is the machine's.
//!
//! Deliberately absent: a runtime, allocation in its loop, and anything that can fail.
#![expect(unsafe_code, reason = "fork, exec, waitid and reboot")]

use std::{ffi::CString, io, os::unix::ffi::OsStrExt, ptr};

use crate::{boot::BootError, console};

/// Starts the agent as a child and stays behind as the reaper. Comes back only when
/// the agent has died.
pub(crate) fn run() -> BootError {
    match start_agent() {
        Ok(agent) => reap_until(agent),
        Err(error) => BootError::new("starting the agent", error),
    }
}

fn start_agent() -> io::Result<libc::pid_t> {
    let path = CString::new(std::ffi::OsStr::new("/proc/self/exe").as_bytes())?;
    let arguments = [c"atoll-guest".as_ptr(), c"agent".as_ptr(), ptr::null()];
    let environment = [c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".as_ptr(), ptr::null()];
    // SAFETY: this process has a single thread; the child only executes.
    unsafe {
        match libc::fork() {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                libc::setsid();
                libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr());
                libc::_exit(127)
            }
            pid => Ok(pid),
        }
    }
}

fn reap_until(agent: libc::pid_t) -> BootError {
    loop {
        let mut status = 0;
        // SAFETY: `status` is a valid place for the answer.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, 0) };
        if pid == agent {
            let how = if libc::WIFSIGNALED(status) {
                format!("killed by signal {}", libc::WTERMSIG(status))
            } else {
                format!("exit code {}", libc::WEXITSTATUS(status))
            };
            return BootError::new("the agent has died", io::Error::other(how));
        }
    }
}

/// Says why, and ends the machine: a restart, which the hypervisor takes as its end.
pub(crate) fn end_of_machine(why: &BootError) -> ! {
    console::error(why);
    restart()
}

/// Restarts the machine at once.
pub(crate) fn restart() -> ! {
    // SAFETY: system calls without pointers.
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_AUTOBOOT);
    }
    // Only a process without the right gets here; PID 1 must never return.
    loop {
        std::thread::park();
    }
}
