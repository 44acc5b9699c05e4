//! From asking for a sandbox to the first result of a program in it.
//!
//! How it works: pairs in turns. Through Atoll: `POST /v1/sandboxes`, then `POST …/exec` of `true`, over the data directory's socket. Bare: a
//! [`crate::bare`] VM and the same program through its agent. Ending either is not counted. Atoll's own time is that of its
//! process and of the sandbox's keeper, in clock ticks of 10 ms, so only its sum over all pairs means something. Beside it the time
//! of the VMM itself, which an emulated boot consists of and which scatters with the machine, and the rest, which hardly does: a VM
//! that is slower shows in the one, one that is begun or told of later in the other.
//!
//! Deliberately absent: goldens; every create boots.

use std::time::Instant;

use anyhow::{Context as _, Result};
use atoll_api::{CreateSandboxRequest, ExecRequest};

use crate::bare::BareVm;
use crate::{Bench, Series, cpu};

/// Takes the samples.
pub(crate) async fn measure(bench: &Bench) -> Result<Vec<Series>> {
    let mut whole = Series::new("create to first exec result, ms");
    let mut own = Series::new("CPU of Atoll and keeper for it, ms (mean of all counts: ticks are 10 ms)");
    // One of each before: caches, page cache, the database's first pages.
    through_atoll(bench).await?;
    bare(bench).await?;
    let mut vmm = Series::new("CPU of the VMM until then, ms (in clock ticks of 10 ms)");
    let mut rest = Series::new("the same without the VMM's own time, ms");
    let mut spent = 0.0;
    for turn in 0..bench.pairs {
        if turn % 2 == 0 {
            let (took, cpu) = bare(bench).await?;
            whole.bare.push(took);
            vmm.bare.push(cpu);
            rest.bare.push(took - cpu);
        }
        let (took, cpu, of_vmm) = through_atoll(bench).await?;
        whole.atoll.push(took);
        vmm.atoll.push(of_vmm);
        rest.atoll.push(took - of_vmm);
        spent += cpu;
        if turn % 2 == 1 {
            let (took, cpu) = bare(bench).await?;
            whole.bare.push(took);
            vmm.bare.push(cpu);
            rest.bare.push(took - cpu);
        }
        eprintln!("pair {} of {}", turn + 1, bench.pairs);
    }
    own.atoll.push(spent / f64::from(u32::try_from(bench.pairs)?));
    Ok(vec![whole, vmm, rest, own])
}

/// What it took, the time of Atoll and keeper, and the VMM's.
async fn through_atoll(bench: &Bench) -> Result<(f64, f64, f64)> {
    let before = cpu::ms(bench.pid)?;
    let started = Instant::now();
    let sandbox = bench.client.create(&CreateSandboxRequest::default()).await?;
    let ended = bench.client.exec(&sandbox.id, &ExecRequest { cmd: "true".into(), ..ExecRequest::default() }).await?;
    let took = started.elapsed().as_secs_f64() * 1000.0;
    anyhow::ensure!(ended.exit_code == 0, "`true` ended with {}", ended.exit_code);
    let host = sandbox.host.context("the answer names no processes")?;
    let keeper = host.keeper_pid.context("the answer names no keeper")?;
    let vmm = cpu::ms(host.vmm_pid.context("the answer names no VMM")?)?;
    let spent = cpu::ms(bench.pid)? - before + cpu::ms(keeper)?;
    bench.client.destroy(&sandbox.id).await?;
    Ok((took, spent, vmm))
}

async fn bare(bench: &Bench) -> Result<(f64, f64)> {
    let started = Instant::now();
    let vm = bench.parts.boot().await?;
    BareVm::exec(&vm.agent, "true", &[]).await?;
    Ok((started.elapsed().as_secs_f64() * 1000.0, cpu::ms(vm.pid())?))
}
