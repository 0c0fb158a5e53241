//! From the parser's tree to the checked one: names, kinds, and what of CEL is known here.

use super::bounds::MAX_DEPTH;
use super::error::ExpressionError;
use super::kinds::Kinds;
use super::pattern::TableRoom;
use super::tree::{Literal, Node, Operator, Variable, What};
use super::write::quoted;
use cel::common::ast::{
    CallExpr, EntryExpr, Expr, IdedEntryExpr, LiteralValue, SelectExpr, SourceInfo, operators,
};
use cel::parser::Expression as Parsed;

/// Where an expression stands, which decides what it may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// A rule about who hears a channel.
    Hear,
    /// A rule about who publishes to it. It knows no `connection`: publishing has none.
    Publish,
    /// A message's filter.
    Filter,
}

pub(super) type Checked<T = Node> = Result<T, ExpressionError>;

/// Checks a whole expression. Errors: the first mistake found.
pub(super) fn check(text: &str, scope: Scope, parsed: &Parsed, positions: &SourceInfo) -> Checked {
    let tables = TableRoom::default();
    let root = Checker { text, scope, positions, element: None, depth: 0, tables }.node(parsed)?;
    require(&root, Kinds::BOOL, "an expression")?;
    Ok(root)
}

/// Refuses a part that can never be what its place takes.
pub(super) fn require(node: &Node, wanted: Kinds, place: &str) -> Checked<()> {
    if node.kinds.meets(wanted) {
        return Ok(());
    }
    refuse(node.at, format!("{} is {}, but {place} must be {wanted}", quoted(node), node.kinds))
}

pub(super) fn refuse<T>(position: usize, reason: impl Into<String>) -> Checked<T> {
    Err(ExpressionError { position, reason: reason.into() })
}

pub(super) struct Checker<'t> {
    pub text: &'t str,
    scope: Scope,
    positions: &'t SourceInfo,
    /// The name of the macro's element, and what it can be.
    pub element: Option<(String, Kinds)>,
    depth: usize,
    /// For its regular expressions.
    pub tables: TableRoom,
}

impl Checker<'_> {
    /// Where the parser saw a part: a literal's or name's first byte, or the operator, bracket or
    /// dot.
    pub fn position(&self, id: u64) -> usize {
        self.positions.offset_for(id).map_or(0, |(start, _)| start as usize).min(self.text.len())
    }

    /// Where a part begins.
    pub fn start(&self, parsed: &Parsed) -> usize {
        let at = self.position(parsed.id);
        let first = match &parsed.expr {
            Expr::Select(select) => Some(select.operand.as_ref()),
            Expr::Call(call) => call.target.as_deref().or(call.args.first()),
            _ => None,
        };
        first.map_or(at, |first| at.min(self.start(first)))
    }

    pub fn node(&mut self, parsed: &Parsed) -> Checked {
        let at = self.position(parsed.id);
        if self.depth == MAX_DEPTH {
            return refuse(at, format!("the expression is more than {MAX_DEPTH} parts deep"));
        }
        self.depth += 1;
        let node = self.part(parsed, at)?;
        self.depth -= 1;
        Ok(node)
    }

    pub fn nodes(&mut self, parsed: &[Parsed]) -> Checked<Vec<Node>> {
        parsed.iter().map(|part| self.node(part)).collect()
    }

    fn part(&mut self, parsed: &Parsed, at: usize) -> Checked {
        match &parsed.expr {
            Expr::Literal(value) => {
                let (literal, kinds) = literal(value, at)?;
                Ok(Node { what: What::Literal(literal), at, kinds })
            }
            Expr::Ident(name) => self.name(name, at),
            Expr::Select(select) => self.select(select, at),
            Expr::Call(call) => self.operation(call, parsed.id, at),
            Expr::List(list) => {
                let parts = self.nodes(&list.elements)?;
                let elements =
                    parts.iter().map(|part| part.kinds).reduce(Kinds::or).unwrap_or(Kinds::NONE);
                Ok(Node { what: What::List(parts), at, kinds: Kinds::list_of(elements) })
            }
            Expr::Map(map) => self.map(&map.entries, at),
            Expr::Struct(made) => {
                refuse(at, format!("{} is not known: no types can be made here", made.type_name))
            }
            Expr::Comprehension(_) | Expr::Unspecified => refuse(at, "this is not an expression"),
        }
    }

    fn name(&self, name: &str, at: usize) -> Checked {
        if let Some((element, kinds)) = &self.element
            && element == name
        {
            return Ok(Node { what: What::Element(name.into()), at, kinds: *kinds });
        }
        let (variable, kinds) = match name {
            "user" => (Variable::User, Kinds::TEXT),
            "groups" => (Variable::Groups, Kinds::list_of(Kinds::TEXT)),
            "roles" => (Variable::Roles, Kinds::list_of(Kinds::TEXT)),
            "claims" => (Variable::Claims, Kinds::MAP),
            "connection" if self.scope == Scope::Publish => return refuse(at, NO_CONNECTION),
            "connection" => {
                return refuse(at, "connection stands only before .address and .userAgent");
            }
            "now" | "time" | "request" => {
                return refuse(
                    at,
                    format!(
                        "{name} is not known: an expression is evaluated once a connection, not as time goes"
                    ),
                );
            }
            _ => return refuse(at, format!("{name} is not known; {}", self.known_names())),
        };
        Ok(Node { what: What::Variable(variable), at, kinds })
    }

    fn known_names(&self) -> &'static str {
        match self.scope {
            Scope::Publish => "known are user, groups, roles and claims",
            Scope::Hear | Scope::Filter => "known are user, groups, roles, claims and connection",
        }
    }

    fn select(&mut self, select: &SelectExpr, at: usize) -> Checked {
        if matches!(&select.operand.expr, Expr::Ident(name) if name == "connection") {
            let at = self.position(select.operand.id);
            let variable = match select.field.as_str() {
                _ if self.scope == Scope::Publish => return refuse(at, NO_CONNECTION),
                "address" => Variable::Address,
                "userAgent" => Variable::UserAgent,
                other => {
                    return refuse(
                        at,
                        format!("connection has address and userAgent, not {other}"),
                    );
                }
            };
            return Ok(Node { what: What::Variable(variable), at, kinds: Kinds::TEXT });
        }
        let operand = self.node(&select.operand)?;
        require(&operand, Kinds::MAP, "what has fields")
            .map_err(|error| ExpressionError { position: at, ..error })?;
        let (at, kinds) = (operand.at, operand.kinds.element());
        Ok(Node { what: What::Select(Box::new(operand), select.field.clone()), at, kinds })
    }

    fn map(&mut self, parsed: &[IdedEntryExpr], at: usize) -> Checked {
        let mut entries: Vec<(Literal, Node)> = Vec::with_capacity(parsed.len());
        for entry in parsed {
            let EntryExpr::MapEntry(entry) = &entry.expr else {
                return refuse(at, "a map has keys and values");
            };
            let position = self.position(entry.key.id);
            let key = match &entry.key.expr {
                Expr::Literal(value) => literal(value, position)?,
                _ => return refuse(position, "a key of a map must be a literal"),
            };
            if !key.1.meets(Kinds::KEY) {
                return refuse(
                    position,
                    "a key of a map must be a text, an integer, or true or false",
                );
            }
            if entries.iter().any(|(known, _)| known.same_key(&key.0)) {
                return refuse(position, "this key stands twice in the map");
            }
            entries.push((key.0, self.node(&entry.value)?));
        }
        let values =
            entries.iter().map(|(_, value)| value.kinds).reduce(Kinds::or).unwrap_or(Kinds::NONE);
        Ok(Node { what: What::Map(entries), at, kinds: Kinds::map_of(values) })
    }

    fn operation(&mut self, call: &CallExpr, id: u64, at: usize) -> Checked {
        let name = call.func_name.as_str();
        match (name, call.args.as_slice()) {
            (operators::LOGICAL_AND | operators::LOGICAL_OR, _) => self.chain(call),
            (operators::LOGICAL_NOT, [operand]) => {
                let operand = self.node(operand)?;
                require(&operand, Kinds::BOOL, "what stands behind !")?;
                Ok(Node { what: What::Not(Box::new(operand)), at, kinds: Kinds::BOOL })
            }
            (operators::NEGATE, [operand]) => {
                let operand = self.node(operand)?;
                require(&operand, Kinds::INT.or(Kinds::DOUBLE), "what stands behind -")?;
                let kinds = operand.kinds.and(Kinds::INT.or(Kinds::DOUBLE));
                Ok(Node { what: What::Negate(Box::new(operand)), at, kinds })
            }
            (operators::CONDITIONAL, [condition, chosen, other]) => {
                let three = [self.node(condition)?, self.node(chosen)?, self.node(other)?];
                require(&three[0], Kinds::BOOL, "what stands before ?")?;
                let (at, kinds) = (three[0].at, three[1].kinds.or(three[2].kinds));
                Ok(Node { what: What::Choice(Box::new(three)), at, kinds })
            }
            (operators::INDEX, [container, index]) => {
                let pair = [self.node(container)?, self.node(index)?];
                require(&pair[0], Kinds::CONTAINER, "what stands before [")?;
                require(&pair[1], Kinds::INDEX, "what stands in [ ]")?;
                let (at, kinds) = (pair[0].at, pair[0].kinds.element());
                Ok(Node { what: What::Index(Box::new(pair)), at, kinds })
            }
            (_, [left, right]) if call.target.is_none() => match operator(name) {
                Some(operator) => {
                    let pair = [self.node(left)?, self.node(right)?];
                    let kinds = result(operator, &pair, at)?;
                    let at = pair[0].at;
                    Ok(Node { what: What::Binary(operator, Box::new(pair)), at, kinds })
                }
                None => self.call(call, id),
            },
            _ => self.call(call, id),
        }
    }

    /// The parser makes a balanced tree of a chain; here it is one node again.
    fn chain(&mut self, call: &CallExpr) -> Checked {
        let mut parts = Vec::new();
        self.links(call, &mut parts)?;
        parts.shrink_to_fit();
        let and = call.func_name == operators::LOGICAL_AND;
        for part in &parts {
            require(part, Kinds::BOOL, if and { "each side of &&" } else { "each side of ||" })?;
        }
        let at = parts.first().map_or(0, |part| part.at);
        Ok(Node {
            what: if and { What::And(parts) } else { What::Or(parts) },
            at,
            kinds: Kinds::BOOL,
        })
    }

    fn links(&mut self, call: &CallExpr, parts: &mut Vec<Node>) -> Checked<()> {
        for argument in &call.args {
            match &argument.expr {
                Expr::Call(inner) if inner.func_name == call.func_name => {
                    self.links(inner, parts)?
                }
                _ => parts.push(self.node(argument)?),
            }
        }
        Ok(())
    }
}

const NO_CONNECTION: &str = "connection is not known in publishRules: publishing has none";

fn literal(value: &LiteralValue, at: usize) -> Checked<(Literal, Kinds)> {
    Ok(match value {
        LiteralValue::Null => (Literal::Null, Kinds::NULL),
        LiteralValue::Boolean(value) => (Literal::Bool(*value.inner()), Kinds::BOOL),
        LiteralValue::Int(value) => (Literal::Int(*value.inner()), Kinds::INT),
        LiteralValue::UInt(value) => (Literal::Uint(*value.inner()), Kinds::UINT),
        LiteralValue::Double(value) => (Literal::Double(*value.inner()), Kinds::DOUBLE),
        LiteralValue::String(text) => (Literal::Text(text.inner().into()), Kinds::TEXT),
        LiteralValue::Bytes(_) => {
            return refuse(at, "bytes are not known here; write a text without the b");
        }
    })
}

fn operator(name: &str) -> Option<Operator> {
    Operator::named(match name {
        operators::IN => "in",
        _ => name.strip_prefix('_')?.strip_suffix('_')?,
    })
}

/// What an operator makes of two parts. Errors: it can make nothing of them, or always the same.
fn result(operator: Operator, pair: &[Node; 2], at: usize) -> Checked<Kinds> {
    let (left, right) = (&pair[0], &pair[1]);
    let sign = operator.text();
    let unlike = || {
        let (one, other) = (quoted(left), quoted(right));
        refuse(
            at,
            format!(
                "{one} is {} and {other} is {}: {sign} takes two alike",
                left.kinds, right.kinds
            ),
        )
    };
    match operator {
        Operator::Equal | Operator::Unequal if !left.kinds.comparable(right.kinds) => unlike(),
        Operator::In => {
            require(right, Kinds::CONTAINER, "what stands behind in")?;
            if !left.kinds.comparable(right.kinds.walked()) {
                return refuse(at, format!("{} is never in {}", quoted(left), quoted(right)));
            }
            Ok(Kinds::BOOL)
        }
        Operator::Equal | Operator::Unequal => Ok(Kinds::BOOL),
        Operator::Less | Operator::AtMost | Operator::Greater | Operator::AtLeast => {
            for side in [left, right] {
                require(side, Kinds::ORDERED, &format!("each side of {sign}"))?;
            }
            if left.kinds.comparable(right.kinds) { Ok(Kinds::BOOL) } else { unlike() }
        }
        Operator::Add
        | Operator::Subtract
        | Operator::Multiply
        | Operator::Divide
        | Operator::Remainder => {
            let wanted = match operator {
                Operator::Add => Kinds::ADDABLE,
                Operator::Remainder => Kinds::INT.or(Kinds::UINT),
                _ => Kinds::NUMBER,
            };
            for side in [left, right] {
                require(side, wanted, &format!("each side of {sign}"))?;
            }
            let both = left.kinds.and(right.kinds).and(wanted);
            if both.meets(Kinds::ANY) {
                Ok(both.with_elements_of(left.kinds.or(right.kinds)))
            } else {
                unlike()
            }
        }
    }
}
