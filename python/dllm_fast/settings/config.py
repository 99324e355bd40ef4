"""The settings of a sampler."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Never, Unpack

from dllm_fast import _core, records
from dllm_fast._core import TokenFrequencies
from dllm_fast.errors import InvalidTypeError, InvalidValueError, shown
from dllm_fast.settings import aliases, belongs

if TYPE_CHECKING:
    from dllm_fast.settings.keywords import SamplerSettings

# More than any vocabulary has.
MOST_IDS = 2**20
# An id that nothing has, in place of one that a model or a tokenizer says later.
_SOME_ID = 2**32 - 1
# Texts or ids that end an answer, and characters of one.
MOST_STOPS, MOST_STOP_LETTERS = 1024, 4096
# More than any logits bear.
MOST_GUIDANCE = 2.0**20
# What concerns the forwards, of which the core knows nothing.
_OF_FORWARDS = frozenset(("allow_special", "cache", "refresh_every", "max_batch_rows", "guidance", "sources"))
# Values that are kept as they come, nearly all of them.
_PLAIN = frozenset((type(None), bool, int, float, str, tuple, dict))
# What decides how many masks a step commits, beside the schedule; at most one of these, or a threshold and one of the second.
CUTS = ("threshold", "factor", "entropy_bound", "entropy_threshold", "run_threshold")
BESIDE_THRESHOLD = ("neighbour_threshold", "run_threshold", "kl_threshold")
CACHES = ("auto", "none", "prefix", "dual", "exact_block")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False, init=False)
class SamplerConfig:
    """Everything that decides which token is written where and when, but the model, the prompt and the seed.

    Frozen and checked when made; it pickles, and a file can keep it (`to_dict`, `from_dict`). The defaults commit one token a
    forward, the most confident first, over the whole canvas.

    Args:
        max_new_tokens: masks that `sample` appends to the prompt; default 128, or what the model's context leaves.
        steps: forwards of a row in total; dealt evenly to its blocks that hold masks, the remainder to the first, at least
            one for each. Default: one token a forward; with a threshold, factor or entropy bound, as few as it allows.
        steps_per_block: forwards in each block; give this or `steps`.
        block_length: positions that are finished before the next ones begin; default: the whole canvas, or the model's own.
        sub_block_length: positions of a block that are filled before the others, counted from where it begins; Fast-dLLM v2's
            (2509.26328). Default: no parts.
        inherit_token: write the first position of each block alone, before the others; Fast-dLLM v2's inherited token. Where
            predictions are shifted, the finished block before it tells that token: the most probable one, whatever is drawn
            elsewhere.
        window_length: write only so many positions from the first mask on, wherever that is; WeDLM's streaming window
            (2512.22737). 1 is left to right. Within a block where there are blocks.
        add_block_at: fill the next block, too, once this share of the last one is written; above 0, at most 1 (D2F,
            2508.09192). All that pass the threshold are committed, in any of them. Default: one block at a time, as 1 is.
        activate_block_at: write at least one token a forward in a block once this share of the one before it is written; above
            0, at most 1, for `add_block_at` alone, 1 by default. In the first block with masks there is always one.
        schedule: how many masks each step commits: `even`, `linear`, `cosine`, `dream`, `maskgit`, `first-hitting`,
            `dilated` or `cumulative`. `dllm_fast.schedule` computes them; `dilated` says which instead: positions of a block by
            falling strides (DUS, 2506.19037), and needs the order `left-to-right`. `cumulative`, over uniform noise, is what is
            owed of an even share, less what a threshold has let through before. Without `steps`, where positions are ranked,
            `linear`, `cosine` and `maskgit` decide nothing (but under `remask="planner"`): one token is committed a forward, or
            what a threshold lets pass.
        eps: last time of the `dream` schedule, in (0, 1).
        dilation: quotient of two strides of the `dilated` schedule, at least 2; the first one is the block's length over it.
        order: what positions are ranked by: `confidence`, `margin`, `entropy`, `random`, `left-to-right`, `sampled-confidence`,
            `ancestral`, `certainty-prior`, `ranks` or `calibrated`. Confidence is the largest probability; `sampled-confidence`
            that of the drawn token, as several published loops have it; `ancestral` ranks nothing, each position commits by
            itself with the probability of the schedule; `certainty-prior` is confidence times how much around the position is
            known (d2Cache, 2509.23094); `ranks` are the caller's own, which `sample` takes as `order=[3, 1, 2]`; `calibrated`
            is what the probability of the drawn token tells beyond how frequent it is anywhere, less with every position
            (PC-Sampler, 2508.13021).
        order_temperature: scale of Gumbel noise on the ranking, at least 0. With the `maskgit` schedule it is added to the
            log-probability and fades out over the steps, as published.
        position_penalty: what each position between a mask and the first that may be written takes off its key, at least 0 and
            at most 1000000. WeDLM's is 0.02 on entropies.
        spacing: positions that one step writes stand at least so far apart (DUS, 2506.19037). The best come first; only where
            fewer than the step's least are left do nearer ones fill up. 1 keeps nothing apart.
        prior_sigma: how wide the order `certainty-prior` looks around a position; a standard deviation in positions, at least
            0.001 and at most 1000. Smaller ones go more from left to right.
        token_frequencies: how often each token occurs in some text, for the order `calibrated` alone. A `TokenFrequencies`,
            which must count every id of the model's vocabulary; what never occurs counts as if it did once. The score is
            `exp(-position_decay * d) * min(-p * ln(f + 1e-9), information_cap)`: p is the probability of the drawn token, f its
            share of that text, d its place in the block. `TokenFrequencies.of(ids, vocabulary)` makes one of the ids of a text.
        position_decay: of that score with every position from where the block begins, at least 0 and at most 1000000. 0.25 is
            PC-Sampler's; it has 0 for Sudoku, and 0.5 or 1 for Countdown.
        information_cap: of that score in nats, above 0; inf is none.
        threshold: commit while the confidence is at least this; above 1: one a forward; 0: all (Fast-dLLM, 2505.22618).
        factor: commit n while `(n + 1) * (1 - confidence of the n-th) < factor`; of Fast-dLLM, too.
        entropy_bound: commit while the sum of entropies minus the largest is at most this, in nats; the EB-Sampler's
            (2505.24857).
        entropy_threshold: commit while the entropy, with the `position_penalty`, is below this, in nats; WeDLM's and d3LLM's.
        neighbour_threshold: a lower threshold around positions that pass the threshold in the same step (LocalLeap,
            2510.07081).
            What is written pulls nobody. Default: the threshold is asked of all.
        neighbour_distance: positions to each side that count as around, for `neighbour_threshold` alone.
        run_threshold: commit the best of each run of neighbouring masks if it is at least this sure (dInfer, 2510.08666). And
            all that pass the threshold, where there is one.
        kl_threshold: commit what passes the threshold only where its distribution has come to rest (KLASS, 2511.05664). In each
            of the last `kl_steps` forwards its divergence from the one before is below this, over its 64 most probable tokens
            and all others together. Where none has, as many as without a threshold. 0 is never.
        kl_steps: forwards for which a distribution must have rested, for `kl_threshold` alone.
        credit: weight of what a token has earned by standing first in forwards before (CreditDecoding, 2510.06133). This times
            the logarithm of 1 plus its credit is added to its logit, while its block is filled. 0 is the rule without.
        credit_power: exponent of the largest probability, which is what a forward earns, for `credit` alone.
        credit_decay: what is left of a credit after each forward, for `credit` alone.
        verify: commit drafts from left to right as far as a causal forward of the same model agrees. So the answer is the
            model's autoregressive one, token for token (LinearSpec of SGLang). A forward drafts the rest of the block; the next
            one, in which every position sees what is before it alone, says which of that it would write itself, and its first
            own token is committed, too. For models that read causally what lies before a block (`causal_context`), with order
            `left-to-right`, temperature 0.
        verifier_mixture: share of the model in a mixture with a `verifier=`, a second model that reads causally; from 0 to 1
            (APD, 2506.00413). A forward drafts what may be written; the verifier reads the drafts, and they are committed from
            left to right as long as the mixture of both logits would write the same, with the same noise at each position
            above temperature 0; the first one always is. 1 accepts all drafts, 0 those that the verifier would write. With
            order `left-to-right`; `window_length` says how far is drafted.
        gap_stop: commit all masks of a block once the two largest logits are so far apart (Prophet, 2508.19982). The mean over
            its masks counts; twice as much is asked before 67 % of its steps are done, three times before 33 %. 2.5 is
            Prophet's.
        gap_start: first position of the answer whose gaps count, from where blocks are counted; not beside a `block_length`.
            Default: all masks of the block count.
        gap_length: positions of that answer.
        min_commit: commit at least so many in every forward; default 1 where a threshold, factor or entropy bound decides.
        edit_threshold: replace a written token where another one is more probable than this. In every forward, those of the
            block being filled that were not given (token editing of LLaDA2.1, JointThreshold in SGLang). Default: what is
            written stays. 0 replaces every token that the model would not write now, as in SGLang; in Diffusers 0 turns editing
            off, which is None here. From 1 on nothing is replaced.
        max_post_steps: forwards of a block at most once it has no mask left, for editing alone. One that changes nothing ends
            the block. Without `edit_threshold` there are none.
        noise: what an open position shows to the model: `mask`, `uniform` or `hybrid`; the model's training says which.
            `uniform` is for models that never saw a mask, `hybrid` for those that saw masks and wrong tokens (GIDD). With
            `order="ancestral"` both are those of the reverse process: every open position of the block is drawn anew in each
            step, and the last step writes. Else a position of uniform noise shows a token of the vocabulary, each as likely as
            any other (those that are suppressed, too, for the model was trained so), and a fresh one in every forward.
        vocabulary: number of token ids that noise is drawn from; default: the model's. Where the model tells more, the others
            may be written, too, unless `suppress_tokens` names them.
        noise_share: share of wrong tokens in hybrid noise, in the middle of the process; from 0 to below 1, default 0.2.
        drafts: what a step picks is only shown, and decided anew in the next step (DiffusionGemma). Everything else shows fresh
            noise; when the block is finished the most probable token is written at each of its positions. Entropies and
            probabilities are then those at the temperature of the step.
        stop_stable: with drafts: a block is finished when its most probable tokens are those of so many steps before, and
            its entropies say so, too; 0: whatever they were.
        stop_entropy: with drafts: a block is finished when its mean entropy is below this, in nats, and its tokens are stable;
            0: only with its last step.
        remask: how tokens are taken back: `cap`, `rescale`, `confidence`, `loop`, `planner`, `confidence-drop`,
            `low-confidence` or `verify`. Those of the block being filled; default: what is written stays. The first
            four are ReMDM's, by draws, beside the order `ancestral`; `planner` ranks what is written with what is proposed
            (P2, RemeDi); `confidence-drop` takes back what has become less sure (Saber); `low-confidence` opens the least sure
            token of a full block with its neighbours; `verify`, beside a threshold, takes back what the model would not write
            again where it does not see it (WINO). Not beside `edit_threshold`.
        remask_eta: how much ReMDM and `planner` take back; 0 takes nothing back. A probability, or a share of the largest there
            can be, for ReMDM; a scale of the scores of written tokens for `planner`. Default: the authors' (0.008 of `cap`,
            0.015 of `rescale`, 1 of `confidence`, 0.02 of `loop`, 1 of `planner`).
        remask_threshold: `verify` keeps written tokens that are at least this probable; default 0.9, 0 keeps all.
        remask_budget: forwards of a block at most that `low-confidence` spends once it is full; default 8.
        temperature: of the draw of tokens: 0 takes the most probable; confidence, margin and entropy ignore it.
        temperature_end: the temperature goes there, in equal steps from `temperature` in the first of a block. The last is a
            step short of it, as in transformers. Default: one temperature.
        top_k: draw from so many tokens, the most probable ones; `top_k`, `top_p` and `min_p` are applied in this order, after
            the temperature.
        top_p: draw from the most probable tokens that have this share together.
        min_p: draw from tokens at least this probable, relative to the most probable one.
        mask_token_id: id of the mask, which is never written; default from the model or the tokenizer.
        eos_token_id: token, or tokens, that end an answer; default from the model or the tokenizer.
        stop_at_eos: finish a row once an end token has no mask before it; what follows is filled with the first end token.
            Default: True in `sample` where an end token is known, False in `infill`.
        stop: texts, or token ids, that end an answer once they are final; one, or several. A list has several of them, a tuple
            in it is one sequence of ids: `stop=["\\n\\n", 5, (6, 7)]`. They are looked for in what was written, not in the
            prompt; a text needs a tokenizer and may straddle tokens. The answer's text ends before the stop, as in vLLM;
            `new_tokens` keep its tokens, as they keep an end token, and what follows is filled like behind one. Not for
            `infill`.
        eos_policy: where end tokens may be written: `allow` (anywhere), `suffix`, `delay` or `penalise`. So that no answer is
            cut by an end token that came too early: under `suffix` none is proposed left of another token that was written, and
            what is open behind one becomes an end token, too; under `delay` none is written while something to its left is
            open; `penalise` makes their logits smaller by `eos_penalty`. End tokens are those of `eos_token_id`, and stops of
            one id.
        eos_penalty: what the logits of end tokens are made smaller by under `eos_policy="penalise"`; inf: never proposed.
        length: who decides how long an answer becomes: `fixed`, `daedal` or `rho-eos`. `fixed` is `max_new_tokens`; under the
            others, which ask the model where the end would be, that is the bound (2048 by default), and the answer begins with
            `initial_length` masks. `daedal` (2508.00819) adds masks at the end until the model is sure enough of an end, then
            writes, and puts several in place of a mask that it is not sure of. `rho-eos` (2601.22527) keeps the share of masks
            that would become end tokens in a band, adding or taking away masks at the end. For `sample` and models that see the
            whole canvas; rows then have lengths of their own. Scores of all positions are looked at in each forward.
        initial_length: masks that an answer begins with where its `length` is not fixed; default: 64, or what
            `max_new_tokens` and `min_new_tokens` leave.
        expansion_factor: masks that the smallest change of the length adds or takes away; up to eight times as many for
            `rho-eos`, and for `daedal` those that stand in place of one.
        eos_check_tokens: end tokens that `daedal` looks at; the last so many positions whose most probable token is one. The
            mean of their probabilities, a missing one counting 0, is how sure it is of the end.
        eos_confidence_threshold: how sure of the end `daedal` must be before it writes anything, from 0 to 1.
        expand_eos_confidence_threshold: how sure of the end it must be so that no mask becomes several, from 0 to 1; for
            `daedal`.
        low_confidence_threshold: a mask becomes several for `daedal` only below this confidence; from 0 to 1, the least
            confident one of the block.
        low_density_threshold: share of masks that would become end tokens below which `rho-eos` adds some; from 0 to 1.
        high_density_threshold: share above which it takes some away; at least `low_density_threshold`, at most 1.
        min_new_tokens: tokens of an answer at least before what ends it. Before them no end token is ever proposed, nor a stop
            that is one id, and no other stop counts. Not for `infill`.
        suppress_tokens: tokens that are never proposed, by id or by name; they count as -inf everywhere. Names need a
            tokenizer.
        allow_special: let special tokens of the tokenizer be proposed; [UNK], [CLS] or [PAD], not only those that end an answer
            or a turn. Default: no, as far as a tokenizer says which they are (a model's `config.pad_token_id` is not asked);
            yes under `as_published`, as the loops have it.
        shift: the logits of row i - 1 predict position i; a property of the model (Dream, Fast-dLLM v2), which says it itself.
        as_published: keep the quirks of the published loops where their rule and their code differ; ties of float32 and
            bfloat16 softmaxes, Dream's counts over the batch, Fast-dLLM's factor, float32 in `linear` and `cosine`.
        guidance: weight w of classifier-free guidance, 0 is none: logits are u + (w + 1)(c - u). c are those of the row, u
            those of the same row without its prompt: with masks in its place (LLaDA, 2502.09992), or a `negative_prompt=`. Both
            ride in one forward, which counts as two. In a reverse process over noise it is posteriors that are led: q_c^(w + 1)
            q_u^-w (UDLM, 2412.10193). Others say 1 + w (UDLM's gamma, `guidance_scale` of transformers).
        cache: which keys and values are kept: `auto`, `none`, `prefix`, `dual` or `exact_block`. For models that dllm_fast runs
            itself. `auto` is the fastest that gives the same tokens as `none`; `exact_block`, for block-causal models, gives
            them, too; `prefix` and `dual` are approximate where the model sees both ways (Fast-dLLM).
        refresh_every: forwards between full ones under `prefix` and `dual`; default: one full forward a block.
        max_batch_rows: rows in a forward at most; a row that finishes makes room for the next. Default: all.
        sources: of each setting that a run used, who set it; filled in by `sample` and `infill`.

    Raises:
        InvalidValueError: a value out of its range, or two settings that exclude each other.
        InvalidTypeError: a value of the wrong type.
    """

    max_new_tokens: int | None = None
    steps: int | None = None
    steps_per_block: int | None = None
    block_length: int | None = None
    sub_block_length: int | None = None
    inherit_token: bool = False
    window_length: int | None = None
    add_block_at: float | None = None
    activate_block_at: float | None = None
    schedule: str = "even"
    eps: float = 1e-3
    dilation: int = 2
    order: str = "confidence"
    order_temperature: float = 0.0
    position_penalty: float = 0.0
    spacing: int = 1
    prior_sigma: float = 10.0
    token_frequencies: TokenFrequencies | None = None
    position_decay: float = 0.25
    information_cap: float = 10.0
    threshold: float | None = None
    factor: float | None = None
    entropy_bound: float | None = None
    entropy_threshold: float | None = None
    neighbour_threshold: float | None = None
    neighbour_distance: int = 4
    run_threshold: float | None = None
    kl_threshold: float | None = None
    kl_steps: int = 2
    credit: float | None = None
    credit_power: float = 0.2
    credit_decay: float = 0.8
    verify: bool = False
    verifier_mixture: float | None = None
    gap_stop: float | None = None
    gap_start: int | None = None
    gap_length: int = 5
    min_commit: int | None = None
    edit_threshold: float | None = None
    max_post_steps: int = 16
    noise: str = "mask"
    vocabulary: int | None = None
    noise_share: float | None = None
    drafts: bool = False
    stop_stable: int = 1
    stop_entropy: float = 0.005
    remask: str | None = None
    remask_eta: float | None = None
    remask_threshold: float | None = None
    remask_budget: int | None = None
    temperature: float = 0.0
    temperature_end: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    mask_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    stop_at_eos: bool | None = None
    stop: tuple[int | str | tuple[int, ...], ...] = ()
    eos_policy: str = "allow"
    eos_penalty: float | None = None
    length: str = "fixed"
    initial_length: int | None = None
    expansion_factor: int = 8
    eos_check_tokens: int = 32
    eos_confidence_threshold: float = 0.5
    expand_eos_confidence_threshold: float = 0.9
    low_confidence_threshold: float = 0.1
    low_density_threshold: float = 0.4
    high_density_threshold: float = 0.6
    min_new_tokens: int = 0
    suppress_tokens: tuple[int | str, ...] = ()
    allow_special: bool | None = None
    shift: bool = False
    as_published: bool = False
    guidance: float = 0.0
    cache: str = "auto"
    refresh_every: int | None = None
    max_batch_rows: int | None = None
    sources: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __init__(self, *unnamed: Never, sources: Mapping[str, str] | None = None, **settings: Unpack[SamplerSettings]) -> None:
        if unnamed:
            raise InvalidTypeError(f"settings are given by name, got {shown(unnamed[0])}; write SamplerConfig(steps=8)")
        given: dict[str, Any] = {"sources": sources, **settings}
        values = {name: given.pop(name, None) for name in _DEFAULTS}
        for name, value in given.items():
            raise InvalidTypeError(_unknown(name, value))
        self._take(values)

    def _take(self, values: Mapping[str, Any]) -> None:
        """Sets these, and checks whatever they concern."""
        for name, value in values.items():
            # NumPy's and torch's numbers are plain ones from here on. None leaves a setting at its default, as in the core.
            plain = value if type(value) in _PLAIN else records.scalar(value)
            _set(self, name, _DEFAULTS[name] if plain is None else plain)
        if self.sources is None:
            _set(self, "sources", {})
        for name in aliases.VALUES:
            if name in values:
                aliases.check_value(name, getattr(self, name))
        # Lists, sets and arrays are what people have; a frozen configuration keeps tuples.
        for name in ("suppress_tokens", "eos_token_id"):
            if values.get(name) is not None:
                _set(self, name, _listed(getattr(self, name), name))
        if values.get("stop") is not None:
            _set(self, "stop", _stops(self.stop))
        if not values.keys() <= _OF_FORWARDS:
            self._check_core()
        self._check_forwards()
        belongs.check(self, _DEFAULTS)

    def _check_core(self) -> None:
        """What the core checks, but for what a tokenizer or a model says later: ids of names, and the end of an answer."""
        suppressed, stop, stops = self.suppress_tokens, self.stop_at_eos, self.stop
        names = (suppressed,) if isinstance(suppressed, str) else suppressed
        if isinstance(names, tuple):
            ids = tuple(token for token in names if not isinstance(token, str))
            _set(self, "suppress_tokens", ids)
        if stop is True and self.eos_token_id is None:
            _set(self, "stop_at_eos", None)
        _set(self, "stop", tuple(one for one in stops if not isinstance(one, str)))
        if (ends := self.eos_token_id) is None and isinstance(self.eos_policy, str) and self.eos_policy != "allow":
            _set(self, "eos_token_id", _SOME_ID)
        _core.check_config(self)
        _set(self, "stop", stops)
        _set(self, "eos_token_id", ends)
        _set(self, "suppress_tokens", names if isinstance(names, tuple) else (int(names),))
        _set(self, "stop_at_eos", stop)

    def __repr__(self) -> str:
        """The settings that are not at their defaults."""
        return records.described(self, _DEFAULTS)

    def to_dict(self) -> dict[str, Any]:
        """Every setting, and `sources` where a run filled them in, as values that `json.dumps` takes.

        JSON has no infinity: that of a threshold, factor or bound becomes "inf".
        """
        values = records.fields(self)
        return values if self.sources else {name: value for name, value in values.items() if name != "sources"}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SamplerConfig:
        """The settings that `to_dict` wrote, or that somebody wrote by hand: those left out have their defaults.

        Raises:
            InvalidValueError: a name that is no setting, or what `SamplerConfig` refuses.
            InvalidTypeError: no dictionary, or what `SamplerConfig` refuses.
        """
        if not isinstance(values, Mapping):
            raise InvalidTypeError(f"SamplerConfig.from_dict takes a dictionary, got {shown(values)}; pass what to_dict gave")
        found = dict(values)
        for name, value in found.items():
            if name not in _DEFAULTS:
                raise InvalidValueError(_unknown(name if isinstance(name, str) else shown(name), value))
        if isinstance(table := found.get("token_frequencies"), Mapping):
            found["token_frequencies"] = TokenFrequencies.from_dict(table)
        for known in dataclasses.fields(cls):
            value = found.get(known.name)
            if isinstance(value, str) and value in ("inf", "-inf") and "float" in str(known.type):
                found[known.name] = float(value)
        return cls(**found)

    def _check_forwards(self) -> None:
        """The settings that concern the model's forwards; the core does not know them."""
        if not isinstance(self.cache, str):
            raise InvalidTypeError(f"cache must be a name, got {type(self.cache).__name__}; the names are {', '.join(CACHES)}")
        if self.cache not in CACHES:
            raise InvalidValueError(f"cache must be one of {', '.join(CACHES)}, got {self.cache!r}; use 'auto'")
        if self.allow_special is not None and not isinstance(self.allow_special, bool):
            raise InvalidTypeError(
                f"allow_special must be True or False, got {shown(self.allow_special)}; leave it out to suppress special tokens"
            )
        for name in ("refresh_every", "max_batch_rows"):
            if (value := getattr(self, name)) is not None:
                records.count(value, name, remedy="leave it out for the default")
        _set(self, "guidance", _weight(self.guidance))
        if self.length != "fixed":
            self._check_growing()
        if self.guidance and self.verify:
            raise InvalidValueError(
                f"verify asks the model for its own causal answer, got guidance={self.guidance} beside it; leave one out"
            )
        if self.guidance and self.verifier_mixture is not None:
            raise InvalidValueError(
                f"verifier_mixture mixes the logits of two models, got guidance={self.guidance} beside it; leave one out"
            )
        if self.guidance and self.max_batch_rows == 1:
            raise InvalidValueError(
                "max_batch_rows must be at least 2 beside guidance, whose two branches ride in one forward, got 1; raise it, "
                "or leave guidance out"
            )
        if not isinstance(self.sources, Mapping) or not {*map(type, self.sources), *map(type, self.sources.values())} <= {str}:
            raise InvalidTypeError(
                f"sources must name who set each setting, got {shown(self.sources)}; leave it out: a run fills it in"
            )

    def _check_growing(self) -> None:
        """What does not go with rows whose length changes."""
        rule = f"length={self.length!r} changes how many positions a row has in every forward"
        if self.guidance:
            raise InvalidValueError(
                f"{rule}, got guidance={self.guidance} beside it, whose twins would have to change alike; leave it out"
            )
        if self.cache not in ("auto", "none"):
            raise InvalidValueError(f"{rule}, got cache={self.cache!r} beside it; use 'auto' or 'none'")
        single = (stop if isinstance(stop, tuple) else (stop,) for stop in self.stop)
        ends = {*self.eos_token_ids, *(stop[0] for stop in single if len(stop) == 1 and isinstance(stop[0], int))}
        barred = self.eos_policy == "penalise" and self.eos_penalty == math.inf
        if ends and (barred or ends <= set(self.suppress_tokens)):
            beside = "eos_penalty=inf" if barred else f"suppress_tokens={shown(self.suppress_tokens)}"
            raise InvalidValueError(
                f"length={self.length!r} asks where the model would end the answer, got {beside} beside it, under which no end "
                "token is ever proposed; leave that out, or set length to 'fixed'"
            )

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """All end tokens."""
        ids = self.eos_token_id
        if ids is None:
            return ()
        return ids if isinstance(ids, tuple) else (ids,)

    @property
    def stop_texts(self) -> tuple[str, ...]:
        """Those of the stops that are texts."""
        return tuple(one for one in self.stop if isinstance(one, str))

    @property
    def remembers(self) -> bool:
        """True where a step depends on the distributions of steps before."""
        return self.kl_threshold is not None or self.credit is not None

    @property
    def reverses_noise(self) -> bool:
        """True where a step draws from the posterior of a noise process (UDLM, GIDD)."""
        return self.noise != "mask" and self.order == "ancestral"

    @property
    def commits_counts(self) -> bool:
        """True where the schedule alone says how many masks a step commits."""
        return not self.verify and self.verifier_mixture is None and all(getattr(self, name) is None for name in CUTS)

    @property
    def fills_blocks(self) -> bool:
        """True where a step may write any mask of the block: no setting says how far it reaches, or which it takes."""
        lengths = (self.sub_block_length, self.window_length, self.add_block_at)
        return lengths == (None,) * 3 and not self.inherit_token and self.schedule != "dilated"


def _weight(value: object) -> float:
    """The weight of guidance.

    Raises:
        InvalidTypeError: no number.
        InvalidValueError: a negative one, or one that no logits can be multiplied by.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidTypeError(f"guidance must be a number, got {shown(value)}; 0 is none")
    if not 0 <= value <= MOST_GUIDANCE:
        raise InvalidValueError(f"guidance must lie in [0, 2^20], got {shown(value)}; 0 is none, published ones lie around 1")
    return float(value)


def _listed(ids: Any, name: str) -> Any:
    """A list, a set or an array of ids as a tuple; one id, or one name, as it is.

    Raises:
        InvalidTypeError: bytes or a dictionary, whose items would pass for ids.
        InvalidValueError: more than a vocabulary has, or masked entries.
    """
    if isinstance(ids, str):
        return ids
    if isinstance(ids, tuple):
        return tuple(map(records.scalar, ids))
    if isinstance(ids, bytes | bytearray | memoryview | Mapping):
        raise InvalidTypeError(f"{name} must be token ids, whole numbers from 0, got {shown(ids)}; pass a list")
    if type(ids).__module__.partition(".")[0] in ("numpy", "torch"):
        from dllm_fast.arrays import as_array  # late: only who has an array has NumPy

        array = as_array(ids, name)
        return ids if array.ndim != 1 else tuple(array.tolist())
    if not hasattr(ids, "__iter__"):
        return ids
    found = tuple(map(records.scalar, itertools.islice(ids, MOST_IDS + 1)))
    if len(found) > MOST_IDS:
        raise InvalidValueError(f"{name} must be at most 2^20 ids, got more; name the few that count")
    return tuple(sorted(found, key=_by_kind)) if isinstance(ids, set | frozenset) else found


def _stops(stops: Any) -> tuple[Any, ...]:
    """What ends an answer: texts as they are, ids, and sequences of ids as tuples. The core reads the ids.

    Raises:
        InvalidTypeError: neither texts nor ids.
        InvalidValueError: an empty text, or more than anybody looks for.
    """
    if isinstance(stops, str):
        found: tuple[Any, ...] = (stops,)
    else:
        listed = _listed(stops, "stop")
        found = listed if isinstance(listed, tuple) else (listed,)
    found = tuple(one if isinstance(one, str) else _listed(one, "stop") for one in found)
    for one in found:
        if isinstance(one, str) and not 0 < len(one) <= MOST_STOP_LETTERS:
            raise InvalidValueError(
                f"a stop must be a text of 1 to {MOST_STOP_LETTERS} characters, got {len(one)}; give what ends an answer"
            )
    if len(found) > MOST_STOPS:
        raise InvalidValueError(
            f"stop must be at most {MOST_STOPS} texts or ids, got {len(found)}; name those that end an answer"
        )
    return found


def _by_kind(token: object) -> tuple[bool, object]:
    """Numbers before names, so that a set of both has an order."""
    return isinstance(token, str), token


def _unknown(name: str, value: object) -> str:
    from dllm_fast.settings.resolve import unknown_to_config  # late: it is about this class

    return unknown_to_config(name, value)


def changed(config: SamplerConfig, **values: object) -> SamplerConfig:
    """The settings with other values, of which only these are checked, and what they have to fit; the same where they are."""
    new = {name: value for name, value in values.items() if value is not getattr(config, name)}
    if not new:
        return config
    made = _copied(config)
    made._take(new)
    return made


def told(config: SamplerConfig, **values: object) -> SamplerConfig:
    """The settings with what a model, a tokenizer or a canvas says of them, plain values which whoever ends the plan checks
    with the rest (`changed`)."""
    made = _copied(config)
    for name, value in values.items():
        _set(made, name, value)
    return made


def _copied(config: SamplerConfig) -> SamplerConfig:
    made = object.__new__(type(config))
    for name, value in zip(_DEFAULTS, _values(config), strict=True):
        _set(made, name, value)
    return made


# Of a frozen class.
_set = object.__setattr__
# None where a field has none of its own: `sources`.
_DEFAULTS: dict[str, Any] = {
    known.name: None if known.default is dataclasses.MISSING else known.default for known in dataclasses.fields(SamplerConfig)
}
_values = operator.attrgetter(*_DEFAULTS)
# What a call may name, for those who ask at run time; a type checker sees the keywords.
SamplerConfig.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [
        inspect.Parameter(known.name, inspect.Parameter.KEYWORD_ONLY, default=_DEFAULTS[known.name], annotation=known.type)
        for known in dataclasses.fields(SamplerConfig)
    ]
)
