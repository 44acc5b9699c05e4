//! Whether those died who were to.
//!
//! How it works: the plans say how often each victim is to be struck, and the tally how often it was. Missed can be only who may be gone
//! by itself ([`Kill::may_miss`]), and one in twenty besides, for a process that ends just then. What the seed draws is itself held
//! against chance: by Hoeffding's bound a fair draw of so many kills is short by more than `sqrt(7 * kills)` less often than once in a
//! million. Of the 500 kills of 1000 cycles 250 are the host agent's, at least 190, and 125 each the keeper's and the VMM's, at least 65.
//! 20 kills are too few to demand one of each of chance (one in 300 draws has no keeper), so there the plans' own numbers are all.
//!
//! Deliberately absent: where in the code a kill struck.

use crate::plan::{Kill, Plan, Victim};
use crate::world::Tally;

/// What the tally calls a kill that came too late.
pub(crate) const NOBODY: &str = "nobody to kill";

/// Whether the kills of a run that went to its end have struck.
pub(crate) fn struck(plans: &[Plan], tally: &Tally) -> Result<(), String> {
    let kills: Vec<Kill> = plans.iter().filter_map(|plan| plan.kill).collect();
    let all = count(&kills, |_| true);
    let (mut faults, mut tried, mut may_miss) = (Vec::new(), tally.of(NOBODY), all / 20);
    for victim in Victim::ALL {
        let planned = count(&kills, |kill| kill.victim == victim);
        let sure = count(&kills, |kill| kill.victim == victim && !kill.may_miss());
        let died = tally.of(victim.killed());
        tried += died;
        may_miss += planned - sure;
        if died > planned || died + all / 20 < sure {
            faults.push(format!("{}: {died} times, planned {planned}, {sure} of them sure", victim.killed()));
        }
        let least = (all * victim.share_of_four() / 4).saturating_sub((7 * all).isqrt() + 1);
        if planned < least {
            faults.push(format!(
                "{}: {planned} of {all} planned, chance does not make less than {least}",
                victim.killed()
            ));
        }
    }
    if tried != all {
        faults.push(format!("{tried} kills tried, {all} planned"));
    }
    if tally.of(NOBODY) > may_miss {
        faults.push(format!("{NOBODY}: {} times of {all}, {may_miss} at the most", tally.of(NOBODY)));
    }
    if faults.is_empty() { Ok(()) } else { Err(faults.join("; ")) }
}

fn count(kills: &[Kill], which: impl Fn(&Kill) -> bool) -> u64 {
    kills.iter().map(|kill| u64::from(which(kill))).sum()
}
