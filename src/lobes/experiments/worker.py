"""What a worker computes of a study: it makes the study's plans anew, and any of their steps."""

import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lobes.config.study import StudyConfig
from lobes.errors import RunError
from lobes.experiments.compare import compare_plans
from lobes.experiments.loading import measuring_device
from lobes.experiments.measurements import Measurements
from lobes.experiments.run import run_plans, train_alone
from lobes.experiments.store import WorkerFolder
from lobes.experiments.study_workers import TRAINING, StudySpec
from lobes.experiments.transfer import transfer_plans
from lobes.files import TEMPORARY
from lobes.measure.steps import Arrays, Plan, Step
from lobes.modeling.precision import has_native_bf16
from lobes.progress import Progress
from lobes.workers import Place

# A file that another machine wrote may be seen so many seconds later on a network file system.
_LATEST = 120.0

# {command: what gives the scope and the plans of its study}
_PLANS: dict[str, Callable[[StudyConfig, WorkerFolder, Path], tuple[str, Sequence[Plan[Any]]]]] = {
    "run": run_plans,
    "compare": compare_plans,
    "transfer": transfer_plans,
}


class StudyWork:
    """Computes steps of a study, by their places in its plans, or trains its model."""

    def __init__(self, spec: StudySpec) -> None:
        if spec.here.is_dir():
            os.chdir(spec.here)
        self.spec = spec
        self.study = spec.study.model_copy(update={"precision": spec.precision})
        self.folder = WorkerFolder(spec.folder, spec.study.to_dict(), spec.command)
        self._walks: list[_Walk] | None = None

    @staticmethod
    def facts() -> dict[str, Any]:
        """Return what the driver has to know of a worker's device."""
        device = measuring_device()
        return {"device": device, "bf16": has_native_bf16(device)}

    def __call__(self, what: Place | str, progress: Progress) -> Any:
        """Return the study's scope with the arrays of a step; for `TRAINING` train, and nothing."""
        if what == TRAINING:
            return train_alone(self.study, self.folder, progress)
        assert isinstance(what, Place)
        if self._walks is None:
            own = f"{TEMPORARY}worker-{socket.gethostname()}-{os.getpid()}"
            checkpoints = self.folder.path / own
            checkpoints.mkdir(exist_ok=True)
            make = _PLANS[self.spec.command]
            self._scope, plans = make(self.study, self.folder, checkpoints)
            measurements = self.folder.measurements(self._scope)
            self._walks = [_Walk(plan, measurements) for plan in plans]
        step = self._walks[what.plan].step(what.key)
        if step.part is None or what.last - what.first == step.size:
            found = step.compute(progress)
        else:
            found = step.part(what.first, what.last, progress)
        return self._scope, {name: np.asarray(array) for name, array in found.items()}


class _Walk:
    """A plan, gone through as far as its steps are asked for."""

    def __init__(self, plan: Plan[Any], measurements: Measurements) -> None:
        self.plan = plan
        self.measurements = measurements
        self.group: Sequence[Step] = next(plan)

    def step(self, key: str) -> Step:
        """Return the step with this full key, in the present group or a later one."""
        while True:
            for step in self.group:
                if step.full_key == key:
                    return step
            try:
                self.group = self.plan.send([self._kept(step) for step in self.group])
            except StopIteration as end:
                raise RunError(
                    f"There is no step {key!r} in the study as this worker reads it: its data, its "
                    f"model or its version of lobes are not those of the driver."
                ) from end

    def _kept(self, step: Step) -> Arrays:
        """A step's arrays, which the driver has written."""
        end = time.monotonic() + _LATEST
        while (arrays := self.measurements.load(step)) is None:
            if time.monotonic() > end:
                raise RunError(
                    f"{self.measurements.folder} has no {step.key!r} for this worker, which the "
                    f"driver has written there: expected one folder for all workers, on a file "
                    f"system that they share, and the same model and data."
                )
            time.sleep(0.5)
        return arrays
