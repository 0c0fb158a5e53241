//! A question on its way through one worker: who is still to be looked at, and the answer so far.

use super::turns::Turn;
use crate::domain::audience::Audience;
use crate::domain::instance::InstanceId;
use crate::relay::member::{Key, Member};
use crate::relay::survey::{Answer, Query};
use slab::Slab;
use tokio::sync::oneshot;

/// How many connections are looked at between two looks at the clock.
const STRIDE: usize = 64;

/// A question that a worker was asked.
#[derive(Debug)]
pub(crate) struct Asked {
    instance: InstanceId,
    query: Query,
    /// Who is still to be looked at.
    left: Vec<Key>,
    answer: Answer,
    /// None is sent where too many questions wait.
    reply: oneshot::Sender<Option<Answer>>,
}

impl Asked {
    /// A question about an instance's connections.
    pub fn new(instance: InstanceId, query: Query, reply: oneshot::Sender<Option<Answer>>) -> Self {
        let answer = query.nobody();
        Self { instance, query, left: Vec::new(), answer, reply }
    }

    /// About whose connections.
    pub fn instance(&self) -> &InstanceId {
        &self.instance
    }

    /// What is asked.
    pub fn query(&self) -> &Query {
        &self.query
    }

    /// These are to be looked at.
    pub fn begin(&mut self, concerned: Vec<Key>) {
        self.left = concerned;
    }

    /// Looks at some of those who are left, for as long as there is time. True when nobody is.
    pub fn go_on(
        &mut self,
        members: &Slab<Member>,
        hears: impl Fn(Key, &[Audience]) -> bool,
        turn: &Turn<'_>,
    ) -> bool {
        while !self.left.is_empty() {
            for key in self.left.drain(self.left.len().saturating_sub(STRIDE)..) {
                // Another connection may have the key by now.
                let member = members.get(key);
                let own = member.filter(|it| *it.timeline.instance() == self.instance);
                let Some(member) = own else { continue };
                let at = (turn.bounds, turn.start);
                self.query.look_at(member, |some| hears(key, some), at, &mut self.answer);
            }
            if !self.left.is_empty() && turn.is_over() {
                return false;
            }
        }
        true
    }

    /// Answers. Nobody may be waiting any more; that is no error.
    pub fn finish(self) {
        let _nobody_waits = self.reply.send(Some(self.answer));
    }

    /// Says that too many questions wait.
    pub fn refuse(self) {
        let _nobody_waits = self.reply.send(None);
    }
}
