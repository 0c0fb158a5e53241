//! Bounds the steps of every evaluation of an expression, before anyone's claims are known.

use super::bounds::{
    MAX_ADDRESS, MAX_CLAIM_BYTES, MAX_CLAIM_VALUES, MAX_ELEMENTS, MAX_TEXT, MAX_USER_AGENT,
};
use super::functions::{MAX_NUMBER_TEXT, STEPS_PER_BUCKET, STEPS_PER_MATCHED_BYTE};
use super::kinds::Kinds;
use super::linear::Linear;
use super::meter::steps_to_read;
use super::tree::{Function, Literal, Macro, Node, Operator, Variable, Walk, What};
use super::value::Value;
use crate::domain::MAX_ID_BYTES;

/// The most steps that an evaluation can take, whatever a token of the largest size says.
pub(super) fn price(root: &Node) -> u64 {
    Pricer { around: None }.estimate(root).steps.fixed
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
}

const VALUE_BYTES: u64 = size_of::<Value<'_>>() as u64;

impl Pricer {
    fn estimate(&mut self, node: &Node) -> Estimate {
        match &node.what {
            What::Literal(literal) => Estimate::given(1, literal_bytes(literal), 0),
            What::Variable(variable) => variable_estimate(*variable),
            What::Element(_) => Estimate {
                steps: Linear::fixed(1),
                size: Size { values: Linear::per(1), bytes: Linear::per(1) },
                elements: MAX_ELEMENTS as u64,
                lookup: 0,
            },
            What::Select(operand, _) => {
                let operand = self.estimate(operand);
                let steps = operand.steps.add(1 + operand.lookup);
                Estimate { steps, elements: MAX_ELEMENTS as u64, ..operand }
            }
            What::Index(pair) => {
                let (container, index) = (self.estimate(&pair[0]), self.estimate(&pair[1]));
                let steps = container.steps.plus(index.steps).add(1 + container.lookup);
                Estimate { steps, elements: MAX_ELEMENTS as u64, ..container }
            }
            What::Has(operand) | What::Not(operand) | What::Negate(operand) => {
                Estimate::scalar(self.estimate(operand).steps.add(1))
            }
            What::And(parts) | What::Or(parts) => Estimate::scalar(self.all(parts).steps.add(1)),
            What::Choice(three) => {
                let (chosen, other) = (self.estimate(&three[1]), self.estimate(&three[2]));
                let steps =
                    self.estimate(&three[0]).steps.plus(chosen.steps).plus(other.steps).add(1);
                Estimate { steps, ..chosen.or(other) }
            }
            What::Binary(operator, pair) => self.binary(*operator, node, pair),
            What::Call(function, operands) => self.call(*function, operands),
            What::Matches(text, _) => {
                let text = self.estimate(text);
                let read = text.size.bytes.times(STEPS_PER_MATCHED_BYTE).by_weight();
                let most = Linear::fixed(STEPS_PER_MATCHED_BYTE * MAX_TEXT as u64);
                Estimate::scalar(text.steps.add(1).plus(self.lesser(read, most)))
            }
            What::List(parts) => {
                let all = self.all(parts);
                let elements = parts.len() as u64;
                Estimate { steps: all.steps.add(1 + elements * VALUE_BYTES), elements, ..all }
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

    fn map(&mut self, entries: &[(Literal, Node)]) -> Estimate {
        let all = self.all(entries.iter().map(|(_, value)| value));
        let elements = entries.len() as u64;
        let keys: u64 = entries.iter().map(|(key, _)| literal_bytes(key)).sum();
        let size =
            all.size.plus(Size { values: Linear::fixed(elements), bytes: Linear::fixed(keys) });
        let lookup = all.lookup.max(elements + steps_to_read(keys));
        Estimate { steps: all.steps.add(1 + 2 * elements * VALUE_BYTES), size, elements, lookup }
    }

    fn binary(&mut self, operator: Operator, node: &Node, pair: &[Node; 2]) -> Estimate {
        let (left, right) = (self.estimate(&pair[0]), self.estimate(&pair[1]));
        let steps = left.steps.plus(right.steps).add(1);
        let lookup = left.lookup.max(right.lookup);
        let lesser = self.lesser(left.size.weight(), right.size.weight());
        match operator {
            // Comparing two maps looks each key of one up in the other.
            Operator::Equal | Operator::Unequal => {
                Estimate::scalar(steps.plus(lesser.times(1 + lookup)))
            }
            Operator::In => {
                let each = left.size.weight().times(MAX_ELEMENTS as u64).add(MAX_ELEMENTS as u64);
                let searched = self.lesser(each, right.size.weight());
                Estimate::scalar(steps.plus(searched.times(1 + lookup)).add(lookup))
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
            operator if operator.compares() => Estimate::scalar(steps.plus(lesser)),
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
        let steps = all.steps.add(1);
        match function {
            Function::Bucket => {
                Estimate::scalar(steps.plus(all.size.bytes.by_weight()).add(STEPS_PER_BUCKET))
            }
            Function::Text => {
                let mut made = Estimate::scalar(steps.add(MAX_NUMBER_TEXT));
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
        let walked = body.steps.add(2).total(elements, weight);
        let kept = match walk.name {
            Macro::Map | Macro::Filter => elements * VALUE_BYTES,
            Macro::All | Macro::Exists | Macro::ExistsOne => 0,
        };
        let steps = range.steps.add(1).add(walked).add(kept);
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
        Self { steps: Linear::fixed(1), size, elements, lookup: 0 }
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

    /// Most steps to look at all of it once.
    fn weight(self) -> Linear {
        let (values, read) = (self.values, self.bytes.read());
        Linear { fixed: values.fixed.saturating_add(read.fixed), per: values.per.max(read.per) }
    }
}
