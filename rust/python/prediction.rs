//! Proposals and statistics, as Python sees them.

use super::arrays::{ids, numbers, tokens};
use super::beside::{BesideArrays, Known};
use super::error::bad_value;
use super::values::convert;
use crate::logits::predict::Prediction as One;
use crate::logits::row::Dtype;
use crate::rules::order::Proposal;
use numpy::{PyArray1, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

/// Proposals and statistics, one entry a position: what `mask_predict` returns and `Sampler.feed` takes.
#[pyclass(frozen, module = "dllm_fast")]
pub(super) struct Prediction {
    /// Proposed tokens, int64.
    #[pyo3(get)]
    token: Py<PyArray1<i64>>,
    /// Their probabilities, float64.
    #[pyo3(get)]
    probability: Py<PyArray1<f64>>,
    /// Largest probabilities.
    #[pyo3(get)]
    top1: Py<PyArray1<f64>>,
    /// Second largest probabilities.
    #[pyo3(get)]
    top2: Py<PyArray1<f64>>,
    /// Entropies in nats.
    #[pyo3(get)]
    entropy: Py<PyArray1<f64>>,
    /// Logarithms of the sums of exponentials.
    #[pyo3(get)]
    logsumexp: Option<Py<PyArray1<f64>>>,
    /// Probabilities of the current tokens, where those were given.
    #[pyo3(get)]
    current: Option<Py<PyArray1<f64>>>,
    /// The most probable tokens, int64.
    #[pyo3(get)]
    argmax: Option<Py<PyArray1<i64>>>,
    beside: Known,
}

impl Prediction {
    pub fn from_core(py: Python<'_>, predictions: &[One], has_current: bool) -> Self {
        let field =
            |f: fn(&One) -> f64| PyArray1::from_iter(py, predictions.iter().map(f)).unbind();
        Self {
            token: tokens(py, predictions.iter().map(|p| p.token)).unbind(),
            probability: field(|p| p.probability),
            top1: field(|p| p.top1),
            top2: field(|p| p.top2),
            entropy: field(|p| p.entropy),
            logsumexp: Some(field(|p| p.logsumexp)),
            current: has_current.then(|| field(|p| p.current)),
            argmax: Some(tokens(py, predictions.iter().map(|p| p.argmax)).unbind()),
            beside: Known::default(),
        }
    }

    /// With what rules with a memory want to know beside it.
    pub fn with(self, beside: Known) -> Self {
        Self { beside, ..self }
    }

    pub fn beside(&self) -> &Known {
        &self.beside
    }

    /// An array of it, where there is one.
    fn told<T>(
        &self,
        py: Python<'_>,
        of: impl Fn(&BesideArrays) -> &Option<Py<T>>,
    ) -> Option<Py<T>> {
        let array = of(self.beside.arrays(py)).as_ref();
        array.map(|array| array.clone_ref(py))
    }

    /// For the core; the most probable tokens, where they are given, only if somebody wants them.
    pub fn proposals(&self, py: Python<'_>, wants_argmax: bool) -> PyResult<Vec<Proposal>> {
        let token = ids(self.token.bind(py).as_any(), "token")?;
        let fields = [&self.probability, &self.top1, &self.top2, &self.entropy]
            .map(|a| a.bind(py).readonly());
        let column = |i: usize| {
            let column = fields[i].as_slice()?;
            if column.len() != token.len() {
                return Err(bad_value(format!(
                    "the arrays of a prediction must have one length, got {} tokens and {} statistics; fill every field",
                    token.len(),
                    column.len()
                )));
            }
            Ok(column)
        };
        let (probability, top1) = (column(0)?, column(1)?);
        let (top2, entropy) = (column(2)?, column(3)?);
        let current = self.current.as_ref().map(|a| a.bind(py).readonly());
        let current = current.as_ref().map(|a| a.as_slice()).transpose()?;
        let argmax = self.argmax.as_ref().filter(|_| wants_argmax);
        let argmax = argmax.map(|a| ids(a.bind(py).as_any(), "argmax"));
        let argmax = argmax.transpose()?;
        let statistics = probability.iter().zip(top1).zip(top2.iter().zip(entropy));
        let proposal = |(token, ((&probability, &top1), (&top2, &entropy)))| Proposal {
            token,
            probability,
            top1,
            top2,
            entropy,
            current: f64::NAN,
            argmax: None,
        };
        let mut made: Vec<Proposal> = token.into_iter().zip(statistics).map(proposal).collect();
        for (one, &current) in made.iter_mut().zip(current.unwrap_or_default()) {
            one.current = current;
        }
        for (one, argmax) in made.iter_mut().zip(argmax.unwrap_or_default()) {
            one.argmax = Some(argmax);
        }
        Ok(made)
    }
}

#[pymethods]
impl Prediction {
    #[new]
    #[pyo3(signature = (*, token, probability, top1, top2, entropy, logsumexp=None, current=None, argmax=None, head_ids=None,
                        head_probabilities=None, head_counts=None, leader=None, leader_probability=None))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python<'_>,
        token: &Bound<'_, PyAny>,
        probability: &Bound<'_, PyAny>,
        top1: &Bound<'_, PyAny>,
        top2: &Bound<'_, PyAny>,
        entropy: &Bound<'_, PyAny>,
        logsumexp: Option<&Bound<'_, PyAny>>,
        current: Option<&Bound<'_, PyAny>>,
        argmax: Option<&Bound<'_, PyAny>>,
        head_ids: Option<&Bound<'_, PyAny>>,
        head_probabilities: Option<&Bound<'_, PyAny>>,
        head_counts: Option<&Bound<'_, PyAny>>,
        leader: Option<&Bound<'_, PyAny>>,
        leader_probability: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let copy = |values: &Bound<'_, PyAny>, name: &str| {
            Ok::<_, PyErr>(PyArray1::from_vec(py, numbers(values, name)?).unbind())
        };
        let made = Self {
            token: tokens(py, ids(token, "token")?.into_iter()).unbind(),
            probability: copy(probability, "probability")?,
            top1: copy(top1, "top1")?,
            top2: copy(top2, "top2")?,
            entropy: copy(entropy, "entropy")?,
            logsumexp: logsumexp
                .map(|values| copy(values, "logsumexp"))
                .transpose()?,
            current: current.map(|values| copy(values, "current")).transpose()?,
            argmax: argmax
                .map(|values| {
                    Ok::<_, PyErr>(tokens(py, ids(values, "argmax")?.into_iter()).unbind())
                })
                .transpose()?,
            beside: Known::default(),
        };
        let tokens = made.proposals(py, true)?.len();
        let numbers = |array: &Option<Py<PyArray1<f64>>>| {
            array.as_ref().map_or(Ok(tokens), |a| a.bind(py).len())
        };
        let most = made.argmax.as_ref();
        for (name, count) in [
            ("logsumexp", numbers(&made.logsumexp)),
            ("current", numbers(&made.current)),
            ("argmax", most.map_or(Ok(tokens), |a| a.bind(py).len())),
        ] {
            let count = count?;
            if count != tokens {
                return Err(bad_value(format!(
                    "the arrays of a prediction must have one length, got {tokens} tokens and {count} of {name}; fill every field"
                )));
            }
        }
        let given = [
            head_ids,
            head_probabilities,
            head_counts,
            leader,
            leader_probability,
        ];
        Ok(made.with(Known::new(py, tokens, given)?))
    }

    /// Ids of the heads of the distributions, where those were asked for, one head behind the other; each rises.
    #[getter]
    fn head_ids(&self, py: Python<'_>) -> Option<Py<PyArray1<i64>>> {
        self.told(py, |known| &known.head_ids)
    }

    /// Their probabilities.
    #[getter]
    fn head_probabilities(&self, py: Python<'_>) -> Option<Py<PyArray1<f64>>> {
        self.told(py, |known| &known.head_probabilities)
    }

    /// Ids of the head of each position.
    #[getter]
    fn head_counts(&self, py: Python<'_>) -> Option<Py<PyArray1<i64>>> {
        self.told(py, |known| &known.head_counts)
    }

    /// The most probable ids before credit, where those were asked for.
    #[getter]
    fn leader(&self, py: Python<'_>) -> Option<Py<PyArray1<i64>>> {
        self.told(py, |known| &known.leader)
    }

    /// Their probabilities, NaN where a position was not asked for.
    #[getter]
    fn leader_probability(&self, py: Python<'_>) -> Option<Py<PyArray1<f64>>> {
        self.told(py, |known| &known.leader_probability)
    }

    /// With its probabilities as a softmax in a dtype (float32, bfloat16, float16) gives them, so that sure positions tie.
    fn rounded(&self, py: Python<'_>, dtype: &Bound<'_, PyAny>) -> PyResult<Self> {
        let dtype: String = convert(dtype, "dtype", "a name")?;
        let dtype = match dtype.as_str() {
            "float32" => Dtype::F32,
            "bfloat16" => Dtype::Bf16,
            "float16" => Dtype::F16,
            _ => {
                return Err(bad_value(format!(
                    "dtype must be float32, bfloat16 or float16, got {dtype:?}; name that of the logits"
                )));
            }
        };
        let all: Vec<One> = self
            .proposals(py, true)?
            .into_iter()
            .map(|p| One {
                token: p.token,
                probability: p.probability,
                top1: p.top1,
                top2: p.top2,
                entropy: p.entropy,
                logsumexp: f64::NAN,
                current: p.current,
                argmax: p.argmax.unwrap_or_default(),
            })
            .map(|p| p.rounded(dtype))
            .collect();
        let logsumexp = self.logsumexp.as_ref().map(|x| x.clone_ref(py));
        let argmax = self.argmax.as_ref().map(|x| x.clone_ref(py));
        Ok(Self {
            logsumexp,
            argmax,
            beside: self.beside.clone_ref(py),
            ..Self::from_core(py, &all, self.current.is_some())
        })
    }

    fn __getnewargs_ex__<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<(Bound<'py, PyTuple>, Bound<'py, PyDict>)> {
        let arguments = PyDict::new(py);
        arguments.set_item("token", &self.token)?;
        arguments.set_item("probability", &self.probability)?;
        arguments.set_item("top1", &self.top1)?;
        arguments.set_item("top2", &self.top2)?;
        arguments.set_item("entropy", &self.entropy)?;
        arguments.set_item("logsumexp", &self.logsumexp)?;
        arguments.set_item("current", &self.current)?;
        arguments.set_item("argmax", &self.argmax)?;
        let known = self.beside.arrays(py);
        arguments.set_item("head_ids", &known.head_ids)?;
        arguments.set_item("head_probabilities", &known.head_probabilities)?;
        arguments.set_item("head_counts", &known.head_counts)?;
        arguments.set_item("leader", &known.leader)?;
        arguments.set_item("leader_probability", &known.leader_probability)?;
        Ok((PyTuple::empty(py), arguments))
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.token.bind(py).len()
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("Prediction of {} positions", self.__len__(py)?))
    }
}
