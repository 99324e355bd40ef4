//! Everything that can be wrong with what a caller gives us. Each message states the rule, the value and a remedy.

use std::fmt;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// A refused input. Nothing has been changed when one is returned.
#[derive(Clone, Debug, PartialEq)]
pub enum Error {
    /// A setting out of its range.
    Setting {
        /// Its name, as the caller wrote it.
        name: &'static str,
        /// What it must be, beginning with a verb form: "must lie in (0, 1]".
        rule: &'static str,
        /// What came.
        value: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A NaN among the logits.
    NotANumber {
        /// Row of the batch, or of the matrix where there is no batch.
        row: usize,
        /// Position in the canvas, where known.
        position: Option<usize>,
        /// First id with a NaN.
        id: usize,
    },
    /// A row of logits that allows no id at all.
    NothingAllowed {
        /// Row of the batch, or of the matrix where there is no batch.
        row: usize,
        /// Position in the canvas, where known.
        position: Option<usize>,
    },
    /// Sizes that do not fit together, or an id or index out of range; the text says which.
    Mismatch(String),
    /// A call out of turn.
    Order(&'static str),
    /// The caller has stopped the work.
    Interrupted,
}

impl Error {
    /// A setting out of its range.
    pub fn setting(
        name: &'static str,
        rule: &'static str,
        value: impl fmt::Display,
        remedy: &'static str,
    ) -> Self {
        Self::Setting {
            name,
            rule,
            value: value.to_string(),
            remedy,
        }
    }
}

fn place(f: &mut fmt::Formatter<'_>, row: usize, position: Option<usize>) -> fmt::Result {
    write!(f, "the logits of row {row}")?;
    position.map_or(Ok(()), |p| write!(f, ", position {p},"))
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setting {
                name,
                rule,
                value,
                remedy,
            } => write!(f, "{name} {rule}, got {value}; {remedy}"),
            Self::NotANumber { row, position, id } => {
                place(f, *row, *position)?;
                write!(
                    f,
                    " must not hold NaN, got one at id {id}; look for an overflow in the model (float16?) or for an uninitialised buffer"
                )
            }
            Self::NothingAllowed { row, position } => {
                place(f, *row, *position)?;
                write!(
                    f,
                    " must allow at least one id, got -inf everywhere once the suppressed ids and the mask id are left out; suppress fewer ids"
                )
            }
            Self::Mismatch(text) => f.write_str(text),
            Self::Order(text) => f.write_str(text),
            Self::Interrupted => {
                f.write_str("the work was interrupted and has changed nothing; call again")
            }
        }
    }
}

impl std::error::Error for Error {}
