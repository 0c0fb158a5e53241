//! One instance with what belongs to it: whom an address means there, and who hears what.

use crate::domain::audience::{Address, Audience, Audiences};
use crate::domain::channel::{Channel, ChannelName, Channels, Misfit, cost_of, fit};
use crate::domain::expression::Cost;
use crate::domain::instance::Instance;
use crate::domain::principal::Principal;
use crate::domain::revocation::Revocations;
use crate::domain::verdict::hears_channel;
use smallvec::smallvec;
use std::collections::BTreeMap;

/// One instance with what belongs to it, as all was at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// The instance.
    pub instance: Instance,
    /// Its channels by name. An unchanged one keeps its `Arc` from one snapshot to the next.
    pub channels: Channels,
    /// The tokens that it no longer accepts.
    pub revocations: Revocations,
    /// Those of the channels that count as disabled, whatever is stored, and why.
    pub misfits: BTreeMap<ChannelName, Misfit>,
}

/// Why an address reaches no audience.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// `channel:NAME` without such a channel.
    #[error("there is no channel {0}")]
    Unknown(ChannelName),
    /// The channel is there and disabled.
    #[error("the channel {0} is disabled")]
    Disabled(ChannelName),
}

impl Tenant {
    /// An instance without channels and revocations.
    pub fn new(instance: Instance) -> Self {
        let (channels, revocations) = (Channels::default(), Revocations::default());
        Self { instance, channels, revocations, misfits: BTreeMap::new() }
    }

    /// The same with what is stored of it. Channels count as disabled that do not fit what its
    /// expressions may cost together.
    pub fn with(self, mut channels: Channels, revocations: Revocations, bound: Cost) -> Self {
        let misfits = fit(&mut channels, bound);
        Self { channels, revocations, misfits, ..self }
    }

    /// What the expressions of all its channels but one cost together, as far as that is within a
    /// bound.
    pub fn cost_beside(&self, name: &ChannelName, bound: Cost) -> Cost {
        let others = self.channels.values().filter(|channel| channel.name != *name);
        cost_of(others.map(|channel| &**channel), bound)
    }

    /// Whom `address` means here, and the configured channel behind it, if it is one. Never empty.
    /// Errors: `ResolveError`; a bare word that names a disabled channel never falls back to the
    /// user of that id.
    pub fn resolve(
        &self,
        address: &Address,
    ) -> Result<(Audiences, Option<&Channel>), ResolveError> {
        let named = address.channel_name();
        match (address, named.as_ref().and_then(|name| self.channels.get(name))) {
            (_, Some(channel)) if !channel.enabled => {
                Err(ResolveError::Disabled(channel.name.clone()))
            }
            (_, Some(channel)) => {
                Ok((smallvec![Audience::Channel(channel.name.clone())], Some(channel)))
            }
            (Address::Channel(name), None) => Err(ResolveError::Unknown(name.clone())),
            (_, None) => Ok((address.audiences(), None)),
        }
    }

    /// Whether an administrator has revoked the token of `principal` here.
    pub fn revokes(&self, principal: &Principal) -> bool {
        self.revocations.revokes(principal)
    }
}

/// What the same person, with the same narrowing, heard of an earlier picture of the same instance.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    /// The earlier picture.
    pub tenant: &'a Tenant,
    /// What was heard then.
    pub heard: &'a [Audience],
}

impl Known<'_> {
    /// Whether a channel that has not changed since was heard; none where it has.
    pub(super) fn says_of(self, channel: &Channel) -> Option<bool> {
        let before = self.tenant.channels.get(&channel.name)?;
        std::ptr::eq(&**before, channel).then(|| hears_channel(self.heard, &channel.name))
    }
}
