//! What rows start from, of what a caller tells of them.

use super::arrays::{flag_lists, flags, ids, one_or_each};
use super::values::whole;
use crate::rng::Stream;
use crate::sampler::{Start, Wishes};
use numpy::PyReadonlyArray1;
use pyo3::prelude::*;

/// An argument that may be left out.
type Maybe<'a, 'py> = Option<&'a Bound<'py, PyAny>>;

/// What a caller tells of rows beside their canvases.
pub(super) struct Told<'a, 'py> {
    pub seed: Maybe<'a, 'py>,
    pub request: Maybe<'a, 'py>,
    pub block_start: Maybe<'a, 'py>,
    pub open: Maybe<'a, 'py>,
    pub order: Maybe<'a, 'py>,
    pub eligible_after: Maybe<'a, 'py>,
}

impl Told<'_, '_> {
    /// Where each is one for all rows, or one for each.
    pub fn of_rows(&self, py: Python<'_>, canvases: Vec<Vec<u32>>) -> PyResult<Vec<Start>> {
        let n = canvases.len();
        let each = |object: Maybe<'_, '_>, name, what| {
            object.map_or_else(|| Ok(vec![0; n]), |o| one_or_each::<u64>(o, n, name, what))
        };
        let seeds = each(self.seed, "seed", "a whole number from 0 below 2^64")?;
        let requests = self.request.map_or_else(
            || Ok(vec![0; n]),
            |o| one_or_each::<u32>(o, n, "request", "a whole number from 0 below 2^32"),
        )?;
        let origins = each(self.block_start, "block_start", "a position from 0")?;
        let open = flag_lists(self.open, n, "open")?;
        let wishes = wishes(py, self.order, self.eligible_after, n)?;
        let rows = canvases.into_iter().zip(open.into_iter().zip(wishes));
        let start = |(i, (canvas, (open, wishes)))| Start {
            canvas,
            open,
            stream: Stream {
                seed: seeds[i],
                request: requests[i],
            },
            origin: origins[i] as usize,
            wishes,
        };
        Ok(rows.enumerate().map(start).collect())
    }

    /// Where each is that of the one row.
    pub fn of_row(&self, py: Python<'_>, canvas: &Bound<'_, PyAny>) -> PyResult<Start> {
        let number = |object: Maybe<'_, '_>, name, most| {
            let remedy = "leave it out for 0";
            object.map_or(Ok(0), |value| whole(value, name, (0, most), remedy))
        };
        Ok(Start {
            canvas: ids(canvas, "a canvas")?,
            open: self.open.map(|open| flags(open, "open")).transpose()?,
            stream: Stream {
                seed: number(self.seed, "seed", u64::MAX)?,
                request: number(self.request, "request", u64::from(u32::MAX))? as u32,
            },
            origin: number(self.block_start, "block_start", u64::MAX)? as usize,
            wishes: wishes(py, self.order, self.eligible_after, 1)?.remove(0),
        })
    }
}

/// What callers want of the order of the positions of `n` rows; `dllm_fast.orders` reads it, and explains refusals.
fn wishes(
    py: Python<'_>,
    order: Option<&Bound<'_, PyAny>>,
    eligible_after: Option<&Bound<'_, PyAny>>,
    n: usize,
) -> PyResult<Vec<Wishes>> {
    let mut wishes = vec![Wishes::default(); n];
    if order.is_none() && eligible_after.is_none() {
        return Ok(wishes);
    }
    let orders = py.import("dllm_fast.orders")?;
    if let Some(order) = order {
        let rows: Vec<PyReadonlyArray1<'_, f64>> =
            orders.call_method1("ranks_of", (order, n))?.extract()?;
        for (wish, ranks) in wishes.iter_mut().zip(rows) {
            wish.ranks = Some(ranks.as_slice()?.to_vec());
        }
    }
    if let Some(after) = eligible_after {
        let rows: Vec<Vec<(u32, Vec<u32>)>> =
            orders.call_method1("waits_of", (after, n))?.extract()?;
        for (wish, pairs) in wishes.iter_mut().zip(rows) {
            wish.after = pairs;
        }
    }
    Ok(wishes)
}
