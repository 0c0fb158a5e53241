//! The binary: its commands, its settings, its private Postgres.
