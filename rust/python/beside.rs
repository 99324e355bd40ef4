//! What rules with a memory want to know beside a prediction, as arrays.

use super::arrays::{ids, numbers, tokens, whole_numbers};
use super::error::bad_value;
use crate::error::readable;
use crate::logits::head::Head;
use crate::sampler::Beside;
use numpy::{PyArray1, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use std::borrow::Cow;

/// What only rules with a memory need of a `Prediction`. What the core has told becomes arrays once somebody looks; from then on
/// the arrays say it.
#[derive(Default)]
pub(super) struct Known {
    core: Vec<Beside>,
    arrays: PyOnceLock<BesideArrays>,
}

impl Known {
    /// What the core tells of each position; nothing where no rule asked.
    pub fn from_core(core: Vec<Beside>) -> Self {
        Self {
            core,
            arrays: PyOnceLock::new(),
        }
    }

    /// What the caller gives, checked for `count` positions.
    pub fn new(
        py: Python<'_>,
        count: usize,
        given: [Option<&Bound<'_, PyAny>>; 5],
    ) -> PyResult<Self> {
        let made = Self::default();
        let given = BesideArrays::new(py, count, given)?;
        made.arrays.get_or_init(py, || given);
        Ok(made)
    }

    /// The arrays.
    pub fn arrays(&self, py: Python<'_>) -> &BesideArrays {
        let make = || BesideArrays::from_core(py, &self.core);
        self.arrays.get_or_init(py, make)
    }

    /// For the core, of `count` positions; none where nothing was told.
    pub fn told(&self, py: Python<'_>, count: usize) -> PyResult<Option<Cow<'_, [Beside]>>> {
        match self.arrays.get(py) {
            Some(arrays) => Ok(arrays.told(py, count)?.map(Cow::Owned)),
            None if self.core.is_empty() => Ok(None),
            None if self.core.len() != count => Err(lengths("head_counts", count)),
            None => Ok(Some(Cow::Borrowed(&self.core))),
        }
    }

    /// The same for another prediction of the same positions.
    pub fn clone_ref(&self, py: Python<'_>) -> Self {
        let made = Self::from_core(self.core.clone());
        if let Some(arrays) = self.arrays.get(py) {
            made.arrays.get_or_init(py, || arrays.clone_ref(py));
        }
        made
    }
}

/// As arrays; those that nobody asked for are absent.
#[derive(Default)]
pub(super) struct BesideArrays {
    /// Ids of all heads, one behind the other.
    pub head_ids: Option<Py<PyArray1<i64>>>,
    pub head_probabilities: Option<Py<PyArray1<f64>>>,
    /// Ids of each position's head.
    pub head_counts: Option<Py<PyArray1<i64>>>,
    pub leader: Option<Py<PyArray1<i64>>>,
    /// NaN where nobody asked.
    pub leader_probability: Option<Py<PyArray1<f64>>>,
}

impl BesideArrays {
    /// The arrays of what the core tells of each position.
    fn from_core(py: Python<'_>, told: &[Beside]) -> Self {
        let mut made = Self::default();
        if told.iter().any(|one| !one.head.cells.is_empty()) {
            let cells: Vec<(u32, f64)> = told
                .iter()
                .flat_map(|o| o.head.cells.iter().copied())
                .collect();
            let counts = told.iter().map(|one| one.head.cells.len() as u32);
            made.head_ids = Some(tokens(py, cells.iter().map(|c| c.0)).unbind());
            let probabilities = PyArray1::from_iter(py, cells.iter().map(|c| c.1));
            made.head_probabilities = Some(probabilities.unbind());
            made.head_counts = Some(tokens(py, counts).unbind());
        }
        if told.iter().any(|one| one.leader.is_some()) {
            let leaders = told.iter().map(|one| one.leader.unwrap_or((0, f64::NAN)));
            made.leader = Some(tokens(py, leaders.clone().map(|l| l.0)).unbind());
            let probabilities = PyArray1::from_iter(py, leaders.map(|l| l.1));
            made.leader_probability = Some(probabilities.unbind());
        }
        made
    }

    /// What the caller gives, checked for `count` positions.
    fn new(py: Python<'_>, count: usize, given: [Option<&Bound<'_, PyAny>>; 5]) -> PyResult<Self> {
        let [
            head_ids,
            head_probabilities,
            head_counts,
            leader,
            leader_probability,
        ] = given;
        let whole = |object: Option<&Bound<'_, PyAny>>, name| {
            let read = |o| ids(o, name).map(|of| tokens(py, of.into_iter()).unbind());
            object.map(read).transpose()
        };
        let number = |object: Option<&Bound<'_, PyAny>>, name| {
            let read = |o| numbers(o, name).map(|of| PyArray1::from_vec(py, of).unbind());
            object.map(read).transpose()
        };
        let made = Self {
            head_ids: whole(head_ids, "head_ids")?,
            head_probabilities: number(head_probabilities, "head_probabilities")?,
            head_counts: whole(head_counts, "head_counts")?,
            leader: whole(leader, "leader")?,
            leader_probability: number(leader_probability, "leader_probability")?,
        };
        made.told(py, count)?;
        Ok(made)
    }

    /// The same for the core; none where nothing was told.
    fn told(&self, py: Python<'_>, count: usize) -> PyResult<Option<Vec<Beside>>> {
        let heads = [&self.head_counts, &self.head_ids, &self.leader];
        let numbers = [&self.head_probabilities, &self.leader_probability];
        if heads.iter().all(|a| a.is_none()) && numbers.iter().all(|a| a.is_none()) {
            return Ok(None);
        }
        let mut told = vec![Beside::default(); count];
        let heads = (&self.head_ids, &self.head_probabilities, &self.head_counts);
        match heads {
            (None, None, None) => {}
            (Some(ids), Some(probabilities), Some(counts)) => {
                let ids = super::arrays::ids(ids.bind(py).as_any(), "head_ids")?;
                let probabilities = probabilities.bind(py).readonly();
                let counts = whole_numbers(counts.bind(py).as_any(), "head_counts")?;
                fill_heads(&mut told, &ids, probabilities.as_slice()?, &counts)?;
            }
            _ => return Err(apart("head_ids, head_probabilities and head_counts")),
        }
        match (&self.leader, &self.leader_probability) {
            (None, None) => {}
            (Some(leaders), Some(probabilities)) => {
                let leaders = ids(leaders.bind(py).as_any(), "leader")?;
                let probabilities = probabilities.bind(py).readonly();
                let probabilities = probabilities.as_slice()?;
                if [leaders.len(), probabilities.len()] != [count, count] {
                    return Err(lengths("leader and leader_probability", count));
                }
                let both = leaders.into_iter().zip(probabilities.iter().copied());
                for (one, leader) in told.iter_mut().zip(both) {
                    one.leader = (!leader.1.is_nan()).then_some(leader);
                }
            }
            _ => return Err(apart("leader and leader_probability")),
        }
        Ok(Some(told))
    }

    /// Another reference to the same arrays.
    fn clone_ref(&self, py: Python<'_>) -> Self {
        Self {
            head_ids: self.head_ids.as_ref().map(|a| a.clone_ref(py)),
            head_probabilities: self.head_probabilities.as_ref().map(|a| a.clone_ref(py)),
            head_counts: self.head_counts.as_ref().map(|a| a.clone_ref(py)),
            leader: self.leader.as_ref().map(|a| a.clone_ref(py)),
            leader_probability: self.leader_probability.as_ref().map(|a| a.clone_ref(py)),
        }
    }
}

fn fill_heads(
    told: &mut [Beside],
    ids: &[u32],
    probabilities: &[f64],
    counts: &[usize],
) -> PyResult<()> {
    let total = counts.iter().try_fold(0usize, |sum, &n| sum.checked_add(n));
    if counts.len() != told.len() || total != Some(ids.len()) || probabilities.len() != ids.len() {
        return Err(lengths("head_counts", told.len()));
    }
    let mut first = 0;
    for (one, &n) in told.iter_mut().zip(counts) {
        let cells = ids[first..first + n].iter().copied();
        let cells = cells.zip(probabilities[first..first + n].iter().copied());
        let head = Head {
            cells: cells.collect(),
        };
        if !head.cells.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(bad_value(
                "the ids of each head must rise, got some that do not; sort them, with their probabilities".into(),
            ));
        }
        if let Some(bad) = head.cells.iter().find(|c| !(0.0..=1.0).contains(&c.1)) {
            return Err(bad_value(format!(
                "head_probabilities must lie in [0, 1], got {}; give those of a softmax",
                readable(bad.1)
            )));
        }
        one.head = head;
        first += n;
    }
    Ok(())
}

fn apart(names: &str) -> PyErr {
    bad_value(format!(
        "{names} belong together, got some of them; give all, or none"
    ))
}

fn lengths(names: &str, count: usize) -> PyErr {
    bad_value(format!(
        "{names} must have an entry for each of {count} tokens, and heads as many ids and probabilities as they count, got others; \
         check their lengths"
    ))
}
