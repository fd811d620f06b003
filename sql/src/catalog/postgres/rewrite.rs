//! `rewrite`: Postgres's spelling made into what DataFusion plans. It changes the syntax tree, never the text, so that
//! positions in errors stay true.
//!
//! What is about catalogs only (scalar subqueries that Postgres knows to give one row, queries over tables that are
//! always empty) is left alone wherever a relation of the user takes part.

mod empty;
mod scalar;

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CastKind, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentClause,
    FunctionArgumentList, FunctionArguments, Ident, ObjectName, ObjectNamePart, Query, Select, SelectItem, Statement,
    TableFactor, TableWithJoins, Value, ValueWithSpan, Visit, VisitMut, Visitor, VisitorMut, visit_expressions_mut,
};

use super::tables;

/// Makes of Postgres's spelling what DataFusion plans: schema-qualified functions, `OPERATOR(…)`, `COLLATE`, casts to
/// `regclass` and its like, `ARRAY(SELECT …)`, bare names of system tables. Spans stay as they are.
pub fn rewrite(statement: &mut Statement) {
    // The visitor never breaks off.
    let _ = VisitMut::visit(statement, &mut Rewriter);
}

struct Rewriter;

impl VisitorMut for Rewriter {
    type Break = ();

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        empty::never_computed(select);
        scalar::join_subqueries(select);
        for item in &mut select.projection {
            name_of_cast(item);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, name: &mut ObjectName) -> ControlFlow<()> {
        if let [ObjectNamePart::Identifier(table)] = name.0.as_slice()
            && table.value.starts_with("pg_")
            && tables::find("pg_catalog", &table.value).is_some()
        {
            name.0.insert(0, ObjectNamePart::Identifier(Ident::with_span(table.span, "pg_catalog")));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        match factor {
            TableFactor::Table { name, args: Some(_), .. } | TableFactor::Function { name, .. } => unqualify(name),
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expr {
            Expr::Subquery(query) if empty::has_no_rows(query) => *expr = null(),
            Expr::Subquery(query) => scalar::one_row(query),
            Expr::Function(function) => {
                if let Some(array) = scalar::array_of_subquery(function).or_else(|| subscripts(function)) {
                    *expr = array;
                }
            }
            Expr::Cast { .. } => cast(expr),
            Expr::Like { pattern, escape_char, .. } | Expr::ILike { pattern, escape_char, .. } => {
                unescape(pattern, escape_char);
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expr {
            Expr::Function(function) => unqualify(&mut function.name),
            Expr::Collate { expr: inner, .. } => {
                let inner = std::mem::replace(inner.as_mut(), null());
                *expr = inner;
            }
            Expr::BinaryOp { op, .. } => {
                if let Some(known) = operator(op) {
                    *op = known;
                }
            }
            Expr::Identifier(name)
                if name.quote_style.is_none() && name.value.eq_ignore_ascii_case("current_schema") =>
            {
                *expr = call("current_schema", Vec::new());
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

fn null() -> Expr {
    Expr::Value(Value::Null.with_empty_span())
}

fn call(name: &str, args: Vec<Expr>) -> Expr {
    let args = args.into_iter().map(|arg| FunctionArg::Unnamed(FunctionArgExpr::Expr(arg))).collect();
    function_of(name, args, Vec::new())
}

fn function_of(name: &str, args: Vec<FunctionArg>, clauses: Vec<FunctionArgumentClause>) -> Expr {
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

/// `pg_catalog.f` and `information_schema._pg_f` are found without their schema.
fn unqualify(name: &mut ObjectName) {
    if let [schema, _] = name.0.as_slice()
        && part_is(schema, &["pg_catalog", "information_schema"])
    {
        name.0.remove(0);
    }
}

fn part_is(part: &ObjectNamePart, words: &[&str]) -> bool {
    matches!(part, ObjectNamePart::Identifier(ident) if words.iter().any(|word| ident.value.eq_ignore_ascii_case(word)))
}

fn operator(op: &BinaryOperator) -> Option<BinaryOperator> {
    let BinaryOperator::PGCustomBinaryOperator(parts) = op else { return None };
    Some(match parts.last()?.as_str() {
        "~" => BinaryOperator::PGRegexMatch,
        "~*" => BinaryOperator::PGRegexIMatch,
        "!~" => BinaryOperator::PGRegexNotMatch,
        "!~*" => BinaryOperator::PGRegexNotIMatch,
        "~~" => BinaryOperator::PGLikeMatch,
        "~~*" => BinaryOperator::PGILikeMatch,
        "!~~" => BinaryOperator::PGNotLikeMatch,
        "!~~*" => BinaryOperator::PGNotILikeMatch,
        "=" => BinaryOperator::Eq,
        "<>" | "!=" => BinaryOperator::NotEq,
        "<" => BinaryOperator::Lt,
        "<=" => BinaryOperator::LtEq,
        ">" => BinaryOperator::Gt,
        ">=" => BinaryOperator::GtEq,
        "+" => BinaryOperator::Plus,
        "-" => BinaryOperator::Minus,
        "*" => BinaryOperator::Multiply,
        "/" => BinaryOperator::Divide,
        "||" => BinaryOperator::StringConcat,
        _ => return None,
    })
}

/// A type by its last name, without `pg_catalog`.
fn type_name(data_type: &DataType) -> Option<String> {
    match data_type {
        DataType::Regclass => Some("regclass".to_owned()),
        DataType::Custom(name, _) => match name.0.as_slice() {
            [ObjectNamePart::Identifier(ident)] => Some(ident.value.to_lowercase()),
            [schema, ObjectNamePart::Identifier(ident)] if part_is(schema, &["pg_catalog"]) => {
                Some(ident.value.to_lowercase())
            }
            _ => None,
        },
        _ => None,
    }
}

/// Types that are an OID inside and a name outside.
fn alias_type(data_type: &DataType) -> Option<&'static str> {
    Some(match type_name(data_type)?.as_str() {
        "regclass" => "regclass",
        "regtype" => "regtype",
        "regnamespace" => "regnamespace",
        "regrole" => "regrole",
        "regproc" | "regprocedure" => "regproc",
        _ => return None,
    })
}

/// A type of `pg_catalog` by a name the parser knows.
fn known_type(data_type: &DataType) -> Option<DataType> {
    if let DataType::Array(element) = data_type {
        use datafusion::sql::sqlparser::ast::ArrayElemTypeDef as Element;
        return match element {
            Element::SquareBracket(inner, size) => {
                Some(DataType::Array(Element::SquareBracket(Box::new(known_type(inner)?), *size)))
            }
            _ => None,
        };
    }
    Some(match type_name(data_type)?.as_str() {
        "text" | "name" | "char" | "varchar" | "bpchar" | "cstring" | "pg_node_tree" | "xid" | "cid" | "tid"
        | "aclitem" => DataType::Text,
        "oid" => DataType::IntUnsigned(None),
        "bool" => DataType::Boolean,
        "int2" => DataType::SmallInt(None),
        "int4" => DataType::Int(None),
        "int8" => DataType::BigInt(None),
        "float4" => DataType::Real,
        "float8" => DataType::DoublePrecision,
        _ => return None,
    })
}

/// Casts to `regclass` and its like become calls: a name turns into its OID, which everything compares by; an OID into
/// its name, which is what shows. Casts to other types of `pg_catalog` get the name the parser knows.
fn cast(expr: &mut Expr) {
    let Expr::Cast { expr: inner, data_type, kind, .. } = expr else { return };
    if !matches!(kind, CastKind::Cast | CastKind::DoubleColon) {
        return;
    }
    // `x::regclass::text`, `x::regclass::oid`.
    if let Expr::Cast { expr: innermost, data_type: alias, .. } = inner.as_mut()
        && let Some(alias) = alias_type(alias)
    {
        let textual = matches!(data_type, DataType::Text | DataType::Varchar(_))
            || matches!(type_name(data_type).as_deref(), Some("text" | "name" | "varchar"));
        let innermost = std::mem::replace(innermost.as_mut(), null());
        *expr = call(&format!("pg_{alias}_{}", if textual { "out" } else { "in" }), vec![innermost]);
        return;
    }
    if let Some(bytes) = hex_bytes(inner, data_type) {
        *expr = bytes;
    } else if let Some(alias) = alias_type(data_type) {
        // A literal or a parameter is a name to be looked up; anything else is an OID to be shown.
        let named = matches!(inner.as_ref(), Expr::Value(value) if !matches!(value.value, Value::Number(..)));
        let inner = std::mem::replace(inner.as_mut(), null());
        *expr = call(&format!("pg_{alias}_{}", if named { "in" } else { "out" }), vec![inner]);
    } else if let Some(known) = known_type(data_type) {
        *data_type = known;
    }
}

/// `'\x00ff'::bytea` is two bytes, not the six of the text.
fn hex_bytes(inner: &Expr, data_type: &DataType) -> Option<Expr> {
    let (Expr::Value(value), DataType::Bytea) = (inner, data_type) else { return None };
    let Value::SingleQuotedString(text) = &value.value else { return None };
    let digits = text.strip_prefix("\\x").filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
    (digits.len() % 2 == 0).then(|| Expr::Value(Value::HexStringLiteral(digits.to_owned()).with_span(value.span)))
}

/// `SELECT 'orders'::regclass` shows the name, unlike the same cast in a comparison.
fn name_of_cast(item: &mut SelectItem) {
    let (SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) = item else { return };
    let Expr::Cast { expr: inner, data_type, .. } = expr else { return };
    if let Some(alias) = alias_type(data_type)
        && matches!(inner.as_ref(), Expr::Value(_))
    {
        let looked_up = call(&format!("pg_{alias}_in"), vec![std::mem::replace(inner.as_mut(), null())]);
        let shown = call(&format!("pg_{alias}_out"), vec![looked_up]);
        *item = match item {
            SelectItem::ExprWithAlias { alias, .. } => SelectItem::ExprWithAlias { expr: shown, alias: alias.clone() },
            _ => SelectItem::ExprWithAlias { expr: shown, alias: Ident::new(alias) },
        };
    }
}

/// Whether all it reads directly are system tables.
fn over_system_tables(select: &Select) -> bool {
    factors(&select.from).all(|factor| system_table(factor).is_some())
}

fn factors(from: &[TableWithJoins]) -> impl Iterator<Item = &TableFactor> {
    from.iter().flat_map(|table| std::iter::once(&table.relation).chain(table.joins.iter().map(|join| &join.relation)))
}

fn system_table(factor: &TableFactor) -> Option<&'static tables::SystemTable> {
    let TableFactor::Table { name, args: None, .. } = factor else { return None };
    let ident = |part: &ObjectNamePart| part.as_ident().map(|ident| ident.value.to_lowercase());
    match name.0.as_slice() {
        [table] => tables::find("pg_catalog", &ident(table)?),
        [schema, table] => tables::find(&ident(schema)?, &ident(table)?),
        _ => None,
    }
}

/// Functions that make one row of many.
const AGGREGATES: [&str; 12] = [
    "count",
    "sum",
    "min",
    "max",
    "avg",
    "array_agg",
    "string_agg",
    "bool_and",
    "bool_or",
    "first_value",
    "json_agg",
    "last_value",
];

/// Whether it makes one row of many itself; what its subqueries do is theirs.
fn is_aggregated(select: &Select) -> bool {
    struct Find {
        depth: usize,
    }
    impl Visitor for Find {
        type Break = ();

        fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
            self.depth += 1;
            ControlFlow::Continue(())
        }

        fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
            self.depth -= 1;
            ControlFlow::Continue(())
        }

        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            match expr {
                Expr::Function(function)
                    if self.depth == 0 && function.name.0.last().is_some_and(|part| part_is(part, &AGGREGATES)) =>
                {
                    ControlFlow::Break(())
                }
                _ => ControlFlow::Continue(()),
            }
        }
    }
    select.projection.iter().any(|item| match item {
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => {
            expr.visit(&mut Find { depth: 0 }).is_break()
        }
        _ => false,
    })
}

/// `LIKE 'a/_b' ESCAPE '/'` with the backslash, which is the one that DataFusion knows.
fn unescape(pattern: &mut Expr, escape: &mut Option<ValueWithSpan>) {
    let Some(Value::SingleQuotedString(mark)) = escape.as_ref().map(|escape| &escape.value) else { return };
    let Ok([mark]) = <[char; 1]>::try_from(mark.chars().collect::<Vec<_>>()) else { return };
    if mark == '\\' {
        return;
    }
    let _ = visit_expressions_mut(pattern, |expr| {
        if let Expr::Value(value) = expr
            && let Value::SingleQuotedString(text) = &mut value.value
        {
            let mut backslashed = String::with_capacity(text.len());
            let mut chars = text.chars();
            while let Some(char) = chars.next() {
                match char {
                    '\\' => backslashed.push_str("\\\\"),
                    char if char == mark => match chars.next() {
                        Some(next) if next == mark => backslashed.push(mark),
                        Some(next) => backslashed.extend(['\\', next]),
                        None => backslashed.push(mark),
                    },
                    char => backslashed.push(char),
                }
            }
            *text = backslashed;
        }
        ControlFlow::<()>::Continue(())
    });
    *escape = None;
}

/// `generate_subscripts(a, 1)` counts along a list beside `unnest(a)`.
fn subscripts(function: &Function) -> Option<Expr> {
    if !function.name.0.last().is_some_and(|part| part_is(part, &["generate_subscripts"])) {
        return None;
    }
    let FunctionArguments::List(list) = &function.args else { return None };
    let [FunctionArg::Unnamed(FunctionArgExpr::Expr(array)), ..] = list.args.as_slice() else { return None };
    let one = Expr::Value(Value::Number("1".to_owned(), false).with_empty_span());
    let length = call("array_length", vec![array.clone()]);
    Some(call("unnest", vec![call("generate_series", vec![one, length])]))
}
