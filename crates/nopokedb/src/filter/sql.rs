//! The same filter as SQL over the text of the metadata: the oracle of the property test.
//!
//! Neither keys nor values become SQL text; both are bound. Leaves are walked with `json_each`, because a path may lead
//! through arrays.

use super::ast::{Node, Order, Scalar, TestKind};
use crate::meta::Bound;

/// A condition on the column `metadata`, and the values for its `?`.
pub(super) fn condition(node: &Node) -> (String, Vec<Bound>) {
    let mut bounds = Vec::new();
    let sql = node_sql(node, &mut bounds);
    (sql, bounds)
}

fn node_sql(node: &Node, bounds: &mut Vec<Bound>) -> String {
    let mut joined = |nodes: &[Node], with: &str, none: &str| {
        let parts: Vec<_> = nodes.iter().map(|node| node_sql(node, bounds)).collect();
        if parts.is_empty() { none.to_owned() } else { format!("({})", parts.join(with)) }
    };
    match node {
        Node::All(nodes) => joined(nodes, " AND ", "1"),
        Node::Any(nodes) => joined(nodes, " OR ", "0"),
        Node::Not(node) => format!("NOT {}", node_sql(node, bounds)),
        Node::Test(test) => {
            let mut leaves = "(SELECT metadata AS v, 'object' AS t)".to_owned();
            for key in &test.path {
                bounds.push(Bound::Text(key.clone()));
                leaves = format!(
                    "(SELECT m.value AS v, m.type AS t FROM \
                     (SELECT v FROM {leaves} WHERE t = 'object' UNION ALL \
                      SELECT e.value FROM {leaves} l, json_each(l.v) e WHERE l.t = 'array' AND e.type = 'object') o, \
                     json_each(o.v) m WHERE m.key = ?{})",
                    bounds.len()
                );
            }
            format!("EXISTS (SELECT 1 FROM {leaves} leaf WHERE {})", leaf_sql(&test.kind, bounds))
        }
    }
}

fn leaf_sql(kind: &TestKind, bounds: &mut Vec<Bound>) -> String {
    let contains = |operand: &Scalar, bounds: &mut Vec<Bound>| {
        let equal = equal_sql(operand, "e.value", "e.type", bounds);
        let within = match operand {
            Scalar::String(_) => format!("leaf.t = 'text' AND instr(leaf.v, {}) > 0", bind(operand, bounds)),
            _ => "0".into(),
        };
        format!("((leaf.t = 'array' AND EXISTS (SELECT 1 FROM json_each(leaf.v) e WHERE {equal})) OR ({within}))")
    };
    match kind {
        TestKind::Exists => "1".into(),
        TestKind::NotNull => "leaf.t <> 'null'".into(),
        TestKind::ContainsAny(list) => join(list.iter().map(|operand| contains(operand, bounds)), " OR ", "0"),
        TestKind::ContainsAll(list) => {
            // With nothing to contain, anything at all will do: the leaf is there.
            join(list.iter().map(|operand| contains(operand, bounds)), " AND ", "1")
        }
        _ => {
            let alone = scalar_sql(kind, "leaf.v", "leaf.t", bounds);
            let element = scalar_sql(kind, "e.value", "e.type", bounds);
            format!(
                "CASE leaf.t WHEN 'array' THEN EXISTS (SELECT 1 FROM json_each(leaf.v) e WHERE {element}) ELSE {alone} END"
            )
        }
    }
}

fn join(parts: impl Iterator<Item = String>, with: &str, none: &str) -> String {
    let parts: Vec<_> = parts.collect();
    if parts.is_empty() { none.to_owned() } else { format!("({})", parts.join(with)) }
}

fn bind(operand: &Scalar, bounds: &mut Vec<Bound>) -> String {
    bounds.push(match operand {
        Scalar::Null => Bound::Null,
        Scalar::Bool(b) => Bound::Integer(i64::from(*b)),
        Scalar::Integer(i) => Bound::Integer(i64::try_from(*i).unwrap()),
        Scalar::Float(f) => Bound::Real(*f),
        Scalar::String(s) => Bound::Text(s.clone()),
    });
    format!("?{}", bounds.len())
}

fn equal_sql(operand: &Scalar, v: &str, t: &str, bounds: &mut Vec<Bound>) -> String {
    match operand {
        Scalar::Null => format!("{t} = 'null'"),
        Scalar::Bool(b) => format!("{t} = '{b}'"),
        _ => format!("({} AND {v} = {})", of_kind(operand, t), bind(operand, bounds)),
    }
}

fn of_kind(operand: &Scalar, t: &str) -> String {
    match operand {
        Scalar::String(_) => format!("{t} = 'text'"),
        _ => format!("{t} IN ('integer', 'real')"),
    }
}

fn scalar_sql(kind: &TestKind, v: &str, t: &str, bounds: &mut Vec<Bound>) -> String {
    match kind {
        TestKind::Equal(operand) => equal_sql(operand, v, t, bounds),
        TestKind::Ordered(order, operand) => {
            let sign = match order {
                Order::Greater => ">",
                Order::GreaterOrEqual => ">=",
                Order::Less => "<",
                Order::LessOrEqual => "<=",
            };
            format!("({} AND {v} {sign} {})", of_kind(operand, t), bind(operand, bounds))
        }
        TestKind::Between(low, high) => {
            let (low, high) = ((of_kind(low, t), bind(low, bounds)), bind(high, bounds));
            format!("({} AND {v} BETWEEN {} AND {high})", low.0, low.1)
        }
        TestKind::In(list) => join(list.iter().map(|operand| equal_sql(operand, v, t, bounds)), " OR ", "0"),
        TestKind::StartsWith(prefix) => {
            let bound = bind(&Scalar::String(prefix.clone()), bounds);
            format!("({t} = 'text' AND substr({v}, 1, length({bound})) = {bound})")
        }
        TestKind::Like(like) => {
            let bound = bind(&Scalar::String(like.text().to_owned()), bounds);
            format!("({t} = 'text' AND {v} LIKE {bound} ESCAPE '\\')")
        }
        TestKind::Exists | TestKind::NotNull | TestKind::ContainsAny(_) | TestKind::ContainsAll(_) => unreachable!(),
    }
}
