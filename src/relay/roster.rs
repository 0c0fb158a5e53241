//! Questions about connections that every worker answers for its own: who is there, and send these
//! away.

use super::Relay;
use super::frame::Close;
use super::passage::{Stage, Witness};
use super::rehearsal::{Findings, Inquiry};
use super::shard::{Delivery, Member, Shard, Transport};
use crate::catalog::Tenant;
use crate::domain::audience::{Audience, Narrowing};
use crate::domain::cursor::Cursor;
use crate::domain::expression::{ConnectionFacts, Facts};
use crate::domain::instance::InstanceId;
use crate::domain::principal::{GroupId, Principal, UserId};
use chrono::{DateTime, Utc};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// How long the workers have to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often a worker is asked again that has not followed a change yet.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Questions that may wait for one worker.
pub(super) const MAX_QUESTIONS: usize = 64;

/// How a connection came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The client's address.
    pub address: IpAddr,
    /// `User-Agent`; empty where there was none.
    pub user_agent: Box<str>,
    /// When it was let in.
    pub connected_at: DateTime<Utc>,
}

impl Origin {
    /// What rules and filters are asked about, of a connection that came like this.
    pub fn facts<'a>(&self, principal: &'a Principal) -> Facts<'a> {
        Facts::new(principal, Some(ConnectionFacts::new(self.address, &self.user_agent)))
    }
}

/// One connection as it is now.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// Its id.
    pub id: String,
    /// Whose it is.
    pub user: UserId,
    /// The user's groups, by the newest token.
    pub groups: Vec<GroupId>,
    /// What it hears.
    pub audiences: Vec<Audience>,
    /// How it receives.
    pub transport: Transport,
    /// How it came.
    pub origin: Origin,
    /// `exp` of the newest token, in seconds since the Unix epoch.
    pub expires_at: i64,
    /// Bytes that wait for it.
    pub queued_bytes: usize,
    /// How far the client says that it has heard everything.
    pub acknowledged: Option<Cursor>,
    /// Places in the order between that and the newest message that was queued for it.
    pub lag: Option<u64>,
}

/// What decides what one connection hears, as it was at one moment.
#[derive(Clone, Debug)]
pub struct Present {
    /// Its id.
    pub id: String,
    /// Whose it is, by the newest token.
    pub principal: Arc<Principal>,
    /// How it came.
    pub origin: Origin,
    /// What the client wants to hear.
    pub narrowing: Option<Narrowing>,
    /// By which picture of the instance it was decided what it hears.
    pub judged_by: Arc<Tenant>,
}

impl Present {
    /// What rules and filters are asked about.
    pub fn facts(&self) -> Facts<'_> {
        self.origin.facts(&self.principal)
    }
}

/// Which connections of an instance are meant; what is none does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Its id.
    pub id: Option<String>,
    /// Whose it is.
    pub user: Option<UserId>,
    /// A group of its user.
    pub group: Option<GroupId>,
    /// What it hears.
    pub audience: Option<Audience>,
}

/// A part of the list.
#[derive(Debug, Default)]
pub struct Listing {
    /// By id.
    pub items: Vec<ConnectionInfo>,
    /// How many there are, on all pages.
    pub total: u64,
}

/// A worker has not answered in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a worker has not answered in time")]
pub struct Silent;

/// What a worker is asked.
#[derive(Debug)]
pub(super) struct Question {
    instance: InstanceId,
    filter: Filter,
    what: What,
}

#[derive(Debug)]
pub(super) enum What {
    /// The first `most` behind `after`.
    List { after: Option<String>, most: usize, answer: oneshot::Sender<Listing> },
    /// Close them all.
    Disconnect { close: Close, answer: oneshot::Sender<u64> },
    /// What decides what one of them hears.
    Show { answer: oneshot::Sender<Option<Present>> },
    /// Whom a message is for; the filter is not looked at.
    Rehearse { delivery: Arc<Delivery>, inquiry: Inquiry, answer: oneshot::Sender<Findings> },
    /// What is known of them all, for the message of this position.
    Witness { position: u64, answer: oneshot::Sender<Vec<Witness>> },
}

impl Relay {
    /// The first `most` connections of an instance behind `after`, by id. Errors: `Silent`.
    pub async fn list_connections(
        &self,
        instance: &InstanceId,
        filter: &Filter,
        after: Option<String>,
        most: usize,
    ) -> Result<Listing, Silent> {
        let what = |answer| What::List { after: after.clone(), most, answer };
        let mut whole = Listing::default();
        for part in self.ask(instance, filter, what).await? {
            whole.total += part.total;
            whole.items.extend(part.items);
        }
        whole.items.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        whole.items.truncate(most);
        Ok(whole)
    }

    /// Closes connections of an instance; how many. Errors: `Silent`, when some may be closed and
    /// others not.
    pub async fn disconnect(
        &self,
        instance: &InstanceId,
        filter: &Filter,
        close: &Close,
    ) -> Result<u64, Silent> {
        let what = |answer| What::Disconnect { close: close.clone(), answer };
        Ok(self.ask(instance, filter, what).await?.into_iter().sum())
    }

    /// A connection as the newest rules see it: a worker that has not followed a change yet is
    /// asked again. Errors: `Silent`.
    pub async fn find_connection(
        &self,
        instance: &InstanceId,
        id: &str,
    ) -> Result<Option<Present>, Silent> {
        let filter = Filter { id: Some(id.to_owned()), ..Filter::default() };
        let follow = async {
            loop {
                let newest = self.catalog().tenant(instance);
                let found = self.ask(instance, &filter, |answer| What::Show { answer }).await?;
                let found = found.into_iter().flatten().next();
                let is_behind = |present: &Present| {
                    newest.is_some_and(|new| !Arc::ptr_eq(&new, &present.judged_by))
                };
                if !found.as_ref().is_some_and(is_behind) {
                    return Ok(found);
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        tokio::time::timeout(PATIENCE, follow).await.map_err(|_| Silent)?
    }

    /// What is known of a user's connections for the message of this position, open and ended, by
    /// id. Errors: `Silent`.
    pub async fn witnesses(
        &self,
        instance: &InstanceId,
        user: &UserId,
        position: u64,
    ) -> Result<Vec<Arc<Witness>>, Silent> {
        let filter = Filter { user: Some(user.clone()), ..Filter::default() };
        let open = self.ask(instance, &filter, |answer| What::Witness { position, answer }).await?;
        // Asked afterwards: one that ends in between is in both lists, and in none if it was the
        // other way round.
        let mut all = self.realm(instance).traces.ended(user, Instant::now());
        let open = open.into_iter().flatten().map(Arc::new);
        let open: Vec<_> =
            open.filter(|open| all.iter().all(|ended| ended.id != open.id)).collect();
        all.extend(open);
        all.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        Ok(all)
    }

    pub(super) async fn ask<T>(
        &self,
        instance: &InstanceId,
        filter: &Filter,
        what: impl Fn(oneshot::Sender<T>) -> What,
    ) -> Result<Vec<T>, Silent> {
        let workers: Vec<mpsc::Sender<Question>> =
            self.0.questions.load().iter().cloned().collect();
        let mut answers = Vec::with_capacity(workers.len());
        for worker in workers {
            let (answer, told) = oneshot::channel();
            let question =
                Question { instance: instance.clone(), filter: filter.clone(), what: what(answer) };
            worker.try_send(question).map_err(|_| Silent)?;
            answers.push(told);
        }
        let all = futures_util::future::try_join_all(answers);
        tokio::time::timeout(PATIENCE, all).await.map_err(|_| Silent)?.map_err(|_| Silent)
    }
}

impl Question {
    /// Answers for one worker. Nobody may be waiting any more; that is no error.
    pub(super) fn answer(self, shard: &mut Shard) {
        let Self { instance, filter, what } = self;
        match what {
            What::Rehearse { delivery, inquiry, answer } => {
                drop(answer.send(inquiry.answer(&delivery, shard)))
            }
            What::Witness { position, answer } => {
                let stage =
                    |member: &Member| Stage::Open { holds: member.link.outbox.holds(position) };
                let members = filter.all_members(&instance, shard);
                drop(answer.send(members.map(|member| member.witness(stage(member))).collect()));
            }
            What::Show { answer } => {
                drop(answer.send(filter.members(&instance, shard).next().map(Member::present)));
            }
            What::Disconnect { close, answer } => {
                let members = filter.members(&instance, shard);
                let closed = members.map(|member| member.link.outbox.close(close.clone())).count();
                let _nobody_waits = answer.send(closed as u64);
            }
            What::List { after, most, answer } => {
                let mut total = 0;
                let mut found: Vec<&Member> = filter
                    .members(&instance, shard)
                    .inspect(|_| total += 1)
                    .filter(|member| after.as_ref().is_none_or(|after| member.link.id > *after))
                    .collect();
                found.sort_unstable_by(|a, b| a.link.id.cmp(&b.link.id));
                let items = found.into_iter().take(most).map(Member::info).collect();
                drop(answer.send(Listing { items, total }));
            }
        }
    }
}

impl Filter {
    /// Those who are meant and are not ending.
    fn members<'a>(
        &'a self,
        instance: &InstanceId,
        shard: &'a Shard,
    ) -> impl Iterator<Item = &'a Member> {
        self.all_members(instance, shard).filter(|member| !member.link.outbox.is_ending())
    }

    /// Those who are meant.
    fn all_members<'a>(
        &'a self,
        instance: &InstanceId,
        shard: &'a Shard,
    ) -> impl Iterator<Item = &'a Member> {
        let members = shard.keys(instance).into_iter().filter_map(|key| shard.get(key));
        members.filter(|member| self.includes(member))
    }

    fn includes(&self, member: &Member) -> bool {
        self.id.as_ref().is_none_or(|id| *id == member.link.id)
            && self.user.as_ref().is_none_or(|user| *user == member.principal.user)
            && self.group.as_ref().is_none_or(|group| member.principal.groups.contains(group))
            && self.audience.as_ref().is_none_or(|audience| member.audiences.contains(audience))
    }
}

impl Member {
    /// What decides what it hears.
    pub(super) fn present(&self) -> Present {
        Present {
            id: self.link.id.clone(),
            principal: self.principal.clone(),
            origin: self.origin.clone(),
            narrowing: self.narrowing.clone(),
            judged_by: self.judged_by.clone(),
        }
    }

    /// What is known of it.
    pub(super) fn witness(&self, stage: Stage) -> Witness {
        Witness {
            id: self.link.id.clone(),
            principal: self.principal.clone(),
            origin: self.origin.clone(),
            narrowing: self.narrowing.clone(),
            begun: self.begun,
            rights_since_ms: self.rights_since_ms,
            acknowledged_to: self.link.acknowledged.get().map_or(0, |cursor| cursor.position),
            record: self.link.outbox.record(),
            stage,
        }
    }

    fn info(&self) -> ConnectionInfo {
        let acknowledged = self.link.acknowledged.get();
        ConnectionInfo {
            id: self.link.id.clone(),
            user: self.principal.user.clone(),
            groups: self.principal.groups.clone(),
            audiences: self.audiences.clone(),
            transport: self.transport,
            origin: self.origin.clone(),
            expires_at: self.principal.expires_at,
            queued_bytes: self.link.outbox.waiting_bytes(),
            acknowledged,
            lag: acknowledged.map(|cursor| self.position.saturating_sub(cursor.position)),
        }
    }
}
