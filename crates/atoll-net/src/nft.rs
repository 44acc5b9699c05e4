//! Loading nft text in this thread's namespace.
//!
//! How it works: libnftables is loaded once, at run time, because linking it would make the binary need it for everything;
//! in the same process a load takes under a millisecond where starting `nft` takes five. Without the library the program is
//! used, with a deadline.
//!
//! Deliberately absent: reading rules back, and rules made of anything but a plan's own text.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::NetError;

const LIMIT: Duration = Duration::from_secs(10);

type New = unsafe extern "C" fn(u32) -> *mut c_void;
type Free = unsafe extern "C" fn(*mut c_void);
type Buffer = unsafe extern "C" fn(*mut c_void) -> c_int;
type Run = unsafe extern "C" fn(*mut c_void, *const c_char) -> c_int;
type Text = unsafe extern "C" fn(*mut c_void) -> *const c_char;

/// The five functions of libnftables that are used.
#[derive(Clone, Copy)]
struct Library {
    new: New,
    free: Free,
    buffer_error: Buffer,
    buffer_output: Buffer,
    run: Run,
    error: Text,
}

fn library() -> Option<Library> {
    static LIBRARY: OnceLock<Option<Library>> = OnceLock::new();
    *LIBRARY.get_or_init(|| {
        // SAFETY: a NUL-terminated name; loading runs the library's constructors, which is what is wanted.
        let handle = unsafe { libc::dlopen(c"libnftables.so.1".as_ptr(), libc::RTLD_NOW) };
        if handle.is_null() {
            return None;
        }
        let find = |symbol: &CStr| {
            // SAFETY: the handle is open and never closed, the name NUL-terminated.
            let found = unsafe { libc::dlsym(handle, symbol.as_ptr()) };
            (!found.is_null()).then_some(found)
        };
        // SAFETY: these are the signatures in libnftables' public header, stable under soname 1.
        unsafe {
            Some(Library {
                new: std::mem::transmute::<*mut c_void, New>(find(c"nft_ctx_new")?),
                free: std::mem::transmute::<*mut c_void, Free>(find(c"nft_ctx_free")?),
                buffer_error: std::mem::transmute::<*mut c_void, Buffer>(find(c"nft_ctx_buffer_error")?),
                buffer_output: std::mem::transmute::<*mut c_void, Buffer>(find(c"nft_ctx_buffer_output")?),
                run: std::mem::transmute::<*mut c_void, Run>(find(c"nft_run_cmd_from_buffer")?),
                error: std::mem::transmute::<*mut c_void, Text>(find(c"nft_ctx_get_error_buffer")?),
            })
        }
    })
}

/// Loads `rules` as one transaction.
pub(crate) fn load(rules: &str) -> Result<(), NetError> {
    match library() {
        Some(library) => load_by_library(library, rules),
        None => load_by_program(rules),
    }
}

fn load_by_library(library: Library, rules: &str) -> Result<(), NetError> {
    let text = CString::new(rules).map_err(|_| NetError::Nft { reason: "the rules hold a NUL byte".into() })?;
    // SAFETY: the context is used by this thread alone and freed once; the text outlives the call; the error text is
    // copied before the context that owns it is freed.
    unsafe {
        let context = (library.new)(0);
        if context.is_null() {
            return Err(NetError::Nft { reason: "libnftables made no context".into() });
        }
        (library.buffer_error)(context);
        (library.buffer_output)(context);
        let done = (library.run)(context, text.as_ptr());
        let said = (library.error)(context);
        let reason =
            if said.is_null() { String::new() } else { CStr::from_ptr(said).to_string_lossy().trim().to_owned() };
        (library.free)(context);
        if done == 0 { Ok(()) } else { Err(NetError::Nft { reason }) }
    }
}

fn load_by_program(rules: &str) -> Result<(), NetError> {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => NetError::NftMissing,
        _ => NetError::step("start nft")(error),
    })?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(rules.as_bytes()).map_err(NetError::step("write to nft"))?;
    }
    let started = Instant::now();
    while child.try_wait().map_err(NetError::step("wait for nft"))?.is_none() {
        if started.elapsed() > LIMIT {
            // Killed or ended by itself meanwhile; both are an end.
            let _ = child.kill();
            let _ = child.wait();
            return Err(NetError::Nft { reason: "nft did not end within 10 s".into() });
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let output = child.wait_with_output().map_err(NetError::step("wait for nft"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(NetError::Nft { reason: String::from_utf8_lossy(&output.stderr).trim().chars().take(2000).collect() })
}
