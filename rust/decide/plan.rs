//! A plan is a list of edits of one canvas, and `apply` is the only function that changes a canvas.

/// What an edit does. Insertions and deletions will join when a rule needs them.
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
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Commit,
        Self::Edit,
        Self::Remask,
        Self::Renoise,
        Self::Pad,
    ];

    /// The name in trajectories.
    pub fn name(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Edit => "edit",
            Self::Remask => "remask",
            Self::Renoise => "renoise",
            Self::Pad => "pad",
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

/// Carries out a plan. `writable` marks the positions that were not given.
pub fn apply(canvas: &mut [u32], writable: &[bool], mask: u32, plan: &[Edit]) {
    for edit in plan {
        let p = edit.position as usize;
        assert!(writable[p], "given tokens never change");
        match edit.kind {
            Kind::Commit => assert!(
                canvas[p] == mask && edit.token != mask,
                "a commit fills a mask"
            ),
            Kind::Edit | Kind::Renoise => assert!(
                canvas[p] != mask && edit.token != mask,
                "an edit replaces a token"
            ),
            Kind::Remask => assert!(
                canvas[p] != mask && edit.token == mask,
                "a remask takes a token back"
            ),
            Kind::Pad => assert!(edit.token != mask, "padding is no mask"),
        }
        canvas[p] = edit.token;
    }
}
