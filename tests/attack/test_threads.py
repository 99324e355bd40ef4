"""Runs at the same time, of one model and of models that share a part or a config: tokens as of one thread, all as before.

`ATTACK_ROUNDS=40` repeats the meetings of threads so often; CI does it twice.
"""

from __future__ import annotations

import contextlib
import contextvars
import copy
import functools
import gc
import locale
import logging
import os
import signal
import sys
import threading
import warnings
import weakref

import numpy as np
import pytest
import torch
import transformers as hf
from torch import nn
from torch.nn import functional as F  # noqa: N812

import dllm_fast
import remote_like
from dllm_fast.modules import hold, keep
from dllm_fast.transformers import native
from native_models import MASK, PROMPTS, drawn, model_of
from toys import HashTable

ROUNDS = int(os.environ.get("ATTACK_ROUNDS", "2"))
NEW = 6
SETTINGS = {"max_new_tokens": NEW, "mask_token_id": MASK}
SDPA = F.scaled_dot_product_attention


def remote():
    torch.manual_seed(3)
    return drawn(remote_like.DreamLike(remote_like.RemoteConfig(mask_token_id=MASK)))


class Plain(nn.Module):
    """Of no library: dropout that shows, and a part that others may have, too."""

    def __init__(self, inside=None):
        super().__init__()
        torch.manual_seed(5)
        self.inside = nn.Sequential(nn.Embedding(512, 32), nn.Dropout(0.5)) if inside is None else inside
        self.out = nn.Linear(32, 512)
        self.dropout = nn.Dropout(0.5)

    def forward(self, ids):
        features = self.inside(ids)
        return self.out(self.dropout(features + features.mean(1, keepdim=True)))


def answer(model, prompt, **more):
    return dllm_fast.sample(model, prompt, **SETTINGS | more).sequences[0].tolist()


def state(model):
    """Everything of a model that a run may change."""
    configs = [vars(c).copy() for m in model.modules() if (c := vars(m).get("config")) is not None]
    hooks = [sorted((name, *table) for name, table in vars(m).items() if "_hooks" in name and table) for m in model.modules()]
    return [m.training for m in model.modules()], configs, hooks, [vars(m).get("_compiled_call_impl") for m in model.modules()]


def process():
    """Everything of a process that somebody could change around a run."""
    return {
        "attention": F.scaled_dot_product_attention,
        "environment": dict(os.environ),
        "path": list(sys.path),
        "locale": locale.setlocale(locale.LC_ALL),
        "signals": {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)},
        "logging": (logging.root.level, list(logging.root.handlers)),
        "warnings": list(warnings.filters),
        "hooks": (sys.excepthook, sys.displayhook, threading.excepthook, sys.gettrace(), sys.getprofile()),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "torch": torch.get_rng_state().tolist(),
        "numpy": str(np.random.get_state()),
        "held": (dict(hold._THINGS), list(hold._open()), list(keep._RUNNING), hold.FORWARD.get()),
    }


def together(*works):
    """Runs all of them at once, each as often as there are rounds, and gives what each of them found."""
    barrier = threading.Barrier(len(works), timeout=60)
    found, failures = [[] for _ in works], []

    def run(place, work):
        try:
            for _ in range(ROUNDS):
                barrier.wait()
                found[place].append(work())
        except BaseException as error:
            failures.append(error)
            barrier.abort()

    threads = [threading.Thread(target=run, args=each) for each in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    real = [error for error in failures if not isinstance(error, threading.BrokenBarrierError)]
    if real:
        raise real[0]
    return found


@contextlib.contextmanager
def as_before(*models):
    before, around = [state(model) for model in models], process()
    yield
    for model, kept in zip(models, before, strict=True):
        assert state(model) == kept
    assert process() == around


@pytest.fixture
def impatient():
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


MODELS = {"native": lambda: model_of("Qwen3"), "function": remote, "headed": lambda: model_of("DebertaV2"), "plain": Plain}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_in_training_mode_answers_without_dropout_in_all_threads(name, impatient):
    """Two times fifteen runs of each of four kinds of model are 120 cases in CI, `ATTACK_ROUNDS=40` makes 2,400 of them."""
    model = MODELS[name]()
    expected = [answer(model.eval(), prompt) for prompt in PROMPTS]
    model.train()
    with as_before(model):
        found = together(*[lambda p=p: answer(model, p) for p in PROMPTS * 5])
    assert found == [[row] * ROUNDS for row in expected * 5]


@pytest.mark.parametrize("name", MODELS)
def test_no_run_ends_the_evaluation_mode_of_another(name):
    """One run begins and ends while another one waits in its first step; with users uncounted the rest has dropout."""
    model = MODELS[name]()
    expected = [answer(model.eval(), prompt) for prompt in PROMPTS]
    model.train()
    inside, ended = threading.Event(), threading.Event()

    def wait(event):
        inside.set()
        assert ended.wait(60)

    first = []
    with as_before(model):
        thread = threading.Thread(target=lambda: first.append(answer(model, PROMPTS[0], on_step=wait)))
        thread.start()
        assert inside.wait(60)
        assert answer(model, PROMPTS[1]) == expected[1]
        assert not any(module.training for module in model.modules())
        ended.set()
        thread.join(60)
    assert first == [expected[0]]


def sharing(kind):
    """Two models that have something in common, and what was as deep as that in both."""
    if kind == "config":
        one = model_of("Qwen3")
        torch.manual_seed(9)
        two = drawn(type(one)(one.config))
        assert one.config is two.config
        return one, two
    if kind == "part":
        one = Plain()
        return one, Plain(one.inside)
    if kind == "inside":
        one = Plain()
        return one, nn.Sequential(one, nn.Dropout(0.5))
    one, two = model_of("Qwen3"), model_of("Qwen3")
    if kind == "head":
        two.lm_head = one.lm_head
    else:
        two.model = one.model
    return one, two


@pytest.mark.parametrize("kind", ["config", "part", "inside", "head", "body"])
@pytest.mark.parametrize("first", [0, 1])
def test_models_that_share_something_do_not_end_each_others_runs(kind, first):
    """The one that began first ends first, while the other is in its first step, and the other way round."""
    models = sharing(kind)
    expected = [answer(model.eval(), PROMPTS[0]) for model in models]
    for model in models:
        model.train()
    begun = [threading.Event(), threading.Event()]
    found = {}
    with as_before(*models):
        ended = threading.Event()

        def outer():
            def wait(event):
                begun[0].set()
                assert (begun[1] if first else ended).wait(60)

            found[0] = answer(models[0], PROMPTS[0], on_step=wait)
            begun[0].set()
            if first:
                ended.set()

        def inner():
            assert begun[0].wait(60)

            def wait(event):
                begun[1].set()
                assert not first or ended.wait(60)

            found[1] = answer(models[1], PROMPTS[0], on_step=wait)
            ended.set()

        threads = [threading.Thread(target=work) for work in (outer, inner)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    assert [found.get(0), found.get(1)] == expected


@pytest.mark.parametrize("kind", ["config", "part", "inside", "head", "body"])
def test_models_that_share_something_run_at_once(kind, impatient):
    models = sharing(kind)
    expected = [answer(model.eval(), PROMPTS[0]) for model in models]
    with as_before(*models):
        found = together(*[lambda m=m: answer(m, PROMPTS[0]) for m in models * 3])
    assert found == [[row] * ROUNDS for row in expected * 3]


def test_everything_at_once_on_one_model(impatient, tmp_path):
    """Probes (also of a wrapper, which asks for one of its own), explanations, runs, generate, load."""
    model = model_of("Qwen3")
    model.save_pretrained(tmp_path)
    prompt = torch.tensor([PROMPTS[0]])
    told = str(dllm_fast.explain(model))
    expected = answer(model, PROMPTS[0])
    fresh = [model_of("Qwen3") for _ in range(ROUNDS)]
    turns = iter(fresh)

    def generated():
        return model.generate(prompt, custom_generate=dllm_fast.generate, max_new_tokens=NEW)[0].tolist()

    with as_before(model):
        *rows, loaded, explained, new = together(
            lambda: answer(model, PROMPTS[0]),
            lambda: answer(nn.DataParallel(model), PROMPTS[0]),
            generated,
            lambda: answer(dllm_fast.load(tmp_path, attention="full"), PROMPTS[0]),
            lambda: str(dllm_fast.explain(model)),
            lambda: answer(next(turns), PROMPTS[0]),
        )
    assert rows == [[expected] * ROUNDS] * 3
    assert loaded == [expected] * ROUNDS
    assert new == [expected] * ROUNDS
    assert explained == [told] * ROUNDS


@pytest.mark.parametrize("handed", [False, True], ids=["plain", "with the context of who started it"])
def test_a_probe_does_not_count_what_other_threads_call(monkeypatch, handed):
    model = model_of("Qwen3")
    told = str(dllm_fast.explain(model))
    body = type(model.model)
    forward = body.forward

    def other():
        model.lm_head(torch.zeros(1, model.config.hidden_size))
        qkv = torch.zeros(1, 1, 3, 8)
        F.scaled_dot_product_attention(qkv, qkv, qkv)

    def beside(self, *args, **named):
        # As `asyncio.to_thread` does, and every thread of Python without the GIL.
        run = contextvars.copy_context().run if handed else lambda work: work()
        thread = threading.Thread(target=run, args=(other,))
        thread.start()
        thread.join()
        return forward(self, *args, **named)

    monkeypatch.setattr(body, "forward", functools.wraps(forward)(beside))
    model = model_of("Qwen3")
    assert str(dllm_fast.explain(model)) == told


@pytest.mark.parametrize("name", ["native", "function"])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_other_threads_have_torchs_attention_and_the_models_own(name, implementation):
    """What runs beside us gets the bits that it would have had: plain calls, the model itself, its own attention."""
    model = MODELS[name]()
    model.config._attn_implementation = implementation
    ids = torch.tensor([PROMPTS[0]])
    q, k, v = torch.randn(3, 1, 2, 5, 8)
    with torch.no_grad():
        forward = model(ids).logits
    attended = SDPA(q, k, v)
    found = []

    def look(event):
        def work():
            with torch.no_grad():
                found.append((F.scaled_dot_product_attention(q, k, v), model(ids).logits))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join(60)

    with as_before(model):
        answer(model, PROMPTS[0], on_step=look)
    assert len(found) == NEW
    for mixed, logits in found:
        assert torch.equal(mixed, attended)
        assert torch.equal(logits, forward)
    assert F.scaled_dot_product_attention is SDPA


def test_who_has_taken_our_function_for_torchs_may_keep_it():
    model, taken = remote(), []
    expected = answer(model, PROMPTS[0])
    answer(model, PROMPTS[0], on_step=lambda _: taken.append(F.scaled_dot_product_attention))
    assert len({id(function) for function in taken}) == 1
    try:
        F.scaled_dot_product_attention = taken[0]  # what a patch does that ends later than our run
        assert answer(model, PROMPTS[0]) == expected
        assert F.scaled_dot_product_attention is SDPA
    finally:
        F.scaled_dot_product_attention = SDPA


def test_a_patch_of_somebody_else_stays():
    model = remote()
    expected = answer(model, PROMPTS[0])

    def patch(event):
        F.scaled_dot_product_attention = functools.partial(F.scaled_dot_product_attention)

    try:
        answer(model, PROMPTS[0], on_step=patch, max_new_tokens=1)
        theirs = F.scaled_dot_product_attention
        assert theirs is not SDPA
        assert answer(model, PROMPTS[0]) == expected
        assert F.scaled_dot_product_attention is theirs
    finally:
        F.scaled_dot_product_attention = SDPA


def test_what_other_threads_draw_is_neither_repeated_nor_reset():
    """Fresh models are probed, among them one that draws, while another thread draws from the global generators."""
    config = hf.ReformerConfig(
        vocab_size=512, hidden_size=32, num_attention_heads=2, attention_head_size=16, feed_forward_size=64, is_decoder=False,
        attn_layers=["lsh", "local"], axial_pos_embds=False, max_position_embeddings=128, lsh_attn_chunk_length=8,
        local_attn_chunk_length=8, num_buckets=4, pad_token_id=0,
    )  # fmt: skip
    models = [hf.ReformerForMaskedLM(config).eval(), model_of("Qwen3"), model_of("Bert")]
    stop, seen = threading.Event(), []
    torch.manual_seed(11)
    np.random.seed(11)

    def draw():
        while not stop.is_set():
            seen.append((torch.randint(2**62, ()).item(), int(np.random.randint(2**62))))

    thread = threading.Thread(target=draw)
    thread.start()
    for model in models:
        with contextlib.suppress(dllm_fast.DllmFastError):
            dllm_fast.explain(model)
    stop.set()
    thread.join(60)
    torch.manual_seed(11)
    np.random.seed(11)
    assert seen == [(torch.randint(2**62, ()).item(), int(np.random.randint(2**62))) for _ in seen]
    assert len(seen) > 100


def test_a_probe_leaves_the_generators_alone():
    models = [model_of(name) for name in ("Qwen3", "Bert", "DebertaV2")]
    with as_before(*models):
        for model in models:
            dllm_fast.explain(model)


@pytest.mark.parametrize("name", MODELS)
def test_what_fails_leaves_nothing_behind(name):
    """A model that raises in its third forward, and an on_step that does; then the right tokens."""
    model = MODELS[name]().train()
    expected = answer(model, PROMPTS[0])
    calls = []

    def fail(*_):
        calls.append(None)
        if len(calls) == 3:
            raise KeyError("on purpose")

    with as_before(model):
        for _ in range(2):
            calls.clear()
            with pytest.raises(KeyError, match="on purpose"):
                answer(model, PROMPTS[0], on_step=fail)
            assert answer(model, PROMPTS[0]) == expected
    handle = model.register_forward_hook(fail)
    with as_before(model):
        calls.clear()
        with pytest.raises(KeyError, match="on purpose"):
            answer(model, PROMPTS[0])
        together(*[lambda: answer(model, PROMPTS[0])] * 3)
    handle.remove()
    assert answer(model, PROMPTS[0]) == expected


@pytest.mark.parametrize("name", MODELS)
def test_a_run_inside_a_run(name):
    """`on_step` runs the same model, explains it, and runs another one."""
    model, other = MODELS[name]().train(), model_of("Bert")
    expected = [answer(model, prompt) for prompt in PROMPTS[:2]]
    also = answer(other, PROMPTS[0])
    inner = []

    def again(event):
        inner.append((answer(model, PROMPTS[1]), answer(other, PROMPTS[0])))
        dllm_fast.explain(model)

    with as_before(model, other):
        assert answer(model, PROMPTS[0], on_step=again) == expected[0]
    assert inner == [(expected[1], also)] * NEW


class Asking(nn.Module):
    """A model whose forward runs another one."""

    def __init__(self, asked):
        super().__init__()
        self.asked, self.dropout = [asked], nn.Dropout(0.5)
        self.table = HashTable(512, seed=4)

    def forward(self, ids):
        seen = answer(self.asked[0], PROMPTS[0])
        return self.dropout(self.table(ids)) + float(sum(seen) % 7)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_runs_a_model(name):
    inner = MODELS[name]().train()
    model = Asking(inner).train()
    expected = answer(model, PROMPTS[1])
    with as_before(model, inner):
        found = together(*[lambda: answer(model, PROMPTS[1])] * 3, lambda: answer(inner, PROMPTS[0]))
    assert found[:3] == [[expected] * ROUNDS] * 3
    assert found[3] == [answer(inner.eval(), PROMPTS[0])] * ROUNDS


def test_a_run_within_a_forward_on_our_attention():
    """A hook in a model that runs on our attention runs another such model: its layers are its own."""
    model, other = model_of("Qwen3"), model_of("Bert")
    expected, also = answer(model, PROMPTS[0]), answer(other, PROMPTS[1])
    found = []
    handle = model.model.layers[0].mlp.register_forward_hook(lambda *_: found.append(answer(other, PROMPTS[1])))
    with as_before(model, other):
        assert answer(model, PROMPTS[0]) == expected
    handle.remove()
    assert found
    assert all(row == also for row in found)


def test_contexts_of_the_caller_are_his():
    """Default dtype, gradients, inference mode: the tokens are the same and the contexts stay."""
    model = model_of("Qwen3")
    expected = answer(model, PROMPTS[0])
    torch.set_default_dtype(torch.float64)
    try:
        with as_before(model):
            assert answer(model, PROMPTS[0]) == expected
            assert answer(copy.deepcopy(model), PROMPTS[0]) == expected
    finally:
        torch.set_default_dtype(torch.float32)
    for context in (torch.no_grad(), torch.inference_mode(), torch.enable_grad()):
        with context, as_before(model):
            assert answer(model, PROMPTS[0]) == expected
            assert answer(copy.deepcopy(model), PROMPTS[0]) == expected


def test_gradients_of_another_thread_stay_on():
    model, seen = model_of("Qwen3"), []

    def look(event):
        thread = threading.Thread(target=lambda: seen.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled())))
        thread.start()
        thread.join()

    answer(model, PROMPTS[0], on_step=look)
    assert seen == [(True, False)] * NEW


def test_a_model_that_is_given_up_while_others_like_it_run(impatient):
    gone = []

    def short():
        model = model_of("Qwen3")
        gone.append(weakref.ref(model))
        found = answer(model, PROMPTS[0])
        del model
        gc.collect()
        return found

    expected = answer(model_of("Qwen3"), PROMPTS[0])
    assert together(*[short] * 3) == [[expected] * ROUNDS] * 3
    gc.collect()
    assert [ref() for ref in gone] == [None] * (3 * ROUNDS)


def test_a_copy_made_meanwhile_is_a_model_of_its_own():
    model, copies = model_of("Qwen3"), []
    expected = answer(model, PROMPTS[0])
    answer(model, PROMPTS[0], on_step=lambda _: copies.append(copy.deepcopy(model)), max_new_tokens=1)
    assert answer(copies[0], PROMPTS[0]) == expected


def test_adapters_are_switched_meanwhile():
    """What is switched between two steps holds from the next one on, and stays; the weights come back with the first."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(2)
    settings = {"target_modules": ["q_proj"], "init_lora_weights": False, "lora_dropout": 0.5}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of transformers, about a name that peft reads
        model = peft.get_peft_model(model_of("Qwen3"), peft.LoraConfig(**settings), adapter_name="one")
        model.add_adapter("two", peft.LoraConfig(**settings))
        model.set_adapter("one")
    model.train()
    expected = answer(model, PROMPTS[0])
    switched = []

    def switch(event):
        model.set_adapter("two" if not switched else "one")
        switched.append(model.active_adapter)

    answer(model, PROMPTS[0], on_step=switch, max_new_tokens=1)
    assert model.active_adapter == "two"
    assert all(module.training for module in model.modules())
    model.set_adapter("one")
    assert answer(model, PROMPTS[0]) == expected


def test_one_sampler_for_many_threads_is_an_error_or_an_answer(impatient):
    """The sampler of the core is one run's. Several threads that feed one are told so, or are served; it never breaks."""
    table = HashTable(16, seed=1)

    def run(sampler):
        while True:
            try:
                request = sampler.next()
                if request is None:
                    return
                for rows, canvases, lines in request.groups():
                    logits = table(torch.from_numpy(canvases)).reshape(-1, 16)
                    prediction = sampler.predict(logits, rows=rows, index=lines)
                    sampler.feed(prediction=prediction, rows=rows)
            except dllm_fast.DllmFastError:
                continue

    for _ in range(ROUNDS):
        config = dllm_fast.SamplerConfig(mask_token_id=15)
        sampler = dllm_fast.Sampler(config, [np.full(12, 15)] * 4, seed=3)
        threads = [threading.Thread(target=run, args=(sampler,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        assert all((canvas != 15).all() for canvas in sampler.canvases)


def test_mask_predict_in_many_threads(impatient):
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(64, 300)).astype(np.float32))
    expected = dllm_fast.mask_predict(logits, temperature=0.7, seed=3)
    found = together(*[lambda: dllm_fast.mask_predict(logits, temperature=0.7, seed=3)] * 8)
    for prediction in (p for rows in found for p in rows):
        assert np.array_equal(prediction.token, expected.token)
        assert np.array_equal(prediction.top1, expected.top1)


def test_nothing_of_ours_is_left_in_a_registry():
    assert not hold._THINGS
    assert not hold._open()
    assert not keep._RUNNING
    assert hold.FORWARD.get() is None
    assert not [m for m in vars(native).values() if isinstance(m, weakref.WeakKeyDictionary)]
