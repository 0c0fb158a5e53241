//! Who may import whom among the parts of one module, with its own tests.

use super::arrows::Arrow;

/// A part of a module and which others of the same module it may use.
pub type Row<'a> = (&'a str, &'a [&'a str]);

/// What breaks the table. A row names only parts of rows above it, so that no arrow goes up; a part
/// without a row is free.
pub fn wrong_inside(table: &[Row<'_>], arrows: &[Arrow]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (index, (name, allowed)) in table.iter().enumerate() {
        let above = || table[..index].iter().filter_map(|(above, _)| part(above));
        let is_above = |used: &&&str| above().any(|(_, above)| above == **used);
        for used in allowed.iter().filter(|used| !is_above(used)) {
            wrong.push(format!("the table has no row for {used} above {name}"));
        }
        let is_there =
            |arrow: &Arrow| [&arrow.from, &arrow.to].map(|f| part(f)).contains(&part(name));
        if !arrows.iter().any(is_there) {
            wrong.push(format!("the table has a row for {name}, which is not there"));
        }
    }
    for Arrow { from, to, name, line } in arrows {
        let (Some((module, user)), Some((other, used))) = (part(from), part(to)) else { continue };
        let row = table.iter().find(|(row, _)| part(row) == part(from));
        let Some((_, allowed)) = row.filter(|_| module == other && user != used) else { continue };
        if !allowed.contains(&used) {
            wrong.push(format!("src/{from}:{line}: {user} must not use {name} of src/{to}"));
        }
    }
    wrong
}

/// The module and the part that a file or a row stands for: `relay` and `worker` for
/// `relay/worker/room.rs`, `relay/worker.rs` and `relay/worker`; `mod` is the module's root.
pub fn part(file: &str) -> Option<(&str, &str)> {
    let (module, rest) = file.split_once('/')?;
    let part = rest.split('/').next().unwrap_or_default();
    Some((module, part.trim_end_matches(".rs")))
}

fn arrow(from: &str, to: &str) -> Arrow {
    Arrow { from: from.into(), to: to.into(), name: "Seat".into(), line: 7 }
}

#[test]
fn arrows_that_go_up_or_to_another_part_are_wrong() {
    let table: [Row<'_>; 3] =
        [("hall/seats", &[]), ("hall/rows", &["seats"]), ("hall/mod", &["rows"])];
    let arrows = [
        arrow("hall/rows/first.rs", "hall/rows.rs"),
        arrow("hall/rows/first.rs", "hall/seats.rs"),
        arrow("hall/seats.rs", "stage/mod.rs"),
        arrow("hall/free.rs", "hall/mod.rs"),
        arrow("hall/mod.rs", "hall/rows.rs"),
    ];
    assert_eq!(wrong_inside(&table, &arrows), [""; 0]);
    let arrows = [&arrows[..], &[arrow("hall/mod.rs", "hall/seats.rs")]].concat();
    assert_eq!(
        wrong_inside(&table, &arrows),
        ["src/hall/mod.rs:7: mod must not use Seat of src/hall/seats.rs"]
    );
    let arrows = [arrow("hall/seats.rs", "hall/rows/first.rs")];
    assert_eq!(
        wrong_inside(&table[..2], &arrows),
        ["src/hall/seats.rs:7: seats must not use Seat of src/hall/rows/first.rs"]
    );
}

#[test]
fn a_table_whose_rows_point_up_or_at_nothing_is_wrong() {
    let table: [Row<'_>; 2] = [("hall/rows", &["seats"]), ("hall/gone", &[])];
    let wrong = [
        "the table has no row for seats above hall/rows",
        "the table has a row for hall/gone, which is not there",
    ];
    assert_eq!(wrong_inside(&table, &[arrow("hall/rows.rs", "hall/seats.rs")]), wrong);
}
