//! Checks what is written with brackets: functions, macros and regular expressions.

use super::check::{Checked, Checker, refuse, require};
use super::kinds::Kinds;
use super::pattern::Pattern;
use super::tree::{Function, Macro, Node, Variable, Walk, What};
use cel::common::ast::{CallExpr, Expr, LiteralValue};
use cel::parser::Expression as Parsed;

impl Checker<'_> {
    /// A function, a macro, `has` or `matches`.
    pub(super) fn call(&mut self, call: &CallExpr, id: u64) -> Checked {
        let at = self.name_position(call, id);
        let name = call.func_name.as_str();
        match (name, &call.target, call.args.as_slice()) {
            ("has", None, [argument]) => self.has(argument, at),
            ("matches", Some(target), [pattern]) => self.matches(target, pattern),
            (name, Some(target), [element, body]) if let Some(name) = Macro::named(name) => {
                let element = self.element_name(element)?;
                if self.element.is_some() {
                    return refuse(
                        at,
                        format!("{} stands within another macro; macros do not nest", name.text()),
                    );
                }
                self.walk(name, target, element, body)
            }
            (name, ..) if Function::named(name).is_some() => self.function(call, at),
            ("has", ..) => refuse(at, "has takes one field, as in has(claims.plan)"),
            ("matches", ..) => refuse(at, "matches is written text.matches(\"pattern\")"),
            (name, ..) if Macro::named(name).is_some() => {
                refuse(at, format!("{name} is written list.{name}(element, condition)"))
            }
            _ => refuse(at, unknown(name)),
        }
    }

    /// Where a function's name begins; the parser only tells where its bracket opens.
    fn name_position(&self, call: &CallExpr, id: u64) -> usize {
        let bracket = self.position(id);
        match self.text.get(..bracket).map(str::trim_end) {
            Some(before) if before.ends_with(&call.func_name) => {
                before.len() - call.func_name.len()
            }
            _ => bracket,
        }
    }

    fn has(&mut self, argument: &Parsed, at: usize) -> Checked {
        let operand = self.node(argument)?;
        let is_field = matches!(
            operand.what,
            What::Select(..) | What::Variable(Variable::Address | Variable::UserAgent)
        );
        if !is_field {
            let reason =
                "has takes a field, as in has(claims.plan); for other keys write \"key\" in claims";
            return refuse(operand.at, reason);
        }
        Ok(Node { what: What::Has(Box::new(operand)), at, kinds: Kinds::BOOL })
    }

    fn matches(&mut self, target: &Parsed, pattern: &Parsed) -> Checked {
        let target = self.node(target)?;
        require(&target, Kinds::TEXT, "what matches looks at")?;
        let position = self.position(pattern.id);
        let Expr::Literal(LiteralValue::String(pattern)) = &pattern.expr else {
            return refuse(self.start(pattern), "a regular expression must be a literal text");
        };
        let pattern = Pattern::new(pattern.inner(), &mut self.tables);
        let pattern = pattern.or_else(|error| refuse(position, error.to_string()))?;
        let at = target.at;
        let what = What::Matches(Box::new(target), Box::new(pattern));
        Ok(Node { what, at, kinds: Kinds::BOOL })
    }

    fn element_name(&self, parsed: &Parsed) -> Checked<String> {
        let position = self.position(parsed.id);
        match &parsed.expr {
            Expr::Ident(name)
                if ["user", "groups", "roles", "claims", "connection"].contains(&name.as_str()) =>
            {
                refuse(
                    position,
                    format!("{name} has a meaning already; choose another name for the element"),
                )
            }
            Expr::Ident(name) if !name.starts_with('.') => Ok(name.clone()),
            _ => refuse(position, "the first argument of a macro is a name for the element"),
        }
    }

    fn walk(&mut self, name: Macro, target: &Parsed, element: String, body: &Parsed) -> Checked {
        let range = self.node(target)?;
        require(&range, Kinds::CONTAINER, &format!("what {} walks over", name.text()))?;
        self.element = Some((element.clone(), range.kinds.walked()));
        let body = self.node(body);
        self.element = None;
        let body = body?;
        if name != Macro::Map {
            require(&body, Kinds::BOOL, &format!("the condition of {}", name.text()))?;
        }
        let kinds = match name {
            Macro::Map => Kinds::list_of(body.kinds),
            Macro::Filter => Kinds::list_of(range.kinds.walked()),
            Macro::All | Macro::Exists | Macro::ExistsOne => Kinds::BOOL,
        };
        let at = range.at;
        Ok(Node { what: What::Walk(Box::new(Walk { name, range, element, body })), at, kinds })
    }

    fn function(&mut self, call: &CallExpr, at: usize) -> Checked {
        let Some(function) = Function::named(&call.func_name) else {
            return refuse(at, unknown(&call.func_name));
        };
        let (name, count) = (function.text(), call.args.len());
        let written = match (function.is_method(), &call.target) {
            (true, Some(_)) => count == 1,
            (true, None) => false,
            (false, Some(_)) => function == Function::Size && count == 0,
            (false, None) => count == 1,
        };
        if !written {
            let form = if function.is_method() {
                format!("text.{name}(text)")
            } else {
                format!("{name}(value)")
            };
            return refuse(at, format!("{name} is written {form}"));
        }
        let mut operands = Vec::with_capacity(2);
        for operand in call.target.as_deref().into_iter().chain(&call.args) {
            operands.push(self.node(operand)?);
        }
        let (takes, kinds) = signature(function);
        for operand in &operands {
            if function == Function::Contains && operand.kinds == operand.kinds.and(Kinds::LIST) {
                return refuse(at, "contains is for texts; of a list write element in list");
            }
            require(operand, takes, &format!("what {name} takes"))?;
        }
        let at = if call.target.is_some() { operands[0].at } else { at };
        Ok(Node { what: What::Call(function, operands), at, kinds })
    }
}

/// What a function takes, for each operand, and what it makes.
fn signature(function: Function) -> (Kinds, Kinds) {
    match function {
        Function::Size => (Kinds::SIZED, Kinds::INT),
        Function::Contains | Function::StartsWith | Function::EndsWith => {
            (Kinds::TEXT, Kinds::BOOL)
        }
        Function::Int => (Kinds::NUMBER.or(Kinds::TEXT), Kinds::INT),
        Function::Uint => (Kinds::NUMBER.or(Kinds::TEXT), Kinds::UINT),
        Function::Double => (Kinds::NUMBER.or(Kinds::TEXT), Kinds::DOUBLE),
        Function::Text => (Kinds::SCALAR, Kinds::TEXT),
        Function::Bucket => (Kinds::TEXT, Kinds::INT),
    }
}

fn unknown(name: &str) -> String {
    match name {
        "timestamp" | "duration" | "now" => {
            format!(
                "{name} is not known: an expression is evaluated once a connection, not as time goes"
            )
        }
        _ => format!(
            "the function {name} is not known; known are has, size, contains, startsWith, endsWith, matches, exists, \
             exists_one, all, filter, map, int, uint, double, string and bucket"
        ),
    }
}
