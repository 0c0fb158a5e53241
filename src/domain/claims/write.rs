//! Writes claims into one text, and says by a value's first byte what it is.

use super::number;
use serde_json::{Map, Number, Value};

/// What a value's first byte says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// A whole number from 0 to 31.
    Small(u8),
    /// A text of `len` bytes, or one whose length stands in figures behind this.
    Text {
        width: usize,
        len: usize,
    },
    Null,
    Bool(bool),
    /// A whole number in so many figures, as `number::zigzag` makes them.
    Int {
        width: usize,
    },
    /// One beyond `i64`.
    Uint,
    /// The bits of a double.
    Double,
    /// A double by its decimal digits: the exponent, then the digits as a whole number.
    Decimal,
    NegativeZero,
    /// Length and distances are of so many figures; none: it is empty.
    List {
        width: usize,
    },
    Map {
        width: usize,
    },
}

const SMALL: u8 = 0;
const TEXT: u8 = 32;
const NULL: u8 = 96;
const FALSE: u8 = 97;
const TRUE: u8 = 98;
const LONG_TEXT: u8 = 99;
const INT: u8 = 101;
const UINT: u8 = 107;
const DOUBLE: u8 = 108;
const DECIMAL: u8 = 109;
const NEGATIVE_ZERO: u8 = 110;
const LIST: u8 = 111;
const MAP: u8 = 116;
const LAST: u8 = 120;
/// Longest text whose length stands in the first byte.
const SHORT: usize = 63;
/// Figures of a long text's length.
const TEXT_WIDTHS: [usize; 2] = [2, 5];
/// Figures of a whole number.
const INT_WIDTHS: [usize; 6] = [1, 2, 3, 4, 5, number::FIGURES];
/// Most members of a map with marks, so that one without a mark of its own is found soon.
pub(super) const MARKED: usize = 32;
/// Figures of a list's length and distances.
const TABLE_WIDTHS: [usize; 5] = [0, 1, 2, 3, 5];

impl Form {
    #[inline]
    pub fn of(byte: u8) -> Self {
        let width = |widths: &[usize], first: u8| widths[usize::from(byte - first)];
        match byte {
            TEXT..NULL => Self::Text { width: 0, len: usize::from(byte - TEXT) },
            SMALL..TEXT => Self::Small(byte),
            NULL => Self::Null,
            FALSE => Self::Bool(false),
            TRUE => Self::Bool(true),
            LONG_TEXT..INT => Self::Text { width: width(&TEXT_WIDTHS, LONG_TEXT), len: 0 },
            INT..UINT => Self::Int { width: width(&INT_WIDTHS, INT) },
            UINT => Self::Uint,
            DOUBLE => Self::Double,
            DECIMAL => Self::Decimal,
            NEGATIVE_ZERO => Self::NegativeZero,
            LIST..MAP => Self::List { width: width(&TABLE_WIDTHS, LIST) },
            MAP..=LAST => Self::Map { width: width(&TABLE_WIDTHS, MAP) },
            _ => Self::Null,
        }
    }
}

/// A mark of seven bits by which most names differ.
#[inline]
pub(super) fn mark(name: &str) -> u8 {
    let byte = |at: usize| name.as_bytes().get(at).copied().unwrap_or_default();
    let sum = byte(0).wrapping_mul(31).wrapping_add(byte(name.len() / 2)).wrapping_mul(31);
    sum.wrapping_add(byte(name.len().saturating_sub(1))).wrapping_add(name.len() as u8) & 0x7f
}

/// The text so far. Each function returns where what it wrote stands.
#[derive(Default)]
pub(super) struct Writer(String);

impl Writer {
    /// All that was written, without room for more.
    pub fn finish(self) -> Box<str> {
        self.0.into()
    }

    /// An object and, before it, its members, which are sorted by name.
    pub fn map(&mut self, entries: &Map<String, Value>) -> usize {
        let mut places = Vec::with_capacity(2 * entries.len());
        for (name, value) in entries {
            let value = self.value(value);
            places.extend([self.text(name), value]);
        }
        let marks: String = match entries.len() {
            0..=MARKED => entries.keys().map(|name| char::from(mark(name))).collect(),
            _ => String::new(),
        };
        self.table(MAP, entries.len(), &marks, &places)
    }

    fn value(&mut self, value: &Value) -> usize {
        match value {
            Value::Null => self.byte(NULL),
            Value::Bool(false) => self.byte(FALSE),
            Value::Bool(true) => self.byte(TRUE),
            Value::Number(number) => self.number(number),
            Value::String(text) => self.text(text),
            Value::Array(elements) => {
                let places: Vec<usize> =
                    elements.iter().map(|element| self.value(element)).collect();
                self.table(LIST, elements.len(), "", &places)
            }
            Value::Object(entries) => self.map(entries),
        }
    }

    /// How many there are, their marks, and how far before it each of `places` is.
    fn table(&mut self, first: u8, len: usize, marks: &str, places: &[usize]) -> usize {
        let at = self.0.len();
        let distances = places.iter().map(|place| (at - place) as u64);
        let most = distances.clone().max().unwrap_or_default().max(len as u64);
        let width = self.form(first, &TABLE_WIDTHS, most);
        self.figures(len as u64, width);
        self.0.push_str(marks);
        distances.for_each(|distance| self.figures(distance, width));
        at
    }

    fn text(&mut self, text: &str) -> usize {
        let at = self.0.len();
        if text.len() <= SHORT {
            self.byte(TEXT + text.len() as u8);
        } else {
            let len = text.len() as u64;
            let width = self.form(LONG_TEXT, &TEXT_WIDTHS, len);
            self.figures(len, width);
        }
        self.0.push_str(text);
        at
    }

    /// As `serde_json` reads it: a whole number where it is written as one and fits, else a double.
    fn number(&mut self, number: &Number) -> usize {
        match (number.as_i64(), number.as_u64()) {
            (Some(value), _) => self.integer(value),
            (None, Some(value)) => {
                let at = self.byte(UINT);
                self.figures(value, number::FIGURES);
                at
            }
            (None, None) => match number.as_f64() {
                Some(value) => self.double(value),
                None => self.byte(NULL),
            },
        }
    }

    fn integer(&mut self, value: i64) -> usize {
        if (0..i64::from(TEXT)).contains(&value) {
            return self.byte(value as u8);
        }
        let at = self.0.len();
        let zigzag = number::zigzag(value);
        let width = self.form(INT, &INT_WIDTHS, zigzag);
        self.figures(zigzag, width);
        at
    }

    fn double(&mut self, value: f64) -> usize {
        if value == 0.0 && value.is_sign_negative() {
            return self.byte(NEGATIVE_ZERO);
        }
        let Some((mantissa, exponent)) = number::decimal(value) else {
            let at = self.byte(DOUBLE);
            self.figures(value.to_bits(), number::FIGURES);
            return at;
        };
        let at = self.byte(DECIMAL);
        self.figures(number::biased(exponent), number::EXPONENT_FIGURES);
        self.integer(mantissa);
        at
    }

    /// The first byte of a value with as few figures as `most` needs; how many.
    fn form(&mut self, first: u8, widths: &[usize], most: u64) -> usize {
        let fits = |width: usize| width >= number::FIGURES || most < 1 << (7 * width);
        let index = widths.iter().position(|width| fits(*width)).unwrap_or(widths.len() - 1);
        self.byte(first + index as u8);
        widths[index]
    }

    fn figures(&mut self, number: u64, width: usize) {
        (0..width).for_each(|index| self.0.push(char::from((number >> (7 * index)) as u8 & 0x7f)));
    }

    /// One byte below 128.
    fn byte(&mut self, byte: u8) -> usize {
        self.0.push(char::from(byte));
        self.0.len() - 1
    }
}
