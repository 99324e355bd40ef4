//! How frequent each token is, as Python has it.

use super::arrays::{ids, whole_numbers};
use super::config::{get, setting};
use super::error::{bad_type, bad_value, raise, shown};
use super::signals::heard;
use super::values::{NUMBER, convert, whole};
use crate::rules::calibration::{Calibration, Frequencies};
use numpy::PyArray1;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyMapping};

/// More than any vocabulary has.
const MOST_IDS: u64 = 1 << 20;
const REMEDY: &str = "give the number of token ids that the model's logits have";

/// How often each token of a vocabulary occurs in some corpus, for the order `calibrated` (PC-Sampler): its setting
/// `token_frequencies`.
#[pyclass(frozen, module = "dllm_fast")]
pub(super) struct TokenFrequencies(Frequencies);

#[pymethods]
impl TokenFrequencies {
    #[new]
    #[pyo3(signature = (counts, vocabulary=None))]
    fn new(counts: &Bound<'_, PyAny>, vocabulary: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        let size = vocabulary.map(|size| whole(size, "vocabulary", (1, MOST_IDS), REMEDY));
        let size = size.transpose()?.map(|size| size as usize);
        let counts = match (counts.cast::<PyMapping>(), size) {
            (Ok(counts), Some(size)) => of_mapping(counts, size)?,
            (Ok(_), None) => {
                return Err(bad_value(format!(
                    "counts by id leave open how many ids there are, got no vocabulary; {REMEDY}"
                )));
            }
            (Err(_), _) => whole_numbers(counts, "counts")?
                .into_iter()
                .map(|n| n as u64)
                .collect(),
        };
        if counts.len() as u64 > MOST_IDS {
            return Err(bad_value(format!(
                "counts must be those of at most 2^20 ids, got {}; {REMEDY}",
                counts.len()
            )));
        }
        if let Some(size) = size.filter(|&size| size != counts.len()) {
            return Err(bad_value(format!(
                "counts must have one for each id of the vocabulary, got {} for {size}; leave vocabulary out, or check it",
                counts.len()
            )));
        }
        Frequencies::new(counts).map(Self).map_err(raise)
    }

    /// Those of the token ids of a corpus.
    #[staticmethod]
    #[pyo3(signature = (tokens, vocabulary))]
    fn of(tokens: &Bound<'_, PyAny>, vocabulary: &Bound<'_, PyAny>) -> PyResult<Self> {
        let size = whole(vocabulary, "vocabulary", (1, MOST_IDS), REMEDY)? as usize;
        let mut counts = vec![0; size];
        for id in ids(tokens, "tokens")? {
            *cell(&mut counts, id)? += 1;
        }
        Frequencies::new(counts).map(Self).map_err(raise)
    }

    /// The table that `to_dict` wrote.
    #[staticmethod]
    fn from_dict(values: &Bound<'_, PyAny>) -> PyResult<Self> {
        let records = values.py().import("dllm_fast.records")?;
        let counts = records.call_method1("counts", (values,))?;
        Self::new(&counts, None)
    }

    /// For each id, how often it occurs, int64 `[V]`.
    #[getter]
    fn counts<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        PyArray1::from_iter(py, self.0.counts().iter().map(|&n| n as i64))
    }

    /// All tokens of the corpus.
    #[getter]
    fn tokens(&self) -> u64 {
        self.0.tokens()
    }

    /// The counts as a list, which `json.dumps` takes.
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let values = PyDict::new(py);
        values.set_item("counts", self.0.counts())?;
        Ok(values)
    }

    fn __len__(&self) -> usize {
        self.0.counts().len()
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        let other = other.cast::<Self>();
        other.is_ok_and(|other| self.0 == other.get().0)
    }

    fn __hash__(&self) -> u64 {
        self.0.digest()
    }

    fn __getnewargs__<'py>(&self, py: Python<'py>) -> (Bound<'py, PyArray1<i64>>,) {
        (self.counts(py),)
    }

    fn __repr__(&self) -> String {
        let (ids, tokens) = (self.0.counts().len(), self.0.tokens());
        format!("TokenFrequencies of {ids} ids in {tokens} tokens")
    }
}

/// Counts by id.
fn of_mapping(counts: &Bound<'_, PyMapping>, size: usize) -> PyResult<Vec<u64>> {
    let mut made = vec![0; size];
    for (i, item) in counts.items()?.iter().enumerate() {
        heard(counts.py(), i)?;
        let (id, count): (Bound<'_, PyAny>, Bound<'_, PyAny>) = item.extract()?;
        let id: u32 = convert(&id, "an id that is counted", "a whole number from 0")?;
        *cell(&mut made, id)? = convert(&count, "a count", "a whole number from 0")?;
    }
    Ok(made)
}

/// Where an id is counted.
fn cell(counts: &mut [u64], id: u32) -> PyResult<&mut u64> {
    let size = counts.len();
    counts.get_mut(id as usize).ok_or_else(|| {
        bad_value(format!(
            "ids that are counted must lie in the vocabulary, got {id} for {size} ids; check the tokenizer"
        ))
    })
}

/// The settings of the order `calibrated`.
pub(super) fn calibration(config: &Bound<'_, PyAny>) -> PyResult<Calibration> {
    let table = setting(config, "token_frequencies")?;
    let frequencies = match table.cast::<TokenFrequencies>() {
        Ok(table) => Some(table.get().0.clone()),
        Err(_) if table.is_none() => None,
        Err(_) => {
            return Err(bad_type(format!(
                "token_frequencies must be a TokenFrequencies, got {}; count tokens with dllm_fast.TokenFrequencies.of(ids, vocabulary)",
                shown(&table)
            )));
        }
    };
    let plain = Calibration::default();
    Ok(Calibration {
        frequencies,
        decay: get(config, "position_decay", NUMBER)?.unwrap_or(plain.decay),
        cap: get(config, "information_cap", NUMBER)?.unwrap_or(plain.cap),
    })
}
