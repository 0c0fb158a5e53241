//! What expressions are evaluated over: a principal, and its connection where there is one.

use super::bounds::MAX_USER_AGENT;
use crate::domain::principal::Principal;
use std::cell::Cell;
use std::net::IpAddr;

/// What expressions are evaluated over. Making it copies nothing of the claims; it serves any
/// number of expressions.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    pub(super) principal: &'a Principal,
    pub(super) connection: Option<ConnectionFacts>,
    /// How often an expression was evaluated over them.
    asked: Cell<u64>,
}

/// What expressions see of a connection.
#[derive(Clone, Debug)]
pub struct ConnectionFacts {
    pub(super) address: Box<str>,
    pub(super) user_agent: Box<str>,
}

impl<'a> Facts<'a> {
    /// What is known of a principal, and of its connection where there is one.
    pub fn new(principal: &'a Principal, connection: Option<ConnectionFacts>) -> Self {
        Self { principal, connection, asked: Cell::new(0) }
    }

    /// How often an expression was evaluated over them.
    pub fn asked(&self) -> u64 {
        self.asked.get()
    }

    /// An expression is evaluated over them.
    pub(super) fn count(&self) {
        self.asked.set(self.asked.get() + 1);
    }

    /// Who it is about.
    pub fn principal(&self) -> &'a Principal {
        self.principal
    }
}

impl ConnectionFacts {
    /// `user_agent` is empty where there was none, and cut to 800 bytes. An IPv4 address in IPv6
    /// clothes is shown as IPv4.
    pub fn new(address: IpAddr, user_agent: &str) -> Self {
        let end = user_agent.floor_char_boundary(MAX_USER_AGENT);
        Self {
            address: address.to_canonical().to_string().into(),
            user_agent: user_agent[..end].into(),
        }
    }
}
