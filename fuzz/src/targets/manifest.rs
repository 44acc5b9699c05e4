//! A snapshot's manifest: a file that may have come from anywhere.
//!
//! How it works: what can be read at all reads the same again once it is written, with the same bytes to sign; judging it by any machine
//! ends; and one that claims to be newer is never used.
//!
//! Deliberately absent: signatures. Without a key none can be made, so only refusals would be tried.

use atoll_domain::snapshot::{FORMAT, Manifest, Verdict, judge};

use super::Target;

pub(super) const TARGET: Target = Target {
    name: "manifest",
    seeds: &[br#"{"format":1,"id":"a","created_at":1,"shape":{"vcpus":1,"memory_mb":256,"disk_mb":256},"template":"base","platform":{"arch":"x86_64","vmm":"qemu","vmm_version":"7.2.22","vmm_series":"7.2","accelerator":"tcg","cpu_model":"max","tsc_khz":1000,"devices":"0000000000000000000000000000000000000000000000000000000000000000"},"origin":{"kernel":"0000000000000000000000000000000000000000000000000000000000000000","base":"0000000000000000000000000000000000000000000000000000000000000000","agent":"0000000000000000000000000000000000000000000000000000000000000000","agent_version":"1"},"parts":{"state":{"bytes":1,"digest":"0000000000000000000000000000000000000000000000000000000000000000"},"memory_base":null,"memory_diff":null,"disk":null},"quiesced":true,"copyable":true,"key":"k"}"#],
    dictionary: &[b"null", b"\"format\":", b"\"kvm\"", b"\"firecracker\"", b"\"state\":", b"\"disk\":", b"18446744073709551615", b"-1"],
    memory: 8 << 20,
    run,
};

fn run(input: &[u8]) {
    let Ok(manifest) = serde_json::from_slice::<Manifest>(input) else { return };
    let written = serde_json::to_vec(&manifest).expect("a manifest is text and numbers");
    let again: Manifest = serde_json::from_slice(&written).expect("what was written can be read");
    assert_eq!(again, manifest);
    assert_eq!(again.signing_input(), manifest.signing_input());
    let verdict = judge(&manifest, &manifest.platform);
    assert!(manifest.format <= FORMAT || !matches!(verdict, Verdict::Usable), "a newer one was used");
}
