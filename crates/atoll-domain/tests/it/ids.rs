//! Ids are what they say, whatever they are made of.

use atoll_domain::{InstanceId, SandboxId, TeamId};
use proptest::prelude::*;

proptest! {
    #[test]
    fn an_id_of_random_bits_reads_back_and_fits_a_dns_label(random in any::<[u8; 16]>()) {
        let id = SandboxId::from_random(random);
        prop_assert_eq!(id.as_str().parse::<SandboxId>().unwrap(), id.clone());
        prop_assert!(id.as_str().len() <= 40);
        prop_assert!(id.as_str().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()));
        prop_assert!(id.as_str().parse::<TeamId>().is_err());
    }

    #[test]
    fn different_bits_are_different_ids(a in any::<[u8; 16]>(), b in any::<[u8; 16]>()) {
        prop_assert_eq!(a == b, SandboxId::from_random(a) == SandboxId::from_random(b));
    }

    #[test]
    fn no_text_makes_an_id_with_anything_but_letters_and_digits(text in ".{0,60}") {
        if let Ok(id) = text.parse::<SandboxId>() {
            prop_assert!(id.as_str().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()));
        }
        if let Ok(id) = InstanceId::try_from(text) {
            prop_assert!(id.as_str().bytes().all(|b| b.is_ascii_hexdigit()));
        }
    }
}
