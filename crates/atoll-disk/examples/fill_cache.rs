//! Fills the default cache with the base image, the kernel and an empty disk, and prints where they are.
#![allow(clippy::print_stdout, reason = "an example prints")]

use std::path::Path;

use atoll_disk::{Cache, Progress, ProgressEvent, ensure_kernel, ensure_template};

struct Print;

impl Progress for Print {
    fn event(&self, event: ProgressEvent) {
        if !matches!(event, ProgressEvent::Detail(_)) {
            println!("{event:?}");
        }
    }
}

fn main() -> Result<(), atoll_disk::DiskError> {
    let home = std::env::var_os("HOME");
    let explicit = std::env::var_os("ATOLL_CACHE");
    let cache = Cache::discover(explicit.as_deref().map(Path::new), home.as_deref().map(Path::new), None)?;
    println!("{:#?}", ensure_kernel(&cache, &Print)?);
    println!("{:#?}", ensure_template(&cache, "base", &Print)?);
    Ok(())
}
