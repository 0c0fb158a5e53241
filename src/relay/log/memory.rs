//! The log of a single node: the next position, under the order's lock.

use super::appended::{Appended, LONGEST_RUN, NotPlaced};
use crate::relay::queue::Sender;
use crate::relay::sealed::Sealed;
use crate::relay::tenure::{Permit, Tenure};
use crate::relay::timeline::{Applied, Order, Timeline};
use std::time::Instant;

/// Gives one message its place. Errors: `NotPlaced::Overloaded`, `NotHeld` and `TooLate`.
pub fn append_one(
    timeline: &Timeline,
    queues: &[Sender],
    tenure: &Tenure,
    sealed: Sealed,
) -> Result<Appended, NotPlaced> {
    let now = Instant::now();
    let mut order = timeline.order();
    let permit = tenure.permit().ok_or(NotPlaced::NotHeld)?;
    let applied = place(&mut order, queues, sealed, now);
    drop(order);
    let applied = applied.map_err(|_| NotPlaced::Overloaded)?;
    timeline.remember(&applied, now);
    appended(&applied, permit)
}

/// What has its place is answered for only if it got it in time.
fn appended(applied: &Applied, permit: Permit) -> Result<Appended, NotPlaced> {
    match permit.is_over() {
        true => Err(NotPlaced::TooLate),
        false => Ok(Appended::New(applied.head().clone())),
    }
}

/// Gives up to [`LONGEST_RUN`] messages their places, up to the first for which a worker has no
/// space: that one is refused if it is the first, and otherwise stays in `run`. All are refused
/// where none may get a place.
pub fn append(
    timeline: &Timeline,
    queues: &[Sender],
    tenure: &Tenure,
    run: &mut Vec<Sealed>,
) -> Vec<Result<Appended, NotPlaced>> {
    let now = Instant::now();
    let mut left = std::mem::take(run).into_iter();
    let mut applied = Vec::with_capacity(left.len().min(LONGEST_RUN));
    let mut order = timeline.order();
    let Some(permit) = tenure.permit() else {
        return left.map(|_| Err(NotPlaced::NotHeld)).collect();
    };
    for sealed in left.by_ref().take(LONGEST_RUN) {
        match place(&mut order, queues, sealed, now) {
            Ok(placed) => applied.push(placed),
            Err(sealed) => {
                run.push(sealed);
                break;
            }
        }
    }
    drop(order);
    run.extend(left);
    if applied.is_empty() && !run.is_empty() {
        run.remove(0);
        return vec![Err(NotPlaced::Overloaded)];
    }
    applied.iter().for_each(|applied| timeline.remember(applied, now));
    applied.iter().map(|applied| appended(applied, permit)).collect()
}

/// Space in every queue first: without it the order is as before, and the message comes back.
fn place(
    order: &mut Order<'_>,
    queues: &[Sender],
    sealed: Sealed,
    now: Instant,
) -> Result<Applied, Sealed> {
    let spaces = order.reserve(queues, &sealed);
    if spaces.iter().any(|(_, space)| space.is_none()) {
        return Err(sealed);
    }
    Ok(order.apply(order.next(), sealed, spaces, now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::message::Message;

    #[test]
    fn without_the_database_nothing_gets_a_place_and_nothing_is_left_over() {
        let (timeline, tenure) = (Timeline::fresh("main"), Tenure::default());
        let sealed = || Sealed::new(Message::of_a_test("m"), None);
        let placed = append_one(&timeline, &[], &tenure, sealed());
        assert!(matches!(placed, Ok(Appended::New(_))));
        assert_eq!(timeline.cursor().position, 1);
        tenure.lose();
        let refused = append_one(&timeline, &[], &tenure, sealed());
        assert!(matches!(refused, Err(NotPlaced::NotHeld)));
        let mut run = vec![sealed(), sealed()];
        let refused = append(&timeline, &[], &tenure, &mut run);
        assert!(run.is_empty() && refused.len() == 2);
        assert!(refused.iter().all(|it| matches!(it, Err(NotPlaced::NotHeld))));
        assert_eq!(timeline.cursor().position, 1);
        tenure.hold(None);
        assert!(append_one(&timeline, &[], &tenure, sealed()).is_ok());
    }
}
