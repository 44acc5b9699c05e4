//! Who is named for a damaged object.

use atoll_domain::objects::Holder;
use atoll_domain::scrub::{DamageKind, ObjectPart, harmed};
use atoll_domain::{Incarnation, SandboxId};

#[test]
fn who_reads_it_again_is_named_and_nobody_else() {
    let sandbox = SandboxId::from_random([1; 16]);
    let golden = Holder::Golden { name: "base-1x512".into() };
    let template = Holder::Template { id: "tpl-1".into() };
    let running = Holder::Running { sandbox: sandbox.clone(), incarnation: Incarnation::FIRST };
    let generation = Holder::Generation { sandbox: sandbox.clone(), id: "g".into() };
    let step = Holder::Step { id: "tpl-2".into() };
    for part in [ObjectPart::Memory, ObjectPart::Beginning] {
        assert_eq!(harmed(part, &golden), Some((DamageKind::Golden, "base-1x512".into())));
        assert_eq!(harmed(part, &template), Some((DamageKind::Template, "tpl-1".into())));
        assert_eq!(harmed(part, &step), None, "it is not whole yet");
        let theirs = (part == ObjectPart::Memory).then(|| (DamageKind::Sandbox, sandbox.to_string()));
        for holder in [&running, &generation] {
            assert_eq!(harmed(part, holder), theirs, "its disk and devices are its own since it began");
        }
    }
}
