"""What `lobes plan` prints, and the line of it with which a run begins."""

from typing import Any

from lobes.cli.tables import new_console, new_table, plain_text
from lobes.dissociation.stopping import LOOK
from lobes.dissociation.verdict import ALPHA, controls_needed, tasks_needed
from lobes.progress import duration
from lobes.report.formatting import listing, plural


def show_plan(record: dict[str, Any]) -> None:
    """Print what a study will take, what it can find, and how it fits a budget."""
    console, estimate = new_console(), record["estimate"]
    table = new_table("stage", "time")
    for stage, seconds in estimate["seconds"].items():
        table.add_row(stage, duration(seconds))
    table.add_row("in all", duration(estimate["total_seconds"]))
    console.print(table, *_plan_notes(estimate), sep="\n")
    for name in record.get("others", ()):
        console.print(f"What `lobes {name}` takes: lobes plan --for {name}.")
    budget = record["budget"]
    if budget is None:
        return
    asked, takes = duration(budget["seconds"]), duration(budget["estimate"]["total_seconds"])
    if not budget["changes"]:
        fits = "fits as it is" if budget["fits"] else "does not fit, and no size can be lowered"
        console.print(f"Budget: {asked}. The study {fits}.")
        return
    ends = "" if budget["fits"] else ", which is still too long: train less, or a smaller model"
    options = plain_text(" ".join(budget["options"]))
    console.print(
        f"Budget: {asked}. With {options} the study takes {takes}{ends}.",
        *_plan_notes(budget["estimate"])[1:],
        sep="\n",
    )


def show_sweep_plans(records: list[dict[str, Any]]) -> None:
    """Print what the runs of sweeps will take."""
    console = new_console()
    for record in records:
        table = new_table("run", "state", "time")
        for run in record["runs"]:
            time = "not known" if run["error"] else duration(run["seconds"])
            table.add_row(plain_text(run["run"]), run["state"], time)
        table.add_row("in all", "", duration(record["total_seconds"]))
        console.print(f"{plain_text(record['sweep'])}: lobes {record['command']}", table)
    console.print(sweep_line(records).removeprefix("Estimate: "))


def sweep_line(records: list[dict[str, Any]]) -> str:
    """Return what sweeps will take in one line."""
    runs = sum(len(each["runs"]) - each["runs_unknown"] for each in records)
    left = sum(each["runs_left"] for each in records)
    some = f"{left} of {runs} runs are left:" if left < runs else f"{plural(runs, 'run')}:"
    memory = max((each["memory_bytes"] for each in records), default=0)
    disk = sum(each["disk_bytes"] for each in records)
    return (
        f"Estimate: {some} {duration(sum(each['left_seconds'] for each in records))} one after "
        f"the other, {_size(memory)} of memory, {_size(disk)} of disk."
    )


def plan_line(estimate: dict[str, Any]) -> str:
    """Return what a study will take in one line."""
    stages = ", ".join(
        f"{name} {duration(seconds)}" for name, seconds in estimate["seconds"].items()
    )
    return (
        f"Estimate: {duration(estimate['total_seconds'])} ({stages}), "
        f"{_size(estimate['memory_bytes'])} of memory, "
        f"{_size(estimate['disk_meanwhile_bytes'])} of disk, {_count(estimate)}."
    )


def _count(estimate: dict[str, Any]) -> str:
    """How many lesions, or trainings over how many seeds."""
    if "lesions" in estimate:
        return f"{estimate['lesions']['total']:,} lesions"
    return f"{estimate['trainings']:,} trainings over {estimate['seeds']} seeds"


def _plan_notes(estimate: dict[str, Any]) -> list[str]:
    """Memory and disk in a sentence, then lesions and power in others."""
    space = (
        f"Memory: {_size(estimate['memory_bytes'])}. Disk: {_size(estimate['disk_bytes'])}, at "
        f"most {_size(estimate['disk_meanwhile_bytes'])} on the way."
    )
    if "lesions" not in estimate:
        return [space, f"Together {_count(estimate)}."]
    lesions = estimate["lesions"]
    counts = {
        "of the tasks": lesions["own"],
        "exchanged": lesions["exchanged"],
        "exchanged between two tasks": lesions["between_pairs"],
        "random": lesions["random"],
    }
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if count)
    return [
        space,
        f"Lesions: {lesions['total']:,} ({kinds}), about {lesions['runs']:,} runs with the base, "
        f"since the same heads are run once.",
        *_going_on(estimate),
        _power(estimate),
        *_too_few_tasks(estimate["tasks"]),
    ]


def _too_few_tasks(number: int) -> list[str]:
    """What the orders of three or four tasks cannot show; of two nobody expects it."""
    needed = tasks_needed(2)  # of four measures two are always there
    if not 2 < number < needed:
        return []
    return [
        f"{number} tasks are too few to show that the less alike two tasks are, the more they "
        f"dissociate: {needed} or more can."
    ]


def _going_on(estimate: dict[str, Any]) -> list[str]:
    """What a study takes that its first exchanges do not settle."""
    most, least = (estimate["lesions"][name] for name in ("exchanged_at_most", "exchanged"))
    if most == least:
        return []
    shares = [each["goes_on"] for each in estimate["power"] or () if each["goes_on"] is not None]
    upto = f", as up to {max(shares):.0%} of such studies do" if shares else ""
    return [
        f"It stops after {LOOK} exchanges where these settle p. If it goes on{upto}, it takes "
        f"{most - least:,} lesions and {duration(estimate['seconds_of_going_on'])} more."
    ]


def _power(estimate: dict[str, Any]) -> str:
    if estimate["power"] is None:
        return "Power: none, since without lesions of two tasks there is no D-score to test."
    shares = listing(
        [f"{_share(each)} for a D-score of {each['d_score']:g} %" for each in estimate["power"]]
    )
    controls = estimate["settings"]["iap.controls"]
    needed = controls_needed()
    few = f"{controls} exchanges allow no p ≤ {ALPHA}: set {needed} or more (iap.controls). "
    return (
        f"Power (p ≤ 0.05) with {estimate['examples_tested']:,} examples of each task: {shares}. "
        f"{few if controls < needed else ''}"
        f"Assumed: base scores near 0.84, and heads and lesions as in docs/statistics.md."
    )


def _share(power: dict[str, Any]) -> str:
    low, high = (
        "–" if power[name] is None else f"{100 * power[name]:.0f}" for name in ("least", "most")
    )
    return f"{low} %" if low == high else f"{low} to {high} %"


def _size(number: float) -> str:
    """Bytes in MB or GB."""
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{max(number / 1e6, 1):.0f} MB"
