//! What follows from a look at the lease; without I/O and without a clock.

use crate::relay::Moment;
use crate::store::LeaseRow;
use chrono::{DateTime, Utc};
use std::time::Duration;
use uuid::Uuid;

/// After how long without a renewal a lease is over.
pub(super) const OVER: Duration = Duration::from_secs(5);
/// How long after it sent its last good renewal a holder with a standby gives messages places: a
/// second less than its lease lasts.
pub(super) const SURE: Duration = Duration::from_secs(4);

/// What a process may take at once, whoever's it seems to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// A lease of this place: whoever held it there has ended.
    Place(Option<String>),
    /// Any: nobody else can reach the database.
    Everything,
}

/// What a look says of the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    /// It may be taken.
    Free,
    /// Its holder renews it.
    Living,
    /// It has not been renewed while it was watched, and is not over.
    Unsure,
}

/// Looks at the lease again and again until it is known whether its holder lives.
#[derive(Debug, Default)]
pub(super) struct Watch {
    seen: Option<Seen>,
    /// Whether it changed between two looks: then the database's clock, which may jump when another
    /// server takes over, decides nothing any more.
    has_changed: bool,
}

#[derive(Debug)]
struct Seen {
    holder: Uuid,
    renewed_at: DateTime<Utc>,
    /// When it was first seen like this.
    since: Moment,
}

impl Claim {
    /// Whether a lease of this row is one's own.
    pub fn covers(&self, row: &LeaseRow) -> bool {
        match self {
            Self::Everything => true,
            Self::Place(place) => place.is_some() && *place == row.place,
        }
    }

    /// What is written into the row.
    pub fn place(&self) -> Option<String> {
        match self {
            Self::Everything => None,
            Self::Place(place) => place.clone(),
        }
    }
}

impl Watch {
    /// What one more look, at `now`, says.
    pub fn look(&mut self, row: Option<&LeaseRow>, claim: &Claim, now: Moment) -> Sight {
        let Some(row) = row else { return Sight::Free };
        if row.given_back || claim.covers(row) {
            return Sight::Free;
        }
        let before = self.seen.as_ref();
        let is_same = before
            .is_some_and(|seen| (seen.holder, seen.renewed_at) == (row.holder, row.renewed_at));
        if !is_same {
            self.has_changed |= before.is_some();
            let (holder, renewed_at) = (row.holder, row.renewed_at);
            self.seen = Some(Seen { holder, renewed_at, since: now });
        }
        let watched = self.seen.as_ref().map_or(Duration::ZERO, |seen| now.since(seen.since));
        match self.has_changed {
            _ if watched >= OVER => Sight::Free,
            false if row.age >= OVER => Sight::Free,
            false => Sight::Unsure,
            true => Sight::Living,
        }
    }
}

/// What a holder finds in the place of its own lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Its own, after all.
    Own,
    /// Nothing, or the row as it was before it took the lease: an older copy of the database.
    /// Nobody else can have held it since.
    Older,
    /// Another's, which is over; messages may have gone to that one.
    Ended,
    /// Another's, who may be alive.
    Another,
}

/// What `row` means for `holder`, who took the lease when the row was `replaced`.
pub(super) fn found(row: Option<&LeaseRow>, holder: Uuid, replaced: Option<&LeaseRow>) -> Found {
    let Some(row) = row else { return Found::Older };
    let is_replaced = replaced.is_some_and(|old| (old.holder, old.term) == (row.holder, row.term));
    match row.given_back || row.age >= OVER {
        _ if row.holder == holder => Found::Own,
        true if is_replaced => Found::Older,
        true => Found::Ended,
        false => Found::Another,
    }
}

/// Up to when messages get places after a renewal that was sent then; without end where nobody
/// stands by.
pub(super) fn sure_until(sent: Moment, is_watched: bool) -> Option<Moment> {
    is_watched.then(|| sent + SURE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const A: Uuid = Uuid::from_u128(1);
    const B: Uuid = Uuid::from_u128(2);

    /// A row whose last renewal has this number, and was so long ago by the database's clock.
    fn row(holder: Uuid, renewal: i64, age_ms: u64) -> LeaseRow {
        LeaseRow {
            term: 7,
            holder,
            place: Some("there".into()),
            renewed_at: DateTime::from_timestamp(renewal, 0).unwrap(),
            age: Duration::from_millis(age_ms),
            given_back: false,
        }
    }

    fn elsewhere() -> Claim {
        Claim::Place(Some("here".into()))
    }

    /// Looks at these rows at these times, in ms; what the last look says.
    fn last(looks: &[(u64, Option<LeaseRow>)], claim: &Claim) -> Sight {
        let (mut watch, start) = (Watch::default(), Moment::now());
        let look = |(at, row): &(u64, Option<LeaseRow>)| {
            watch.look(row.as_ref(), claim, start + Duration::from_millis(*at))
        };
        looks.iter().map(look).last().unwrap()
    }

    #[test]
    fn a_first_look_goes_by_the_databases_clock() {
        for (age, sight) in [
            (0, Sight::Unsure),
            (4_999, Sight::Unsure),
            (5_000, Sight::Free),
            (9_000_000, Sight::Free),
        ] {
            assert_eq!(last(&[(0, Some(row(A, 1, age)))], &elsewhere()), sight, "{age}");
        }
        assert_eq!(last(&[(0, None)], &elsewhere()), Sight::Free);
    }

    #[test]
    fn whoever_renews_lives_and_whoever_was_watched_in_vain_is_over() {
        let same = |age| Some(row(A, 1, age));
        for (looks, sight) in [
            (vec![(0, same(900)), (4_000, same(4_900))], Sight::Unsure),
            (vec![(0, same(900)), (4_100, same(5_000))], Sight::Free),
            // The clock of the database stands or runs back.
            (vec![(0, same(0)), (4_999, same(0))], Sight::Unsure),
            (vec![(0, same(0)), (5_000, same(0))], Sight::Free),
            (vec![(0, same(900)), (600, Some(row(A, 2, 0)))], Sight::Living),
            (vec![(0, same(900)), (600, Some(row(B, 1, 0)))], Sight::Living),
            // Another server takes over, whose clock is hours ahead.
            (
                vec![
                    (0, same(900)),
                    (600, Some(row(A, 2, 0))),
                    (1_600, Some(row(A, 2, 9_000_000))),
                ],
                Sight::Living,
            ),
            (
                vec![(0, same(0)), (600, Some(row(A, 2, 0))), (5_599, Some(row(A, 2, 5_000)))],
                Sight::Living,
            ),
            (
                vec![(0, same(0)), (600, Some(row(A, 2, 0))), (5_600, Some(row(A, 2, 5_000)))],
                Sight::Free,
            ),
        ] {
            assert_eq!(last(&looks, &elsewhere()), sight, "{looks:?}");
        }
    }

    #[test]
    fn what_was_given_back_or_is_ones_own_may_be_taken_at_once() {
        let given_back = LeaseRow { given_back: true, ..row(A, 1, 0) };
        assert_eq!(last(&[(0, Some(given_back))], &elsewhere()), Sight::Free);
        let placeless = LeaseRow { place: None, ..row(A, 1, 0) };
        for (row, claim, sight) in [
            (row(A, 1, 0), Claim::Place(Some("there".into())), Sight::Free),
            (row(A, 1, 0), Claim::Everything, Sight::Free),
            (row(A, 1, 0), Claim::Place(None), Sight::Unsure),
            (placeless, Claim::Place(None), Sight::Unsure),
        ] {
            assert_eq!(last(&[(0, Some(row.clone()))], &claim), sight, "{row:?} {claim:?}");
        }
    }

    #[test]
    fn a_holder_knows_what_it_finds() {
        let other = |age| row(B, 1, age);
        let given_back = LeaseRow { given_back: true, ..other(0) };
        let replaced = other(60_000);
        let newer = LeaseRow { term: 9, ..other(5_000) };
        for (row, replaced, expected) in [
            (None, None, Found::Older),
            (Some(row(A, 1, 9_000)), None, Found::Own),
            (Some(other(0)), None, Found::Another),
            (Some(other(4_999)), Some(&replaced), Found::Another),
            (Some(other(5_000)), None, Found::Ended),
            (Some(other(5_000)), Some(&replaced), Found::Older),
            (Some(newer), Some(&replaced), Found::Ended),
            (Some(given_back.clone()), None, Found::Ended),
            (Some(given_back), Some(&replaced), Found::Older),
        ] {
            assert_eq!(found(row.as_ref(), A, replaced), expected, "{row:?} {replaced:?}");
        }
    }

    #[test]
    fn only_where_someone_stands_by_does_it_end_before_the_lease() {
        let sent = Moment::now();
        assert_eq!(sure_until(sent, false), None);
        assert_eq!(sure_until(sent, true), Some(sent + Duration::from_secs(4)));
        const { assert!(SURE.as_millis() < OVER.as_millis()) };
    }

    proptest! {
        /// Whatever comes when: as long as one may give messages places, nobody else takes over; and
        /// whoever renews no more is followed within six seconds.
        #[test]
        fn a_lease_is_free_only_when_its_holder_has_stopped(
            steps in vec((0_u64..2_500, any::<bool>(), 0_u64..10_000_000), 1..60),
        ) {
            let (mut watch, start) = (Watch::default(), Moment::now());
            let at = |ms: u64| start + Duration::from_millis(ms);
            let (mut now, mut renewed, mut seen) = (0, 0, BTreeSet::new());
            let mut sight = Sight::Unsure;
            for (pause, renews, jump) in steps {
                now += pause;
                if renews {
                    renewed = now;
                    continue;
                }
                // Once it was seen to change, the database's clock may jump.
                seen.insert(renewed);
                let age = now - renewed + if seen.len() > 1 { jump } else { 0 };
                sight = watch.look(Some(&row(A, renewed as i64, age)), &elsewhere(), at(now));
                if sight == Sight::Free {
                    let sure = sure_until(at(renewed), true).unwrap();
                    prop_assert!(at(now).since(at(renewed)) >= OVER && at(now) > sure);
                    break;
                }
            }
            let last = now;
            while sight != Sight::Free {
                now += 250;
                sight = watch.look(Some(&row(A, renewed as i64, 0)), &elsewhere(), at(now));
                prop_assert!(now - last <= 6_000);
            }
        }
    }
}
