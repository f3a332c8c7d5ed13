"""Measures what each method costs and writes ``results/efficiency/<model>.json``, which the book's page reads.

Run with ``python benchmarks/efficiency.py`` on a machine with nothing else to do: one thread, a few minutes. Every row of
the question «efficiency» is set up in one process; then come rounds in which each row, in an order that turns, trains some
steps through the training loop and generates for one picture. What slows the machine for a while meets all rows alike, and
a ratio within a round cancels it. The first round warms up and is thrown away.

Memory is measured in fresh processes: how far the largest resident size rises from after loading the model with its method
to after some training steps. It holds activations, gradients and the optimizer's state; it misses what the allocator had to
spare already, it needs Linux, and it is no measure of a GPU's memory.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from mmpeft.attach import attach, parameter_groups, save_adapter
from mmpeft.batches import Encoder
from mmpeft.models import load
from mmpeft.plan import Question, load_question
from mmpeft.records import Store, utc_now
from mmpeft.registry import fingerprint
from mmpeft.run import encoder_for, environment
from mmpeft.spec import RunSpec, TrainSpec
from mmpeft.study.efficiency import Measured, Measurement, path_of
from mmpeft.task import Example
from mmpeft.tasks import TASKS
from mmpeft.train import train

BATCH_SIZE = 16
NUM_EXAMPLES = 64
NUM_NEW_TOKENS = 16
MEMORY_STEPS = 3
NOTHING_TRAINED = 0


class Row:
    """A model with a method on it, ready to train and to generate."""

    def __init__(self, spec: RunSpec) -> None:
        self.spec = spec
        task = TASKS[spec.task]
        self.examples: list[Example] = task.examples("train", NUM_EXAMPLES)
        self.loaded = load(spec.model)
        self.encoder: Encoder = encoder_for(self.loaded, task, self.examples, spec.train.max_length)
        entry, tuned = self.loaded.entry, spec.connector.tuned
        self.model: nn.Module = attach(self.loaded.model, entry, spec.method, spec.location, tuned, spec.seed)

    def train(self, steps: int) -> float:
        """Seconds a step of so many steps through the training loop."""
        settings = TrainSpec(num_steps=steps, batch_size=BATCH_SIZE, learning_rate=1e-4)
        groups = parameter_groups(self.model, self.loaded.entry, 1e-4, 1e-4)
        start = time.perf_counter()
        train(self.model, groups, self.examples, self.encoder.training_batch, settings, seed=0)
        return (time.perf_counter() - start) / steps

    @torch.inference_mode()
    def generate(self) -> float:
        """Seconds for exactly NUM_NEW_TOKENS tokens about one picture."""
        inputs = self.encoder.prompt_batch(self.examples[:1])
        del inputs["position_ids"]
        start = time.perf_counter()
        lengths = {"min_new_tokens": NUM_NEW_TOKENS, "max_new_tokens": NUM_NEW_TOKENS}
        self.model.generate(**inputs, do_sample=False, **lengths)  # type: ignore[operator]
        return time.perf_counter() - start

    def num_tokens(self) -> int:
        """Tokens of a training step, padding left out."""
        return int(self.encoder.training_batch(self.examples[:BATCH_SIZE])["attention_mask"].sum())

    def adapter_bytes(self) -> int:
        """Size of what has to be kept beside the base."""
        with tempfile.TemporaryDirectory() as folder:
            return save_adapter(self.model, self.loaded.entry, Path(folder)) if self.spec.method.trains else NOTHING_TRAINED

    def trainable(self) -> int:
        """How many numbers train."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad) if self.spec.method.trains else NOTHING_TRAINED

    def stored(self) -> int:
        """How many numbers are needed beside the base after training."""
        whole = self.spec.method.name in ("full", "connector") or self.spec.connector.tuned
        return self.trainable() if whole else self.spec.method.num_stored(self.loaded.dims, self.spec.location)


def memory(question: Question, place: int) -> None:
    """Print how many bytes training lifts the peak of this process, for one row."""
    row = Row(question.specs()[place])
    before = resident_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of loading (Linux: man proc)
    row.train(MEMORY_STEPS)
    print(json.dumps({"bytes": max(0, resident_bytes("VmHWM") - before)}))


def resident_bytes(field: str) -> int:
    """The resident size of this process, now (VmRSS) or at its largest (VmHWM)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def memory_in_fresh_processes(arguments: argparse.Namespace, place: int) -> list[int]:
    """The same from processes of their own; nothing where the system does not tell."""
    if not Path("/proc/self/clear_refs").exists():
        return []
    command = [sys.executable, __file__, "--model", arguments.model, "--scale", arguments.scale, "--memory", str(place)]
    found = []
    for _ in range(arguments.processes):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found.append(int(json.loads(done.stdout.splitlines()[-1])["bytes"]))
    return found


def measure(arguments: argparse.Namespace, question: Question) -> Measurement:
    """All rows of the question, in alternating rounds."""
    specs = question.specs()
    rows = [Row(spec) for spec in specs]
    steps: list[list[float]] = [[] for _ in rows]
    seconds: list[list[float]] = [[] for _ in rows]
    for number in range(arguments.rounds + 1):
        for place in turned(range(len(rows)), number):
            step = rows[place].train(arguments.steps) if specs[place].method.trains else None
            generation = rows[place].generate()
            if number:
                steps[place] += [] if step is None else [round(step, 6)]
                seconds[place].append(round(generation, 6))
        print(f"round {number} of {arguments.rounds}", file=sys.stderr)
    measured = [
        Measured(
            method=spec.method,
            location=spec.location,
            connector_tuned=spec.connector.tuned,
            trainable_params=row.trainable(),
            stored_params=row.stored(),
            adapter_bytes=row.adapter_bytes(),
            step_seconds=steps[place],
            generate_seconds=seconds[place],
            peak_memory_bytes=memory_in_fresh_processes(arguments, place) if spec.method.trains else [],
        )
        for place, (spec, row) in enumerate(zip(specs, rows, strict=True))
    ]
    return Measurement(
        model=question.model,
        fingerprint=fingerprint(question.model),
        total_params=sum(p.numel() for p in load(question.model).model.parameters()),
        settings={
            "task": specs[0].task,
            "batch_size": BATCH_SIZE,
            "num_tokens": rows[0].num_tokens(),
            "num_new_tokens": NUM_NEW_TOKENS,
            "num_rounds": arguments.rounds,
            "steps_a_round": arguments.steps,
        },
        environment={**environment(), "processor": processor()},
        measured_at=utc_now(),
        rows=measured,
    )


def turned(places: Sequence[int], by: int) -> list[int]:
    """The places in a turned order: nobody is always the first one."""
    cut = by % len(places)
    return [*places[cut:], *places[:cut]]


def processor() -> str:
    """The processor's name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def report(measurement: Measurement) -> None:
    """Print one line a row."""
    for row in measurement.rows:
        step, generation = (
            f"{sorted(v)[len(v) // 2]:8.4f}" if v else "       -" for v in (row.step_seconds, row.generate_seconds)
        )
        memory = (
            f"{sorted(row.peak_memory_bytes)[len(row.peak_memory_bytes) // 2] / 2**20:7.1f}"
            if row.peak_memory_bytes
            else "      -"
        )
        print(f"{row.name:28s} {row.trainable_params:9,d} trained {step} s a step {generation} s to generate {memory} MiB")


def main() -> None:
    """Measure and write the file, or print the memory of one row."""
    parser = argparse.ArgumentParser(description="Measures what each method costs.")
    parser.add_argument("--model", default="tiny-llava")
    parser.add_argument("--scale", default="tiny")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=4, help="training steps of a row in a round")
    parser.add_argument("--processes", type=int, default=3, help="fresh processes a row, for memory")
    parser.add_argument("--store", default="results")
    parser.add_argument("--memory", type=int, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    question = load_question("efficiency", arguments.scale).model_copy(update={"model": arguments.model})
    if arguments.memory is not None:
        memory(question, arguments.memory)
        return
    measurement = measure(arguments, question)
    path = path_of(Store(arguments.store), arguments.model)
    measurement.save(path)
    report(measurement)
    print(f"written: {os.path.relpath(path)}")


if __name__ == "__main__":
    main()
