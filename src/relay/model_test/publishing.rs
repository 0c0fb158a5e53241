//! Publishing beside the model: what a dry run says before, what the relay answers, and what the
//! same id says again.

use super::history::{Draft, Sent, digest};
use super::naive::{EXPRESSIONS, INSTANCES, WORDS, meaning, tenant};
use super::world::World;
use crate::catalog::Tenant;
use crate::domain::audience::{Address, Audiences};
use crate::domain::channel::Slow;
use crate::domain::cursor::Cursor;
use crate::domain::expression::{Expression, Scope};
use crate::domain::instance::InstanceId;
use crate::domain::message::{Author, Exclusion, Message, Payload, Reach};
use crate::domain::principal::UserId;
use crate::domain::verdict::{Verdict, verdict};
use crate::relay::{
    Answer, Claim, ClaimError, Claimed, Considered, Counts, DryRun, DryRunReport, DryRunResult,
    NotPlaced, Published, Query, Step,
};
use futures_util::FutureExt;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

impl World {
    /// Publishes a message on a node, and compares the counts of it, of its dry run, and of the
    /// model.
    pub async fn publish(&mut self, node: usize, draft: Draft) {
        let Some((mut sent, message)) = self.prepare(draft) else { return };
        let known = tenant(sent.draft.instance, &self.tenancies[sent.draft.instance].channels);
        let there = self.there(node);
        let receivers = self.receivers(&sent, &there);
        let is_hurried = self.terms.are_workers_late && sent.draft.is_hurried;
        let before = match self.nodes[node].is_quiet() && !is_hurried {
            true => Some(self.compare_with_dry_run(node, &known, &message, &receivers).await),
            false => None,
        };
        let claimed = match sent.draft.has_own_id {
            true => self.claim_first(node, &sent).await,
            false => None,
        };
        let (instance, relay) = (&known.instance.id, &self.nodes[node].relay);
        let asked = relay.publish(instance, message, claimed);
        let published = match is_hurried {
            true => asked.now_or_never(),
            false => self.answer(asked).await,
        };
        if self.nodes[node].is_stopped() {
            return assert_eq!(published.unwrap().unwrap_err(), NotPlaced::NotSent);
        }
        let published = published.map(Result::unwrap);
        let counted = published.as_ref().filter(|published| published.complete);
        sent.told = counted.map(|published| (node, published.counts));
        self.place(node, sent, published.as_ref());
        self.note(node, &there);
        if let Some(before) = before {
            self.compare_answer(before, &published.unwrap(), &receivers);
        }
        if !is_hurried {
            self.settle().await;
        }
    }

    /// Publishes messages of one instance on a node, one behind the other.
    pub async fn publish_run(&mut self, node: usize, instance: usize, drafts: Vec<Draft>) {
        let id = InstanceId::new(INSTANCES[instance]).unwrap();
        let (mut run, mut messages) = (Vec::new(), Vec::new());
        for draft in drafts {
            // Only one who publishes a single message chooses its id.
            let draft = Draft { instance, has_own_id: false, ..draft };
            if let Some((sent, message)) = self.prepare(draft) {
                run.push(sent);
                messages.push(message);
            }
        }
        let there = self.there(node);
        let asked = self.nodes[node].relay.publish_run(&id, messages);
        let published = match self.terms.are_workers_late {
            true => asked.now_or_never(),
            false => self.answer(asked).await,
        };
        let published = published.unwrap_or_default();
        if self.nodes[node].is_stopped() {
            let errors: Vec<_> = published.into_iter().map(Result::unwrap_err).collect();
            return assert_eq!(errors, vec![NotPlaced::NotSent; run.len()]);
        }
        let mut published = published.iter().map(|published| published.as_ref().unwrap());
        for sent in run {
            self.place(node, sent, published.next());
        }
        self.note(node, &there);
    }

    /// The message of a draft; none where nobody has its address.
    fn prepare(&mut self, draft: Draft) -> Option<(Sent, Message)> {
        let channels = &self.tenancies[draft.instance].channels;
        let known = tenant(draft.instance, channels);
        let names = meaning(&draft.address, channels);
        let Ok((audiences, channel)) = known.resolve(&Address::parse(&draft.address).unwrap())
        else {
            assert!(names.is_empty(), "{} should resolve", draft.address);
            return None;
        };
        assert_eq!(audiences.iter().map(ToString::to_string).collect::<Vec<_>>(), names);
        let slow = channel.map_or(Slow::Disconnect, |channel| channel.slow);
        let number = self.next_number();
        let lane = (slow == Slow::Latest).then(|| names[0].clone());
        let cursor = Cursor { epoch: 0, position: 0 };
        let spared = self.spared(&draft);
        let sent = Sent { number, cursor, names, spared, lane, draft, told: None };
        let message = message(&sent, audiences, slow);
        Some((sent, message))
    }

    /// A message has its place; without an answer, what is known of it tells where.
    fn place(&mut self, node: usize, mut sent: Sent, published: Option<&Published>) {
        let instance = sent.draft.instance;
        let id = InstanceId::new(INSTANCES[instance]).unwrap();
        let known = || self.nodes[node].relay.trace_of(&id, &sent.id()).unwrap();
        let head = published.map_or_else(known, |published| published.head.clone());
        sent.cursor = head.cursor;
        self.tenancies[instance].sent.push(sent);
    }

    /// Publishes one of the messages with an id of their own again, as the same request or as
    /// another, on any node.
    pub async fn publish_again(
        &mut self,
        node: usize,
        (instance, which): (usize, usize),
        is_same: bool,
    ) {
        let sent = self.tenancies[instance].sent.iter().enumerate();
        let of = sent.filter(|(_, sent)| sent.draft.has_own_id).map(|(index, _)| index);
        let of: Vec<usize> = of.collect();
        let Some(which) = which.checked_rem(of.len()) else { return };
        let (sent, there) = (&self.tenancies[instance].sent[of[which]], self.there(node));
        let id = InstanceId::new(INSTANCES[instance]).unwrap();
        let at = &self.nodes[node];
        let is_known =
            self.has_applied(node, sent) && at.ids_gone_to[instance] < sent.cursor.position;
        let repeated = match at.relay.claim(&id, &sent.id(), digest(sent.number, is_same)).await {
            Ok(Claim::Repeat(head)) => {
                assert!(is_known && is_same);
                Ok(self.answer(at.relay.repeat(head)).await)
            }
            Ok(Claim::First(claimed)) => {
                assert!(!is_known);
                self.append_again(node, sent, claimed, is_same).await
            }
            Err(error) => {
                assert_eq!((error, is_known, is_same), (ClaimError::Reused, true, false));
                Err(NotPlaced::Reused)
            }
        };
        self.note(node, &there);
        self.settle().await;
        if let Ok(published) = repeated {
            self.compare_repeat(node, &self.tenancies[instance].sent[of[which]], published);
        }
    }

    /// A node does not know a message, but the log that it shares does. A node with a log of its
    /// own would send another one.
    async fn append_again(
        &self,
        node: usize,
        sent: &Sent,
        claimed: Claimed,
        is_same: bool,
    ) -> Result<Option<Published>, NotPlaced> {
        let (at, was_applied) = (&self.nodes[node], self.has_applied(node, sent));
        if at.follower.is_none() {
            return Err(NotPlaced::NotSent);
        }
        let id = InstanceId::new(INSTANCES[sent.draft.instance]).unwrap();
        let message = Message::of_a_test(&sent.id());
        let published = self.answer(at.relay.publish(&id, message, Some(claimed))).await;
        let published = published.transpose();
        match &published {
            Ok(_) => assert!(is_same && !was_applied),
            Err(NotPlaced::NotSent) => assert!(at.is_stopped()),
            // The node has let go of what the log still knows.
            Err(NotPlaced::Unknown) => assert!(was_applied),
            Err(error) => assert_eq!((*error, is_same), (NotPlaced::Reused, false)),
        }
        published
    }

    fn has_applied(&self, node: usize, sent: &Sent) -> bool {
        let instance = sent.draft.instance;
        let count = self.tenancies[instance].count_to(sent.cursor.position);
        count <= self.nodes[node].applied[instance]
    }

    /// A repetition is answered with what was answered first, or with what this node did since.
    fn compare_repeat(&self, node: usize, sent: &Sent, published: Option<Published>) {
        let Some(published) = published else {
            return assert!(self.nodes[node].has_lost, "it is never counted");
        };
        assert!(published.duplicate);
        assert_eq!(published.head.cursor, sent.cursor);
        if let Some((at, counts)) = sent.told
            && at == node
        {
            assert_eq!(published.counts, counts);
        }
    }

    async fn claim_first(&self, node: usize, sent: &Sent) -> Option<Claimed> {
        let id = InstanceId::new(INSTANCES[sent.draft.instance]).unwrap();
        let digest = digest(sent.number, true);
        match self.nodes[node].relay.claim(&id, &sent.id(), digest).await {
            Ok(Claim::First(claimed)) => Some(claimed),
            Ok(Claim::Repeat(head)) => panic!("{head:?} has the id"),
            Err(error) => panic!("{error}"),
        }
    }

    /// The id of the connection that is to be left out, if it is open.
    fn spared(&self, draft: &Draft) -> Option<String> {
        let which = draft.spared?.checked_rem(self.clients.len())?;
        let open = self.clients[which].open.as_ref()?;
        Some(open.registration.link.id.clone())
    }

    /// Compares the answer to who publishes, where nothing else happened meanwhile.
    fn compare_answer(&self, before: Counts, published: &Published, receivers: &[usize]) {
        assert!(published.complete && !published.duplicate);
        let counts = published.counts;
        assert_eq!(
            (before.matched, before.queued, before.dropped),
            (counts.matched, counts.queued, counts.dropped)
        );
        assert_eq!(counts.matched, receivers.len() as u64, "{published:?}");
        let open = receivers.iter().filter_map(|which| self.clients[*which].open.as_ref());
        let dropped = open.filter(|open| open.is_ending()).count() as u64;
        assert_eq!((counts.dropped, counts.queued), (dropped, counts.matched - dropped));
        let sums = published.head.progress.sums();
        let sums = [Step::Matched, Step::Queued, Step::Dropped].map(|step| sums.of(step));
        assert_eq!(sums, [counts.matched, counts.queued, counts.dropped]);
        assert!(published.head.policy == Slow::Latest || counts.replaced == 0);
    }

    /// What a dry run tells of the users must be what is then delivered, and the verdict on each
    /// connection what the index says. Returns its counts.
    async fn compare_with_dry_run(
        &self,
        node: usize,
        tenant: &Tenant,
        message: &Message,
        receivers: &[usize],
    ) -> Counts {
        let mut users = BTreeMap::new();
        for which in receivers {
            *users.entry(self.clients[*which].person.user).or_insert(0u64) += 1;
        }
        let mut counts = self.dry_run(node, tenant, DryRun::of(message)).await.counts;
        for about in WORDS {
            let about = UserId::new(about).unwrap();
            let expected = users.get(about.as_str()).copied().unwrap_or_default();
            let asked = DryRun { most: 100, about: Some(about), ..DryRun::of(message) };
            let report = self.dry_run(node, tenant, asked).await;
            let told: Vec<(&str, u64)> =
                report.users.iter().map(|(user, count)| (user.as_str(), *count)).collect();
            assert_eq!(told, users.iter().map(|(user, count)| (*user, *count)).collect::<Vec<_>>());
            let mut meant = 0;
            for Considered { connection, result } in &report.considered {
                let facts = connection.facts();
                let verdict =
                    verdict(&message.reach, &connection.candidate(&facts, &tenant.channels));
                let is_meant = matches!(result, DryRunResult::Receives | DryRunResult::NoRoom);
                let hears = matches!(verdict, Verdict::Hears { .. });
                assert!(hears == is_meant || *result == DryRunResult::Ending, "{verdict:?}");
                meant += u64::from(is_meant);
            }
            assert!(meant == expected || report.connections > report.considered.len() as u64);
            assert_eq!(report.counts, std::mem::take(&mut counts));
            counts = report.counts;
        }
        counts
    }

    async fn dry_run(&self, node: usize, tenant: &Tenant, asked: DryRun) -> DryRunReport {
        let query = Query::DryRun(asked);
        match self.nodes[node].relay.survey(&tenant.instance.id, &query).await.unwrap() {
            (Answer::DryRun(report), Ok(())) => report,
            other => panic!("{other:?}"),
        }
    }
}

fn message(sent: &Sent, audiences: Audiences, slow: Slow) -> Message {
    let Sent { draft, .. } = sent;
    let users = draft.without.iter().map(|id| UserId::new(id).unwrap()).collect();
    let exclude = Exclusion { users, connections: sent.spared.iter().cloned().collect() };
    let expression = |which: usize| Expression::parse(EXPRESSIONS[which].0, Scope::Filter).unwrap();
    let filter = draft.filter.map(expression);
    let data = json!({"n": sent.number, "padding": "x".repeat(draft.padding)}).to_string();
    Message {
        id: sent.id().into(),
        author: Arc::new(Author { user: UserId::new("shop").unwrap(), component: None }),
        address: draft.address.as_str().into(),
        reach: Arc::new(Reach { audiences, exclude, filter }),
        slow,
        time: chrono::DateTime::UNIX_EPOCH,
        ttl: draft.live_only.then_some(Duration::ZERO),
        payload: Payload::new(&data, 10_000).unwrap(),
    }
}
