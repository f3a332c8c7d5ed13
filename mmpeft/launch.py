"""One run made by several processes: the same run function, behind `accelerate launch` or torch's own launcher.

    Launch(spec) ─► accelerate launch … -m mmpeft.launch FOLDER ─► run(spec) in every process ─► the first one's record

The lease stays with the process that launches, so that engines need not know: a run on eight GPUs is a run. The processes
train together (`mmpeft.train`); each then asks and checks the whole model, and the first one's answers count.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

from mmpeft.errors import MmpeftError, unknown
from mmpeft.execute import make
from mmpeft.plan import Planned, params_folder
from mmpeft.records import Outcome, Store
from mmpeft.spec import RunSpec

PARENT = "MMPEFT_LAUNCHED_BY"
"""The environment variable with the process id of the launching process."""

PARENT_POLL_SECONDS = 2.0


@dataclass(frozen=True)
class Launch:
    """A run function with its settings; processes and clusters get it as it is.

    Attributes:
        store: Where checkpoints lie beside records.
        processes: How many make one run; None means as the configuration says, or this process alone.
        accelerate: An accelerate configuration file; None means plain data parallelism.
        checkpoint_every: Optimizer steps between checkpoints; None means none.
    """

    store: Path
    processes: int | None = None
    accelerate: Path | None = None
    checkpoint_every: int | None = None

    def __call__(self, spec: RunSpec) -> Outcome:
        """The run, made here or by processes of its own.

        Raises:
            MmpeftError: The run failed in them, or asks what shards cannot give.
        """
        if self.accelerate is None and (self.processes or 1) == 1:
            from mmpeft.run import run

            if self.checkpoint_every is None:
                return run(spec)
            path = Store(self.store).checkpoint_path(Planned.of(spec).run_id)
            return run(spec, checkpoint=path, checkpoint_every=self.checkpoint_every)
        self.check(spec)
        planned = Planned.of(spec)
        with tempfile.TemporaryDirectory(prefix="mmpeft-launch-") as folder:
            order = {"spec": spec.model_dump(mode="json"), "store": str(self.store), "checkpoint_every": self.checkpoint_every}
            (Path(folder) / "order.json").write_text(json.dumps(order), encoding="utf-8")
            with (Path(folder) / "said.txt").open("w+", encoding="utf-8") as said:
                code = subprocess.run(self.command(folder), stdout=said, stderr=said, env=self._environment()).returncode
                said.seek(0)
                lines = [line.strip() for line in said if line.strip()]
            return _brought_back(Store(folder), planned.run_id, code, lines)

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
        return {**os.environ, PARENT: str(os.getpid())}

    def check(self, spec: RunSpec) -> None:
        """Looks whether the run can be made this way; no model is loaded for it.

        Raises:
            MmpeftError: A batch cannot be dealt out to the processes, or the run asks what shards cannot give.
        """
        learning = [spec.train] if spec.method.trains else []
        for train in (*learning, *([spec.pre_step.train] if spec.pre_step else [])):
            train.check_parts(self.num_processes)
        if self.accelerate is None or not shards(self.accelerate):
            return
        if self.checkpoint_every is not None:
            raise MmpeftError(f"checkpoints: not kept where {self.accelerate.stem} cuts weights; leave out --checkpoint-every.")
        if spec.track.wanted:
            raise MmpeftError(f"track: nothing can be asked on the way where {self.accelerate.stem} cuts weights; take ddp.")


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


def _brought_back(made: Store, run_id: str, code: int, said: list[str]) -> Outcome:
    record = made.load(run_id)
    if record is None:
        last = said[-1] if said else "nothing was said"
        raise MmpeftError(f"the processes of the run ended with code {code} and no record: {last}")
    if record.status == "failed":
        raise MmpeftError(str(record.error))
    tracked = made.tracked_lines(run_id) if record.tracked_sha256 else ()
    predictions = made.predictions(run_id).to_dict("records") if record.predictions_sha256 else []
    return Outcome(record, [{str(name): value for name, value in row.items()} for row in predictions], tracked)


def _end_with(parent: int) -> None:
    """Ends this process when its launcher's launcher is gone: nobody would take what it makes."""

    def watch() -> None:
        while Path(f"/proc/{parent}").exists() or not Path("/proc").exists():
            time.sleep(PARENT_POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(folder: Path) -> None:
    """One of the processes: makes the run with the others; the first one leaves its record in the folder."""
    from mmpeft.train import TrainingDiverged

    _end_with(int(os.environ[PARENT]))
    order = json.loads((folder / "order.json").read_text(encoding="utf-8"))
    spec = RunSpec.from_dict(order["spec"])
    alone = Launch(Path(order["store"]), checkpoint_every=order["checkpoint_every"])
    if os.environ["RANK"] == "0":
        make(Planned.of(spec), Store(folder), alone)
        return
    with suppress(TrainingDiverged):  # all see the same loss; the first one writes it down
        alone(spec)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
