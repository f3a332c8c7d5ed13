"""One run made by several processes: the same run function, behind `accelerate launch` or torch's own launcher.

    Launch(spec) ─► accelerate launch … -m mmpeft.launch FOLDER ─► run(spec) in every process ─► the first one's record

The lease stays with the process that launches, so that engines need not know: a run on eight GPUs is a run. The processes
train together (`mmpeft.train`) and share the questions (`mmpeft.evaluate`); each checks the whole model, and the record of the
first counts. A pre-step that is missing is made before, by other processes of the same number.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml

from mmpeft.errors import MmpeftError, RunFailed, unknown
from mmpeft.execute import make
from mmpeft.leases import PLACE
from mmpeft.plan import Planned, params_folder
from mmpeft.records import Outcome, Store
from mmpeft.spec import RunSpec

PARENT = "MMPEFT_LAUNCHED_BY"
"""The environment variable with the process id of the launching process."""

GPUS = "CUDA_VISIBLE_DEVICES"

PARENT_POLL_SECONDS = 2.0
GRACE_SECONDS = 20.0
"""How long another process waits for the record of the first, when it ends with an error."""

ERROR = "error.txt"
SILENCE = "nothing was said"

_ERROR = re.compile(r"(?:\[\w*rank\d+\]:?\s*)?(?:[\w.]+\.)?\w*(?:Error|Diverged|Broken|Failed|Exception)\b.*:")
"""The last line of a traceback, behind the name of its process or not."""


@dataclass(frozen=True)
class Launch:
    """A run function with its settings; processes and clusters get it as it is.

    Attributes:
        store: Where checkpoints lie beside records.
        processes: How many make one run; None means as the configuration says, or this process alone.
        accelerate: An accelerate configuration file; None means plain data parallelism.
        checkpoint_every: Optimizer steps between checkpoints; None means none, unless a run left one to go on from.
    """

    store: Path
    processes: int | None = None
    accelerate: Path | None = None
    checkpoint_every: int | None = None

    def __call__(self, spec: RunSpec) -> Outcome:
        """The run, made here or by processes of its own.

        Raises:
            MmpeftError: The run failed in them, asks what shards cannot give, or has a checkpoint that they cannot take up.
        """
        if not self.alone:
            self.check(spec)
            self._check_kept(self._checkpoint(spec))
        if spec.pre_step:
            self.pre_step(spec)
        if self.alone:
            from mmpeft.run import run

            return run(spec, checkpoint=self._checkpoint(spec), checkpoint_every=self.checkpoint_every)
        with tempfile.TemporaryDirectory(prefix="mmpeft-launch-") as folder:
            code, lines = self._ended(spec, Path(folder), pre_step=False)
            return _brought_back(Path(folder), Planned.of(spec).run_id, code, lines)

    def _check_keeping(self) -> None:
        if self.accelerate and not keeps(self.accelerate):
            name = self.accelerate.stem
            raise MmpeftError(f"checkpoints: neither kept nor taken up under {name}; take fsdp, or leave out --checkpoint-every.")

    def _check_kept(self, checkpoint: Path) -> None:
        """Looks whether the processes can go on from a checkpoint, if it is there: before they start."""
        if checkpoint.exists():
            from mmpeft.checkpoints import check_kept

            self._check_keeping()
            check_kept(checkpoint, self.num_processes, self.accelerate is not None and shards(self.accelerate))

    def _checkpoint(self, spec: RunSpec) -> Path:
        return Store(self.store).checkpoint_path(Planned.of(spec).run_id)

    @property
    def alone(self) -> bool:
        """Whether this process does it all itself."""
        return self.accelerate is None and (self.processes or 1) == 1

    def pre_step(self, spec: RunSpec) -> Path:
        """Where the weights of the run's pre-step lie, made here or by processes of their own if nobody has.

        Raises:
            MmpeftError: They could not be made.
        """
        if self.checkpoint_every is not None:
            self._check_keeping()
        from mmpeft.pre_step import ensured, make

        alone = partial(make, checkpoint_every=self.checkpoint_every)
        return ensured(spec, alone if self.alone else self._make_pre_step)

    def _make_pre_step(self, spec: RunSpec) -> None:
        from mmpeft.pre_step import checkpoint_of, kept_at

        assert spec.pre_step is not None
        self._check_kept(checkpoint_of(kept_at(spec.model, spec.pre_step)))
        with tempfile.TemporaryDirectory(prefix="mmpeft-launch-") as folder:
            code, lines = self._ended(spec, Path(folder), pre_step=True)
            if error := _left_error(Path(folder)):
                raise MmpeftError(error)
            if code:
                raise MmpeftError(f"the processes of the pre-step ended with code {code}: {_cause(lines)}")

    def _ended(self, spec: RunSpec, folder: Path, *, pre_step: bool) -> tuple[int, list[str]]:
        """The exit code of the processes, which are started here and have ended, and the lines that they said."""
        order = {"spec": spec.model_dump(mode="json"), "pre_step": pre_step, "store": str(self.store)}
        order["checkpoint_every"] = self.checkpoint_every
        (folder / "order.json").write_text(json.dumps(order), encoding="utf-8")
        with (folder / "said.txt").open("w+", encoding="utf-8", errors="replace") as said:
            code = subprocess.run(self.command(str(folder)), stdout=said, stderr=said, env=self._environment()).returncode
            said.seek(0)
            return code, [line.strip() for line in said if line.strip()]

    def command(self, folder: str) -> list[str]:
        """What starts the processes: accelerate's launcher for its file, else torch's, on a free port."""
        number = [] if self.processes is None else [str(self.processes)]
        if self.accelerate is None:
            launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", *number]
        else:
            launcher = ["accelerate.commands.launch", "--config_file", str(self.accelerate), "--main_process_port", "0"]
            launcher += ["--num_processes", *number] if number else []
        return [sys.executable, "-m", *launcher, "-m", "mmpeft.launch", folder]

    @property
    def num_processes(self) -> int:
        """How many processes make a run, over all machines."""
        if self.processes is None and self.accelerate is not None:
            return int(yaml.safe_load(self.accelerate.read_text(encoding="utf-8")).get("num_processes", 1))
        return self.processes or 1

    def _environment(self) -> dict[str, str]:
        return {**os.environ, **self._own_gpus(), PARENT: str(os.getpid())}

    def _own_gpus(self) -> dict[str, str]:
        """Which GPUs the processes see, if this is one of several workers: each has its share, in turn."""
        if PLACE not in os.environ:
            return {}
        import torch

        there = torch.cuda.device_count()
        if there < 2 * self.num_processes:
            return {}
        names = os.environ.get(GPUS, "").split(",") if os.environ.get(GPUS) else [str(gpu) for gpu in range(there)]
        first = int(os.environ[PLACE]) % (there // self.num_processes) * self.num_processes
        return {GPUS: ",".join(names[first : first + self.num_processes])}

    def check(self, spec: RunSpec) -> None:
        """Looks whether the run can be made this way; no model is loaded for it.

        Raises:
            MmpeftError: A batch cannot be dealt out to the processes, or the run asks what shards cannot give.
        """
        learning = [spec.train] if spec.method.trains else []
        for train in (*learning, *([spec.pre_step.train] if spec.pre_step else [])):
            train.passes(self.num_processes)
        if self.accelerate and shards(self.accelerate) and spec.track.wanted:
            raise MmpeftError(f"track: nothing can be asked on the way where {self.accelerate.stem} cuts weights; take ddp.")
        if self.checkpoint_every is not None:
            self._check_keeping()


def configuration(name: str) -> Path:
    """The accelerate configuration of this name in ``params/accelerate``, or the file at this path.

    Raises:
        MmpeftError: There is none.
    """
    if Path(name).suffix in (".yaml", ".yml"):
        if not Path(name).is_file():
            raise MmpeftError(f"{name}: no such file.")
        return Path(name)
    folder = params_folder() / "accelerate"
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in names:
        raise unknown("accelerate configuration", name, names)
    return folder / f"{name}.yaml"


def shards(path: Path) -> bool:
    """Whether this configuration cuts weights or optimizer states into pieces, one a process."""
    return yaml.safe_load(path.read_text(encoding="utf-8")).get("distributed_type") in ("FSDP", "DEEPSPEED")


def keeps(path: Path) -> bool:
    """Whether a training under this configuration can be kept on the way: of cut weights, those of FSDP 2 alone."""
    said = yaml.safe_load(path.read_text(encoding="utf-8"))
    return not shards(path) or int(said.get("fsdp_config", {}).get("fsdp_version", 1)) == 2


def _brought_back(folder: Path, run_id: str, code: int, said: list[str]) -> Outcome:
    """What the processes made.

    Raises:
        MmpeftError: The error of the first process; or that of another, which the first met as a lost connection alone.
    """
    made, error = Store(folder), _left_error(folder)
    record = made.load(run_id)
    if record is None:
        raise MmpeftError(error or f"the processes of the run ended with code {code} and no record: {_cause(said)}")
    if record.status == "failed":
        own = str(record.error)
        raise RunFailed(own if error in own else error, record.curve, record.contract)
    tracked = made.tracked_lines(run_id) if record.tracked_sha256 else ()
    predictions = made.predictions(run_id).to_dict("records") if record.predictions_sha256 else []
    return Outcome(record, [{str(name): value for name, value in row.items()} for row in predictions], tracked)


def _leave_error(folder: Path, error: Exception) -> None:
    """Writes down what went wrong in one of the processes, if it was the first to meet something."""
    said = str(error) if isinstance(error, MmpeftError) else f"{type(error).__name__}: {error}"
    with suppress(FileExistsError), (folder / ERROR).open("x", encoding="utf-8") as file:
        file.write(said)


def _left_error(folder: Path) -> str:
    """What was written down; empty if nothing was."""
    return (folder / ERROR).read_text(encoding="utf-8") if (folder / ERROR).exists() else ""


def _cause(said: Sequence[str]) -> str:
    """The line that tells what happened: the first that ends a traceback, and not the launcher's report on it."""
    errors = [line for line in said if _ERROR.match(line)]
    return (errors or [line for line in said if line.strip("=-* ")] or [SILENCE])[0 if errors else -1]


def _end_with(parent: int) -> None:
    """Ends this process when its launcher or the launcher's launcher is gone: nobody would take what it makes."""
    launcher = os.getppid()

    def watch() -> None:
        while os.getppid() == launcher and (Path(f"/proc/{parent}").exists() or not Path("/proc").exists()):
            time.sleep(PARENT_POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(folder: Path) -> None:
    """One of the processes: makes the run with the others; the first one leaves its record in the folder.

    Or the pre-step, whose weights go into the cache. An error is left in the folder, and ends the launch with all its processes:
    the others may wait for this one.
    """
    from mmpeft.pre_step import make as make_pre_step

    _end_with(int(os.environ[PARENT]))
    order = json.loads((folder / "order.json").read_text(encoding="utf-8"))
    spec = RunSpec.from_dict(order["spec"])
    if order["pre_step"]:
        try:
            make_pre_step(spec, order["checkpoint_every"])
        except Exception as error:
            _leave_error(folder, error)
            raise
        return
    alone = Launch(Path(order["store"]), checkpoint_every=order["checkpoint_every"])
    store, planned = Store(folder), Planned.of(spec)
    if os.environ["RANK"] == "0":
        make(planned, store, alone)
        if store.failed([planned]):
            sys.exit(1)
        return
    try:
        alone(spec)
    except MmpeftError as error:
        _leave_error(folder, error)
        until = time.monotonic() + GRACE_SECONDS
        while not store.has(planned.run_id) and time.monotonic() < until:  # the first one may have met it too
            time.sleep(PARENT_POLL_SECONDS / 10)
        raise


if __name__ == "__main__":
    main(Path(sys.argv[1]))
