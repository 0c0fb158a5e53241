//! The tests of the whole service, from outside: a real server, a real Postgres, real TLS sockets.

mod support;

mod architecture;
mod channels;
mod documents;
mod instances;
mod outages;
mod permissions;
mod publishing;
mod receiving;
mod signing_in;
