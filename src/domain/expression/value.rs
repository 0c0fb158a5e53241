//! What parts of an expression evaluate to: borrowed from the facts wherever nothing new is made.

use super::meter::{Cause, Meter, STEPS_PER_LOOKUP, STEPS_PER_PAIR};
use super::tree::Literal;
use crate::domain::claims::{Claim, ClaimList, ClaimMap};
use crate::domain::names::Names;
use crate::domain::principal::{GroupId, Role};
use std::cmp::Ordering;
use std::rc::Rc;

/// A value. Cloning it copies a reference, whatever its size.
#[derive(Clone, Debug)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(Text<'a>),
    List(List<'a>),
    Map(Map<'a>),
}

#[derive(Clone, Debug)]
pub(super) enum Text<'a> {
    Given(&'a str),
    Made(Rc<str>),
}

#[derive(Clone, Debug)]
pub(super) enum List<'a> {
    Claims(ClaimList<'a>),
    Groups(&'a Names<GroupId>),
    Roles(&'a Names<Role>),
    Made(Rc<[Value<'a>]>),
}

#[derive(Clone, Debug)]
pub(super) enum Map<'a> {
    Claims(ClaimMap<'a>),
    Made(Rc<[(Value<'a>, Value<'a>)]>),
}

impl<'a> Value<'a> {
    pub fn text(text: &'a str) -> Self {
        Self::Text(Text::Given(text))
    }

    /// What it is, in a sentence.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "true or false",
            Self::Int(_) | Self::Uint(_) | Self::Double(_) => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }

    /// `==`: numbers by their value whatever their kind, lists and maps element by element, other
    /// kinds never. Charges for each pair looked at, and for the text compared.
    pub fn equals(&self, other: &Self, meter: &mut Meter) -> Result<bool, Cause> {
        meter.charge(STEPS_PER_PAIR)?;
        match (self, other) {
            (Self::Null, Self::Null) => Ok(true),
            (Self::Bool(one), Self::Bool(other)) => Ok(one == other),
            (Self::Text(one), Self::Text(other)) => {
                let (one, other) = (one.as_str(), other.as_str());
                if one.len() != other.len() {
                    return Ok(false);
                }
                meter.charge_reading(one)?;
                Ok(one == other)
            }
            (Self::List(one), Self::List(other)) => one.equals(other, meter),
            (Self::Map(one), Self::Map(other)) => one.equals(other, meter),
            _ => Ok(self.order_of_numbers(other) == Some(Some(Ordering::Equal))),
        }
    }

    /// The order of two numbers, two texts (by bytes) or two booleans; `None` beside NaN.
    /// Errors: other kinds, or kinds that differ.
    pub fn order(&self, other: &Self, meter: &mut Meter) -> Result<Option<Ordering>, Cause> {
        meter.charge(STEPS_PER_PAIR)?;
        match (self, other) {
            (Self::Bool(one), Self::Bool(other)) => Ok(Some(one.cmp(other))),
            (Self::Text(one), Self::Text(other)) => {
                let (one, other) = (one.as_str(), other.as_str());
                meter.charge_reading(if one.len() < other.len() { one } else { other })?;
                Ok(Some(one.cmp(other)))
            }
            _ => self.order_of_numbers(other).ok_or(Cause::NotOrdered(self.kind(), other.kind())),
        }
    }

    fn order_of_numbers(&self, other: &Self) -> Option<Option<Ordering>> {
        Some(match (self, other) {
            (Self::Double(one), Self::Double(other)) => one.partial_cmp(other),
            (Self::Double(one), _) => order_of_mixed(other.integer()?, *one).map(Ordering::reverse),
            (_, Self::Double(other)) => order_of_mixed(self.integer()?, *other),
            _ => Some(self.integer()?.cmp(&other.integer()?)),
        })
    }

    fn integer(&self) -> Option<i128> {
        match self {
            Self::Int(value) => Some((*value).into()),
            Self::Uint(value) => Some((*value).into()),
            _ => None,
        }
    }

    /// The position in a list that it names: an integer, or a double that is one.
    pub fn position(&self) -> Option<usize> {
        match self {
            Self::Double(value) if value.fract() == 0.0 && (0.0..1e9).contains(value) => {
                Some(*value as usize)
            }
            _ => self.integer().and_then(|value| value.try_into().ok()),
        }
    }

    /// What a macro over it meets: the elements of a list, the keys of a map.
    pub fn walked(&self) -> Option<Vec<Self>> {
        match self {
            Self::List(list) => Some((0..list.len()).filter_map(|index| list.get(index)).collect()),
            Self::Map(map) => Some(map.entries().map(|(key, _)| key).collect()),
            _ => None,
        }
    }

    /// How many elements or entries it has.
    pub fn len(&self) -> Option<usize> {
        match self {
            Self::List(list) => Some(list.len()),
            Self::Map(map) => Some(map.len()),
            _ => None,
        }
    }
}

/// An integer against a double, exactly: neither is rounded to the other.
fn order_of_mixed(integer: i128, double: f64) -> Option<Ordering> {
    if double.is_nan() {
        return None;
    }
    // The cast saturates, far outside of what an integer can be.
    let whole = double.trunc() as i128;
    Some(integer.cmp(&whole).then(0.0_f64.partial_cmp(&double.fract())?))
}

impl<'a> From<Claim<'a>> for Value<'a> {
    fn from(claim: Claim<'a>) -> Self {
        match claim {
            Claim::Null => Self::Null,
            Claim::Bool(value) => Self::Bool(value),
            Claim::Int(value) => Self::Int(value),
            Claim::Uint(value) => Self::Uint(value),
            Claim::Double(value) => Self::Double(value),
            Claim::Text(text) => Self::text(text),
            Claim::List(elements) => Self::List(List::Claims(elements)),
            Claim::Map(entries) => Self::Map(Map::Claims(entries)),
        }
    }
}

impl<'a> From<&'a Literal> for Value<'a> {
    fn from(literal: &'a Literal) -> Self {
        match literal {
            Literal::Null => Self::Null,
            Literal::Bool(value) => Self::Bool(*value),
            Literal::Int(value) => Self::Int(*value),
            Literal::Uint(value) => Self::Uint(*value),
            Literal::Double(value) => Self::Double(*value),
            Literal::Text(text) => Self::text(text),
        }
    }
}

impl From<String> for Text<'_> {
    fn from(text: String) -> Self {
        Self::Made(text.into())
    }
}

impl Text<'_> {
    pub fn as_str(&self) -> &str {
        match self {
            Self::Given(text) => text,
            Self::Made(text) => text,
        }
    }
}

impl<'a> List<'a> {
    pub fn len(&self) -> usize {
        match self {
            Self::Claims(elements) => elements.len(),
            Self::Groups(groups) => groups.len(),
            Self::Roles(roles) => roles.len(),
            Self::Made(elements) => elements.len(),
        }
    }

    pub fn get(&self, index: usize) -> Option<Value<'a>> {
        match self {
            Self::Claims(elements) => elements.get(index).map(Value::from),
            Self::Groups(groups) => groups.get(index).map(Value::text),
            Self::Roles(roles) => roles.get(index).map(Value::text),
            Self::Made(elements) => elements.get(index).cloned(),
        }
    }

    fn equals(&self, other: &Self, meter: &mut Meter) -> Result<bool, Cause> {
        if self.len() != other.len() {
            return Ok(false);
        }
        for index in 0..self.len() {
            if let (Some(one), Some(other)) = (self.get(index), other.get(index))
                && !one.equals(&other, meter)?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl<'a> Map<'a> {
    pub fn len(&self) -> usize {
        match self {
            Self::Claims(entries) => entries.len(),
            Self::Made(entries) => entries.len(),
        }
    }

    pub fn entries(&self) -> Box<dyn Iterator<Item = (Value<'a>, Value<'a>)> + '_> {
        match self {
            Self::Claims(entries) => {
                Box::new(entries.iter().map(|(key, value)| (Value::text(key), Value::from(value))))
            }
            Self::Made(entries) => Box::new(entries.iter().cloned()),
        }
    }

    /// The value under a key. Charges a lookup where claims are asked, which have an index, and each
    /// key looked at in a map that the expression makes.
    pub fn get(&self, key: &Value<'_>, meter: &mut Meter) -> Result<Option<Value<'a>>, Cause> {
        match (self, key) {
            (Self::Claims(entries), Value::Text(key)) => {
                meter.charge(STEPS_PER_LOOKUP)?;
                Ok(entries.get(key.as_str()).map(Value::from))
            }
            (_, Value::Null | Value::List(_) | Value::Map(_)) => {
                Err(Cause::Kind(key.kind(), "a key of a map"))
            }
            (Self::Claims(_), _) => Ok(None),
            (Self::Made(entries), key) => {
                for (known, value) in entries.iter() {
                    if known.equals(key, meter)? {
                        return Ok(Some(value.clone()));
                    }
                }
                Ok(None)
            }
        }
    }

    fn equals(&self, other: &Self, meter: &mut Meter) -> Result<bool, Cause> {
        if self.len() != other.len() {
            return Ok(false);
        }
        for (key, value) in self.entries() {
            match other.get(&key, meter)? {
                Some(other) if value.equals(&other, meter)? => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }
}
