//! Tests of the finder itself, by made-up crates, so that it cannot find nothing in silence.

use super::arrows::{Arrow, arrows};
use super::circles::{circles, describe};

/// The circles of a made-up crate.
fn circles_of(files: &[(&str, &str)]) -> Vec<Vec<String>> {
    circles(&arrows_of(files))
}

fn arrows_of(files: &[(&str, &str)]) -> Vec<Arrow> {
    arrows(&files.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned())).collect())
}

/// The made-up arrows, without their lines.
fn ties_of(files: &[(&str, &str)]) -> Vec<String> {
    arrows_of(files).into_iter().map(|a| format!("{} -> {}: {}", a.from, a.to, a.name)).collect()
}

#[test]
fn a_root_whose_child_needs_what_it_defines_is_a_circle() {
    let files = [
        ("lib.rs", "mod room;"),
        ("room/mod.rs", "mod seat;\npub struct Room(seat::Seat);"),
        ("room/seat.rs", "use super::{Room};\npub struct Seat(Box<Room>);"),
    ];
    assert_eq!(circles_of(&files), [["room/mod.rs", "room/seat.rs"]]);
    let text = describe(&circles_of(&files)[0], &arrows_of(&files));
    assert!(text.contains("src/room/mod.rs:2: Seat of src/room/seat.rs"), "{text}");
    assert!(text.contains("src/room/seat.rs:1: Room of src/room/mod.rs"), "{text}");
}

#[test]
fn a_re_export_is_an_arrow_and_leads_to_what_it_names() {
    let files = [
        ("lib.rs", "mod room; mod hall;"),
        ("room.rs", "mod seat;\nmod row;\npub use self::{row::Row, seat::Seat as Chair};"),
        ("room/seat.rs", "pub struct Seat; const FIRST: u8 = super::Row::FIRST;"),
        ("room/row.rs", "pub struct Row(Vec<crate::room::Chair>);"),
        (
            "hall.rs",
            "use crate::room::{self as inside, Row};\npub struct Hall(Row, inside::Chair);",
        ),
    ];
    assert_eq!(circles_of(&files), [["room/row.rs", "room/seat.rs"]]);
    let ties = ties_of(&files);
    assert!(ties.contains(&"room.rs -> room/row.rs: Row".to_owned()), "{ties:?}");
    assert!(ties.contains(&"hall.rs -> room/seat.rs: Seat".to_owned()), "{ties:?}");
    assert!(!ties.iter().any(|tie| tie.starts_with("hall.rs -> room.rs")), "{ties:?}");
}

#[test]
fn a_circle_through_a_re_export_and_the_root_is_found() {
    let files = [
        ("lib.rs", "pub mod room;"),
        ("room/mod.rs", "mod seat;\npub use seat::Seat;\npub const SEATS: usize = 3;"),
        ("room/seat.rs", "pub struct Seat([u8; crate::room::SEATS]);"),
    ];
    assert_eq!(circles_of(&files), [["room/mod.rs", "room/seat.rs"]]);
}

#[test]
fn mod_lines_and_imports_of_modules_are_no_arrows() {
    let files = [
        ("lib.rs", "pub mod room;\npub struct Crate;"),
        ("room/mod.rs", "pub mod seat;\npub mod row;\npub const SEATS: usize = 3;"),
        ("room/seat.rs", "use super::{SEATS, row};\npub struct Seat(row::Row, crate::Crate);"),
        ("room/row.rs", "use super::super::room;\npub struct Row(room::Nothing);"),
    ];
    assert_eq!(circles_of(&files), [] as [Vec<String>; 0]);
    let ties = [
        "room/row.rs -> room/mod.rs: Nothing",
        "room/seat.rs -> room/mod.rs: SEATS",
        "room/seat.rs -> room/row.rs: Row",
        "room/seat.rs -> lib.rs: Crate",
    ];
    assert_eq!(ties_of(&files), ties);
}

#[test]
fn tests_comments_and_texts_tie_nothing() {
    let seat = "
        // use super::Room;
        /* use super::Room; */
        pub const TEXT: &str = r#\"\"super::Room\"#;
        pub fn name<'a>(_: &'a str) -> (char, &'a str) { ('\"', \"super::Room::new\") }
        #[cfg(test)]
        use super::Room;
        pub struct Seat;
        impl Seat {
            #[cfg(test)]
            #[must_use]
            pub fn room(&self) -> [super::Room; 1] { [super::Room::new()] }
        }
        #[cfg(test)]
        #[path = \"seat_tests.rs\"]
        mod tests;
        #[cfg(test)]
        mod more_tests { use super::super::Room; }
    ";
    let files = [
        ("lib.rs", "mod room;"),
        ("room/mod.rs", "mod seat; pub struct Room(seat::Seat);"),
        ("room/seat.rs", seat),
    ];
    assert_eq!(circles_of(&files), [] as [Vec<String>; 0]);
    assert_eq!(ties_of(&files), ["room/mod.rs -> room/seat.rs: Seat"]);
}

#[test]
fn macros_globs_attributes_and_what_macros_make_tie_as_well() {
    let files = [
        ("lib.rs", "mod room;"),
        (
            "room/mod.rs",
            "macro_rules! value { () => { $crate::room::row::Row } }\nmod seat; mod row;",
        ),
        ("room/seat.rs", "use super::row::*;\nvalue!(Seat);\nstruct Place(Row);"),
        ("room/row.rs", "#[serde(default = \"super::seat::first\")]\npub struct Row;"),
    ];
    let ties = [
        "room/mod.rs -> room/row.rs: Row",
        "room/row.rs -> room/seat.rs: first",
        "room/seat.rs -> room/row.rs: *",
        "room/seat.rs -> room/mod.rs: value!",
    ];
    assert_eq!(ties_of(&files), ties);
    assert_eq!(circles_of(&files), [["room/mod.rs", "room/row.rs", "room/seat.rs"]]);
    assert_eq!(arrows_of(&files)[1].line, 1);
}

#[test]
#[should_panic(expected = "src/room.rs:2: the module seat needs a file of its own")]
fn a_module_within_a_file_is_refused_rather_than_overlooked() {
    arrows_of(&[("lib.rs", "mod room;"), ("room.rs", "pub struct Room;\nmod seat { }")]);
}
