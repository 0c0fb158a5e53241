//! Any text, read, evaluated and explained as an expression; the property tests run the same.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| herald::domain::expression::fuzzing::fuzz(text));
