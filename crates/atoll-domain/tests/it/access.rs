//! The matrix of who may do what, walked whole.

use atoll_domain::access::{Action, Principal, Role, allows};
use atoll_domain::{KeyId, TeamId, UserId};

fn user(role: Role, is_admin: bool) -> Principal {
    let (id, team) = (UserId::from_random([1; 16]), TeamId::from_random([2; 16]));
    Principal::User { id, name: "somebody".into(), team, role, is_admin }
}

#[test]
fn what_concerns_the_machine_is_for_platform_admins_and_its_owner() {
    let team = TeamId::from_random([2; 16]);
    let key = Principal::ApiKey { id: KeyId::from_random([3; 16]), name: "key".into(), team: team.clone() };
    let local = Principal::Local { uid: 0, team };
    let of_the_machine = |action| match action {
        Action::UseSandboxes => false,
        Action::SeeHostFacts | Action::UseHostPaths | Action::OpenDebugPort | Action::Scrub => true,
    };
    for action in Action::ALL {
        for all in [&local, &Principal::System] {
            assert!(allows(all, action), "{all:?} {action:?}");
        }
        assert_eq!(allows(&key, action), !of_the_machine(action), "an API key: {action:?}");
        for role in [Role::Member, Role::Admin, Role::Owner] {
            // A role in a team gives nothing of the machine.
            assert_eq!(allows(&user(role, false), action), !of_the_machine(action), "{role:?} {action:?}");
            assert!(allows(&user(role, true), action), "{role:?} {action:?}");
        }
    }
}
