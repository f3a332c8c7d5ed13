"""Measures what training and answering cost on a GPU, and writes ``results/costs/<model>_<device>.json`` for the book.

    python benchmarks/gpu_cost.py --model llava-1.5-7b             every row; those already in the file are skipped
    python benchmarks/gpu_cost.py --model llava-1.5-13b --rows 'lora/*' 'ia3/both/*' --minutes 9
    python benchmarks/gpu_cost.py --tiny --scale smoke --store FOLDER       a small model of the same architecture, on any machine

A row is a method, where it sits, and whether the connector is tuned, at the sizes of a scale. For each the model is made at
full size with random weights on the device itself, in the number formats of a run: what a step costs does not depend on the
values, and no hub is asked. Steps go through the training loop of the runs, answers through `generate` as they do there. What
is measured is the GPU's part: batch and pictures lie on the device already, and the first example is padded, as in most
batches. The largest batch is found by doubling, then by halving what lies between; too little memory is a result. Each row is
written when it is done, so that a stop costs one.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache
from torch import Tensor, nn
from transformers import LogitsProcessorList

from mmpeft import run
from mmpeft.attach import attach, parameter_groups
from mmpeft.calc import Shape, sizes_in
from mmpeft.counts import PLACES
from mmpeft.errors import MmpeftError
from mmpeft.loading import Loaded, at_random, on_meta
from mmpeft.methods import METHODS
from mmpeft.models import Model, known
from mmpeft.models.base import merged
from mmpeft.plan import Question
from mmpeft.planner import words_of
from mmpeft.records import utc_now
from mmpeft.spec import RunSpec
from mmpeft.study.gpu_costs import FOLDER, Answering, Cost, GpuCosts, load, path_of
from mmpeft.task import Example
from mmpeft.train import train

WARM_UP = 2
"""Steps before those that count."""

TRIAL_STEPS = 2
"""Of a batch that may not fit: the optimizer's states are there from the second step on."""

PADDING, BEFORE_PICTURE = 4, 8
"""Tokens of the first example that are padding, and tokens before a picture."""

VERSIONS = ("python", "torch", "transformers", "peft", "accelerate")


def asked(model: str, scale: str, task: str | None = None) -> list[RunSpec]:
    """Every method, at each location it has, with a frozen and a tuned connector; by default on the task of the longest texts."""
    variants = [
        {"method": {"name": name}, "location": place, "connector": connector}
        for name, kind in METHODS.items()
        for place in (PLACES if kind.has_location else ("both",))
        for connector in (("frozen", "tuned") if kind.trains and not kind.tunes_connector else ("frozen",))
    ]
    fields = {"question": "costs", "scale": scale, "model": model, "variants": variants, "seeds": [0]}
    question = Question.from_parameters(fields)
    longest = max(question.tasks, key=lambda name: words_of(name).prompt + words_of(name).answer)
    return question.model_copy(update={"tasks": [task or longest]}).specs()


def name_of(spec: RunSpec) -> str:
    """``lora/mlp/tuned``, by which a row is chosen."""
    return f"{spec.method.name}/{spec.location}/{'tuned' if spec.connector.tuned else 'frozen'}"


def shrunk(model: Model) -> Model:
    """The entry of a small model of the same architecture."""
    assert model.square is not None
    return replace(
        model,
        entry=replace(model.entry, name=f"{model.entry.name}-tiny"),
        config=merged(model.config, model.tiny),
        square=replace(model.square, side=model.tiny_side),
        num_image_tokens=model.tiny_num_image_tokens,
    )


def synchronize(device: torch.device) -> float:
    """The clock, once the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def matrix_peak(device: torch.device) -> float:
    """Operations a second of the fastest of some large bf16 matrix products: the best of five times ten of each size."""
    best = 0.0
    for size in (4096, 8192, 16_384) if device.type == "cuda" else (512,):
        a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
        for _ in range(6):  # the first one warms up
            start = synchronize(device)
            for _ in range(10):
                a @ b
            best = max(best, 10 * 2 * size**3 / (synchronize(device) - start))
    return best


def memory_of(device: torch.device) -> int:
    """Bytes that the device has."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def out_of_memory(error: Exception) -> bool:
    """Whether the device had too little memory."""
    said = ("out of memory", "ALLOC_FAILED", "can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in said)


def largest(fits: Callable[[int], bool], start: int, most: int) -> int:
    """The largest number up to ``most`` that fits: doubled from the start, then halving what lies between; 0 if not even 1."""
    good, bad, size = 0, most + 1, min(start, most)
    while good + 1 < bad:
        if fits(size):
            good = size
        else:
            bad = size
        size = min(2 * size, most) if bad > most else (good + bad) // 2
    return good


class Bench:
    """A full-size model with a method on it, ready to train and to answer.

    Args:
        spec: The configuration.
        model: The entry of the model.
        shape: Of its sequences.
        device: Where.
    """

    def __init__(self, spec: RunSpec, model: Model, shape: Shape, device: torch.device) -> None:
        self.spec, self.shape, self.device = spec, shape, device
        self.side = model.square.side if model.square else 0
        self.loaded: Loaded = at_random(model, device, spec.train.precision)
        run.prepare(self.loaded.model, self.loaded.entry, spec)
        with device:  # hundreds of millions of new weights
            made = attach(self.loaded.model, self.loaded.entry, spec.method, spec.location, spec.connector.tuned, spec.seed)
        self.model: nn.Module = made.to(device)

    def batch(self, size: int) -> dict[str, Tensor]:
        """So many sequences with a picture each, the answers at their ends."""
        image, vocab = self.loaded.image_token_id, self.loaded.dims.vocab_size
        ids = torch.randint(vocab, (size, self.shape.num_tokens), device=self.device)
        ids[ids == image] = (image + 1) % vocab
        ids[:, BEFORE_PICTURE : BEFORE_PICTURE + self.loaded.num_image_tokens] = image
        mask = torch.ones_like(ids)
        mask[0, : PADDING * (size > 1)] = 0
        labels = torch.full_like(ids, -100)
        labels[:, -self.shape.num_answer_tokens + 1 :] = ids[:, -self.shape.num_answer_tokens + 1 :]
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": (mask.cumsum(-1) - 1).clamp(0),
            "pixel_values": torch.randn(size, 3, self.side, self.side, device=self.device),
            "labels": labels,
        }

    def steps(self, size: int, number: int) -> list[float]:
        """Seconds of each of so many steps of the training loop, each one pass over so many examples."""
        clock: list[float] = []
        inputs = self.batch(size)
        one_pass = {"num_epochs": None, "num_steps": number, "batch_size": size, "gradient_accumulation_steps": 1}
        train(
            self.model,
            parameter_groups(self.model, self.loaded.entry, self.spec.train.learning_rate, self.spec.connector.learning_rate),
            [Example(example_id="", picture_id="", prompt="", answer="", answers=())],
            lambda examples: inputs,
            self.spec.train.model_copy(update=one_pass),
            seed=0,
            at_step=lambda step: clock.append(synchronize(self.device)),
        )
        return [round(later - earlier, 6) for earlier, later in pairwise(clock)]

    def fits(self, size: int) -> bool:
        """Whether steps of so many examples have memory enough."""
        try:
            self.steps(size, TRIAL_STEPS)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            enough = False
        else:
            enough = True
        self.release()
        return enough

    def release(self) -> None:
        """Gives back what a step left, one that broke off too."""
        self.model.eval().zero_grad()
        clear_device_cache(garbage_collection=True)

    def answering(self, size: int, num_new_tokens: int, repetitions: int) -> Answering:
        """What answers of so many tokens to so many prompts cost."""
        first, later = [], []
        try:
            for number in range(repetitions + 1):  # the first one warms up
                run.start_memory()
                start, times = self._generate(size, num_new_tokens)
                if number:
                    first.append(round(times[0] - start, 6))
                    later.append(round((times[-1] - times[0]) / (num_new_tokens - 1), 6))
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            first = later = []
        peak = run.peak_memory_bytes()
        self.release()
        return Answering(batch_size=size, first_token_seconds=first, token_seconds=later, peak_memory_bytes=peak)

    @torch.inference_mode()
    def _generate(self, size: int, num_new_tokens: int) -> tuple[float, list[float]]:
        """When it began, and when each token was there."""
        times: list[float] = []

        def note(input_ids: Tensor, scores: Tensor) -> Tensor:
            times.append(synchronize(self.device))
            return scores

        inputs = self.batch(size)
        prompt = self.shape.num_tokens - self.shape.num_answer_tokens + 1
        given: dict[str, Any] = {name: inputs[name][:, :prompt] for name in ("input_ids", "attention_mask")}
        given |= {"pixel_values": inputs["pixel_values"], "do_sample": False, "suppress_tokens": [self.loaded.image_token_id]}
        given |= {"min_new_tokens": num_new_tokens, "max_new_tokens": num_new_tokens}
        half = self.spec.train.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            start = synchronize(self.device)
            self.model.generate(**given, logits_processor=LogitsProcessorList([note]))  # type: ignore[operator]
        return start, times


def measured(spec: RunSpec, model: Model, shape: Shape, device: torch.device, settings: dict[str, Any]) -> Cost:
    """The row of a configuration; one that fails has its error, one that has too little memory nothing that fits."""
    row = Cost(
        method=spec.method, location=spec.location, connector_tuned=spec.connector.tuned, git_commit=run.git_state()["git_commit"]
    )
    try:
        found = _found(Bench(spec, model, shape, device), settings)
    except Exception as error:
        found = {"largest_batch": 0} if out_of_memory(error) else {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    clear_device_cache(garbage_collection=True)
    return row.model_copy(update={**found, "measured_at": utc_now()})


def _found(bench: Bench, settings: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"answering": []}
    if bench.spec.method.trains:
        most = largest(bench.fits, settings["batch_size"], settings["most"])
        size = min(settings["batch_size"], most)
        found |= {"largest_batch": most, "batch_size": size}
        found["trainable_params"] = sum(p.numel() for p in bench.model.parameters() if p.requires_grad)
        while size and "step_seconds" not in found:
            run.start_memory()
            try:
                found["step_seconds"] = bench.steps(size, WARM_UP + settings["num_steps"])[WARM_UP:]
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                size //= 2  # what is left between tensors grows over the steps
            found |= {"batch_size": size, "peak_memory_bytes": run.peak_memory_bytes()}
            bench.release()
    for size in dict.fromkeys((1, settings["answers"])):
        found["answering"].append(bench.answering(size, settings["num_new_tokens"], settings["repetitions"]))
    return found


def settings_of(arguments: argparse.Namespace, rows: Sequence[RunSpec]) -> dict[str, Any]:
    """How the rows are measured; a step is one pass of the scale's."""
    train = next(spec.train for spec in rows if spec.method.trains)
    most = arguments.most or train.batch_size
    return {
        "scale": arguments.scale,
        "task": rows[0].task,
        "num_rows": len(rows),
        "precision": train.precision,
        "attention_implementation": train.attention_implementation,
        "batch_size": min(train.batch_size // train.gradient_accumulation_steps, most),
        "most": most,
        "num_steps": arguments.steps,
        "answers": arguments.answers or rows[0].eval.batch_size,
        "num_new_tokens": arguments.new_tokens,
        "repetitions": arguments.repetitions,
    }


def begun(path: Path, model: Model, settings: dict[str, Any], device: torch.device) -> GpuCosts:
    """What is in the file, else a file without rows.

    Raises:
        MmpeftError: What is there was measured otherwise, and does not go together with more rows.
    """
    environment, found = run.environment(), load(path)
    if found is None:
        encoder = on_meta(model).get_submodule(model.entry.vision_encoder)
        sizes = sizes_in(model, sum(p.numel() for p in encoder.parameters()))
        words = words_of(settings["task"])
        return GpuCosts(
            model=model.entry.name,
            settings=settings,
            environment=environment,
            measured_at=utc_now(),
            device=environment["device"],
            memory_bytes=memory_of(device),
            matrix_flops=matrix_peak(device),
            sizes=sizes,
            shape=sizes.shape(words.prompt, words.answer),
            rows=[],
        )
    now = settings | {name: environment[name] for name in VERSIONS}
    before = found.settings | {name: found.environment.get(name) for name in VERSIONS}
    if others := [f"{name} {before.get(name)} (now {now[name]})" for name in now if before.get(name) != now[name]]:
        raise MmpeftError(f"{path.name} was measured with {', '.join(others)}: remove it, or name another --store.")
    return found


def measure(arguments: argparse.Namespace) -> GpuCosts:
    """All rows that are asked for and not there yet, each written when it is done."""
    start, longest, device = time.monotonic(), 0.0, run.own_device()
    model = shrunk(known(arguments.model)) if arguments.tiny else known(arguments.model)
    rows = asked(arguments.model, arguments.scale, arguments.task)
    chosen = [spec for spec in rows if any(fnmatch(name_of(spec), pattern) for pattern in arguments.rows)]
    if not chosen:
        raise MmpeftError(f"--rows: none is {' or '.join(arguments.rows)}; there are {', '.join(map(name_of, rows))}.")
    settings = settings_of(arguments, rows)
    path = path_of(Path(arguments.store), run.environment()["device"], model.entry.name)
    costs = begun(path, model, settings, device)
    order = {(spec.method, spec.location, spec.connector.tuned): name_of(spec) for spec in rows}
    done = [order.get(what(row)) for row in costs.rows if not row.error]
    missing = [spec for spec in chosen if name_of(spec) not in done]
    for number, spec in enumerate(missing):
        before = time.monotonic()
        if before - start + longest > 60 * arguments.minutes:
            print(f"out of time with {len(missing) - number} rows left: the same command goes on with them")
            break
        row = measured(spec, model, costs.shape, device, settings)
        there = {what(each): each for each in (*costs.rows, row)}
        ordered = [there.pop(place) for place in order if place in there]
        costs = costs.model_copy(update={"rows": [*ordered, *there.values()]})
        costs.save(path)
        longest = max(longest, time.monotonic() - before)
        print(f"{name_of(spec)}: {told(row)}", flush=True)
    print(f"{len(costs.rows)} of {len(rows)} rows: {os.path.relpath(path)}")
    return costs


def what(row: Cost) -> tuple[Any, ...]:
    """Which configuration a row is about."""
    return row.method, row.location, row.connector_tuned


def told(row: Cost) -> str:
    """A row in a few words."""
    if row.error or not row.step_seconds:
        return row.error or ("nothing trains" if row.largest_batch is None else "not even one example fits")
    step = f"{median(row.step_seconds):.3f} s a step of {row.batch_size}"
    return f"{step}, {row.peak_memory_bytes / 2**30:.1f} GiB, largest batch {row.largest_batch}"


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measures what training and answering cost on a GPU.")
    parser.add_argument("--model", default="llava-1.5-7b")
    parser.add_argument("--tiny", action="store_true", help="a small model of the same architecture, for a CPU")
    parser.add_argument("--scale", default="paper", help="whose sizes and number formats")
    parser.add_argument("--task", help="whose lengths of prompt and answer; by default the longest")
    parser.add_argument("--rows", nargs="+", default=["*"], help="which rows, such as 'lora/*' or 'prefix/both/tuned'")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no row that would take longer")
    parser.add_argument("--steps", type=int, default=5, help="measured steps of a row")
    parser.add_argument("--most", type=int, help="largest batch tried; by default that of a whole step")
    parser.add_argument("--answers", type=int, help="answers written at once, beside one alone; by default as a run")
    parser.add_argument("--new-tokens", type=int, default=16, help="tokens of an answer")
    parser.add_argument("--repetitions", type=int, default=3, help="of answering")
    parser.add_argument("--store", default=FOLDER)
    return parser.parse_args(words)


if __name__ == "__main__":
    try:
        measure(parsed())
    except MmpeftError as error:
        sys.exit(f"gpu_cost: {error}")
