//! What an expression says once it is checked: the tree that is evaluated, priced and explained.

use super::kinds::Kinds;
use super::pattern::Pattern;

/// A part of an expression.
#[derive(Debug)]
pub(super) struct Node {
    /// What it is.
    pub what: What,
    /// Where it begins, in bytes from the start of the text.
    pub at: usize,
    /// What its value can be.
    pub kinds: Kinds,
}

/// What a part is; operands are in the order of the text.
#[derive(Debug)]
pub(super) enum What {
    Literal(Literal),
    Variable(Variable),
    /// The variable of the macro around it. Macros do not nest, so there is one at most.
    Element(String),
    Select(Box<Node>, String),
    /// `has(…)` over a `Select` or a part of `connection`.
    Has(Box<Node>),
    Index(Box<[Node; 2]>),
    Not(Box<Node>),
    Negate(Box<Node>),
    /// A chain of `&&`, however it was bracketed.
    And(Vec<Node>),
    /// A chain of `||`.
    Or(Vec<Node>),
    Choice(Box<[Node; 3]>),
    Binary(Operator, Box<[Node; 2]>),
    /// The receiver, where there is one, is the first operand.
    Call(Function, Vec<Node>),
    Matches(Box<Node>, Box<Pattern>),
    List(Vec<Node>),
    Map(Vec<(Literal, Node)>),
    Walk(Box<Walk>),
}

/// A macro over the elements of a list or the keys of a map.
#[derive(Debug)]
pub(super) struct Walk {
    pub name: Macro,
    pub range: Node,
    pub element: String,
    pub body: Node,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(Box<str>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variable {
    User,
    Groups,
    Roles,
    Claims,
    Address,
    UserAgent,
}

/// Makes an enum whose variants have a name in the text of an expression.
macro_rules! named {
    ($name:ident { $($variant:ident = $text:literal),+ $(,)? }) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum $name { $($variant),+ }

        impl $name {
            pub fn text(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            pub fn named(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

named! { Macro { All = "all", Exists = "exists", ExistsOne = "exists_one", Filter = "filter", Map = "map" } }

named! {
    Operator {
        Equal = "==", Unequal = "!=", Less = "<", AtMost = "<=", Greater = ">", AtLeast = ">=", In = "in",
        Add = "+", Subtract = "-", Multiply = "*", Divide = "/", Remainder = "%",
    }
}

named! {
    Function {
        Size = "size", Contains = "contains", StartsWith = "startsWith", EndsWith = "endsWith",
        Int = "int", Uint = "uint", Double = "double", Text = "string", Bucket = "bucket",
    }
}

impl Literal {
    /// Whether both are one key of a map: numbers by their value.
    pub fn same_key(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Int(one), Self::Uint(other)) | (Self::Uint(other), Self::Int(one)) => {
                u64::try_from(*one).is_ok_and(|one| one == *other)
            }
            _ => self == other,
        }
    }
}

impl Operator {
    /// `==`, `<`, `in` and so on: what says yes or no of two values.
    pub fn compares(self) -> bool {
        !matches!(
            self,
            Self::Add | Self::Subtract | Self::Multiply | Self::Divide | Self::Remainder
        )
    }

    /// How tightly it binds: the higher, the tighter.
    pub fn binding(self) -> u8 {
        match self {
            Self::Multiply | Self::Divide | Self::Remainder => 5,
            Self::Add | Self::Subtract => 4,
            _ => 3,
        }
    }
}

impl Function {
    /// Whether it is written behind its first operand: `user.startsWith("a")`.
    pub fn is_method(self) -> bool {
        matches!(self, Self::Contains | Self::StartsWith | Self::EndsWith)
    }
}

impl Variable {
    pub fn text(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Groups => "groups",
            Self::Roles => "roles",
            Self::Claims => "claims",
            Self::Address => "connection.address",
            Self::UserAgent => "connection.userAgent",
        }
    }
}

impl Node {
    /// The parts that it is made of, in the order of the text.
    pub fn operands(&self) -> Vec<&Node> {
        match &self.what {
            What::Literal(_) | What::Variable(_) | What::Element(_) => Vec::new(),
            What::Select(operand, _) | What::Has(operand) | What::Not(operand) => vec![operand],
            What::Negate(operand) | What::Matches(operand, _) => vec![operand],
            What::Index(pair) | What::Binary(_, pair) => pair.iter().collect(),
            What::Choice(three) => three.iter().collect(),
            What::And(parts) | What::Or(parts) | What::List(parts) | What::Call(_, parts) => {
                parts.iter().collect()
            }
            What::Map(entries) => entries.iter().map(|(_, value)| value).collect(),
            What::Walk(walk) => vec![&walk.range, &walk.body],
        }
    }
}
