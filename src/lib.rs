//! Herald: realtime as a service. A backend publishes a JSON message through a REST API, and every
//! connected client that should see it gets it over `wss` in the same instant.
//!
//! # The map
//!
//! In reading order: values and decisions, what keeps them, who may come in, who is connected, its
//! sockets, HTTP, and what builds and runs it all.
//!
//! - [`domain`]: pure values and decisions, without I/O, async and clock; [`domain::verdict`]: does
//!   someone hear a message, and why.
//! - [`store`]: everything that speaks SQL; [`catalog`]: what is configured, in memory.
//! - [`auth`]: token in, principal out; [`limits`]: how much who may publish.
//! - [`relay`]: who is connected, and the order of what they hear. It works without the rest:
//!   `examples/relay.rs` publishes, receives, cuts and resumes.
//! - [`admittance`]: newcomers and leavers one at a time; [`socket`]: one socket's or stream's life.
//! - [`api`]: HTTP in, HTTP out; its route table is [`api::operations`].
//! - [`config`], [`postgres`], [`telemetry`], [`tls`], [`transport`]: what a service needs around it.
//! - [`app`]: builds everything and runs it; [`cli`]: the command line.
//!
//! # Publish
//!
//! 1. [`api::messages::publish_message`] names what it needs: [`api::admission::Publisher`] is the
//!    verified token's principal, its instance and role.
//! 2. [`api::rates`] spends the rates; [`relay::Relay::claim`] finds out whether an id that the
//!    publisher chose was used before.
//! 3. [`api::messages::address`] makes a [`domain::message::Message`]: whom it is for, by
//!    [`catalog::Tenant::resolve`], and its size.
//! 4. [`relay::Relay::publish`] seals it ([`relay::Sealed`]: one [`relay::Head`], one
//!    [`relay::Frame`]) and appends it to the [`relay::Log`], which gives it its place.
//! 5. What follows from the place is applied in one step: the window for those who resume, the id,
//!    a dispatch to each [`relay::Worker`] that has someone of the instance.
//! 6. At the instance's turn a worker queues a reference in each [`relay::outbox::Outbox`] and
//!    wakes the sockets, which write all that waits at once.
//! 7. The workers' [`relay::Counts`] are the answer, [`api::receipt::Receipt`].
//!
//! # Connect
//!
//! 1. [`transport::Acceptor`] shakes hands; [`transport::Upgrader`] asks the routes.
//! 2. [`api::connect`] admits the [`api::admission::Subscriber`], with the address' and the
//!    instance's rates.
//! 3. [`relay::Relay::connect`] takes the seats, asks the rules, takes the cursor and what was
//!    missed in one step, and gives a [`relay::Registration`].
//! 4. [`socket::accept`] answers 101, and [`socket::Upgrade::run`] is the connection's
//!    life; [`socket::open_stream`] is that of server-sent events.
//!
//! Configuring takes a third way: [`api::channels`] and its like change Postgres through [`store`],
//! which notifies every node's [`catalog`], which every worker follows. Questions take a fourth:
//! [`relay::Relay::survey`] asks every worker about its own connections.

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
