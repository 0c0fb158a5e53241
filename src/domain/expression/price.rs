//! Bounds the steps of every evaluation of an expression, before anyone's claims are known.

use super::bounds::{
    MAX_ADDRESS, MAX_CLAIM_BYTES, MAX_CLAIM_VALUES, MAX_ELEMENTS, MAX_PATTERN_STEPS, MAX_STEPS,
    MAX_TEXT, MAX_USER_AGENT,
};
use super::functions::{MAX_NUMBER_TEXT, STEPS_PER_BUCKET};
use super::kinds::Kinds;
use super::linear::Linear;
use super::meter::{
    STEPS_PER_LOOKUP, STEPS_PER_PAIR, STEPS_PER_PART, STEPS_PER_TEXT, steps_to_read,
};
use super::pattern::{Pattern, STEPS_PER_BYTE};
use super::tree::{Function, Literal, Macro, Node, Operator, Variable, Walk, What};
use super::value::Value;
use crate::domain::MAX_ID_BYTES;

/// What an evaluation can take at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Price {
    /// Steps beside what follows, as if all regular expressions were the smallest.
    pub steps: u64,
    /// Steps that the size of the regular expressions adds.
    pub patterns: u64,
}

impl Price {
    /// All of it, where neither part is beyond its bound. Errors: a sentence.
    pub fn within_bounds(self) -> Result<u64, String> {
        let Self { steps, patterns } = self;
        if steps > MAX_STEPS {
            let most = MAX_STEPS;
            return Err(format!(
                "evaluating this could take {steps} steps; at most {most} are allowed"
            ));
        }
        if patterns > MAX_PATTERN_STEPS {
            let most = MAX_PATTERN_STEPS;
            return Err(format!(
                "the size of its regular expressions adds {patterns} steps; at most {most} are allowed"
            ));
        }
        Ok(steps + patterns)
    }
}

/// The most that an evaluation can take, whatever a token of the largest size says.
pub(super) fn price(root: &Node) -> Price {
    let estimate = |counted| Pricer { around: None, counted }.estimate(root).steps.fixed;
    let (steps, all) = (estimate(Patterns::AsTheSmallest), estimate(Patterns::BySize));
    Price { steps, patterns: all.saturating_sub(steps) }
}

/// How regular expressions are counted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Patterns {
    AsTheSmallest,
    BySize,
}

/// The largest that a value can be: itself and everything in it counted as values, all its text
/// counted as bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Size {
    values: Linear,
    bytes: Linear,
}

/// Bounds for a part of an expression. `steps.per` is by the weight of the macro's element,
/// `size`'s by its own size.
#[derive(Clone, Copy, Debug, Default)]
struct Estimate {
    steps: Linear,
    size: Size,
    /// Most elements, where it is a list or a map that can be walked.
    elements: u64,
    /// Most steps to find one key in it, or in a map within it: more than none only where the
    /// expression makes the map.
    lookup: u64,
}

/// The macro around a part.
#[derive(Clone, Copy)]
struct Around {
    elements: u64,
    weight: u64,
}

struct Pricer {
    around: Option<Around>,
    counted: Patterns,
}

const VALUE_BYTES: u64 = size_of::<Value<'_>>() as u64;

impl Pricer {
    fn estimate(&mut self, node: &Node) -> Estimate {
        match &node.what {
            What::Literal(literal) => Estimate::given(1, literal_bytes(literal), 0),
            What::Variable(variable) => variable_estimate(*variable),
            What::Element(_) => Estimate {
                steps: Linear::fixed(STEPS_PER_PART),
                size: Size { values: Linear::per(1), bytes: Linear::per(1) },
                elements: MAX_ELEMENTS as u64,
                lookup: 0,
            },
            What::Select(operand, _) => {
                let operand = self.estimate(operand);
                let steps = operand.steps.add(STEPS_PER_PART + STEPS_PER_LOOKUP + operand.lookup);
                Estimate { steps, elements: MAX_ELEMENTS as u64, ..operand }
            }
            What::Index(pair) => {
                let (container, index) = (self.estimate(&pair[0]), self.estimate(&pair[1]));
                let found = STEPS_PER_PART + STEPS_PER_LOOKUP + container.lookup;
                let steps = container.steps.plus(index.steps).add(found);
                Estimate { steps, elements: MAX_ELEMENTS as u64, ..container }
            }
            What::Has(operand) | What::Not(operand) | What::Negate(operand) => {
                Estimate::scalar(self.estimate(operand).steps.add(STEPS_PER_PART))
            }
            What::And(parts) | What::Or(parts) => {
                Estimate::scalar(self.all(parts).steps.add(STEPS_PER_PART))
            }
            What::Choice(three) => {
                let (chosen, other) = (self.estimate(&three[1]), self.estimate(&three[2]));
                let steps = self.estimate(&three[0]).steps.plus(chosen.steps).plus(other.steps);
                let steps = steps.add(STEPS_PER_PART);
                Estimate { steps, ..chosen.or(other) }
            }
            What::Binary(operator, pair) => self.binary(*operator, node, pair),
            What::Call(function, operands) => self.call(*function, operands),
            What::Matches(text, pattern) => self.matches(text, pattern),
            What::List(parts) => {
                let all = self.all(parts);
                let elements = parts.len() as u64;
                let steps = all.steps.add(STEPS_PER_PART + elements * VALUE_BYTES);
                Estimate { steps, elements, ..all }
            }
            What::Map(entries) => self.map(entries),
            What::Walk(walk) => self.walk(walk),
        }
    }

    /// The sum of all parts, in one more value.
    fn all<'n>(&mut self, parts: impl IntoIterator<Item = &'n Node>) -> Estimate {
        let mut sum = Estimate::given(1, 0, 0);
        sum.steps = Linear::default();
        for part in parts {
            let part = self.estimate(part);
            sum.steps = sum.steps.plus(part.steps);
            sum.size = sum.size.plus(part.size);
            sum.lookup = sum.lookup.max(part.lookup);
        }
        sum
    }

    fn matches(&mut self, text: &Node, pattern: &Pattern) -> Estimate {
        let text = self.estimate(text);
        let each = match self.counted {
            Patterns::AsTheSmallest => pattern.steps_per_byte().min(STEPS_PER_BYTE),
            Patterns::BySize => pattern.steps_per_byte(),
        };
        let read = text.size.bytes.times(each).by_weight();
        let most = Linear::fixed(each.saturating_mul(MAX_TEXT as u64));
        Estimate::scalar(text.steps.add(STEPS_PER_PART).plus(self.lesser(read, most)))
    }

    fn map(&mut self, entries: &[(Literal, Node)]) -> Estimate {
        let all = self.all(entries.iter().map(|(_, value)| value));
        let elements = entries.len() as u64;
        let keys: u64 = entries.iter().map(|(key, _)| literal_bytes(key)).sum();
        // A key that is looked up in claims takes as long as two pairs that are compared.
        let named = Size { values: Linear::fixed(2 * elements), bytes: Linear::fixed(keys) };
        let lookup = all.lookup.max(elements * STEPS_PER_PAIR + steps_to_read(keys));
        let steps = all.steps.add(STEPS_PER_PART + 2 * elements * VALUE_BYTES);
        Estimate { steps, size: all.size.plus(named), elements, lookup }
    }

    fn binary(&mut self, operator: Operator, node: &Node, pair: &[Node; 2]) -> Estimate {
        let (left, right) = (self.estimate(&pair[0]), self.estimate(&pair[1]));
        let steps = left.steps.plus(right.steps).add(STEPS_PER_PART);
        let lookup = left.lookup.max(right.lookup);
        // Comparing two maps looks each key of one up in the other.
        let compared = |size: Size| size.compared().plus(size.weight().times(lookup));
        match operator {
            Operator::Equal | Operator::Unequal => {
                let lesser = self.lesser(compared(left.size), compared(right.size));
                Estimate::scalar(steps.plus(lesser))
            }
            Operator::In => {
                let elements = MAX_ELEMENTS as u64;
                let each = compared(left.size).times(elements);
                let searched = self.lesser(each, compared(right.size));
                Estimate::scalar(steps.plus(searched).add(STEPS_PER_LOOKUP + lookup))
            }
            Operator::Add => {
                let text = if node.kinds.meets(Kinds::TEXT) { MAX_TEXT as u64 } else { 0 };
                let list = if node.kinds.meets(Kinds::LIST) {
                    MAX_ELEMENTS as u64 * VALUE_BYTES
                } else {
                    0
                };
                let size = left.size.plus(right.size);
                let written = self.lesser(size.bytes.by_weight(), Linear::fixed(text)).add(list);
                let size = Size { bytes: self.lesser_size(size.bytes, node.kinds), ..size };
                let elements = MAX_ELEMENTS as u64;
                Estimate { steps: steps.plus(written), size, elements, lookup }
            }
            operator if operator.compares() => {
                let lesser = self.lesser(left.size.compared(), right.size.compared());
                Estimate::scalar(steps.plus(lesser))
            }
            _ => Estimate::scalar(steps),
        }
    }

    /// What `+` makes is at most `MAX_TEXT` long where it is a text.
    fn lesser_size(&self, bytes: Linear, kinds: Kinds) -> Linear {
        if kinds.meets(Kinds::LIST) { bytes } else { Linear::fixed(MAX_TEXT as u64).min(bytes) }
    }

    fn call(&mut self, function: Function, operands: &[Node]) -> Estimate {
        let all = self.all(operands);
        let read = all.size.bytes.read();
        let steps = all.steps.add(STEPS_PER_PART);
        match function {
            Function::Bucket => {
                Estimate::scalar(steps.plus(all.size.bytes.by_weight()).add(STEPS_PER_BUCKET))
            }
            Function::Text => {
                let mut made = Estimate::scalar(steps.add(STEPS_PER_TEXT + MAX_NUMBER_TEXT));
                made.size.bytes = all.size.bytes.add(MAX_NUMBER_TEXT);
                made
            }
            _ => Estimate::scalar(steps.plus(read)),
        }
    }

    fn walk(&mut self, walk: &Walk) -> Estimate {
        let range = self.estimate(&walk.range);
        let elements = range.elements.min(MAX_ELEMENTS as u64);
        let size = range.size;
        // Macros do not nest, so the range of one is outside of all: nothing in it depends on an
        // element.
        let weight = size.weight().fixed;
        self.around = Some(Around { elements, weight });
        let body = self.estimate(&walk.body);
        self.around = None;
        let walked = body.steps.add(2 * STEPS_PER_PART).total(elements, weight);
        let kept = match walk.name {
            Macro::Map | Macro::Filter => elements * VALUE_BYTES,
            Macro::All | Macro::Exists | Macro::ExistsOne => 0,
        };
        let steps = range.steps.add(STEPS_PER_PART).add(walked).add(kept);
        match walk.name {
            Macro::Filter => Estimate { steps, elements, ..range },
            Macro::Map => Estimate {
                steps,
                size: Size {
                    values: Linear::fixed(body.size.values.total(elements, size.values.fixed) + 1),
                    bytes: Linear::fixed(body.size.bytes.total(elements, size.bytes.fixed)),
                },
                elements,
                lookup: body.lookup,
            },
            Macro::All | Macro::Exists | Macro::ExistsOne => Estimate::scalar(steps),
        }
    }

    /// The bound that is lower over all elements of the macro around.
    fn lesser(&self, one: Linear, other: Linear) -> Linear {
        let Around { elements, weight } = self.around.unwrap_or(Around { elements: 1, weight: 0 });
        if one.total(elements, weight) <= other.total(elements, weight) { one } else { other }
    }
}

fn literal_bytes(literal: &Literal) -> u64 {
    if let Literal::Text(text) = literal { text.len() as u64 } else { 0 }
}

fn variable_estimate(variable: Variable) -> Estimate {
    let (bytes, values, elements) =
        (MAX_CLAIM_BYTES as u64, MAX_CLAIM_VALUES as u64, MAX_ELEMENTS as u64);
    match variable {
        Variable::User => Estimate::given(1, MAX_ID_BYTES as u64, 0),
        Variable::Groups => Estimate::given(elements + 1, bytes, elements),
        Variable::Roles | Variable::Claims => Estimate::given(values, bytes, elements),
        Variable::Address => Estimate::given(1, MAX_ADDRESS as u64, 0),
        Variable::UserAgent => Estimate::given(1, MAX_USER_AGENT as u64, 0),
    }
}

impl Estimate {
    fn given(values: u64, bytes: u64, elements: u64) -> Self {
        let size = Size { values: Linear::fixed(values), bytes: Linear::fixed(bytes) };
        Self { steps: Linear::fixed(STEPS_PER_PART), size, elements, lookup: 0 }
    }

    /// True, false or a number.
    fn scalar(steps: Linear) -> Self {
        Self { steps, ..Self::given(1, 0, 0) }
    }

    fn or(self, other: Self) -> Self {
        Self {
            steps: self.steps.max(other.steps),
            size: Size {
                values: self.size.values.max(other.size.values),
                bytes: self.size.bytes.max(other.size.bytes),
            },
            elements: self.elements.max(other.elements),
            lookup: self.lookup.max(other.lookup),
        }
    }
}

impl Size {
    fn plus(self, other: Self) -> Self {
        Self { values: self.values.plus(other.values), bytes: self.bytes.plus(other.bytes) }
    }

    /// All values, and sixteen bytes of text as one more.
    fn weight(self) -> Linear {
        let (values, read) = (self.values, self.bytes.read());
        Linear { fixed: values.fixed.saturating_add(read.fixed), per: values.per.max(read.per) }
    }

    /// Most steps to compare all of it once.
    fn compared(self) -> Linear {
        let (values, read) = (self.values.times(STEPS_PER_PAIR), self.bytes.read());
        Linear { fixed: values.fixed.saturating_add(read.fixed), per: values.per.max(read.per) }
    }
}
