//! Evaluates a checked expression, counting every step.

use super::bounds::MAX_ELEMENTS;
use super::facts::Facts;
use super::functions;
use super::meter::{Cause, Failure, Meter, STEPS_PER_PART};
use super::tree::{Literal, Macro, Node, Operator, Variable, Walk, What};
use super::value::{List, Map, Value};
use std::cmp::Ordering;

/// One evaluation of one expression, or of parts of it.
pub(super) struct Evaluator<'a> {
    facts: &'a Facts<'a>,
    pub meter: Meter,
    element: Option<Value<'a>>,
}

type Evaluated<'a> = Result<Value<'a>, Failure<'a>>;

impl<'a> Evaluator<'a> {
    pub fn new(facts: &'a Facts<'a>, meter: Meter) -> Self {
        Self { facts, meter, element: None }
    }

    /// The value of a part. Errors: what fails, and why.
    pub fn value(&mut self, node: &'a Node) -> Evaluated<'a> {
        self.meter.charge(STEPS_PER_PART).map_err(|cause| cause.at(node))?;
        match &node.what {
            What::Literal(literal) => Ok(literal.into()),
            What::Variable(variable) => self.variable(*variable).map_err(|cause| cause.at(node)),
            What::Element(_) => Ok(self.element.clone().unwrap_or(Value::Null)),
            What::Select(operand, field) => {
                let operand = self.value(operand)?;
                let found = self.field(&operand, field).map_err(|cause| cause.at(node))?;
                found.ok_or_else(|| Cause::NoSuchKey.at(node))
            }
            What::Has(operand) => self.has(operand),
            What::Index(pair) => {
                let (container, index) = (self.value(&pair[0])?, self.value(&pair[1])?);
                self.index(&container, &index).map_err(|cause| cause.at(node))
            }
            What::Not(operand) => Ok(Value::Bool(!self.truth(operand)?)),
            What::Negate(operand) => {
                let operand = self.value(operand)?;
                functions::negate(&operand).map_err(|cause| cause.at(node))
            }
            What::And(parts) => self.chain(parts, false),
            What::Or(parts) => self.chain(parts, true),
            What::Choice(three) => {
                let chosen = if self.truth(&three[0])? { &three[1] } else { &three[2] };
                self.value(chosen)
            }
            What::Binary(operator, pair) => {
                let (left, right) = (self.value(&pair[0])?, self.value(&pair[1])?);
                self.binary(*operator, &left, &right).map_err(|cause| cause.at(node))
            }
            What::Call(function, operands) => {
                let operands = operands
                    .iter()
                    .map(|operand| self.value(operand))
                    .collect::<Result<Vec<_>, _>>()?;
                functions::call(*function, &operands, &mut self.meter)
                    .map_err(|cause| cause.at(node))
            }
            What::Matches(text, pattern) => {
                let text = self.value(text)?;
                functions::matches(&text, pattern, &mut self.meter).map_err(|cause| cause.at(node))
            }
            What::List(parts) => {
                let elements =
                    parts.iter().map(|part| self.value(part)).collect::<Result<Vec<_>, _>>()?;
                functions::list(elements, &mut self.meter).map_err(|cause| cause.at(node))
            }
            What::Map(entries) => self.map(node, entries),
            What::Walk(walk) => self.walk(node, walk),
        }
    }

    /// The value of a part that must be true or false.
    pub fn truth(&mut self, node: &'a Node) -> Result<bool, Failure<'a>> {
        match self.value(node)? {
            Value::Bool(truth) => Ok(truth),
            other => Err(Cause::Kind(other.kind(), "true or false").at(node)),
        }
    }

    fn variable(&self, variable: Variable) -> Result<Value<'a>, Cause> {
        let principal = self.facts.principal;
        let connection = || self.facts.connection.as_ref().ok_or(Cause::NoConnection);
        Ok(match variable {
            Variable::User => Value::text(principal.user.as_str()),
            Variable::Groups => Value::List(List::Groups(&principal.groups)),
            Variable::Roles => Value::List(List::Roles(&principal.roles)),
            Variable::Claims => Value::Map(Map::Claims(principal.claims.root())),
            Variable::Address => Value::text(&connection()?.address),
            Variable::UserAgent => Value::text(&connection()?.user_agent),
        })
    }

    fn field(&mut self, operand: &Value<'a>, field: &'a str) -> Result<Option<Value<'a>>, Cause> {
        match operand {
            Value::Map(map) => map.get(&Value::text(field), &mut self.meter),
            other => Err(Cause::Kind(other.kind(), "a map, which alone has fields")),
        }
    }

    fn has(&mut self, operand: &'a Node) -> Evaluated<'a> {
        let What::Select(container, field) = &operand.what else {
            return self.value(operand).map(|_| Value::Bool(true));
        };
        let container = self.value(container)?;
        let found = self.field(&container, field).map_err(|cause| cause.at(operand))?;
        Ok(Value::Bool(found.is_some()))
    }

    fn index(&mut self, container: &Value<'a>, index: &Value<'a>) -> Result<Value<'a>, Cause> {
        match container {
            Value::Map(map) => map.get(index, &mut self.meter)?.ok_or(Cause::NoSuchKey),
            Value::List(list) => {
                index.position().and_then(|index| list.get(index)).ok_or(Cause::NoSuchPosition)
            }
            other => Err(Cause::Kind(other.kind(), "a list or a map")),
        }
    }

    /// `&&` and `||`: one part that decides is enough, whatever fails beside it, in any order.
    fn chain(&mut self, parts: &'a [Node], deciding: bool) -> Evaluated<'a> {
        let mut failure = None;
        for part in parts {
            match self.truth(part) {
                Ok(truth) if truth == deciding => return Ok(Value::Bool(deciding)),
                Ok(_) => {}
                Err(failed) => failure = failure.or(Some(failed)),
            }
        }
        failure.map_or(Ok(Value::Bool(!deciding)), Err)
    }

    fn binary(
        &mut self,
        operator: Operator,
        left: &Value<'a>,
        right: &Value<'a>,
    ) -> Result<Value<'a>, Cause> {
        let ordered = |meter: &mut Meter, wanted: fn(Ordering) -> bool| {
            left.order(right, meter).map(|order| Value::Bool(order.is_some_and(wanted)))
        };
        match operator {
            Operator::Equal => left.equals(right, &mut self.meter).map(Value::Bool),
            Operator::Unequal => {
                left.equals(right, &mut self.meter).map(|equal| Value::Bool(!equal))
            }
            Operator::Less => ordered(&mut self.meter, Ordering::is_lt),
            Operator::AtMost => ordered(&mut self.meter, Ordering::is_le),
            Operator::Greater => ordered(&mut self.meter, Ordering::is_gt),
            Operator::AtLeast => ordered(&mut self.meter, Ordering::is_ge),
            Operator::In => self.contained(left, right).map(Value::Bool),
            Operator::Add => functions::add(left, right, &mut self.meter),
            _ => functions::arithmetic(operator, left, right),
        }
    }

    fn contained(&mut self, element: &Value<'a>, container: &Value<'a>) -> Result<bool, Cause> {
        match container {
            Value::Map(map) => Ok(map.get(element, &mut self.meter)?.is_some()),
            Value::List(list) if list.len() > MAX_ELEMENTS => Err(Cause::ListTooLong(MAX_ELEMENTS)),
            Value::List(list) => {
                for index in 0..list.len() {
                    if list.get(index).unwrap_or(Value::Null).equals(element, &mut self.meter)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            other => Err(Cause::Kind(other.kind(), "a list or a map")),
        }
    }

    fn map(&mut self, node: &'a Node, entries: &'a [(Literal, Node)]) -> Evaluated<'a> {
        let mut made = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            made.push((Value::from(key), self.value(value)?));
        }
        self.meter.charge_writing(size_of_val(made.as_slice())).map_err(|cause| cause.at(node))?;
        Ok(Value::Map(Map::Made(made.into())))
    }

    fn walk(&mut self, node: &'a Node, walk: &'a Walk) -> Evaluated<'a> {
        let range = self.value(&walk.range)?;
        if range.len().is_some_and(|len| len > MAX_ELEMENTS) {
            return Err(Cause::ListTooLong(MAX_ELEMENTS).at(&walk.range));
        }
        let elements = range
            .walked()
            .ok_or_else(|| Cause::Kind(range.kind(), "a list or a map").at(&walk.range))?;
        let (mut kept, mut found, mut failure) = (Vec::new(), 0, None);
        for element in elements {
            self.meter.charge(STEPS_PER_PART).map_err(|cause| cause.at(node))?;
            self.element = Some(element.clone());
            match walk.name {
                Macro::Map => kept.push(self.value(&walk.body)?),
                Macro::Filter => kept.extend(self.truth(&walk.body)?.then_some(element)),
                Macro::ExistsOne => found += usize::from(self.truth(&walk.body)?),
                Macro::All | Macro::Exists => match self.truth(&walk.body) {
                    Ok(truth) if truth == (walk.name == Macro::Exists) => {
                        return Ok(Value::Bool(truth));
                    }
                    Ok(_) => {}
                    Err(failed) => failure = failure.or(Some(failed)),
                },
            }
        }
        match (walk.name, failure) {
            (_, Some(failure)) => Err(failure),
            (Macro::All | Macro::Exists, None) => Ok(Value::Bool(walk.name == Macro::All)),
            (Macro::ExistsOne, None) => Ok(Value::Bool(found == 1)),
            (Macro::Map | Macro::Filter, None) => {
                functions::list(kept, &mut self.meter).map_err(|cause| cause.at(node))
            }
        }
    }
}
