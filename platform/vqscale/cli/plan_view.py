"""A plan for people in a terminal: what is trained and what is not, what it costs, and what a budget pays for."""

import math
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from vqscale.costing.trial_cost import TrialCost
from vqscale.formatting import duration, short_count
from vqscale.planning.budget import BudgetCheck
from vqscale.planning.centre import exact
from vqscale.planning.designs import Dropped
from vqscale.planning.plan import Plan, PlannedTrial
from vqscale.study.trial import TrainConfig
from vqscale.train.schedule import learning_rate

BARS = "▁▂▃▄▅▆▇█"
PLOT_WIDTH = 64
SHOWN = 200
"""Rows of a table in a terminal; nobody reads ten thousand, and --json prints all."""
SCALE_DIGITS = 2
"""Of the factor at which a study would fit: cut to two, so that whole updates do not exceed the budget."""
LEFT = ("trial", "state", "model", "design", "grid point", "reason")
GROUPS = (
    *("projection", "feed_forward", "window", "relative_bias", "cache", "cache_build", "quantiser", "recurrence"),
    "state_space",
    "head",
)


def show(planned: Plan, console: Console, answer: BudgetCheck | None = None) -> None:
    """The whole plan: trials, FLOPs by group, schedules, dropped grid points, totals."""
    console.print(trials(planned))
    console.print(flops(planned.trials))
    for line in schedules(planned.trials):
        console.print(line, markup=False, soft_wrap=True)
    if planned.dropped:
        console.print(dropped(planned.dropped))
    for sentence in planned.damaged:
        console.print(sentence, style="yellow", markup=False, soft_wrap=True)
    for sentence in [*notes(planned), *totals(planned)]:
        console.print(sentence, markup=False)
    for sentence in reading(planned):
        console.print(sentence, style="dim", markup=False)
    if answer is not None:
        console.print(bought(answer, planned))
        console.print(budget_sentence(answer, planned), markup=False)


def notes(planned: Plan) -> list[str]:
    """The notes of the plan, as many as a person reads."""
    left = len(planned.notes) - SHOWN
    return planned.notes if left <= 0 else [*planned.notes[:SHOWN], f"{left} more notes: --json prints all."]


def trials(planned: Plan) -> Table:
    """Every trial of the study, each with its shape, recipe and cost."""
    table = _table(f"{planned.study.study}: {planned.study.question}".rstrip(": "))
    titles = ("trial", "state", "N", "width/depth", "lr", "batch", "tokens", "D/N", "updates", "FLOPs", "x 6ND")
    _columns(table, (*titles, "memory", "time"))
    for one in planned.trials[:SHOWN]:
        cost, train, model = one.cost, one.trial.train, one.trial.model
        table.add_row(
            one.trial.name,
            one.result.status if one.result else "pending",
            short_count(cost.parameters_non_embedding),
            f"{model.d_model / model.n_layer:.3g}",
            f"{train.lr:.3g}",
            str(train.batch_tokens),
            short_count(cost.tokens),
            f"{cost.tokens_per_parameter:.3g}",
            f"{cost.steps} ({one.shared_steps} shared)" if one.shared_steps else str(cost.steps),
            f"{cost.flops:.4g}",
            f"{cost.flops / cost.flops_6nd:.2f}",
            f"{cost.memory_bytes / 2**20:.0f} MiB",
            duration(one.cost_to_train.seconds) if one.cost_to_train.seconds is not None else "unknown",
        )
    return _cut(table, len(planned.trials), "trials")


def flops(planned: Sequence[PlannedTrial]) -> Table:
    """Shares of the exact FLOPs by group, a row for every model and context, against 6ND."""
    table = _table("Exact training FLOPs by group")
    groups = [group for group in GROUPS if any(one.cost.flops_groups.get(group) for one in planned)]
    _columns(table, ("model", "T", "FLOPs per token", "x 6ND", *(name.replace("_", " ") for name in groups)))
    seen: set[tuple[str, int]] = set()
    for one in planned:
        model, cost = f"{one.trial.model.arch}, {_size(one)}", one.cost
        if (model, one.trial.train.context) in seen:
            continue
        seen.add((model, one.trial.train.context))
        shares = [cost.flops_groups.get(group, 0.0) / cost.flops for group in groups]
        each = short_count(cost.flops / cost.tokens)
        ratio = f"{cost.flops / cost.flops_6nd:.2f}"
        shown = [f"{share:.1%}" if share else "" for share in shares]
        table.add_row(model, str(one.trial.train.context), each, ratio, *shown)
    return table


def schedules(planned: Iterable[PlannedTrial]) -> list[str]:
    """Every distinct schedule of the learning rate, drawn over the updates of its longest trial."""
    kinds: dict[str, list[TrainConfig]] = {}
    for one in planned:
        kinds.setdefault(_in_force(one.trial.train), []).append(one.trial.train)
    lines = []
    for said, found in kinds.items():
        drawn = max(found, key=lambda train: train.steps)
        peaks = sorted({train.lr for train in found})
        rates = f"{peaks[0]:.3g}" if len(peaks) == 1 else f"{peaks[0]:.3g} to {peaks[-1]:.3g}"
        lines.append(f"learning rate  {sparkline(drawn)}  peak {rates}, {said}, {len(found)} trial(s)")
    return lines


def _in_force(train: TrainConfig) -> str:
    """The settings that shape a trial's learning rate, apart from its peak and its number of updates."""
    warmup = "warmup" if train.warmup_tokens is None else "warmup_tokens"
    keys = ["schedule", warmup, *(["decay"] if train.schedule == "wsd" else []), "lr_final"]
    return ", ".join(f"{key} {getattr(train, key)}" for key in keys)


def sparkline(train: TrainConfig, width: int = PLOT_WIDTH) -> str:
    """The learning rate over the updates, from 0 (the lowest bar) to its peak; ends are the first and last update."""
    points = min(width, train.steps)
    steps = [round(index * (train.steps - 1) / max(points - 1, 1)) for index in range(points)]
    rates = [learning_rate(step, train) / train.lr for step in steps]
    return "".join(BARS[min(round(rate * (len(BARS) - 1)), len(BARS) - 1)] for rate in rates)


def dropped(points: Sequence[Dropped]) -> Table:
    """Grid points of designs that are not trained; those of one design, budget and reason share a row."""
    rows: dict[tuple[str, str, str, str], list[str]] = {}
    for one in points:
        rest = ", ".join(str(value) for key, value in one.settings.items() if key not in ("model.preset", "seed"))
        budget = "" if one.budget is None else exact(one.budget)
        size = str(one.settings["model.preset"]) + (f" seed {one.settings['seed']}" if "seed" in one.settings else "")
        rows.setdefault((one.design, budget, rest, one.reason), []).append(size)
    table = _table(f"Dropped: {len(points)} grid points")
    for title in ("design", "C", "grid point", "reason"):
        table.add_column(title, no_wrap=title != "reason", overflow="fold")
    for (design, budget, rest, reason), sizes in list(rows.items())[:SHOWN]:
        table.add_row(design, budget, f"{rest}: {', '.join(sizes)}".removeprefix(": "), reason)
    return _cut(table, len(rows), "rows of dropped grid points")


def totals(planned: Plan) -> list[str]:
    """What is left to train costs, and what the fits will not see."""
    pending, resources = planned.pending, planned.study.resources
    costs = [one.cost_to_train for one in pending]
    text = (
        f"{len(planned.trials)} trials, {len(pending)} to train: {sum(cost.flops for cost in costs):.4g} FLOPs,"
        f" {short_count(sum(cost.tokens for cost in costs))} tokens, about"
        f" {duration(sum(cost.seconds or 0.0 for cost in costs))} of {resources.workers} worker(s) with"
        f" {resources.cpus_per_worker} CPU(s) each, {_sum(costs, 'device_hours'):.4g} device-hours"
    )
    if resources.price_per_device_hour is not None:
        text += f", {_sum(costs, 'money'):.2f} {resources.currency}"
    lines = [text + "; trials run side by side where the cluster has room."]
    if any(one.shared_steps for one in pending):
        lines.append(shared(pending))
    if planned.hold_out_from is not None:
        held = sum(one.cost.flops >= planned.hold_out_from for one in planned.trials)
        lines.append(f"{held} trials of {planned.hold_out_from:.6g} FLOPs or more are held out of the fits.")
    return lines


def shared(pending: Sequence[PlannedTrial]) -> str:
    """How many updates trials of several token budgets share under warm-up-stable-decay."""
    whole = sum(one.cost.flops for one in pending)
    spared = whole - sum(one.cost_to_train.flops for one in pending)
    steps, common = sum(one.cost.steps for one in pending), sum(one.shared_steps for one in pending)
    return (
        f"{common} of {steps} updates are shared with trials of smaller token budgets, where those are trained first:"
        f" {spared:.4g} of {whole:.4g} FLOPs."
    )


def reading(planned: Plan) -> list[str]:
    """How the columns are meant."""
    stages = sorted({one.trial.train.zero for one in planned.trials})
    return [
        "N counts parameters without embeddings; FLOPs are exact (attention, cache and quantiser included); x 6ND is"
        " their ratio to 6 N D. Memory is an estimate per worker under ZeRO stage"
        f" {', '.join(map(str, stages))}, without the framework's own; time is that of the training steps and assumes"
        f" {planned.speed_source}."
    ]


def bought(answer: BudgetCheck, planned: Plan) -> Table:
    """The steps in which a budget is spent."""
    unit = _unit(answer, planned)
    table = _table(f"What {answer.budget.amount:.6g} {unit} pay for")
    _columns(table, ("trial", "trials", unit, "in all", "fits"))
    first_unpaid = next((index for index, step in enumerate(answer.steps) if not step.fits), len(answer.steps))
    # Where a table of all would be too long, those around the end of the budget.
    first = max(0, min(first_unpaid - SHOWN // 2, len(answer.steps) - SHOWN))
    for step in answer.steps[first : first + SHOWN]:
        name = step.trials[0].trial.name if step.budget is None else f"budget {exact(step.budget)}"
        table.add_row(
            name, str(len(step.trials)), f"{step.cost:.4g}", f"{step.total:.4g}", "yes" if step.fits else "no"
        )
    return _cut(table, len(answer.steps), "steps")


def budget_sentence(answer: BudgetCheck, planned: Plan) -> str:
    """What --budget pays for, in a sentence or two."""
    unit, fitting, pending = _unit(answer, planned), len(answer.fitting), len(planned.pending)
    if not pending:
        return "Nothing is left to train."
    if fitting == pending:
        return f"All {pending} trials fit: they take {answer.needed:.4g} of {answer.budget.amount:.6g} {unit}."
    fit = [exact(step.budget) for step in answer.steps if step.fits and step.budget is not None]
    which = f" (budgets {', '.join(fit)})" if fit else ""
    scale = rounded_down(answer.scale, SCALE_DIGITS)
    text = (
        f"{fitting} of {pending} trials fit{which}; all take {answer.needed:.4g} {unit}. With every token budget times"
        f" {scale:g} the whole study would fit"
    )
    budgets = ", ".join(f"{rounded_down(scale * budget, 3):.3g}" for budget in planned.study.budgets)
    return text + (f": budgets [{budgets}]." if budgets else ".")


def rounded_down(value: float, digits: int) -> float:
    """`value` > 0 cut to so many significant digits: a budget that is rounded up may not be paid for."""
    step = 10.0 ** (math.floor(math.log10(value)) - digits + 1)
    return math.floor(value / step) * step


def _unit(answer: BudgetCheck, planned: Plan) -> str:
    return planned.study.resources.currency if answer.budget.unit == "money" else answer.budget.unit


def _size(one: PlannedTrial) -> str:
    codes = one.trial.model.codebook_size
    return f"{one.trial.preset}" + (f", S {codes}" if codes else "")


def _sum(costs: Iterable[TrialCost], name: str) -> float:
    return sum(getattr(cost, name) or 0.0 for cost in costs)


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)


def _cut(table: Table, total: int, what: str) -> Table:
    """Says how much of a long table is left out."""
    if total > SHOWN:
        table.caption = f"{SHOWN} of {total} {what}: --json prints all."
        table.caption_justify = "left"
    return table


def _columns(table: Table, titles: Iterable[str]) -> None:
    for title in titles:
        table.add_column(title, justify="left" if title in LEFT else "right", no_wrap=True)
