"""`dllm-fast generate` and `dllm-fast infill`: text from a checkpoint."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dllm_fast.commands import checkpoint, rule
from dllm_fast.errors import InvalidValueError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from dllm_fast.loading.model import LoadedModel
    from dllm_fast.result import Result


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `generate` and `infill` to the command."""
    generate = commands.add_parser("generate", help="answer prompts with a checkpoint", description=_generate.__doc__)
    prompts = generate.add_mutually_exclusive_group(required=True)
    prompts.add_argument("-p", "--prompt", metavar="TEXT", help="the prompt; - reads it from standard input")
    prompts.add_argument("--prompts", metavar="FILE.jsonl", help='one {"prompt": "..."} a line; answers are JSON lines')
    generate.add_argument(
        "--chat",
        action=argparse.BooleanOptionalAction,
        help="the prompt is a user's message for the chat template, or taken as it is (default: --chat where there is one)",
    )
    generate.add_argument("--system", metavar="TEXT", help="system message, for checkpoints with a chat template")
    generate.add_argument(
        "--negative-prompt", metavar="TEXT", help="what --guidance leads away from, written as the prompt is (default: masks)"
    )
    _add_common(generate)
    generate.set_defaults(run=_generate)

    infill = commands.add_parser("infill", help="fill the masks of a text with a checkpoint", description=_infill.__doc__)
    infill.add_argument(
        "--text",
        metavar="TEXT",
        required=True,
        help="with [MASK] for each token to be filled in, [MASK:3-10] for 3 to 10 of them",
    )
    _add_common(infill, without=["max_new_tokens"])
    infill.set_defaults(run=_infill)


def _add_common(parser: argparse.ArgumentParser, without: Collection[str] = ()) -> None:
    checkpoint.add_arguments(parser)
    parser.add_argument("--preset", help="a name of dllm_fast.presets() (default: what the model's family recommends)")
    rule.add_arguments(parser, without)
    parser.add_argument(
        "--verifier", metavar="MODEL", help="folder or hub id of a causal model that --preset apd asks about each draft"
    )
    parser.add_argument("--num-samples", type=int, default=1, metavar="INT", help="answers to each prompt (default: 1)")
    parser.add_argument("--dtype", help="of the weights: float32, bfloat16 or float16 (default: as in the files)")
    parser.add_argument("--device", default="cpu", help="where the model runs (default: cpu)")
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")


def _generate(options: argparse.Namespace) -> int:
    """Answer a prompt with a checkpoint. One with a chat template is given the prompt as a user's message (but --no-chat)."""
    prompts = _prompts(options)
    model = _load(options, is_infilling=False)
    has_template = model.tokenizer is not None and model.tokenizer.chat_template is not None
    templated = has_template if options.chat is None else options.chat
    if options.system is not None and not templated:
        raise InvalidValueError(
            "--system is part of a conversation, got --no-chat beside it; put the text into the prompt"
            if has_template
            else f"--system needs a checkpoint with a chat template, got {options.model} without one; put it into the prompt"
        )
    given = [_messages(prompt, options.system) for prompt in prompts] if templated else prompts
    negative = options.negative_prompt
    if negative is not None and templated:
        negative = _messages(negative, options.system)
    from dllm_fast import sample

    with rule.said_plainly(options):
        result = sample(
            model,
            given,
            preset=options.preset,
            verifier=options.verifier,
            negative_prompt=negative,
            seed=options.seed,
            num_samples=options.num_samples,
            **rule.given(options),
        )
    return _print(result, prompts, options, lines=options.prompts is not None)


def _infill(options: argparse.Namespace) -> int:
    """Fill the masks of a text; each [MASK] is one token."""
    model = _load(options, is_infilling=True)
    from dllm_fast import infill

    with rule.said_plainly(options):
        result = infill(
            model,
            options.text,
            preset=options.preset,
            verifier=options.verifier,
            seed=options.seed,
            num_samples=options.num_samples,
            **rule.given(options),
        )
    return _print(result, [options.text], options, lines=False)


def _load(options: argparse.Namespace, *, is_infilling: bool) -> LoadedModel:
    """The checkpoint, once nothing is typed that cannot be."""
    from dllm_fast.calls import check_call
    from dllm_fast.orders import is_ranks
    from dllm_fast.settings.resolve import resolve

    settings = rule.given(options)
    has_ranks = is_ranks(settings.get("order"))
    check_call(
        resolve(options.preset, None, settings | ({"order": "ranks"} if has_ranks else {})),
        seed=options.seed,
        num_samples=options.num_samples,
        is_infilling=is_infilling,
        has_ranks=has_ranks,
        has_negative=not is_infilling and options.negative_prompt is not None,
        verifier=options.verifier,
    )
    model = checkpoint.opened(options, dtype=options.dtype, device=options.device)
    if model.tokenizer is None:
        wrong = next((note for note in model.info.notes if note.startswith("no tokenizer")), None)
        why = "; put tokenizer.json into the folder" if wrong is None else f": {wrong}"
        raise InvalidValueError(f"text needs a tokenizer, got none in {options.model}{why}")
    return model


def _messages(prompt: str, system: str | None) -> list[dict[str, str]]:
    first = [] if system is None else [{"role": "system", "content": system}]
    return [*first, {"role": "user", "content": prompt}]


def _prompts(options: argparse.Namespace) -> list[str]:
    """What is to be answered.

    Raises:
        InvalidValueError: an unreadable file, or a line without a prompt.
    """
    if options.prompts is None:
        return [sys.stdin.read().removeprefix("\ufeff").rstrip("\n") if options.prompt == "-" else options.prompt]
    try:
        lines = Path(options.prompts).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidValueError(
            f"--prompts must name a file of JSON lines in UTF-8, got {options.prompts}: {error}; check the path"
        ) from error
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise InvalidValueError(
                f'{options.prompts}, line {number}, must be JSON, got {line[:60]} ({error}); write {{"prompt": "..."}}'
            ) from error
        prompt = entry.get("prompt") if isinstance(entry, dict) else None
        if not isinstance(prompt, str):
            raise InvalidValueError(
                f'{options.prompts}, line {number}, must hold a text, got {line[:60]}; write {{"prompt": "..."}}'
            )
        found.append(prompt)
    if not found:
        raise InvalidValueError(
            f'--prompts must hold a prompt, got none in {options.prompts}; write {{"prompt": "..."}} a line'
        )
    return found


def _print(result: Result, prompts: Sequence[str], options: argparse.Namespace, *, lines: bool) -> int:
    """Prints the answers, or their ids where the tokenizer could not make text of them; then the status is 1."""
    ids = [row.tolist() for row in result.new_tokens]
    failed = {} if result.texts_error is None else {"text_error": result.texts_error}
    if lines or options.json:
        for row, new_tokens in enumerate(ids):
            entry = {
                "prompt": prompts[row // options.num_samples],
                "text": None if result.texts is None else result.texts[row],
                **failed,
                "new_tokens": new_tokens,
                "finish_reason": result.finish_reasons[row],
                "nfe": result.stats.nfe_per_row[row],
                "seed": options.seed,
                "sample": row % options.num_samples,
            }
            if result.gap_lengths is not None:
                entry["gap_lengths"] = result.gap_lengths[row]
            print(json.dumps(entry))
    else:
        print("\n".join([" ".join(map(str, row)) for row in ids] if result.texts is None else result.texts))
        _print_stats(result, options)
    if failed:
        print(f"dllm-fast: the answer is shown as ids, because there is no text of it: {result.texts_error}", file=sys.stderr)
    return 1 if failed else 0


def _print_stats(result: Result, options: argparse.Namespace) -> None:
    stats = result.stats
    forwards = "1 forward" if stats.nfe == 1 else f"{stats.nfe} forwards"
    print(
        f"{forwards}, {stats.tokens_per_forward:.2f} tokens per forward, {stats.model_ms:.0f} ms in the model, "
        f"{stats.sampler_ms:.1f} ms in the sampler, seed {options.seed}",
        file=sys.stderr,
    )
