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
            value: readable(value),
            remedy,
        }
    }
}

/// A value as messages show it: a number of many digits with its exponent, as Python writes it.
pub fn readable(value: impl fmt::Display) -> String {
    const MOST_DIGITS: usize = 24;
    let text = value.to_string();
    match text.parse::<f64>() {
        Ok(number) if text.len() > MOST_DIGITS && number.is_finite() => {
            let short = format!("{number:e}");
            match short.split_once('e') {
                Some((digits, exponent)) if !exponent.starts_with('-') => {
                    format!("{digits}e+{exponent}")
                }
                _ => short,
            }
        }
        _ => text,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_numbers_show_their_exponent() {
        assert_eq!(readable(1e300), "1e+300");
        assert_eq!(readable(-1.5e300), "-1.5e+300");
        assert_eq!(readable(5e-324), "5e-324");
        assert_eq!(readable(0.1), "0.1");
        assert_eq!(readable(f64::NEG_INFINITY), "-inf");
        assert_eq!(readable(u64::MAX), u64::MAX.to_string());
        let words = "a name that is longer than any number";
        assert_eq!(readable(words), words);
    }
}
