//! What a host keeps is read again for those who may have that, and what is damaged is named as its team names it.

use atoll_control::ControlError;
use atoll_control::snapshots::SnapshotInput;
use atoll_domain::host::HostError;
use atoll_domain::scrub::DamageKind;
use atoll_domain::{Principal, Role, UserId};
use atoll_testkit::{ControlBox, Fault, Method, ids};

use crate::pause::pause;

#[tokio::test]
async fn what_is_damaged_is_named_until_it_is_gone() {
    let fixture = ControlBox::start().await;
    let control = &fixture.control;
    let local = control.local_principal(0);
    let id = fixture.sandbox().await.id;
    let input = SnapshotInput { sandbox_id: id.to_string(), name: Some("warm".into()), overwrite: false };
    let template = control.create_snapshot(&fixture.principal, input).await.unwrap().template;
    pause(&fixture, &id).await.unwrap();
    let clean = control.scrub(&local).await.unwrap();
    assert_eq!((clean.files, clean.damaged.len()), (2, 0));
    assert!(clean.bytes > 0);
    fixture.host.spoil(DamageKind::Template, &template.id, "memory.raw: it does not hold what it must");
    fixture.host.spoil(DamageKind::Sandbox, id.as_str(), "state: it does not hold what it must");
    fixture.host.spoil(DamageKind::Golden, "base-1x512-0", "disk.raw: it does not hold what it must");
    let found = async || {
        let report = control.scrub(&local).await.unwrap();
        let one = |of: atoll_control::scrub::NamedDamage| (of.damage.kind, of.damage.id, of.name);
        report.damaged.into_iter().map(one).collect::<Vec<_>>()
    };
    let (golden, sandbox) =
        ((DamageKind::Golden, "base-1x512-0".to_owned(), None), (DamageKind::Sandbox, id.to_string(), None));
    let warm = (DamageKind::Template, template.id.clone(), Some("warm".to_owned()));
    assert_eq!(found().await, [warm, golden.clone(), sandbox]);
    control.delete_snapshot(&fixture.principal, "warm").await.unwrap();
    control.destroy_sandbox(&fixture.principal, id.as_str()).await.unwrap();
    assert_eq!(found().await, [golden]);
}

#[tokio::test]
async fn it_is_for_platform_admins_and_the_owner_alone() {
    let fixture = ControlBox::start().await;
    let user = |is_admin| Principal::User {
        id: UserId::from_random(ids::random()),
        name: "somebody".into(),
        team: fixture.first.team_id.clone(),
        role: Role::Owner,
        is_admin,
    };
    for nobody in [fixture.principal.clone(), fixture.other_team().await, user(false)] {
        let refused = fixture.control.scrub(&nobody).await;
        assert!(matches!(refused, Err(ControlError::Forbidden { .. })), "{nobody:?}: {refused:?}");
    }
    assert_eq!(fixture.host.calls(Method::Scrub), 0, "the host was not asked");
    assert!(fixture.control.scrub(&user(true)).await.is_ok());
    fixture.host.plan(Method::Scrub, Fault::Refuse(HostError::Unavailable("stopping".into())));
    let away = fixture.control.scrub(&fixture.control.local_principal(0)).await;
    assert!(matches!(away, Err(ControlError::Host(HostError::Unavailable(_)))), "{away:?}");
}
