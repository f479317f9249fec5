//! The names that parameters take, as types, so that the aliases of the stub exist at run time as well. Each is a union of literals of one
//! name, and not one literal of all names, because mypy's stubtest asks for a union.

use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::{entities, pool, quantize, tokenize, wire};

/// Puts the aliases into the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let aliases: [(&str, &[&str]); 7] = [
        ("AggregationStrategy", &entities::STRATEGIES),
        ("PoolingMode", &pool::MODES),
        ("Encoding", &quantize::ENCODINGS),
        ("WireEncoding", &wire::ENCODINGS),
        ("OffsetUnit", &tokenize::OFFSET_UNITS),
        ("PairTruncation", &tokenize::PAIR_TRUNCATIONS),
        ("TruncationSide", &tokenize::TRUNCATION_SIDES),
    ];
    let typing = module.py().import("typing")?;
    let literal = typing.getattr("Literal")?;
    for (alias, names) in aliases {
        let literals: Vec<_> = names.iter().map(|name| literal.get_item(name)).collect::<PyResult<_>>()?;
        module.add(alias, typing.getattr("Union")?.get_item(PyTuple::new(module.py(), literals)?)?)?;
    }
    Ok(())
}
