//! The tests of the whole service, from outside: a real server, a real Postgres, real TLS sockets.

#![expect(
    clippy::too_many_arguments,
    reason = "a call has a method, a path, a token, a body and an expected status"
)]

mod support;

mod agreeing;
mod architecture;
mod audit;
mod bodies;
mod bounds;
mod browser;
mod channels;
mod chaos;
mod clients;
mod command_line;
mod connections;
mod costs;
mod documents;
mod example;
mod explaining;
mod filtering;
mod floods;
mod instances;
mod lease;
mod migrating;
mod operation;
mod outages;
mod pace;
mod papers;
mod permissions;
mod places;
mod plans;
mod publishing;
mod receiving;
mod reloading;
mod renewing;
mod resuming;
mod retrying;
mod revoking;
mod sdk;
mod secrets;
mod signals;
mod signing_in;
mod slow;
mod standard_streams;
mod standby;
mod streaming;
mod traces;
mod tracing_users;
mod upgrading;
