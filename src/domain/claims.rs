//! A token's claims in one piece of memory, which are read where they stand.
//!
//! As a tree of objects a claim of two bytes takes up to a hundred. Here it takes at most twice its
//! JSON, and members are found by a search among sorted names, as in the tree.

mod number;
mod write;

use serde_json::{Map, Value};
use std::cmp::Ordering;
use std::fmt;
use std::ops::Range;
use write::{Form, MARKED, Writer, mark};

/// Every claim as it stood in the token: members by name, the last of those with the same name.
///
/// Its text holds values one after the other. A value is a byte that says what it is, and figures
/// of seven bits a byte, so that all of it but the texts is ASCII and texts are parts of it. A list
/// and a map stand behind their elements: how many there are, and how far before it each begins.
/// A map of few members has a mark of each name besides.
#[derive(Clone, PartialEq, Eq)]
pub struct Claims {
    text: Box<str>,
    /// Where the map of all claims stands.
    root: usize,
}

/// One claim, or a part of one, as it is read.
#[derive(Clone, Copy, Debug)]
pub enum Claim<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number, if it fits.
    Int(i64),
    /// A whole number beyond that.
    Uint(u64),
    /// Any other number.
    Double(f64),
    /// A text.
    Text(&'a str),
    /// A list.
    List(ClaimList<'a>),
    /// An object.
    Map(ClaimMap<'a>),
}

/// A list among the claims.
#[derive(Clone, Copy)]
pub struct ClaimList<'a>(Place<'a>);

/// An object among the claims.
#[derive(Clone, Copy)]
pub struct ClaimMap<'a>(Place<'a>);

/// Where something stands.
#[derive(Clone, Copy)]
struct Place<'a> {
    claims: &'a Claims,
    at: usize,
}

/// What stands at the place of a list or a map.
struct Table {
    /// How many elements or entries.
    len: usize,
    /// Figures of a distance.
    width: usize,
    /// Where the distances begin.
    begin: usize,
}

impl Claims {
    /// All claims.
    pub fn root(&self) -> ClaimMap<'_> {
        ClaimMap(Place { claims: self, at: self.root })
    }

    /// One claim.
    pub fn get(&self, name: &str) -> Option<Claim<'_>> {
        self.root().get(name)
    }

    /// What they take, in bytes, beside this struct itself.
    pub fn bytes(&self) -> usize {
        self.text.len()
    }
}

#[cfg(test)]
impl Claims {
    /// The same as `serde_json` would have it.
    pub fn to_json(&self) -> Map<String, Value> {
        fn value(claim: Claim<'_>) -> Value {
            match claim {
                Claim::Null => Value::Null,
                Claim::Bool(value) => value.into(),
                Claim::Int(value) => value.into(),
                Claim::Uint(value) => value.into(),
                Claim::Double(value) => value.into(),
                Claim::Text(text) => text.into(),
                Claim::List(list) => list.iter().map(value).collect(),
                Claim::Map(map) => Value::Object(members(map)),
            }
        }
        fn members(map: ClaimMap<'_>) -> Map<String, Value> {
            map.iter().map(|(name, claim)| (name.to_owned(), value(claim))).collect()
        }
        members(self.root())
    }
}

impl Default for Claims {
    fn default() -> Self {
        Self::from(&Map::new())
    }
}

impl From<&Map<String, Value>> for Claims {
    fn from(claims: &Map<String, Value>) -> Self {
        let mut writer = Writer::default();
        let root = writer.map(claims);
        Self { text: writer.finish(), root }
    }
}

impl FromIterator<(String, Value)> for Claims {
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(claims: I) -> Self {
        Self::from(&claims.into_iter().collect::<Map<_, _>>())
    }
}

impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.root().fmt(f)
    }
}

impl<'a> Claim<'a> {
    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&'a str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }
}

impl<'a> ClaimList<'a> {
    /// How many elements.
    pub fn len(&self) -> usize {
        self.0.table().len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element at a position.
    pub fn get(&self, index: usize) -> Option<Claim<'a>> {
        let table = self.0.table();
        (index < table.len).then(|| self.0.behind(&table, index).read())
    }

    /// All elements, in order.
    pub fn iter(self) -> impl Iterator<Item = Claim<'a>> {
        let table = self.0.table();
        (0..table.len).map(move |index| self.0.behind(&table, index).read())
    }
}

impl<'a> ClaimMap<'a> {
    /// How many members.
    pub fn len(&self) -> usize {
        self.0.table().len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The member of a name: by its mark where there are few, else by a search among the sorted
    /// names.
    pub fn get(&self, name: &str) -> Option<Claim<'a>> {
        let (place, table) = (self.0, self.0.table());
        let member = |number: usize| place.behind(&table, 2 * number + 1).read();
        let text = place.claims.text.as_bytes();
        if table.len <= MARKED {
            let marks = text.get(table.begin - table.len..table.begin)?;
            let mark = mark(name);
            let is_it = |number: &usize| {
                marks[*number] == mark && place.behind(&table, 2 * number).text_is(name)
            };
            return (0..marks.len()).find(is_it).map(member);
        }
        let (mut low, mut high) = (0, table.len);
        while low < high {
            let middle = (low + high) / 2;
            match place.behind(&table, 2 * middle).text().cmp(name) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return Some(member(middle)),
            }
        }
        None
    }

    /// All members, sorted by name.
    pub fn iter(self) -> impl Iterator<Item = (&'a str, Claim<'a>)> {
        let table = self.0.table();
        (0..table.len).map(move |index| {
            let name = self.0.behind(&table, 2 * index).text();
            (name, self.0.behind(&table, 2 * index + 1).read())
        })
    }
}

impl<'a> Place<'a> {
    #[inline]
    fn byte(&self, at: usize) -> u8 {
        self.claims.text.as_bytes().get(at).copied().unwrap_or_default()
    }

    /// A number of so many figures of seven bits, the lowest first.
    #[inline]
    fn figures(&self, at: usize, width: usize) -> u64 {
        let figures = self.claims.text.as_bytes().get(at..at + width).unwrap_or_default();
        match *figures {
            [one] => one.into(),
            [low, high] => u64::from(low) | u64::from(high) << 7,
            _ => figures.iter().rev().fold(0, |sum, figure| sum << 7 | u64::from(*figure)),
        }
    }

    #[inline]
    fn read(self) -> Claim<'a> {
        match Form::of(self.byte(self.at)) {
            Form::Null => Claim::Null,
            Form::Bool(value) => Claim::Bool(value),
            Form::Text { .. } => Claim::Text(self.text()),
            Form::Small(_) | Form::Int { .. } => Claim::Int(self.integer()),
            Form::Uint => Claim::Uint(self.figures(self.at + 1, number::FIGURES)),
            Form::Double => Claim::Double(f64::from_bits(self.figures(self.at + 1, 10))),
            Form::NegativeZero => Claim::Double(-0.0),
            Form::Decimal => {
                let exponent = self.figures(self.at + 1, number::EXPONENT_FIGURES);
                let mantissa = Place { at: self.at + 1 + number::EXPONENT_FIGURES, ..self };
                Claim::Double(number::of_decimal(mantissa.integer(), number::exponent(exponent)))
            }
            Form::List { .. } => Claim::List(ClaimList(self)),
            Form::Map { .. } => Claim::Map(ClaimMap(self)),
        }
    }

    fn integer(&self) -> i64 {
        match Form::of(self.byte(self.at)) {
            Form::Small(value) => value.into(),
            Form::Int { width } => number::from_zigzag(self.figures(self.at + 1, width)),
            _ => 0,
        }
    }

    fn text(&self) -> &'a str {
        self.claims.text.get(self.text_range()).unwrap_or_default()
    }

    #[inline]
    fn text_is(&self, text: &str) -> bool {
        self.claims.text.as_bytes().get(self.text_range()) == Some(text.as_bytes())
    }

    /// Where the text lies that stands here.
    #[inline]
    fn text_range(&self) -> Range<usize> {
        match Form::of(self.byte(self.at)) {
            Form::Text { width: 0, len } => self.at + 1..self.at + 1 + len,
            Form::Text { width, .. } => {
                let begin = self.at + 1 + width;
                begin..begin + self.figures(self.at + 1, width) as usize
            }
            _ => self.at..self.at,
        }
    }

    #[inline]
    fn table(&self) -> Table {
        let (width, marked) = match Form::of(self.byte(self.at)) {
            Form::List { width } => (width, 0),
            Form::Map { width } => (width, MARKED),
            _ => (0, 0),
        };
        let len = self.figures(self.at + 1, width) as usize;
        let marks = if len <= marked { len } else { 0 };
        Table { len, width, begin: self.at + 1 + width + marks }
    }

    /// What stands so far before this as the distance of this number says.
    #[inline]
    fn behind(&self, table: &Table, number: usize) -> Self {
        let distance = self.figures(table.begin + number * table.width, table.width) as usize;
        Place { at: self.at.saturating_sub(distance), ..*self }
    }
}

impl fmt::Debug for ClaimList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl fmt::Debug for ClaimMap<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
pub(crate) mod claims_test;
