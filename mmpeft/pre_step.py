"""The pre-step: a base that has been fully fine-tuned on some tasks together, before any method is put on it.

    base ─► full fine-tuning of decoder and connector on the tasks' training sets, mixed ─► the base of the runs

The weights that trained are kept in the cache under everything they follow from, so that runs which name the same pre-step
share one; whoever needs it first makes it, the others wait.
"""

import hashlib
import json
import os
import time
from pathlib import Path

from safetensors.torch import load_file, save
from torch import Tensor

from mmpeft.attach import attach
from mmpeft.batches import Encoder
from mmpeft.errors import MmpeftError
from mmpeft.files import cache_folder, write_whole
from mmpeft.leases import lease
from mmpeft.loading import Loaded
from mmpeft.methods import METHODS
from mmpeft.registry import fingerprint, task_version
from mmpeft.spec import PreStepSpec, RunSpec, parse
from mmpeft.task import Example
from mmpeft.tasks import TASKS
from mmpeft.train import train

WAIT_SECONDS = 5.0


def apply_pre_step(loaded: Loaded, spec: RunSpec) -> None:
    """Gives the loaded base the weights of the run's pre-step, made now if nobody has.

    Raises:
        MmpeftError: A task has too few examples, or the loss left the finite numbers.
    """
    assert spec.pre_step is not None
    path = kept_at(spec.model, spec.pre_step)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not path.exists():  # the processes of one run make it together
        weights = _trained(loaded, spec.pre_step)
        if os.environ["RANK"] == "0":
            write_whole(path, save(weights))
    else:
        weights = _alone(path, loaded, spec.pre_step)
    _, unexpected = loaded.model.load_state_dict(weights, strict=False)
    if unexpected:
        raise MmpeftError(f"pre_step: {path.name} does not fit '{spec.model}' ({unexpected[:3]}); remove it.")
    loaded.model.tie_weights()


def _alone(path: Path, loaded: Loaded, pre_step: PreStepSpec) -> dict[str, Tensor]:
    """The weights from the cache, made by whoever gets the lease first."""
    while not path.exists():
        with lease(path.with_suffix(".lease")) as mine:
            if mine and not path.exists():
                write_whole(path, save(_trained(loaded, pre_step)))
        if not path.exists():
            time.sleep(WAIT_SECONDS)
    return load_file(path)


def kept_at(model: str, pre_step: PreStepSpec) -> Path:
    """Where the weights lie: the name follows from the base, the tasks and every setting."""
    identity = {
        "fingerprint": fingerprint(model),
        "pre_step": pre_step.model_dump(mode="json", exclude_defaults=True),
        "versions": {task: task_version(task) for task in pre_step.tasks},
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    return cache_folder() / "pre_steps" / f"{model}-{digest}.safetensors"


def _trained(loaded: Loaded, pre_step: PreStepSpec) -> dict[str, Tensor]:
    """The trained weights by name."""
    examples: list[Example] = []
    encoder = Encoder(loaded, {}, pre_step.train.max_length)
    for name in pre_step.tasks:
        mine = TASKS[name].examples("train", pre_step.train.num_examples, pre_step.train.subset_seed)
        encoder.check_lengths(mine)
        encoder.features |= loaded.features().get(TASKS[name], [example.picture_id for example in mine], True)
        examples += mine
    full, rate = parse(METHODS["full"], {"name": "full"}), pre_step.train.learning_rate
    model = attach(loaded.model, loaded.entry, full, "both", True, pre_step.seed)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    groups = [{"name": "all", "params": list(trained.values()), "lr": rate}]
    done = train(model, groups, examples, encoder.training_batch, pre_step.train, pre_step.seed)
    weights = done.weights if done.weights is not None else trained
    weights = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
    model.requires_grad_(False).cpu()
    return weights
