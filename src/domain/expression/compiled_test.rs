//! What is compiled is shared, counted, gives way within its bounds, and is made again.

use super::*;
use crate::domain::expression::support_test::{alice, principal};
use crate::domain::expression::{Expression, Facts};

const WIDE: CompiledBounds =
    CompiledBounds { instance: Cost { steps: 1_000_000, bytes: 1 << 20 }, total_bytes: 1 << 30 };

fn instance(name: &str) -> InstanceId {
    InstanceId::new(name).unwrap()
}

fn numbered(pool: &Pool, number: usize) -> Expression {
    Expression::parse_in(pool, &format!("user.matches('^alice|{number}$')"), Scope::Filter).unwrap()
}

fn compiled_among(expressions: &[Expression]) -> Vec<usize> {
    let all = expressions.iter().enumerate();
    all.filter(|(_, one)| one.0.form.load().is_some()).map(|(index, _)| index).collect()
}

#[test]
fn the_same_text_in_the_same_scope_is_read_once_while_somebody_holds_it() {
    let compiled = Compiled::new(WIDE);
    let pool = compiled.pool(&instance("a"));
    let first = Expression::parse_in(&pool, "user == 'a'", Scope::Hear).unwrap();
    assert!(Arc::ptr_eq(
        &first.0,
        &Expression::parse_in(&pool, "user == 'a'", Scope::Hear).unwrap().0
    ));
    assert!(!Arc::ptr_eq(
        &first.0,
        &Expression::parse_in(&pool, "user == 'a'", Scope::Filter).unwrap().0
    ));
    let elsewhere =
        Expression::parse_in(&compiled.pool(&instance("b")), "user == 'a'", Scope::Hear).unwrap();
    assert!(!Arc::ptr_eq(&first.0, &elsewhere.0), "each instance has its own");
    let address = "connection.address == '::1'";
    assert!(
        Expression::parse_in(&pool, address, Scope::Hear).is_ok()
            && Expression::parse_in(&pool, address, Scope::Publish).is_err()
    );
    assert_eq!(compiled.bytes(), 2 * first.0.form_bytes(), "the others are held by nobody");
    drop(first);
    assert_eq!(pool.0.lock().known.len(), 0);
    drop(elsewhere);
    assert_eq!(compiled.bytes(), 0);
}

#[test]
fn an_instance_holds_so_many_bytes_and_what_was_used_least_gives_way_and_is_made_again() {
    let one =
        numbered(&Compiled::new(WIDE).pool(&instance("a")), 0).0.measure().unwrap().form_bytes;
    let bytes = 3 * one + one / 2;
    let bounds = CompiledBounds { instance: Cost { bytes, ..WIDE.instance }, ..WIDE };
    let compiled = Compiled::new(bounds);
    let pool = compiled.pool(&instance("a"));
    let alice = principal(&alice());
    let facts = Facts::new(&alice, None);
    let mut all: Vec<_> = (0..3).map(|number| numbered(&pool, number)).collect();
    assert_eq!(compiled_among(&all), [0, 1, 2], "all fit");
    assert_eq!(all[0].evaluate(&facts), crate::domain::expression::Outcome::True);
    all.push(numbered(&pool, 3));
    assert_eq!(compiled_among(&all), [0, 2, 3], "0 was used, and 1 was there first");
    assert_eq!(all[1].evaluate(&facts), crate::domain::expression::Outcome::True);
    assert!(compiled_among(&all).contains(&1) && compiled_among(&all).len() == 3);
    assert_eq!(
        all[1].explain(&facts).reason,
        "user.matches(\"^alice|1$\") is true: user is \"alice\""
    );
    assert_eq!(compiled.bytes(), 3 * one);
    for number in 4..1_000 {
        drop(numbered(&pool, number));
    }
    let state = pool.0.lock();
    assert!(state.order.len() <= 64 + 2 * 4 && state.known.len() == 4, "{}", state.order.len());
}

#[test]
fn what_is_larger_than_the_bound_is_evaluated_and_not_kept() {
    let bounds = CompiledBounds { instance: Cost { bytes: 100, ..WIDE.instance }, ..WIDE };
    let compiled = Compiled::new(bounds);
    let expression = numbered(&compiled.pool(&instance("a")), 1);
    let alice = principal(&alice());
    for _ in 0..2 {
        let outcome = expression.evaluate(&Facts::new(&alice, None));
        assert_eq!(outcome, crate::domain::expression::Outcome::True);
        assert_eq!(compiled.bytes(), 0);
    }
}

#[test]
fn beyond_the_processs_bound_the_instance_that_holds_the_most_gives_way() {
    let one =
        numbered(&Compiled::new(WIDE).pool(&instance("a")), 0).0.measure().unwrap().form_bytes;
    for (more, small_keeps, large_keeps) in [(6, 2, 6), (7, 2, 7), (8, 2, 6)] {
        let compiled = Compiled::new(CompiledBounds { total_bytes: 9 * one + one / 2, ..WIDE });
        let [small, large] = ["small", "large"].map(|name| compiled.pool(&instance(name)));
        let of_small: Vec<_> = (0..2).map(|number| numbered(&small, number)).collect();
        let of_large: Vec<_> = (0..more).map(|number| numbered(&large, number)).collect();
        assert_eq!(compiled_among(&of_small).len(), small_keeps, "{more}");
        assert_eq!(compiled_among(&of_large).len(), large_keeps, "{more}");
        assert_eq!(compiled.bytes(), (small_keeps + large_keeps) * one);
    }
}

#[test]
fn a_stored_text_that_is_not_understood_any_more_has_no_answer_and_tells_why() {
    let compiled = Compiled::new(WIDE);
    let pool = compiled.pool(&instance("a"));
    let kept = Expression::stored_in(&pool, "user == 'a'", Scope::Hear);
    assert_eq!(
        (kept.fault(), kept == Expression::parse_in(&pool, "user == 'a'", Scope::Hear).unwrap()),
        (None, true)
    );
    let text = "user.matches('(a{1000}){1000}')";
    let faulty = Expression::stored_in(&pool, text, Scope::Hear);
    assert!(faulty.0.measured.get().is_none(), "it is read once that is needed");
    let alice = principal(&alice());
    let explained = faulty.explain(&Facts::new(&alice, None));
    assert_eq!(explained.outcome, crate::domain::expression::Outcome::Error);
    assert!(explained.reason.starts_with("the regular expression is too large"));
    assert_eq!(faulty.fault().map(|fault| fault.position), Some(13));
    assert_eq!((faulty.as_str(), faulty.cost().steps), (text, 0));
}

#[test]
fn what_is_counted_of_an_expression_is_its_text_and_all_that_it_is_evaluated_by() {
    let cost = |text: &str| Expression::parse(text, Scope::Hear).unwrap().cost().bytes;
    let plain = cost("claims.plan == 'pro'");
    assert!((500..2_000).contains(&plain), "{plain}");
    let longest = format!("[{}] == []", vec!["1"; 250].join(","));
    assert!(cost(&longest) > 250 * size_of::<Node>(), "{}", cost(&longest));
    let letters = cost("user.matches('(?i)\\\\pL')");
    assert!((16 << 10..64 << 10).contains(&letters), "{letters}");
    let text = "claims.a.exists(x, x == 'yyyy') && {'key': user}[user] == 'zzzz'";
    let longer = text.replace("yyyy", &"y".repeat(104)).replace("zzzz", &"z".repeat(104));
    assert!(cost(&longer) >= cost(text) + 400, "texts stand in the text and in the parts");
}
