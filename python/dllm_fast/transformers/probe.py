"""What a transformers model in memory really does, found by a handful of forwards of nine tokens, or of a block and a few.

Signatures are not trusted: classes swallow arguments silently. What is found is kept as long as the model lives.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
import weakref
from typing import TYPE_CHECKING, Any

import torch

from dllm_fast.errors import InvalidValueError
from dllm_fast.families.config_keys import BLOCK_KEYS, BLOCK_SIZES
from dllm_fast.families.table import FAMILIES
from dllm_fast.modules.buffers import check_buffers
from dllm_fast.modules.draws import OwnDraws
from dllm_fast.modules.hold import LOCK
from dllm_fast.modules.keep import ALONE, stepping, untouched
from dllm_fast.modules.places import places
from dllm_fast.networks.batch import Batch
from dllm_fast.networks.slots import SlotCache
from dllm_fast.networks.visible import BlockCausal, Full
from dllm_fast.runners.host_reads import HostReads
from dllm_fast.transformers import native
from dllm_fast.transformers.call import FORMS, Forward
from dllm_fast.transformers.describe import describe, named_block, output_embeddings, says_bidirectional
from dllm_fast.transformers.native import Call, NativeNetwork, Plan, UnsupportedError
from dllm_fast.transformers.probe_tokens import TOKENS, difference, ends, line, tokens
from dllm_fast.transformers.remedy import heeded, one_sided
from dllm_fast.transformers.sight import Sight, block_of, keeps_to, sight
from dllm_fast.transformers.study import NATIVE, PLAIN, ROWS, SWAPPED, Study
from dllm_fast.transformers.wrappers import unwrap

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dllm_fast.families.model_info import ModelInfo
    from dllm_fast.modules.keep import Snapshot
    from dllm_fast.transformers.wrappers import Unwrapped

# Tokens of a trial forward at most, where a config names a block.
_LONGEST = 512

_STUDIES: weakref.WeakKeyDictionary[nn.Module, tuple[tuple[Any, ...], Study]] = weakref.WeakKeyDictionary()


def study(model: nn.Module, tokenizer: Any = None) -> Study:
    """Probes a model of transformers, which wrappers may surround, or remembers. The model is as before afterwards.

    Raises:
        InvalidValueError: a causal model, one that fills no masks, or one without weights; names the class and the fix.
        Exception: what the model raises in a plain forward.
    """
    found = unwrap(model)
    info = describe(found.model, tokenizer)
    if info.attention_rule.has_canvas:
        raise InvalidValueError(
            f"a model with a canvas cannot be probed as one that fills masks, got {type(found.model).__name__}; pass the model "
            "itself to sample"
        )
    state = _state(found, info)
    kept = _STUDIES.get(found.model)
    if kept is None or kept[0] != state:
        with ALONE.held(), LOCK.held():
            kept = _STUDIES.get(found.model)
            if kept is None or kept[0] != state:
                repaired = check_buffers(found.model)
                draws = OwnDraws()
                with untouched(found.model, draws) as snapshot:
                    kept = state, _Probe(found, info, snapshot, draws, repaired).study()
                _STUDIES[found.model] = kept
    # Mask and ends depend on the tokenizer, so they are as of now; what was found about the forward is as of then.
    then = kept[1].info
    sources = {**info.sources, **{name: then.sources[name] for name in _MEASURED if name in then.sources}}
    fresh = dataclasses.replace(
        info, dtype=then.dtype, attention=then.attention, block_length=then.block_length, sources=sources
    )
    return dataclasses.replace(kept[1], info=fresh, probed={**kept[1].probed, **_tokenizer(tokenizer, info)})


# What the probe may know better than config and table.
_MEASURED = ("attention", "block_length")


def _state(found: Unwrapped, info: ModelInfo) -> tuple[Any, ...]:
    """What a study depends on and somebody may have changed since."""
    config = getattr(found.model, "config", None)
    flags = [getattr(config, name, None) for name in ("is_causal", "is_decoder", "attention_type")]
    flags.append(native.implementation(config))
    modules = tuple(type(module) for module in found.model.modules())
    return (
        info.attention,
        info.block_length,
        info.dtype,
        info.device,
        info.vocabulary,
        found.names,
        found.why,
        modules,
        *flags,
    )


def _tokenizer(tokenizer: Any, info: ModelInfo) -> dict[str, str]:
    if tokenizer is None or not hasattr(tokenizer, "__len__"):
        return {}
    return {"vocabulary": f"{info.vocabulary} logits, {len(tokenizer)} tokens in the tokenizer"}


class _Probe:
    """The forwards of one study. Runs inside `untouched`."""

    def __init__(self, found: Unwrapped, info: ModelInfo, snapshot: Snapshot, draws: OwnDraws, repaired: str) -> None:
        self.model: nn.Module = found.model
        self.called = found.probed
        self.why = found.why
        self.info = info
        self.snapshot = snapshot
        self.draws = draws
        self.changes = False
        self.reads: str | None = None
        self.probed: dict[str, Any] = {"training": snapshot.training, "buffers": repaired}
        if found.names:
            self.probed["inside of"] = found.names
        self.refused: list[tuple[str, str]] = []
        self.ids = tokens(self.model, info)
        self.head = output_embeddings(self.model)
        self.after: native.After | None = None

    def study(self) -> Study:
        if getattr(getattr(self.model, "config", None), "is_encoder_decoder", False):
            raise InvalidValueError(
                f"a diffusion model must predict every token that it reads, got {self.name}, an encoder with a decoder; "
                "use a masked language model"
            )
        mask, logits, causal = self.reference()
        self.measure_blocks(mask)
        if self.info.attention_rule.reorders and not causal:
            raise InvalidValueError(
                f"{self.name} should be causal and reorder its tokens, got a forward that sees both ways; open the folder "
                "with dllm_fast.load"
            )
        self.probed["head"] = self.check_head(mask, logits)
        for tier, through in ((NATIVE, native.INTERFACE), (SWAPPED, native.FUNCTION)):
            plan = self.ours(tier, through, logits, causal=causal) if self.why is None else None
            if plan is not None:
                reason = f"{plan.layers} attention calls go through {through}, its logits are reproduced"
                return self.result(tier, reason, dataclasses.replace(self.info, dtype=self.dtype), plan=plan)
        if self.why is not None:
            self.refused += [(tier, f"{self.why}, so it is called as it is") for tier in (NATIVE, SWAPPED)]
        if not self.info.attention_rule.is_fixed:
            raise InvalidValueError(
                f"a model whose attention changes with the block must run on ours, got {self.name}: {self.refused[0][1]}; "
                f"{'pass the model without its wrapper, or ' if self.why else ''}open the folder with dllm_fast.load"
            )
        mask = self.blocks(mask)
        self.inform(logits, mask)
        rows = self.rows(logits, mask)
        known = any(family.name == self.info.family for family in FAMILIES)
        hint = "; dllm_fast.load opens the folder of this family and runs it faster" if known else ""
        if rows is None:
            return self.result(ROWS, f"its head runs on the scored rows only{hint}", self.info, mask=mask)
        self.refused.append((ROWS, rows))
        return self.result(PLAIN, f"{rows}{hint}", self.info, mask=mask)

    def result(self, tier: str, reason: str, info: ModelInfo, *, plan: Plan | None = None, mask: str = "none") -> Study:
        return Study(
            tier=tier,
            reason=reason,
            info=info,
            plan=plan,
            mask=mask,
            probed=self.probed,
            refused=tuple(self.refused),
            changes=self.changes,
            reads=self.reads,
        )

    @property
    def name(self) -> str:
        return type(self.model).__name__

    # What the class does by itself.

    def reference(self) -> tuple[str, Tensor, bool]:
        """The form of mask under which the forward is what it should be, its logits, and whether it is causal."""
        either = not self.info.attention_rule.is_fixed
        must_see_both = says_bidirectional(self.model)
        failure: Exception | None = None
        by_itself: Sight | None = None
        for mask in FORMS:
            try:
                logits, sees = self.look(mask)
            except Exception as error:  # of any class, from a mask that it does not take
                failure = failure or error
                continue
            finally:
                self.changes = self.snapshot.restore() or self.changes
            if mask == "none":
                by_itself = sees
                self.probed["causal by itself"] = sees == "left"
            if either or sees in ("all", "both sides"):
                self.sees = sees
                return mask, logits, sees == "left"
            if not must_see_both:
                break
        if by_itself is None and failure is not None:
            failure.add_note(f"dllm_fast: raised by a trial forward of {self.name} with {self.ids.shape[1]} tokens")
            raise failure
        heeds = heeded(self.model, self.look, self.snapshot) if by_itself == "left" else None
        raise InvalidValueError(one_sided(self.model, by_itself, heeds))

    def look(self, mask: str) -> tuple[Tensor, Sight]:
        """Logits of a forward, and what they depend on."""
        logits = self.forward(self.ids, mask)
        return logits, sight(functools.partial(self.forward, mask=mask), self.ids, logits, self.info)

    def forward(self, ids: Tensor, mask: str, **more: Any) -> Tensor:
        forward = Forward(self.model, mask, Full(), call=self.called)
        # Classes that draw (Reformer) draw the same whichever token is changed.
        self.draws.seed()
        logits = forward(ids, **more)
        if logits.dim() != 3 or logits.shape[:2] != ids.shape:
            raise InvalidValueError(
                f"logits must have the shape [B, L, V] of the ids {list(ids.shape)}, got {list(logits.shape)} from {self.name}"
                "; use a class that has a row of logits for every token"
            )
        if bool(logits.isnan().any()):
            raise InvalidValueError(
                f"logits must be numbers, got nan from {self.name} for {ids.shape[1]} plain tokens; "
                "its weights or buffers were not loaded as they should be (dllm_fast.load opens known families)"
            )
        return logits

    def measure_blocks(self, mask: str) -> None:
        """A family that the table does not know attends by blocks only if it does so here.

        Neither does one that sees everything by the table and has blocks by its config: one of the two is wrong.
        """
        is_known = any(family.name == self.info.family for family in FAMILIES)
        named = named_block(self.model, BLOCK_SIZES if is_known else BLOCK_KEYS)
        agrees = is_known and (named is None or not self.info.attention_rule.hides_nothing)
        if self.sees == "left" or agrees:
            return
        key, hint = named or ("", 0)
        forward = functools.partial(self.forward, mask=mask)
        block = None
        if self.sees == "both sides":
            block = block_of(forward, self.ids, self.info)
        elif TOKENS <= hint < min(_LONGEST, self.info.context or _LONGEST):
            ids = tokens(self.model, self.info, hint + 1)
            block = hint if keeps_to(hint, forward, ids, self.info) else None
        if block is not None:
            sources = {**self.info.sources, "attention": "probe", "block_length": "probe"}
            self.info = dataclasses.replace(self.info, attention=BlockCausal.name, block_length=block, sources=sources)
        elif named is not None:
            self.probed["blocks"] = f"none; {key} = {hint} in the config is something else, or the class does not heed it"

    def check_head(self, mask: str, logits: Tensor) -> str:
        """Is the output embedding called once, and what follows it?"""
        if self.head is None:
            return "names no output embeddings"
        taken: list[Tensor] = []
        own = threading.get_ident()

        def take(_: object, args: tuple[Any, ...]) -> None:
            if threading.get_ident() == own:  # others may be running this model
                taken.append(args[0])

        handle = self.head.register_forward_pre_hook(take)
        try:
            self.forward(self.ids, mask)
        finally:
            handle.remove()
        if len(taken) != 1:
            return f"output embeddings called {len(taken)} times"
        if taken[0].shape[:-1] != self.ids.shape:
            return f"output embeddings take {list(taken[0].shape)}, not one vector a token"
        product = self.head(taken[0])
        if product.shape != logits.shape:
            return f"output embeddings make {list(product.shape)}, logits are {list(logits.shape)}"
        # The nearest, not the first that is near: a soft cap hardly changes small logits.
        candidates = native.after_candidates(getattr(self.model, "config", None))
        after = min(candidates, key=lambda after: difference(after(product), logits))
        if not self.equal(after(product), logits):
            return "logits are not the output embeddings' product, nor that capped or scaled"
        self.after = after
        return "one Linear" if after.kind == "none" else f"one Linear, then {after.kind} {after.value:g}"

    # Our attention in it.

    def ours(self, tier: str, through: str, logits: Tensor, *, causal: bool) -> Plan | None:
        try:
            with stepping(lambda hold: native.install(hold, self.model, through)):
                plan = self.plan(through, logits, causal=causal)
                self.check_slots(plan, logits, causal=causal)
        except UnsupportedError as error:
            self.refused.append((tier, str(error)))
            return None
        except Exception as error:  # the class's own, because it was called in a way that it does not know
            self.refused.append((tier, f"its forward raised {type(error).__name__}: {line(error)}"))
            return None
        return plan

    def plan(self, through: str, logits: Tensor, *, causal: bool) -> Plan:
        if self.after is None:
            raise UnsupportedError(str(self.probed["head"]))
        devices = places(self.model).devices
        if len(devices) > 1:
            raise UnsupportedError(f"its weights are on {len(devices)} devices")
        firsts = [0]
        padding = getattr(getattr(self.model, "config", None), "pad_token_id", None)
        if isinstance(padding, int):
            firsts.append(padding + 1)
        assert self.head is not None
        positions = torch.arange(self.ids.shape[1], device=self.ids.device)[None]
        # With a mask of two dimensions nobody looks for several texts in a row; without one, transformers does.
        padding_mask = torch.ones_like(self.ids) if through == native.INTERFACE else None
        for first in firsts:
            batch = Batch(ids=self.ids, positions=positions, end=ends(positions, causal=causal))
            call = Call(batch, None, through=through)
            features = call.run(self.model, positions + first, padding_mask)
            if not call.found:
                raise UnsupportedError(f"its attention does not go through {through}")
            if len(set(call.found)) > 1:
                raise UnsupportedError("its layers have keys of different shapes")
            if self.equal(self.after(self.head(features)), logits):
                break
        else:
            raise UnsupportedError("on our attention its logits are not its own")
        kv_heads, head_dim, self.dtype = call.found[0]
        reaches = tuple(call.found_reaches)
        self.probed["attention calls"] = len(call.found)
        if local := sorted({reach for reach in reaches if reach is not None}):
            self.probed["local attention"] = f"{sum(r is not None for r in reaches)} layers see {local} tokens to each side"
        return Plan(
            through=through,
            layers=len(call.found),
            kv_heads=kv_heads,
            head_dim=head_dim,
            reaches=reaches,
            first_position=first,
            after=self.after,
        )

    def check_slots(self, plan: Plan, logits: Tensor, *, causal: bool) -> None:
        """Tokens in another order at their own positions, and then some of them alone: only if every layer takes its positions
        from us and its keys and values from our slots do the logits stay."""
        count = self.ids.shape[1]
        network = NativeNetwork(self.model, plan, vocabulary=self.info.vocabulary, context=self.info.context)
        cache = SlotCache(network, 1, count, dtype=self.dtype, device=self.ids.device)
        order = torch.arange(count - 1, -1, -1, device=self.ids.device)
        for chosen in (order, order[count // 2 : count // 2 + 3]):
            positions = chosen[None]
            batch = Batch(
                ids=self.ids[:, chosen],
                positions=positions,
                end=ends(positions, causal=causal),
                cache=cache,
                slots=positions,
                keys=count,
            )
            with HostReads(self.ids.device) as reads:
                found = network.logits(network.hidden(batch))
            self.reads = self.reads or reads.found
            if not self.equal(found, logits[:, chosen]):
                raise UnsupportedError("its layers do not keep to the positions and slots that they are given")
        self.probed["positions and slots"] = "exact"

    # Without it.

    def blocks(self, mask: str) -> str:
        """The form of mask that makes a block-causal model block-causal. Takes a block and two tokens more."""
        rule = self.info.attention_rule
        block = rule.fixed_blocks
        if block is None:
            return mask
        ids = tokens(self.model, self.info, block + 2)
        if ids.shape[1] <= block:
            return mask  # its context is one block
        for form in dict.fromkeys((mask, "additive", "bool")):
            try:
                keeps = keeps_to(block, Forward(self.model, form, rule, call=self.called), ids, self.info)
            except Exception as error:  # of any class, from a mask that it does not take
                self.refused.append((f"mask {form}", f"its forward raised {type(error).__name__}: {line(error)}"))
                continue
            if keeps:
                self.probed["block rule"] = "its own" if form == "none" else f"by a mask ({form}, 4 dimensions)"
                return form
        raise InvalidValueError(
            f"a block-causal model must keep to blocks of {block}, got {self.name}, which neither does so itself nor takes a "
            "mask of four dimensions; open the folder with dllm_fast.load"
        )

    def inform(self, logits: Tensor, mask: str) -> None:
        """Things to know of a class that we call as it is: whole rows of equal length need neither."""
        if mask != "none":
            return
        hidden = torch.ones_like(self.ids)
        hidden[:, -1] = 0
        self.probed["padding mask"] = self.reaches(logits, attention_mask=hidden)
        positions = 2 * torch.arange(self.ids.shape[1], device=self.ids.device)[None]
        self.probed["position ids"] = self.reaches(logits, position_ids=positions)

    def reaches(self, logits: Tensor, **more: Any) -> str:
        try:
            with_it = self.forward(self.ids, "none", **more)
        except Exception:  # of any class, from an argument that it does not take
            return "not taken"
        return "respected" if difference(with_it[:, :-1], logits[:, :-1]) > 1e-5 else "ignored"

    def rows(self, logits: Tensor, mask: str) -> str | None:
        """Why the head cannot be run on some rows only; None where it can."""
        if self.why is not None:
            return f"{self.why}, so it is called as it is"
        if self.head is None or str(self.probed["head"]).startswith("output embeddings"):
            return str(self.probed["head"])
        forward = Forward(self.model, mask, self.info.attention_rule)
        lines = torch.tensor([0, self.ids.shape[1] - 2], device=self.ids.device)
        try:
            some = forward.rows(self.ids, lines)
        except Exception as error:  # of the class, which expects a row of logits for every token
            return f"with fewer rows its forward raised {type(error).__name__}: {line(error)}"
        whole = forward(self.ids)[0]
        if some.shape != (len(lines), whole.shape[-1]) or not self.equal(some, whole[lines]):
            return "the rows of its head are not the rows of its logits"
        return None

    def equal(self, found: Tensor, expected: Tensor) -> bool:
        exact = expected.device.type == "cpu" and self.info.dtype == torch.float32
        half = self.info.dtype in (torch.bfloat16, torch.float16)
        return difference(found, expected) <= (1e-4 if exact else 5e-2 if half else 5e-3)
