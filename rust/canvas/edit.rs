//! What is done to a canvas: a plan is a list of edits, which `Canvas::apply` carries out and the trajectory keeps.

/// What an edit does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Writes a token over a mask.
    Commit,
    /// Writes another token over a committed one.
    Edit,
    /// Turns a committed position back into a mask.
    Remask,
    /// Writes a fresh random token (uniform-noise models).
    Renoise,
    /// Fills what follows the end of the answer.
    Pad,
    /// Puts a mask in before what stands at the position, which moves right with all that follows.
    Insert,
    /// Takes an open position out; what follows moves left.
    Delete,
}

impl Kind {
    /// All of them, each at the place that is its number.
    pub const ALL: [Self; 7] = [
        Self::Commit,
        Self::Edit,
        Self::Remask,
        Self::Renoise,
        Self::Pad,
        Self::Insert,
        Self::Delete,
    ];

    /// The name in trajectories.
    pub fn name(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Edit => "edit",
            Self::Remask => "remask",
            Self::Renoise => "renoise",
            Self::Pad => "pad",
            Self::Insert => "insert",
            Self::Delete => "delete",
        }
    }
}

/// One change of a canvas, as the trajectory records it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Edit {
    /// Forward of the row, from 0, that led to it.
    pub step: u32,
    /// Position from the start of the canvas.
    pub position: u32,
    /// Token that stands there now.
    pub token: u32,
    /// Probability of the token, or the caller's own score; NaN for padding.
    pub probability: f64,
    /// What was done.
    pub kind: Kind,
    /// Time of the reverse process, 1 to 0; NaN where the schedule has none.
    pub time: f64,
}

/// How many edits at the beginning of a plan are done at once: insertions at rising positions side by side, deletions at
/// falling ones; of other kinds the first alone.
pub fn side_by_side(plan: &[Edit]) -> usize {
    let goes_on = |pair: &&[Edit]| {
        let (one, next) = (pair[0], pair[1]);
        next.kind == one.kind
            && match one.kind {
                Kind::Insert => next.position == one.position + 1,
                Kind::Delete => next.position + 1 == one.position,
                _ => false,
            }
    };
    plan.windows(2).take_while(goes_on).count() + usize::from(!plan.is_empty())
}
