"""Say on stderr what runs will take, before they begin."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lobes.cli.app import Output

if TYPE_CHECKING:
    import lobes.config.sweep
    import lobes.experiments.loading


def tell_estimate(
    command: "lobes.config.sweep.Command", loaded: "lobes.experiments.loading.Loaded"
) -> None:
    """Say what a command will take with a study."""
    from lobes.cli.plans import plan_line
    from lobes.experiments.estimate import Forecast
    from lobes.experiments.estimate_runs import estimate_for

    _tell(lambda: plan_line(estimate_for(Forecast(loaded), command)))


def tell_sweeps(out: Output, sweeps: Sequence["lobes.config.sweep.Sweep"], fresh: bool) -> None:
    """Say what sweeps will take, of which no run has begun."""
    from lobes.cli.plans import sweep_line
    from lobes.experiments.estimate_runs import estimate_sweep, unknown
    from lobes.experiments.sweep import states

    def line() -> str:
        with out.progress() as progress:
            records = [estimate_sweep(each, progress) for each in sweeps]
        return f"{sweep_line(records)} {unknown(records)}".rstrip()

    begun = any(run["state"] != "not begun" for each in sweeps for run in states(each))
    if fresh or not begun:
        _tell(line)


def _tell(estimate: Callable[[], str]) -> None:
    from lobes.cli.terminal import say
    from lobes.errors import first_line

    try:
        line = estimate()
    except Exception as error:  # what fails here is told by the run, where it matters
        line = f"No estimate of what this takes: {first_line(error)}"
    say(line)
