//! Herald: realtime as a service. A backend publishes a JSON message through a REST API, and every
//! connected client that should see it gets it over `wss` in the same instant.
//!
//! **Publish**, one straight line: [`api::messages`] admits the caller ([`api::admission`]: token,
//! principal, role), spends the rate ([`limits`]), reads the draft, resolves whom it is for
//! ([`catalog`]), and hands the message to [`relay::Relay::publish`], which encodes it once and
//! asks every worker's shard; the counts are the answer.
//!
//! **Connect**, the other: [`transport`] accepts and shakes hands, [`api::connect`] admits the
//! subscriber, [`relay::Relay::connect`] registers it for its audiences, and [`socket`] answers the
//! handshake and is the connection's life until it closes.
//!
//! Configuring takes a third: [`api::channels`] and its like change Postgres through [`store`],
//! which notifies every node's [`catalog`], which every shard follows.
//!
//! The modules in reading order: values and decisions first, then what keeps them, who may come in,
//! who is connected, its sockets, and HTTP; last what builds and runs it all.

// The macros that print panic where the stream is full or closed.
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod domain;

pub mod store;

pub mod catalog;

pub mod auth;
pub mod limits;

pub mod relay;

pub mod admittance;
pub mod socket;

pub mod api;

pub mod config;
pub mod postgres;
pub mod telemetry;
pub mod tls;
pub mod transport;

pub mod app;
pub mod cli;
