//! A question on its way through one worker: who is still to be looked at, and the answer so far.

use super::turns::Turn;
use crate::domain::instance::InstanceId;
use crate::relay::member::{Key, Member};
use crate::relay::survey::{Answer, Query};
use slab::Slab;
use std::time::Instant;
use tokio::sync::oneshot;

/// How many connections are looked at between two looks at the clock.
const STRIDE: usize = 64;

/// A question that a worker was asked.
#[derive(Debug)]
pub(crate) struct Asked {
    instance: InstanceId,
    query: Query,
    /// Who is still to be looked at, from the end; none before it is begun.
    left: Option<Vec<Key>>,
    answer: Answer,
    reply: oneshot::Sender<Answer>,
}

impl Asked {
    /// A question about an instance's connections.
    pub fn new(instance: InstanceId, query: Query, reply: oneshot::Sender<Answer>) -> Self {
        let answer = query.nobody();
        Self { instance, query, left: None, answer, reply }
    }

    /// Whether nobody waits for the answer any more. What closes connections is done all the same.
    pub fn is_abandoned(&self) -> bool {
        self.reply.is_closed() && !matches!(self.query, Query::Disconnect { .. })
    }

    /// About whose connections.
    pub fn instance(&self) -> &InstanceId {
        &self.instance
    }

    /// What is asked.
    pub fn query(&self) -> &Query {
        &self.query
    }

    /// Whether it is known who is to be looked at.
    pub fn is_begun(&self) -> bool {
        self.left.is_some()
    }

    /// These are to be looked at, from the end.
    pub fn begin(&mut self, concerned: Vec<Key>) {
        self.left = Some(concerned);
    }

    /// Looks at some of those who are left until then, at some at least. True when nobody is left.
    pub fn go_on(&mut self, members: &Slab<Member>, turn: &Turn<'_>, until: Instant) -> bool {
        let left = self.left.get_or_insert_default();
        while !left.is_empty() {
            for key in left.drain(left.len().saturating_sub(STRIDE)..).rev() {
                // Another connection may have the key by now.
                let member = members.get(key);
                let own = member.filter(|it| *it.timeline.instance() == self.instance);
                let Some(member) = own else { continue };
                let at = (turn.bounds, turn.start);
                self.query.look_at(member, at, &mut self.answer);
            }
            if !left.is_empty() && Instant::now() >= until {
                return false;
            }
        }
        true
    }

    /// Answers. Nobody may be waiting any more; that is no error.
    pub fn finish(self) {
        let _nobody_waits = self.reply.send(self.answer);
    }
}
