//! The twin of a guided row: what stands in its canvas in place of the prompt.

use super::arrays::{each, ids, tokens};
use super::error::{bad_type, bad_value};
use super::values::whole;
use numpy::PyArray1;
use pyo3::prelude::*;

/// What a twin shows otherwise than its row.
enum Shown {
    /// A mask at some positions.
    Hidden { positions: Vec<u32>, mask: u32 },
    /// Other tokens up to a position.
    Prompt { tokens: Vec<u32>, start: usize },
}

/// The twin of a row: its canvas, but for the prompt.
#[pyclass(frozen, module = "dllm_fast")]
pub(super) struct Twin(Shown);

impl Twin {
    /// How much further right the answer stands in it.
    pub fn moved(&self) -> i64 {
        match &self.0 {
            Shown::Hidden { .. } => 0,
            Shown::Prompt { tokens, start } => tokens.len() as i64 - *start as i64,
        }
    }

    /// The tokens of the twin of a canvas.
    pub fn canvas_of(&self, canvas: &[u32]) -> PyResult<Vec<u32>> {
        let short = |least: usize| {
            bad_value(format!(
                "a canvas must hold the prompt that its twin replaces, got {} tokens for {least}; use the twin of this row",
                canvas.len()
            ))
        };
        match &self.0 {
            Shown::Hidden { positions, mask } => {
                let mut shown = canvas.to_vec();
                for &position in positions {
                    let slot = shown.get_mut(position as usize);
                    *slot.ok_or_else(|| short(position as usize + 1))? = *mask;
                }
                Ok(shown)
            }
            Shown::Prompt { tokens, start } => {
                let rest = canvas.get(*start..).ok_or_else(|| short(*start))?;
                Ok([tokens, rest].concat())
            }
        }
    }
}

#[pymethods]
impl Twin {
    /// A row whose positions `hidden` show the token `mask`, or one in which `prompt` stands in place of the first `start` tokens.
    #[new]
    #[pyo3(signature = (*, hidden=None, mask=None, prompt=None, start=None))]
    fn new(
        hidden: Option<&Bound<'_, PyAny>>,
        mask: Option<&Bound<'_, PyAny>>,
        prompt: Option<&Bound<'_, PyAny>>,
        start: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let most = (0, u64::from(u32::MAX));
        Ok(Self(match (hidden, mask, prompt, start) {
            (Some(hidden), Some(mask), None, None) => Shown::Hidden {
                positions: ids(hidden, "hidden")?,
                mask: whole(mask, "mask", most, "pass the id of the mask")? as u32,
            },
            (None, None, Some(prompt), Some(start)) => Shown::Prompt {
                tokens: ids(prompt, "prompt")?,
                start: whole(start, "start", most, "pass the length of the prompt")? as usize,
            },
            _ => {
                return Err(bad_value(
                    "a twin hides positions or has another prompt, got neither or a part; pass hidden= and mask=, or prompt= and start="
                        .into(),
                ));
            }
        }))
    }

    /// How much further right the answer stands in it.
    #[getter]
    fn moves(&self) -> i64 {
        self.moved()
    }

    /// What the twin of a canvas shows, int64.
    fn canvas<'py>(
        &self,
        py: Python<'py>,
        canvas: &Bound<'_, PyAny>,
    ) -> PyResult<Bound<'py, PyArray1<i64>>> {
        let shown = self.canvas_of(&ids(canvas, "canvas")?)?;
        Ok(tokens(py, shown.into_iter()))
    }
}

/// Twins, some of which are left out.
pub(super) fn twins(twins: &Bound<'_, PyAny>) -> PyResult<Vec<Option<Py<Twin>>>> {
    each(twins, "twins must be a list of Twin or None", |one| {
        if one.is_none() {
            return Ok(None);
        }
        match one.cast::<Twin>() {
            Ok(twin) => Ok(Some(twin.clone().unbind())),
            Err(_) => Err(bad_type(format!(
                "twins must be a list of Twin or None, got {}; make one with Twin(...)",
                one.get_type()
            ))),
        }
    })
}
