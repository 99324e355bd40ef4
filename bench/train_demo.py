"""Train the embedded demo model: `python bench/train_demo.py --task sudoku`.

Deterministic: the data of a step are a function of (seed, step), the number of steps is fixed and one thread does the
work, so the same machine and torch give the same weights; other machines round differently. A run that was stopped
goes on from its last checkpoint and ends in the same weights.

Objective (masked diffusion): of the M unknown positions of an example, exactly k ~ U{1..M} are masked and the rest
shown; the loss is the mean cross-entropy of the masked ones. This is the exact-k form of the uniform-time bound with
weight 1/t: the same expectation with less variance.
"""

import argparse
import json
import math
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Protocol

import numpy as np
import safetensors.torch
import tokenizers
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from dllm_fast import _core, demo
from dllm_fast.demo import word_tasks
from dllm_fast.loading.load import load
from dllm_fast.networks.encoder import Encoder, EncoderConfig

ROOT = Path(__file__).parent.parent
MUON_LR, ADAMW_LR = 4e-3, 2e-3
WARMUP_STEPS, FLAT_SHARE, FINAL_SHARE = 50, 0.3, 0.02
CHECKPOINT_EVERY, LOG_EVERY = 200, 50


@dataclass(frozen=True, slots=True)
class Batch:
    """Clean tokens `[B, L]` and which of their positions are unknown, hence may be masked."""

    clean: Tensor
    unknown: Tensor


@dataclass(frozen=True, slots=True)
class Stage:
    """A stretch of training with a schedule of its own."""

    steps: int
    peak: float = 1.0
    """Share of the full learning rates that this stage rises to."""


class Task(Protocol):
    """What a model is trained on."""

    name: str
    stages: tuple[Stage, ...]
    batch_size: int
    vocabulary: tuple[str, ...]
    config: EncoderConfig

    def initialise(self, model: Encoder, random: torch.Generator) -> None:
        """Change the usual initialisation where the task knows better."""

    def batch(self, seed: int, step: int) -> Batch:
        """The examples of one step."""

    def evaluate(self, model: Encoder) -> dict[str, object]:
        """How well the model does on what it has not seen."""


class Sudoku:
    """9x9 puzzles; some examples come without givens, so that the model also knows the empty grid.

    After the first stage about three failures in four had 30 givens or fewer, so the second one trains on 25 to 34.
    """

    name = "sudoku"
    stages: tuple[Stage, ...] = (Stage(4000), Stage(1000, peak=0.5))
    batch_size = 64
    vocabulary = ("[PAD]", *"123456789", "[MASK]", "[EOS]")
    config = EncoderConfig(
        vocab_size=12,
        hidden_size=128,
        num_hidden_layers=5,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=81,
        pad_token_id=0,
        mask_token_id=demo.MASK_ID,
        eos_token_id=11,
    )

    def initialise(self, model: Encoder, random: torch.Generator) -> None:
        """Positions start as row code + column code + box code: the geometry need not be found from scratch."""
        row, column, box = torch.randn(3, 9, self.config.hidden_size, generator=random) * 0.05
        cell = torch.arange(81)
        table = row[cell // 9] + column[cell % 9] + box[cell // 27 * 3 + cell % 9 // 3]
        model.get_parameter("bert.embeddings.position_embeddings.weight").copy_(table)

    def batch(self, seed: int, step: int) -> Batch:
        low, high, empty = (26, 50, 9) if step < self.stages[0].steps else (25, 34, 4)
        puzzles, solutions = _core.sudoku_puzzles(self.batch_size, (seed << 32) + step, low, high, held_out=False)
        unknown = puzzles == 0
        unknown[:empty] = True
        return Batch(torch.from_numpy(solutions).long(), torch.from_numpy(unknown))

    def evaluate(self, model: Encoder) -> dict[str, object]:
        report: dict[str, object] = {"givens": [26, 50], "problems_seed": 1, "problems": 1000}
        canvases = torch.from_numpy(np.stack(demo.problems(1000, seed=1)))
        for order, threshold in (("confidence", None), ("random", None), ("confidence", 0.9), ("confidence", 0.99)):
            filled, forwards = fill(model, canvases, order, threshold)
            label = f"{order}, one a forward" if threshold is None else f"{order}, threshold {threshold}"
            report[label] = rates([demo.check(row) for row in filled], forwards)
        return report


class Text:
    """Sort, reverse or pack a word; the canvas behind the answer is filled with EOS.

    A step draws one canvas length for its batch, short ones too, because a user chooses the length of the answer.
    """

    name = "text"
    stages: tuple[Stage, ...] = (Stage(4000),)
    batch_size = 64
    vocabulary = ("[PAD]", "[MASK]", "[EOS]", *"abcdefghijklmnopqrstuvwxyz", *"123456789", ":", "=")
    config = EncoderConfig(
        vocab_size=40,
        hidden_size=80,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=320,
        max_position_embeddings=64,
        pad_token_id=0,
        mask_token_id=1,
        eos_token_id=2,
    )

    def initialise(self, model: Encoder, random: torch.Generator) -> None:
        """Nothing to add."""

    def batch(self, seed: int, step: int) -> Batch:
        random = Random((seed << 32) + step)
        length = random.randint(16, self.config.max_position_embeddings)
        # From 16 positions on, "pack" with its two characters a run is the longest exercise of a word.
        max_letters = min(word_tasks.MAX_LETTERS, (length - len("pack:=") - 1) // 3)
        prompts = [word_tasks.random_prompt(random, max_letters, held_out=False) for _ in range(self.batch_size)]
        token = {symbol: index for index, symbol in enumerate(self.vocabulary)}
        clean = torch.full((self.batch_size, length), token["[EOS]"])
        unknown = torch.zeros(clean.shape, dtype=torch.bool)
        for row, prompt in enumerate(prompts):
            text = prompt + word_tasks.answer(prompt)
            clean[row, : len(text)] = torch.tensor([token[symbol] for symbol in text])
            unknown[row, len(prompt) :] = True
        return Batch(clean, unknown)

    def evaluate(self, model: Encoder) -> dict[str, object]:
        gen_length = 28
        report: dict[str, object] = {"problems_seed": 1, "problems": 1000, "gen_length": gen_length}
        tokenizer = character_tokenizer(self.vocabulary)
        problems = demo.text_problems(1000, seed=1)
        prompts = [tokenizer.encode(prompt).ids for prompt, _ in problems]
        for order, threshold in (("confidence", None), ("random", None), ("confidence", 0.9), ("confidence", 0.0)):
            answers, forwards = dict[int, list[int]](), 0.0
            for length in {len(prompt) for prompt in prompts}:
                chosen = [index for index, prompt in enumerate(prompts) if len(prompt) == length]
                canvases = torch.tensor([prompts[index] + [model.mask_token_id] * gen_length for index in chosen])
                filled, mean_forwards = fill(model, canvases, order, threshold)
                forwards += mean_forwards * len(chosen)
                answers |= zip(chosen, filled[:, length:].tolist(), strict=True)
            solved = []
            for index, (_, answer) in enumerate(problems):
                expected = tokenizer.encode(answer).ids
                solved.append(answers[index] == expected + [model.eos_token_id] * (gen_length - len(expected)))
            label = f"{order}, one a forward" if threshold is None else f"{order}, threshold {threshold}"
            report[label] = rates(solved, forwards / len(problems))
        return report


def fill(model: Encoder, canvases: Tensor, order: str, threshold: float | None) -> tuple[Tensor, float]:
    """Fill the masks of canvases `[n, L]` greedily; returns them and the mean number of forwards each one needed.

    Every forward commits the best masked position of each canvas and, with a threshold, all those at or above it.
    """
    random = torch.Generator().manual_seed(0)
    done, forwards = [], 0
    for start in range(0, len(canvases), 64):
        canvas = canvases[start : start + 64].clone()
        while (masked := canvas == model.mask_token_id).any():
            active = masked.any(dim=1)
            forwards += int(active.sum())
            with torch.inference_mode():
                logits = model(canvas[active])
                logits[..., model.mask_token_id] = -math.inf
                confidence, proposal = logits.softmax(-1).max(-1)
            score = confidence if order == "confidence" else torch.rand(confidence.shape, generator=random)
            score = score.masked_fill(~masked[active], -1)
            commit = F.one_hot(score.argmax(1), canvas.shape[1]).bool()
            if threshold is not None:
                commit |= score >= threshold
            canvas[active] = torch.where(commit, proposal, canvas[active])
        done.append(canvas)
    return torch.cat(done), forwards / len(canvases)


def rates(solved: list[bool], forwards: float) -> dict[str, object]:
    """One line of a report."""
    rate = sum(solved) / len(solved)
    return {"solved": rate, "wilson_95": wilson(sum(solved), len(solved)), "mean_forwards": round(forwards, 2)}


def wilson(successes: int, n: int, z: float = 1.959964) -> list[float]:
    """The Wilson score interval of a rate."""
    rate = successes / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    radius = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return [round(centre - radius, 4), round(centre + radius, 4)]


def character_tokenizer(vocabulary: tuple[str, ...]) -> tokenizers.Tokenizer:
    """One token a character; names in brackets are special; white space is dropped; other characters are an error."""
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({token: index for index, token in enumerate(vocabulary)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = tokenizers.normalizers.Replace(tokenizers.Regex(r"\s"), "")
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex("."), "isolated")
    tokenizer.decoder = tokenizers.decoders.Fuse()
    tokenizer.add_special_tokens([token for token in vocabulary if len(token) > 1])
    return tokenizer


def new_model(task: Task, random: torch.Generator) -> Encoder:
    """The usual initialisation of the family (matrices at 0.02), then what the task sets itself."""
    model = Encoder(task.config)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                module.weight.normal_(0.0, 0.02, generator=random)
            if isinstance(module, nn.Linear):
                module.bias.zero_()
        task.initialise(model, random)
    return model


def masked_loss(model: Encoder, batch: Batch, random: torch.Generator) -> Tensor:
    """Mask k ~ U{1..M} of the M unknown positions of each row; mean cross-entropy over them, then over rows."""
    count = batch.unknown.sum(1)
    k = 1 + (torch.rand(len(count), generator=random) * count).long()
    # The k unknown positions with the smallest random keys; known positions sort last.
    keys = torch.rand(batch.clean.shape, generator=random).masked_fill(~batch.unknown, 2.0)
    masked = keys.argsort(1).argsort(1) < k[:, None]
    logits = model(batch.clean.masked_fill(masked, model.mask_token_id))
    loss = F.cross_entropy(logits[masked], batch.clean[masked], reduction="none")
    weight = (masked / k[:, None])[masked]
    return (loss * weight).sum() / len(count)


def learning_rate(step: int, stages: tuple[Stage, ...]) -> float:
    """Share of the full rate; in every stage: linear warm-up, flat, cosine down to the final share."""
    for stage in stages:
        if step < stage.steps:
            break
        step -= stage.steps
    if step < WARMUP_STEPS:
        return stage.peak * (step + 1) / WARMUP_STEPS
    done = max(0.0, (step - FLAT_SHARE * stage.steps) / ((1 - FLAT_SHARE) * stage.steps))
    return stage.peak * (FINAL_SHARE + (1 - FINAL_SHARE) * 0.5 * (1 + math.cos(math.pi * done)))


def optimizers(model: Encoder) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices, AdamW for tables, norms and biases."""
    matrices, others = list[nn.Parameter](), list[nn.Parameter]()
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim == 2 and "embeddings" not in name
        (matrices if is_matrix else others).append(parameter)
    muon = torch.optim.Muon(matrices, lr=MUON_LR, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(others, lr=ADAMW_LR)]


def train(task: Task, seed: int, steps: int, checkpoint: Path) -> tuple[Encoder, float, float]:
    """Returns the model, its mean loss over the last hundred steps and the seconds that training took."""
    model = new_model(task, torch.Generator().manual_seed(seed))
    chosen = optimizers(model)
    peaks = [MUON_LR, ADAMW_LR]
    first, elapsed_s, recent = 0, 0.0, list[float]()
    if checkpoint.exists():
        state = torch.load(checkpoint)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(chosen, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first, elapsed_s, recent = state["step"], state["elapsed_s"], state["recent"]
    started = time.perf_counter() - elapsed_s
    for step in range(first, steps):
        loss = masked_loss(model, task.batch(seed, step), torch.Generator().manual_seed((seed << 32) + step))
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, peak in zip(chosen, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * learning_rate(step, task.stages)
            optimizer.step()
            optimizer.zero_grad()
        recent = [*recent[-99:], loss.item()]
        elapsed_s = time.perf_counter() - started
        if (step + 1) % LOG_EVERY == 0:
            mean = sum(recent[-LOG_EVERY:]) / LOG_EVERY
            print(f"step {step + 1}/{steps}  loss {mean:.4f}  {elapsed_s:.0f} s", flush=True)
        if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == steps:
            state = {
                "model": model.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in chosen],
                "step": step + 1,
                "elapsed_s": elapsed_s,
                "recent": recent,
            }
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            torch.save(state, checkpoint.with_suffix(".part"))
            checkpoint.with_suffix(".part").replace(checkpoint)
    return model, sum(recent) / len(recent), elapsed_s


def save(model: Encoder, task: Task, out: Path) -> None:
    """Write the Hugging Face folder: config, bfloat16 weights, tokenizer."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(task.config.to_json(), encoding="utf-8")
    tensors = {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}
    weights = out / "model.safetensors"
    safetensors.torch.save_file(tensors, weights, metadata={"format": "pt"})
    weights.chmod(0o644)  # safetensors writes for the owner alone, and a wheel keeps the mode
    character_tokenizer(task.vocabulary).save(str(out / "tokenizer.json"))
    specials = {"pad_token": "[PAD]", "mask_token": "[MASK]", "eos_token": "[EOS]"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **specials}
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    tasks: dict[str, Task] = {task.name: task for task in (Sudoku(), Text())}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=tasks, default="sudoku")
    parser.add_argument("--steps", type=int, help="stop after this many steps of the recipe")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="default: the model folder in the package")
    parser.add_argument("--checkpoint", type=Path, help="default: build/train_<task>.pt; delete it to start anew")
    arguments = parser.parse_args()
    task = tasks[arguments.task]
    planned = sum(stage.steps for stage in task.stages)
    steps = min(arguments.steps or planned, planned)
    out = arguments.out or ROOT / "python" / "dllm_fast" / "demo" / task.name
    checkpoint = arguments.checkpoint or ROOT / "build" / f"train_{task.name}.pt"

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    model, loss, train_s = train(task, arguments.seed, steps, checkpoint)
    save(model, task, out)
    record = {
        "command": f"python bench/train_demo.py --task {task.name} --seed {arguments.seed} --steps {steps}",
        "seed": arguments.seed,
        "steps": steps,
        "batch_size": task.batch_size,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "loss_last_100_steps": round(loss, 5),
        "train_s": round(train_s),
        "threads": 1,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "safetensors": safetensors.__version__,
            "tokenizers": tokenizers.__version__,
        },
        # Measured on the weights as they are shipped, after rounding to bfloat16.
        "measured": task.evaluate(load(out, dtype="float32").network),
    }
    (out / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
