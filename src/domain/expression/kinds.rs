//! Which kinds of values a part of an expression can have, as far as that shows without anyone's
//! claims.

use std::fmt;

/// A set of kinds, and for lists and maps the set of what their elements can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kinds {
    set: u8,
    elements: u8,
}

const NULL: u8 = 1;
const BOOL: u8 = 2;
const INT: u8 = 4;
const UINT: u8 = 8;
const DOUBLE: u8 = 16;
const TEXT: u8 = 32;
const LIST: u8 = 64;
const MAP: u8 = 128;
const ALL: u8 = u8::MAX;

impl Kinds {
    pub const ANY: Self = Self { set: ALL, elements: ALL };
    pub const NONE: Self = Self::scalar(0);
    pub const NULL: Self = Self::scalar(NULL);
    pub const BOOL: Self = Self::scalar(BOOL);
    pub const INT: Self = Self::scalar(INT);
    pub const UINT: Self = Self::scalar(UINT);
    pub const DOUBLE: Self = Self::scalar(DOUBLE);
    pub const NUMBER: Self = Self::scalar(INT | UINT | DOUBLE);
    pub const SCALAR: Self = Self::scalar(BOOL | INT | UINT | DOUBLE | TEXT);
    pub const TEXT: Self = Self::scalar(TEXT);
    pub const LIST: Self = Self { set: LIST, elements: ALL };
    pub const MAP: Self = Self { set: MAP, elements: ALL };
    pub const CONTAINER: Self = Self { set: LIST | MAP, elements: ALL };
    pub const SIZED: Self = Self { set: LIST | MAP | TEXT, elements: ALL };
    pub const ORDERED: Self = Self::SCALAR;
    pub const ADDABLE: Self = Self { set: INT | UINT | DOUBLE | TEXT | LIST, elements: ALL };
    pub const KEY: Self = Self::scalar(BOOL | INT | UINT | TEXT);
    pub const INDEX: Self = Self::SCALAR;

    const fn scalar(set: u8) -> Self {
        Self { set, elements: 0 }
    }

    /// A list of such elements.
    pub fn list_of(elements: Self) -> Self {
        Self { set: LIST, elements: elements.set }
    }

    /// A map with such values.
    pub fn map_of(values: Self) -> Self {
        Self { set: MAP, elements: values.set }
    }

    /// What an element can be; elements of elements are not followed.
    pub fn element(self) -> Self {
        Self { set: self.elements, elements: ALL }
    }

    /// What a macro over it meets: a list's elements or a map's keys.
    pub fn walked(self) -> Self {
        let keys = if self.set & MAP == 0 { 0 } else { Self::KEY.set };
        let elements = if self.set & LIST == 0 { 0 } else { self.elements };
        Self { set: keys | elements, elements: ALL }
    }

    pub fn or(self, other: Self) -> Self {
        Self { set: self.set | other.set, elements: self.elements | other.elements }
    }

    /// The kinds that are in both.
    pub fn and(self, other: Self) -> Self {
        Self { set: self.set & other.set, elements: self.elements & other.elements }
    }

    /// The same kinds, with elements of another's.
    pub fn with_elements_of(self, other: Self) -> Self {
        Self { elements: other.elements, ..self }
    }

    /// Whether some kind is in both.
    pub fn meets(self, other: Self) -> bool {
        self.set & other.set != 0
    }

    /// The same, with all numbers taken as one kind.
    pub fn comparable(self, other: Self) -> bool {
        self.with_numbers().meets(other.with_numbers())
    }

    fn with_numbers(self) -> Self {
        if self.meets(Self::NUMBER) { self.or(Self::NUMBER) } else { self }
    }
}

impl fmt::Display for Kinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.set {
            0 => return f.write_str("nothing"),
            ALL => return f.write_str("anything"),
            _ => {}
        }
        let names = [
            (NULL, "null"),
            (BOOL, "true or false"),
            (INT | UINT | DOUBLE, "a number"),
            (TEXT, "a text"),
            (LIST, "a list"),
            (MAP, "a map"),
        ];
        let names = names.iter().filter(|(kind, _)| self.set & kind != 0).map(|(_, name)| *name);
        f.write_str(&names.collect::<Vec<_>>().join(" or "))
    }
}
