//! Regular expressions of `matches`: compiled to what says yes or no alone, of bounded size and
//! work.

use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::nfa::thompson::pikevm::PikeVM;
use regex_automata::nfa::thompson::{self, NFA, WhichCaptures};
use regex_automata::{Input, MatchKind};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Hir, HirKind};
use std::fmt;
use std::sync::{Mutex, TryLockError};

/// Largest automaton of one regular expression, in bytes.
pub const MAX_PATTERN_BYTES: usize = 64 << 10;
/// How deep brackets may nest in a regular expression.
const MAX_NESTING: u32 = 32;
/// Largest table of one, in bytes.
const MAX_TABLE: usize = 32 << 10;
/// Bytes that making it may take meanwhile. Both keep it to a millisecond.
const MAX_TABLE_WORK: usize = 64 << 10;
/// Bytes of the tables of one expression.
const MAX_TABLES: usize = 128 << 10;
/// What a table takes of that which turns out to be too large.
const IN_VAIN: usize = MAX_TABLE;
/// Bytes that the states which one remembers may take, beside half of its automaton.
const LEAST_CACHE: usize = 8 << 10;
/// A state is worth being made where so many bytes are read for each, once there were too many of
/// them; else simulating is faster.
const LEAST_BYTES_PER_STATE: usize = 10;
/// What one is counted with beyond its automata and what it remembers.
const PATTERN_BYTES: usize = 1 << 10;
/// Most steps for one byte of a text that a small one reads.
pub(super) const STEPS_PER_BYTE: u64 = 8;
/// Steps for one byte at each place of the pattern that may wait for it.
const STEPS_PER_PLACE: u64 = 3;

/// One regular expression; the work of a byte is bounded whatever was read before.
pub(super) struct Pattern {
    text: Box<str>,
    engine: Engine,
    /// The most steps that one byte of a text costs.
    steps_per_byte: u64,
    /// What it takes at most.
    bytes: usize,
}

enum Engine {
    /// All states are made: a byte costs one look into a table. Most patterns are of this kind.
    Table(Box<dense::DFA<Vec<u32>>>),
    /// There are too many states, or too large ones.
    Lazy(Box<Lazy>),
}

/// Makes its states as texts need them, and remembers a bounded number of bytes of them.
struct Lazy {
    states: DFA,
    /// For what the other cannot do, word boundaries beside letters that are not ASCII, and for
    /// texts that need another state at every byte.
    simulation: PikeVM,
    /// The states that were made; whoever finds another at work makes its own.
    remembered: Mutex<Cache>,
}

/// What the tables of one expression may still take.
pub(super) struct TableRoom(usize);

/// Why a text is no regular expression.
#[derive(Debug, thiserror::Error)]
pub(super) enum PatternError {
    #[error(
        "the regular expression is too large: compiled it has at most {MAX_PATTERN_BYTES} bytes"
    )]
    TooLarge,
    #[error("this is not a regular expression: {0}")]
    Syntax(String),
}

impl Pattern {
    /// Compiles a text. Errors: `PatternError`.
    pub fn new(text: &str, room: &mut TableRoom) -> Result<Self, PatternError> {
        let mut parser = ParserBuilder::new().nest_limit(MAX_NESTING).build();
        let hir = parser.parse(text).map_err(|error| syntax(&error.to_string()))?;
        let automaton = compile(&hir)?;
        let (engine, bytes, steps_per_byte) = match room.table(&hir, &automaton) {
            Some(table) => {
                let bytes = table.memory_usage();
                (Engine::Table(Box::new(table)), bytes, 1)
            }
            None => {
                let (lazy, bytes) = Lazy::new(automaton)?;
                let waiting = places(&hir).saturating_mul(STEPS_PER_PLACE);
                (Engine::Lazy(Box::new(lazy)), bytes, STEPS_PER_BYTE.saturating_add(waiting))
            }
        };
        let bytes = PATTERN_BYTES + text.len() + bytes;
        Ok(Self { text: text.into(), engine, steps_per_byte, bytes })
    }

    /// The text that was compiled.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What it takes at most, with what it remembers.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The most steps that one byte of a text costs.
    pub fn steps_per_byte(&self) -> u64 {
        self.steps_per_byte
    }

    /// Whether it is found in a text.
    pub fn is_match(&self, text: &str) -> bool {
        let input = Input::new(text).earliest(true);
        match &self.engine {
            // It has no byte at which it gives up.
            Engine::Table(table) => table.try_search_fwd(&input).is_ok_and(|found| found.is_some()),
            Engine::Lazy(lazy) => lazy.is_match(&input),
        }
    }
}

impl Lazy {
    /// With the most bytes that it takes.
    fn new(automaton: NFA) -> Result<(Self, usize), PatternError> {
        let bytes = automaton.memory_usage();
        let config = DFA::config()
            .match_kind(MatchKind::All)
            .unicode_word_boundary(true)
            .minimum_cache_clear_count(Some(1))
            .minimum_bytes_per_state(Some(LEAST_BYTES_PER_STATE));
        let least = config.get_minimum_cache_capacity(&automaton);
        let least = least.map_err(|error| syntax(&error.to_string()))?;
        let capacity = least.max(LEAST_CACHE + bytes / 2);
        let config = config.cache_capacity(capacity);
        let states = DFA::builder().configure(config).build_from_nfa(automaton.clone());
        let states = states.map_err(|error| syntax(&error.to_string()))?;
        let simulation = PikeVM::builder().build_from_nfa(automaton);
        let simulation = simulation.map_err(|error| syntax(&error.to_string()))?;
        let remembered = Mutex::new(states.create_cache());
        // Lists grow by doubling: what is remembered may take twice what is counted of it.
        Ok((Self { states, simulation, remembered }, bytes + 2 * capacity))
    }

    fn is_match(&self, input: &Input<'_>) -> bool {
        let found = match self.remembered.try_lock() {
            Ok(mut remembered) => self.states.try_search_fwd(&mut remembered, input),
            Err(TryLockError::Poisoned(poisoned)) => {
                let mut remembered = poisoned.into_inner();
                remembered.reset(&self.states);
                self.states.try_search_fwd(&mut remembered, input)
            }
            Err(TryLockError::WouldBlock) => {
                self.states.try_search_fwd(&mut self.states.create_cache(), input)
            }
        };
        match found {
            Ok(found) => found.is_some(),
            Err(_) => self.simulation.is_match(&mut self.simulation.create_cache(), input.clone()),
        }
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pattern").field(&self.text).finish()
    }
}

fn compile(hir: &Hir) -> Result<NFA, PatternError> {
    let config = thompson::Config::new()
        .which_captures(WhichCaptures::None)
        .nfa_size_limit(Some(MAX_PATTERN_BYTES));
    let built = thompson::Compiler::new().configure(config).build_from_hir(hir);
    built.map_err(|error| match error.size_limit() {
        Some(_) => PatternError::TooLarge,
        None => syntax(&error.to_string()),
    })
}

impl Default for TableRoom {
    fn default() -> Self {
        Self(MAX_TABLES)
    }
}

impl TableRoom {
    /// All states of a pattern, where there is room for them and they know all letters.
    fn table(&mut self, hir: &Hir, automaton: &NFA) -> Option<dense::DFA<Vec<u32>>> {
        if self.0 == 0 || hir.properties().look_set().contains_word_unicode() {
            return None;
        }
        let config = dense::Config::new()
            .match_kind(MatchKind::All)
            .start_kind(StartKind::Unanchored)
            .accelerate(false)
            .dfa_size_limit(Some(self.0.min(MAX_TABLE)))
            .determinize_size_limit(Some(MAX_TABLE_WORK));
        let table = dense::Builder::new().configure(config).build_from_nfa(automaton).ok();
        let taken = table.as_ref().map_or(IN_VAIN, dense::DFA::memory_usage);
        self.0 = self.0.saturating_sub(taken);
        table
    }
}

/// The parser's last line says what is wrong; those before show where.
fn syntax(said: &str) -> PatternError {
    let last = said.lines().last().unwrap_or_default();
    PatternError::Syntax(last.trim_start_matches("error: ").to_owned())
}

/// Places of a pattern that can wait for a byte at a time. A class of characters is one automaton
/// with one place, two where it was just entered: bytes of UTF-8 tell where a character begins.
fn places(hir: &Hir) -> u64 {
    match hir.kind() {
        HirKind::Empty => 0,
        HirKind::Look(_) => 1,
        HirKind::Literal(literal) => literal.0.len() as u64,
        HirKind::Class(_) => 2,
        HirKind::Capture(capture) => places(&capture.sub),
        HirKind::Concat(parts) => sum(parts),
        HirKind::Alternation(parts) => sum(parts).saturating_add(parts.len() as u64),
        HirKind::Repetition(repetition) => {
            let times = repetition.max.unwrap_or(repetition.min).max(1);
            places(&repetition.sub).saturating_add(1).saturating_mul(times.into())
        }
    }
}

fn sum(parts: &[Hir]) -> u64 {
    parts.iter().map(places).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::new(text, &mut TableRoom::default()).unwrap()
    }

    fn refused(text: &str) -> Option<PatternError> {
        Pattern::new(text, &mut TableRoom::default()).err()
    }

    #[test]
    fn it_is_found_anywhere_unless_anchored_and_knows_letters_of_all_languages() {
        for (text, found, missed) in [
            ("Android|iPhone", "An Android 15", "a Pixel"),
            ("^svc-", "svc-1", "a svc-1"),
            ("(?i)^\\pL+$", "Zoë", "Zoë1"),
            ("\\bé\\b", "un é ou", "unéou"),
            ("\\bword\\b", "é word é", "é words é"),
            ("", "", "\u{0}never"),
            ("^$", "", "a"),
            ("(a|aa)+$", "baaa", "aab"),
        ] {
            assert!(pattern(text).is_match(found), "{text} in {found}");
            assert_eq!(pattern(text).is_match(missed), text.is_empty(), "{text} in {missed}");
        }
    }

    #[test]
    fn it_is_compiled_up_to_its_bound_and_tells_what_it_takes() {
        let largest = |times: usize| format!("^[^x]{{{times}}}$");
        let fits = (1..2_000).take_while(|times| refused(&largest(*times)).is_none()).count();
        assert!((100..1_999).contains(&fits), "{fits}");
        let most = pattern(&largest(fits)).bytes();
        assert!((MAX_PATTERN_BYTES..4 * MAX_PATTERN_BYTES).contains(&most), "{most}");
        assert!(matches!(refused(&largest(fits + 1)), Some(PatternError::TooLarge)));
        for plain in ["^svc-", "Android|iPhone", "^[a-z0-9-]{1,64}$", "^.+@(example|acme)[.]com$"] {
            assert!(pattern(plain).bytes() < 10 << 10, "{plain}: {}", pattern(plain).bytes());
        }
    }

    #[test]
    fn what_it_remembers_stays_within_what_it_is_counted_with() {
        let texts = ["a".repeat(1_024), "ab".repeat(512), "é".repeat(512), "aab".repeat(341)];
        for text in ["(a?){300}a{300}", "(x{100}){10}", "[ab]*a[ab]{200}$", "\\w+@", "\\ba"] {
            let pattern = pattern(text);
            let Engine::Lazy(lazy) = &pattern.engine else { panic!("{text} has a table") };
            for text in &texts {
                pattern.is_match(text);
                let remembered = lazy.remembered.lock().unwrap().memory_usage();
                assert!(remembered <= pattern.bytes(), "{pattern:?}: {remembered}");
            }
        }
    }

    #[test]
    fn the_work_of_a_byte_is_one_step_or_grows_with_the_places_that_may_wait_for_it() {
        for (text, steps) in [
            ("a", 1),
            ("^[a-z0-9-]{1,253}$", 1),
            ("[^\\s@]+@[^\\s@]+", 1),
            ("\\w", 8 + 3 * 2),
            ("\\ba|bc", 8 + 3 * 6),
            ("\\w{3}", 8 + 3 * 9),
            ("(x{100}){10}", 8 + 3 * 2_010),
        ] {
            assert_eq!(pattern(text).steps_per_byte(), steps, "{text}");
        }
    }

    #[test]
    fn the_tables_of_one_expression_have_a_bound_together() {
        let mut room = TableRoom::default();
        let mut tables = |text: &str, times: usize| {
            let all = (0..times).map(|_| Pattern::new(text, &mut room).unwrap());
            all.filter(|pattern| matches!(pattern.engine, Engine::Table(_))).count()
        };
        assert_eq!(tables("[ab]*a[ab]{8}$", 1), 1, "16 KiB");
        assert_eq!(tables("\\w", 2), 0, "each costs 32 KiB in vain");
        assert_eq!(tables("[ab]*a[ab]{8}$", 2), 2, "there were 48 KiB left");
        assert_eq!(tables("^svc-", 9), 9, "small ones still fit");
        assert_eq!(tables("\\w", 1) + tables("^svc-", 9), 0, "nothing is left");
    }

    #[test]
    fn a_text_that_is_no_pattern_is_refused_in_a_sentence() {
        for text in ["(", "a{2,1}", "[z-a]", "\\p{Klingon}", "(?<=a)b", "\\1"] {
            let said = refused(text).unwrap().to_string();
            assert!(said.starts_with("this is not a regular expression: "), "{said}");
            assert!(!said.contains('\n'), "{said}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn all_ways_of_looking_say_the_same(
            parts in prop::collection::vec(
                prop::sample::select(&["a", "é", "[ab]", ".", "\\w", "(a|bb)", "\\b", "^", "$", "b*", "a?", "x{2,3}"][..]),
                1..6,
            ),
            texts in prop::collection::vec("[abxé ]{0,12}", 1..8),
        ) {
            let pattern = pattern(&parts.concat());
            let mut parser = ParserBuilder::new().build();
            let automaton = compile(&parser.parse(pattern.as_str()).unwrap()).unwrap();
            let (lazy, _) = Lazy::new(automaton).unwrap();
            let mut cache = lazy.simulation.create_cache();
            for text in texts {
                let simulated = lazy.simulation.is_match(&mut cache, Input::new(&text));
                prop_assert_eq!(lazy.is_match(&Input::new(&text).earliest(true)), simulated);
                prop_assert_eq!(pattern.is_match(&text), simulated, "{:?} in {}", &pattern, text);
            }
        }
    }
}
