//! Bounds: absent and 0 are the default, negatives and too much are refused by name, everything accepted lies inside.

use atoll_domain::host::Isolation;
use atoll_domain::validate::{self, HostLimits, MAX_DISK_MB, MIN_DISK_MB, MIN_MEMORY_MB};
use proptest::prelude::*;

fn limits(cpus: u32, isolation: Isolation) -> HostLimits {
    HostLimits { cpus, memory_mb: 8192, isolation }
}

proptest! {
    #[test]
    fn an_accepted_shape_lies_inside_the_bounds(
        vcpus in proptest::option::of(any::<i64>().prop_map(|n| n % 70)),
        memory in proptest::option::of(any::<i64>().prop_map(|n| n % 20_000)),
        disk in proptest::option::of(any::<i64>().prop_map(|n| n % 3_000_000)),
        cpus in 1u32..128,
    ) {
        for isolation in [Isolation::Hardware, Isolation::Emulated] {
            let limits = limits(cpus, isolation);
            match validate::shape(vcpus, memory, disk, limits) {
                Ok(shape) => {
                    prop_assert!((1..=limits.max_vcpus()).contains(&shape.vcpus));
                    prop_assert!((MIN_MEMORY_MB..=8192).contains(&shape.memory_mb));
                    prop_assert!((MIN_DISK_MB..=MAX_DISK_MB).contains(&shape.disk_mb));
                    prop_assert!(vcpus.is_none_or(|n| n == 0 || n == i64::from(shape.vcpus)), "never lowered silently");
                }
                Err(invalid) => {
                    prop_assert!(["vcpus", "memory_mb", "disk_mb"].contains(&invalid.field.as_str()));
                    prop_assert!(invalid.min.is_some() && invalid.max.is_some());
                }
            }
        }
    }

    #[test]
    fn accepted_template_names_are_safe_in_a_path(name in ".{0,80}") {
        if let Ok(name) = validate::template_name(Some(&name)) {
            prop_assert!(!name.contains('/') && !name.starts_with('.') && name.len() <= 64 && !name.is_empty());
        }
    }

    #[test]
    fn variables_are_shell_names_and_bounded(name in "\\PC{0,12}", value in ".{0,40}") {
        let good = !name.is_empty() && !name.as_bytes()[0].is_ascii_digit()
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !value.contains('\0');
        prop_assert_eq!(validate::envs([(name.as_str(), value.as_str())].into_iter()).is_ok(), good);
    }
}

#[test]
fn more_virtual_cpus_than_twice_the_cores_are_refused_where_guests_are_emulated() {
    let error = validate::shape(Some(5), None, None, limits(2, Isolation::Emulated)).unwrap_err();
    assert_eq!((error.field.as_str(), error.max), ("vcpus", Some(4)));
    assert!(error.detail.contains("emulates"), "{}", error.detail);
    assert_eq!(validate::shape(Some(5), None, None, limits(2, Isolation::Hardware)).unwrap().vcpus, 5);
}

#[test]
fn negative_numbers_are_errors_and_zero_is_the_default() {
    assert_eq!(validate::timeout_sec(Some(0)).unwrap(), 0);
    assert!(validate::timeout_sec(Some(-1)).is_err());
    assert_eq!(validate::exec_timeout_sec(None).unwrap(), 30);
    assert!(validate::exec_timeout_sec(Some(-5)).is_err());
    assert!(validate::shape(Some(-1), None, None, limits(2, Isolation::Hardware)).is_err());
}

#[test]
fn a_tag_is_never_a_pid_and_fits_in_a_path() {
    for good in ["a", "build-1", "x.y_z", "1a", &"t".repeat(64)] {
        assert_eq!(validate::tag(good), Ok(()), "{good}");
    }
    for bad in ["", "1", "42", "a/b", "a b", "é", "..%2f", &"t".repeat(65)] {
        assert!(validate::tag(bad).is_err(), "{bad}");
    }
}

#[test]
fn signals_are_known_by_name_with_and_without_prefix() {
    assert_eq!(validate::signal(None), Ok(9));
    assert_eq!(validate::signal(Some("SIGTERM")), Ok(15));
    assert_eq!(validate::signal(Some("int")), Ok(2));
    assert_eq!(validate::signal(Some("SIGNOPE")).unwrap_err().code, "unknown");
    assert!(validate::signal(Some("9")).is_err());
}
