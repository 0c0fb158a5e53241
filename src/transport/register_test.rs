//! Who gives way to whom, and that the counts are right whatever happens.

use super::*;
use proptest::prelude::*;

const SETTINGS: PlaceSettings =
    PlaceSettings { connections: 4, spare: 2, handshakes_per_address: 3, http_per_address: 3 };

/// A register whose clock stands unless it is moved.
struct Scene {
    register: Register,
    now: Instant,
}

impl Scene {
    fn new(settings: PlaceSettings) -> Self {
        Self { register: Register::new(settings), now: Instant::now() }
    }

    fn pass(&mut self, milliseconds: u64) {
        self.now += Duration::from_millis(milliseconds);
    }

    fn arrive(&mut self, last: u8) -> Result<u64, NoPlace> {
        let client = counted_as([192, 0, 2, last].into());
        let arrived = self.register.arrive(Some(client), Arc::default(), self.now);
        arrived.map(|(id, gives_way)| {
            gives_way.into_iter().for_each(|signal| signal.tell_to_go());
            id
        })
    }

    fn arrive_at(&mut self, last: u8, stage: Stage) -> u64 {
        let id = self.arrive(last).unwrap();
        self.enter(id, stage);
        id
    }

    fn enter(&mut self, id: u64, stage: Stage) {
        let gives_way = self.register.enter(id, stage, self.now).unwrap();
        gives_way.into_iter().for_each(|signal| signal.tell_to_go());
    }

    /// Those that were told to go.
    fn leaving(&self) -> Vec<u64> {
        let occupants = self.register.occupants.iter();
        let mut told: Vec<u64> =
            occupants.filter(|(_, it)| it.signal.must_go()).map(|(id, _)| *id).collect();
        told.sort_unstable();
        told
    }
}

#[test]
fn silence_gives_way_first_then_a_long_handshake_then_who_is_idle() {
    let mut scene = Scene::new(PlaceSettings { handshakes_per_address: 9, ..SETTINGS });
    let idle = scene.arrive_at(1, Stage::Idle);
    let busy = scene.arrive_at(1, Stage::Socket);
    let handshake = scene.arrive_at(1, Stage::Handshake);
    let silent = scene.arrive(1).unwrap();
    scene.pass(1_000);
    let mut expected = Vec::new();
    for next in [silent, handshake, idle] {
        scene.arrive(1).unwrap();
        expected.push(next);
        expected.sort_unstable();
        assert_eq!(scene.leaving(), expected);
        scene.pass(10);
    }
    // The newcomers have their time to speak, but nobody else is left.
    scene.arrive(1).unwrap();
    assert_eq!(scene.leaving().len(), 4);
    assert!(!scene.leaving().contains(&busy));
}

#[test]
fn who_has_most_makes_way_and_others_keep_theirs() {
    let mut scene = Scene::new(SETTINGS);
    let alone = scene.arrive_at(1, Stage::Idle);
    let many: Vec<u64> = (0..3).map(|_| scene.arrive_at(2, Stage::Idle)).collect();
    for newcomer in [3, 4] {
        scene.arrive(newcomer).unwrap();
    }
    assert_eq!(scene.leaving(), many[..2], "and {alone} stays");
    scene.arrive(5).unwrap();
    assert_eq!(scene.leaving(), [alone, many[0], many[1]], "of equals who waits longest");
}

#[test]
fn a_storm_of_handshakes_makes_way_for_others_and_not_for_itself() {
    let mut scene = Scene::new(PlaceSettings { handshakes_per_address: 9, ..SETTINGS });
    let storm: Vec<u64> = (0..4).map(|_| scene.arrive_at(1, Stage::Handshake)).collect();
    assert_eq!(scene.arrive(1), Err(NoPlace::Process));
    for (newcomer, expected) in [(2, &storm[..1]), (3, &storm[..2])] {
        scene.arrive_at(newcomer, Stage::Handshake);
        assert_eq!(scene.leaving(), expected);
    }
    scene.arrive_at(4, Stage::Handshake);
    scene.arrive(5).unwrap_err();
    assert_eq!(scene.arrive(1), Err(NoPlace::Process), "nor from who has less");
}

#[test]
fn at_the_bound_of_the_process_a_few_are_told_so_and_no_more() {
    let mut scene = Scene::new(SETTINGS);
    let sockets: Vec<u64> = (0..4).map(|n| scene.arrive_at(n, Stage::Socket)).collect();
    assert!(scene.register.is_full());
    for newcomer in [10, 11] {
        scene.arrive_at(newcomer, Stage::Request);
    }
    assert_eq!(scene.arrive(12), Err(NoPlace::Process));
    scene.register.leave(sockets[0]);
    assert!(scene.arrive(12).is_ok() && scene.leaving().is_empty());
    assert!(scene.register.is_full(), "with the requests");
}

#[test]
fn an_address_has_its_share_of_handshakes_and_of_http() {
    let mut scene = Scene::new(PlaceSettings { connections: 100, ..SETTINGS });
    let silent: Vec<u64> = (0..3).map(|_| scene.arrive(1).unwrap()).collect();
    scene.arrive(2).unwrap();
    assert!(scene.leaving().is_empty());
    let fourth = scene.arrive(1).unwrap();
    assert_eq!(scene.leaving(), silent[..1]);
    for id in [silent[1], silent[2], fourth] {
        scene.enter(id, Stage::Idle);
    }
    assert_eq!(scene.leaving(), silent[..1], "at the share");
    scene.arrive_at(1, Stage::Idle);
    assert_eq!(scene.leaving(), silent[..2], "beyond it");
    let handshakes: Vec<u64> = (0..3).map(|_| scene.arrive_at(1, Stage::Handshake)).collect();
    assert_eq!(scene.arrive(1), Err(NoPlace::Address { limit: 3 }), "{handshakes:?}");
}

#[test]
fn who_is_told_to_go_while_its_request_comes_stays_for_it() {
    let mut scene = Scene::new(PlaceSettings { connections: 2, ..SETTINGS });
    let first = scene.arrive_at(1, Stage::Idle);
    scene.arrive_at(1, Stage::Idle);
    scene.arrive(1).unwrap();
    assert_eq!(scene.leaving(), [first]);
    let owner = Owner::Address([192, 0, 2, 1].into());
    scene.register.begin(first, Some(owner), scene.now).unwrap();
    assert!(scene.leaving().is_empty());
    scene.register.end(first, scene.now);
    assert_eq!(scene.register.by_stage()[Stage::Idle as usize], 2);
}

#[test]
fn a_request_gives_way_last_and_only_when_it_takes_long() {
    let mut scene = Scene::new(PlaceSettings { connections: 1, spare: 1, ..SETTINGS });
    let (first, second) = (scene.arrive_at(1, Stage::Request), scene.arrive_at(1, Stage::Request));
    scene.pass(9_999);
    assert_eq!(scene.arrive(2), Err(NoPlace::Process));
    scene.pass(1);
    scene.arrive(2).unwrap();
    assert_eq!(scene.leaving(), [first], "and {second} stays");
}

#[test]
fn a_proxys_connection_counts_for_its_client_once_it_is_named() {
    let mut scene = Scene::new(PlaceSettings { connections: 100, ..SETTINGS });
    let unnamed =
        |scene: &mut Scene| scene.register.arrive(None, Arc::default(), scene.now).unwrap().0;
    let ids: Vec<u64> = (0..10).map(|_| unnamed(&mut scene)).collect();
    assert!(scene.leaving().is_empty(), "a proxy has no share");
    let owner = Owner::Address([192, 0, 2, 1].into());
    for id in &ids[..3] {
        scene.register.begin(*id, Some(owner), scene.now).unwrap();
    }
    let refused = scene.register.begin(ids[3], Some(owner), scene.now);
    assert_eq!(refused.err(), Some(NoPlace::Address { limit: 3 }));
    scene.register.end(ids[0], scene.now);
    let gives_way = scene.register.begin(ids[3], Some(owner), scene.now).unwrap();
    assert!(
        gives_way
            .is_some_and(|signal| Arc::ptr_eq(&signal, &scene.register.occupants[&ids[0]].signal))
    );
}

#[test]
fn owners_that_are_at_work_do_not_keep_a_newcomer_out_while_others_are_idle() {
    let settings = PlaceSettings { connections: 60, http_per_address: 9, ..SETTINGS };
    let mut scene = Scene::new(settings);
    let idle = scene.arrive_at(1, Stage::Idle);
    for owner in 10..30 {
        for _ in 0..2 {
            scene.arrive_at(owner, Stage::Request);
        }
    }
    let others: Vec<u64> = (31..=50).map(|owner| scene.arrive_at(owner, Stage::Idle)).collect();
    assert!(scene.leaving().len() <= 1 + others.len());
    let before = scene.leaving().len();
    scene.arrive(60).unwrap();
    assert_eq!(scene.leaving().len(), before + 1);
    assert!(scene.leaving().contains(&idle), "who waits longest of those that wait");
}

proptest! {
    #[test]
    fn whatever_happens_the_counts_are_right_and_nothing_is_kept_of_who_has_left(
        steps in proptest::collection::vec((0..6_u8, 0..5_u8, 0..12_usize), 1..200)
    ) {
        let mut scene = Scene::new(SETTINGS);
        let mut ids: Vec<u64> = Vec::new();
        for (step, last, which) in steps {
            scene.pass(200);
            let (id, now) = (ids.get(which).copied().unwrap_or_default(), scene.now);
            match step {
                0 | 1 => ids.extend(scene.arrive(last)),
                2 => drop(scene.register.enter(id, Stage::ALL[usize::from(last)], now)),
                3 => {
                    let owner = Owner::Address([192, 0, 2, last].into());
                    drop(scene.register.begin(id, Some(owner), now));
                }
                4 => scene.register.end(id, now),
                _ => {
                    scene.register.leave(id);
                    ids.retain(|other| *other != id);
                }
            }
            let register = &scene.register;
            let mut by_stage = [0; Stage::ALL.len()];
            register.occupants.values().for_each(|it| by_stage[it.stage as usize] += 1);
            prop_assert_eq!(by_stage, register.by_stage);
            let shares = register.shares.iter();
            let ranks: BTreeSet<Rank> =
                shares.filter_map(|(owner, share)| share.rank(*owner)).collect();
            prop_assert_eq!(&ranks, &register.ranks);
        }
        ids.iter().for_each(|id| scene.register.leave(*id));
        let register = scene.register;
        prop_assert!(register.occupants.is_empty() && register.shares.is_empty());
        prop_assert!(register.ranks.is_empty() && register.by_stage == [0; Stage::ALL.len()]);
    }
}
