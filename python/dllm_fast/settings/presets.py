"""Published algorithms as named settings, each with what is known of it; docs/rules.md is made of these rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dllm_fast.settings.config import SamplerConfig


@dataclass(frozen=True, slots=True)
class Paper:
    """Where an algorithm was published.

    Attributes:
        name: what its authors call it, or the model that it came with.
        authors: the first of them, "et al." for the others.
        arxiv: number on arXiv.
    """

    name: str
    authors: str
    arxiv: str


@dataclass(frozen=True, slots=True)
class Claim:
    """What the authors say that it does better than another; `bench.quality` looks whether it does.

    Attributes:
        words: the claim in short.
        kind: `fewer`: fewer forwards, and as many answers right; `better`: more answers right at equal forwards;
            `same`: the same tokens, or the same law.
        than: preset of the rule that they compare with.
    """

    words: str
    kind: Literal["fewer", "better", "same"]
    than: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A published algorithm.

    Attributes:
        settings: the algorithm itself, with the values of its authors.
        does: one sentence, for who reads the table of all rules.
        paper: where it is from; None for what everybody knows.
        claim: what its authors say of it; None for what others are compared with.
        quirks: what `as_published` changes here; "" where rule and published code agree.
        remark: what else somebody must know who chooses it; "" for nothing.
    """

    settings: SamplerConfig
    does: str
    paper: Paper | None = None
    claim: Claim | None = None
    quirks: str = ""
    remark: str = ""


_LLADA = Paper("LLaDA", "Nie et al.", "2502.09992")
_DREAM = Paper("Dream", "Ye et al.", "2508.15487")
_FAST_DLLM = Paper("Fast-dLLM", "Wu et al.", "2505.22618")
_LLADA21 = Paper("LLaDA2.1", "Bie et al.", "2602.08676")

_REMDM = Paper("ReMDM", "Wang et al.", "2503.00307")
_DINFER = Paper("dInfer", "Ma et al.", "2510.08666")

_TIES = "Probabilities of a softmax in the dtype of the logits, so that sure positions tie."
_ROUNDED = "Reported probabilities of a softmax in the dtype of the logits; tokens are the same."
_MEAN = f"{_TIES} Counts from the mean number of masks over the batch."
_ITS_SHIFT = "Dream's models also need `shift=True`, which is theirs to say."

# A row is one algorithm. Tests ask of each: a sentence, a paper or none, a claim whose other side is a preset too, a place in
# README, in docs/rules.md and in the quality bench.
PRESETS: dict[str, Preset] = {
    "llada": Preset(
        settings=SamplerConfig(order="sampled-confidence"),
        does="Commits the most probable proposals of the whole canvas, evenly many a step.",
        paper=_LLADA,
        claim=Claim("more right than a random order at equal forwards", "better", "llada-random"),
        quirks=_TIES,
    ),
    "llada-semi-ar": Preset(
        settings=SamplerConfig(order="sampled-confidence", block_length=32),
        does="The same in blocks of 32, left to right.",
        paper=_LLADA,
        claim=Claim("more right than the whole canvas at once (instruct models on GSM8K)", "better", "llada"),
        quirks=_TIES,
    ),
    "llada-random": Preset(
        settings=SamplerConfig(order="random"),
        does="Commits positions in random order, evenly many a step.",
        paper=_LLADA,
        quirks=_ROUNDED,
    ),
    "dream-origin": Preset(
        settings=SamplerConfig(order="ancestral", schedule="dream"),
        does="Each position commits by itself with the probability of Dream's schedule.",
        paper=_DREAM,
        quirks=_ROUNDED,
        remark=_ITS_SHIFT,
    ),
    "dream-maskgit-plus": Preset(
        settings=SamplerConfig(order="sampled-confidence", schedule="dream"),
        does="Commits the most probable proposals, as many as Dream's schedule says.",
        paper=_DREAM,
        claim=Claim("more right than `origin` at equal forwards", "better", "dream-origin"),
        quirks=_MEAN,
        remark=_ITS_SHIFT,
    ),
    "dream-entropy": Preset(
        settings=SamplerConfig(order="entropy", schedule="dream"),
        does="Commits the positions of least entropy, as many as Dream's schedule says.",
        paper=_DREAM,
        claim=Claim("more right than `origin` at equal forwards", "better", "dream-origin"),
        quirks=_MEAN,
        remark=_ITS_SHIFT,
    ),
    "dream-margin": Preset(
        settings=SamplerConfig(order="margin", schedule="dream"),
        does="Commits the positions whose best two tokens lie farthest apart, as many as Dream's schedule says.",
        paper=_DREAM,
        claim=Claim("more right than `origin` at equal forwards", "better", "dream-origin"),
        quirks=_MEAN,
        remark=_ITS_SHIFT,
    ),
    "maskgit": Preset(
        settings=SamplerConfig(order="sampled-confidence", schedule="maskgit"),
        does="Commits the most probable proposals, few at first and more with every step (cosine).",
        paper=Paper("MaskGIT", "Chang et al.", "2202.04200"),
        claim=Claim("better than equal counts at equal forwards", "better", "llada"),
        quirks=_TIES,
    ),
    "mdlm": Preset(
        settings=SamplerConfig(order="ancestral", schedule="linear", temperature=1.0),
        does="The reverse process itself: each position draws its token by itself at a random time.",
        paper=Paper("MDLM", "Sahoo et al.", "2406.07524"),
        quirks="The schedule in float32, and reported probabilities of a softmax in the dtype of the logits.",
    ),
    "remdm-cap": Preset(
        settings=SamplerConfig(order="ancestral", schedule="linear", remask="cap", temperature=1.0, top_p=0.9),
        does="The reverse process, in which each written token is taken back with a small probability of its own.",
        paper=_REMDM,
        claim=Claim("better text than the reverse process, the more so the more steps", "better", "mdlm"),
    ),
    "remdm-rescale": Preset(
        settings=SamplerConfig(order="ancestral", schedule="linear", remask="rescale", temperature=1.0, top_p=0.9),
        does="The same with a share of the largest probability that the schedule allows.",
        paper=_REMDM,
        claim=Claim("better text than the reverse process, the more so the more steps", "better", "mdlm"),
    ),
    "remdm-conf": Preset(
        settings=SamplerConfig(order="ancestral", schedule="linear", remask="confidence", temperature=1.0, top_p=0.9),
        does="The same with that probability dealt to the tokens that were least sure when they were written.",
        paper=_REMDM,
        claim=Claim("better text than the reverse process, the more so the more steps", "better", "mdlm"),
        remark="As published, what it takes back is not made up for: its law is not quite that of the schedule.",
    ),
    "remdm-loop": Preset(
        settings=SamplerConfig(order="ancestral", schedule="linear", remask="loop", temperature=1.0, top_p=0.9),
        does="The reverse process up to nine tenths, then a stretch that only takes back and fills, then the rest.",
        paper=_REMDM,
        claim=Claim("better text than the reverse process, the more so the more steps", "better", "mdlm"),
        remark="Give it more `steps` than masks: half of them are the stretch.",
    ),
    "p2": Preset(
        settings=SamplerConfig(order="sampled-confidence", schedule="linear", remask="planner", temperature=1.0),
        does="Ranks what is written with what is proposed; the best stand, as many as the schedule says.",
        paper=Paper("P2", "Peng et al.", "2502.03540"),
        claim=Claim("better than unmasking alone", "better", "mdlm"),
        remark="Its planner is the model itself.",
    ),
    "remedi": Preset(
        settings=SamplerConfig(remask="planner", block_length=32),
        does="After each forward the surest tokens of the block stand, one more than before; the others are masks again.",
        paper=Paper("RemeDi", "Huang et al.", "2509.23653"),
        claim=Claim("better than keeping what is written", "better", "llada-semi-ar"),
        remark="By the model's own confidence, not by a head that was trained for it.",
    ),
    "saber": Preset(
        settings=SamplerConfig(order="sampled-confidence", remask="confidence-drop", min_commit=2),
        does="Commits what is surer than the mean so far, and takes back what has become less sure, fewer than it commits.",
        paper=Paper("Saber", "Zhao et al.", "2510.18165"),
        claim=Claim("fewer forwards, and more right on code", "fewer", "llada"),
    ),
    "wino": Preset(
        settings=SamplerConfig(order="sampled-confidence", threshold=0.6, block_length=128, remask="verify"),
        does="Commits freely, and takes back each token that the model would not write again where it does not see it.",
        paper=Paper("WINO", "Hong et al.", "2507.18578"),
        claim=Claim("fewer forwards, and more right", "fewer", "llada-semi-ar"),
        remark="Its forwards are longer: behind each block stands a shadow of masks that sees all but its own tokens. For "
        "models that dllm_fast opens, whose position predicts itself, and for functions that take `shadow=`.",
    ),
    "revise-low-confidence": Preset(
        settings=SamplerConfig(order="sampled-confidence", threshold=0.9, block_length=32, remask="low-confidence"),
        does="Once a block is full, its least sure token and its neighbours are written anew, then the next, for 8 forwards.",
        claim=Claim("more right than without, for a few forwards a block", "better", "fast-dllm"),
    ),
    "first-hitting": Preset(
        settings=SamplerConfig(order="random", schedule="first-hitting", temperature=1.0),
        does="The reverse process in infinitely many steps: one random position at each time that something happens.",
        paper=Paper("first-hitting sampler", "Zheng et al.", "2409.02908"),
        claim=Claim("the law of the reverse process without its error of finite steps", "better", "mdlm"),
        quirks=_ROUNDED,
    ),
    "fast-dllm": Preset(
        settings=SamplerConfig(order="sampled-confidence", threshold=0.9, block_length=32),
        does="Commits every position of the block that is at least 0.9 sure, and the surest one in any case.",
        paper=_FAST_DLLM,
        claim=Claim("several times fewer forwards at the same accuracy", "fewer", "llada-semi-ar"),
    ),
    "fast-dllm-factor": Preset(
        settings=SamplerConfig(order="sampled-confidence", factor=1.0, block_length=32),
        does="Commits n positions while (n + 1) * (1 - confidence of the n-th) stays below a factor.",
        paper=_FAST_DLLM,
        claim=Claim("fewer forwards than a threshold at about its accuracy", "fewer", "fast-dllm"),
        quirks="All are committed where only the last one fails.",
    ),
    "llada2.1-quality": Preset(
        settings=SamplerConfig(order="sampled-confidence", threshold=0.7, edit_threshold=0.5, block_length=32),
        does="A lower threshold, and written tokens are replaced where another one is more than 0.5 sure.",
        paper=_LLADA21,
        claim=Claim("fewer forwards than a high threshold, more right", "fewer", "fast-dllm"),
    ),
    # "Speed" replaces a token whenever another one is better: there 0 is always, where Diffusers has it for never.
    "llada2.1-speed": Preset(
        settings=SamplerConfig(order="sampled-confidence", threshold=0.5, edit_threshold=0.0, block_length=32),
        does="A threshold of 0.5, and written tokens are replaced whenever another one is better.",
        paper=_LLADA21,
        claim=Claim("half the forwards of a high threshold, as many right", "fewer", "fast-dllm"),
    ),
    # The thresholds that its own `generate` begins with.
    "llada2.1-conservative": Preset(
        settings=SamplerConfig(order="sampled-confidence", threshold=0.95, edit_threshold=0.9, block_length=32),
        does="A high threshold, and written tokens are replaced only where another one is more than 0.9 sure.",
        paper=_LLADA21,
        claim=Claim("more right than the threshold alone", "better", "fast-dllm"),
    ),
    "entropy-bound": Preset(
        settings=SamplerConfig(order="entropy", entropy_bound=0.1),
        does="Commits positions of low entropy while their sum without the largest stays below a bound, in nats.",
        paper=Paper("EB-Sampler", "Ben-Hamu et al.", "2505.24857"),
        claim=Claim("two to three times fewer forwards at the same accuracy", "fewer", "llada"),
    ),
    "local-leap": Preset(
        settings=SamplerConfig(order="sampled-confidence", threshold=0.9, neighbour_threshold=0.75, block_length=32),
        does="The threshold of 0.9, and 0.75 for those at most four positions from one that passes it.",
        paper=Paper("LocalLeap", "Kong et al.", "2510.07081"),
        claim=Claim("about seven times fewer forwards at the same accuracy", "fewer", "llada-semi-ar"),
        remark="What is already written pulls nobody along, in the paper and in its code.",
    ),
    "klass": Preset(
        settings=SamplerConfig(order="sampled-confidence", threshold=0.9, kl_threshold=0.01, block_length=32),
        does="The threshold of 0.9, for positions whose distribution stayed as it was in the last two forwards.",
        paper=Paper("KLASS", "Kim et al.", "2511.05664"),
        claim=Claim("up to 2.8 times fewer forwards, more right", "fewer", "llada-semi-ar"),
        remark="Distributions are compared by their 64 most probable tokens and all others together; a block begins anew.",
    ),
    "credit": Preset(
        settings=SamplerConfig(order="sampled-confidence", threshold=0.9, credit=0.7, block_length=32),
        does="The threshold of 0.9, and tokens that stood first before are made more probable.",
        paper=Paper("CreditDecoding", "Wang et al.", "2510.06133"),
        claim=Claim("up to 5.5 times fewer forwards, as many right", "fewer", "llada-semi-ar"),
    ),
    "hierarchy": Preset(
        settings=SamplerConfig(order="sampled-confidence", threshold=0.9, run_threshold=0.4, block_length=32),
        does="The threshold of 0.9, and the surest of each run of neighbouring masks from 0.4 on.",
        paper=_DINFER,
        claim=Claim("fewer forwards than a threshold, as many right", "fewer", "fast-dllm"),
    ),
    "prophet": Preset(
        settings=SamplerConfig(order="sampled-confidence", gap_stop=2.5),
        does="Evenly many a step, until the best two logits lie so far apart that everything left is committed.",
        paper=Paper("Prophet", "Li et al.", "2508.19982"),
        claim=Claim("up to 3.4 times fewer forwards, as many right", "fewer", "llada"),
        remark="The published loop looks at five positions of an answer whose start the caller gives: `gap_start=`.",
    ),
    "certainty-prior": Preset(
        settings=SamplerConfig(order="certainty-prior"),
        does="Evenly many a step, ranked by confidence times how much around the position is known.",
        paper=Paper("d2Cache", "Jiang et al.", "2509.23094"),
        claim=Claim("more right than confidence alone, by going nearly left to right", "better", "llada"),
        quirks=_TIES,
    ),
    "pc-sampler": Preset(
        settings=SamplerConfig(order="calibrated"),
        does="Evenly many a step, ranked by what a proposal tells beyond how frequent its token is, the left before the right.",
        paper=Paper("PC-Sampler", "Huang et al.", "2508.13021"),
        claim=Claim("more right than confidence, margin or entropy", "better", "llada"),
        quirks=_TIES,
        remark="Needs `token_frequencies=`, how often each token occurs in some text; nobody else can know it.",
    ),
    # Uniform noise in place of masks: for models that were trained so, as DiffusionGemma is.
    "diffusion-gemma": Preset(
        settings=SamplerConfig(
            noise="uniform",
            drafts=True,
            order="entropy",
            entropy_bound=0.1,
            steps_per_block=48,
            temperature=0.8,
            temperature_end=0.4,
            block_length=256,
        ),
        does="Shows tokens of low entropy among fresh noise in each of 48 steps; writes the most probable ones once they stay.",
        paper=Paper("EB-Sampler", "Ben-Hamu et al.", "2505.24857"),
        remark="Of Google's DiffusionGemma; for models of uniform noise, which have no mask.",
    ),
    "dus": Preset(
        settings=SamplerConfig(schedule="dilated", order="left-to-right", block_length=32),
        does="A block of 32 in five forwards: positions 16 apart, then 8, 4, 2 and the rest, whatever their confidence.",
        paper=Paper("DUS", "Luxembourg et al.", "2506.19037"),
        claim=Claim("fewer forwards than confidence in blocks", "fewer", "llada-semi-ar"),
        quirks=_ROUNDED,
        remark="Its filter of picks that stand too near is `spacing`, beside any rule. Nothing is taken back here.",
    ),
    "wedlm": Preset(
        settings=SamplerConfig(order="entropy", entropy_threshold=0.4, position_penalty=0.02, window_length=16),
        does="Of the next 16 positions those below an entropy of 0.4, to which each position of distance adds 0.02.",
        paper=Paper("WeDLM", "Liu et al.", "2512.22737"),
        claim=Claim("about three times fewer forwards than left to right", "fewer", "left-to-right"),
        remark="The model sees the whole canvas; WeDLM's own engine reorders what is written in front of the masks.",
    ),
    "fast-dllm-v2": Preset(
        settings=SamplerConfig(
            order="sampled-confidence", threshold=0.9, block_length=32, sub_block_length=8, inherit_token=True
        ),
        does="The threshold in sub-blocks of 8, left to right, once the first token of the block is written alone.",
        paper=Paper("Fast-dLLM v2", "Wu et al.", "2509.26328"),
        claim=Claim("fewer forwards than left to right, as many right", "fewer", "left-to-right"),
        remark="Its models also need `shift=True`, which is theirs to say: then a finished block tells the token.",
    ),
    "d2f": Preset(
        settings=SamplerConfig(
            order="sampled-confidence", threshold=0.9, block_length=32, add_block_at=0.1, activate_block_at=0.95
        ),
        does="The threshold in several blocks at once: the next one joins when the last is a tenth done.",
        paper=Paper("D2F", "Wang et al.", "2508.09192"),
        claim=Claim("fewer forwards than one block at a time", "fewer", "fast-dllm"),
        remark="D3LLM's rule is this with `order='entropy'`, an `entropy_threshold` and shares of its own.",
    ),
    "block-refinement": Preset(
        settings=SamplerConfig(
            noise="uniform",
            order="sampled-confidence",
            schedule="cumulative",
            threshold=0.95,
            steps_per_block=32,
            block_length=32,
        ),
        does="Commits what is at least 0.95 sure, and what is owed of an even share; everything else shows fresh noise.",
        remark="Of Diffusers' `BlockRefinementScheduler`, whose threshold is strict; for models of uniform noise.",
    ),
    "udlm": Preset(
        settings=SamplerConfig(noise="uniform", order="ancestral", schedule="linear", temperature=1.0),
        does="The reverse process over uniform noise: every position is drawn anew from its posterior in each step.",
        paper=Paper("UDLM", "Schiff et al.", "2412.10193"),
        remark="For models of uniform noise, which have no mask.",
    ),
    "gidd": Preset(
        settings=SamplerConfig(noise="hybrid", noise_share=0.2, order="ancestral", schedule="linear", temperature=1.0),
        does="The reverse process over masks and wrong tokens: every position is drawn anew from its posterior in each step.",
        paper=Paper("GIDD", "von Rütte et al.", "2503.04482"),
        remark="For models that were trained on both; `noise_share` is the p_uniform of their training.",
    ),
    "linear-spec": Preset(
        settings=SamplerConfig(order="left-to-right", verify=True, block_length=32),
        does="Drafts a block at once and commits of it what the same model, read causally, would have written.",
        claim=Claim("the causal answer itself in fewer forwards", "fewer", "left-to-right"),
        remark="LinearSpec of SGLang; for models that read what lies before a block causally.",
    ),
    "daedal": Preset(
        settings=SamplerConfig(order="sampled-confidence", threshold=0.9, block_length=32, length="daedal"),
        does="Adds masks until the model is sure of an end, then commits what is sure and opens room where it is unsure.",
        paper=Paper("DAEDAL", "Li et al.", "2508.00819"),
        remark="The bound is `max_new_tokens` (2048 by default); rows get lengths of their own. The published loop writes 16 "
        "end tokens behind the masks before it begins, and may push the tail of an answer out; neither is done here.",
    ),
    "rho-eos": Preset(
        settings=SamplerConfig(order="sampled-confidence", threshold=0.9, block_length=32, length="rho-eos"),
        does="Commits what is sure, and adds or takes away masks until 40 to 60 % of them would end the answer.",
        paper=Paper("rho-EOS", "Yang et al.", "2601.22527"),
        remark="The bound is `max_new_tokens` (2048 by default); rows get lengths of their own. The published loop measures "
        "DAEDAL's sureness in place of the density, and cuts off what it has written; neither is done here.",
    ),
    "apd": Preset(
        settings=SamplerConfig(order="left-to-right", verifier_mixture=0.7, window_length=100),
        does="Drafts from left to right, and commits what a mixture with a second, autoregressive model says, too.",
        paper=Paper("APD", "Israel et al.", "2506.00413"),
        claim=Claim("fewer forwards than left to right, nearly as many right", "fewer", "left-to-right"),
        remark="With `verifier=`, a model that reads from left to right and knows the same tokens.",
    ),
    "left-to-right": Preset(
        settings=SamplerConfig(order="left-to-right"),
        does="Commits positions in reading order, evenly many a step.",
        quirks=_ROUNDED,
    ),
}


def presets() -> dict[str, SamplerConfig]:
    """Name to settings of every preset; the dictionary is a copy, the settings are frozen."""
    return {name: preset.settings for name, preset in PRESETS.items()}
