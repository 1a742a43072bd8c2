"""A fresh process that measures rounds of a throughput study: a task on its input, one line of JSON per round out.

`python -m vqscale.throughput.child`, started by `vqscale.throughput.processes`.
"""

import json
import os
import signal
import sys

from vqscale.study.throughput_study import parse_throughput
from vqscale.throughput.measure import Slow, measure_rounds
from vqscale.throughput.plan import plan_throughput


def main() -> None:
    # A terminal sends Ctrl-C to parent and child; the parent ends this process when it stops.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Libraries print to standard output: the lines for the parent have a descriptor of their own.
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    task = json.load(sys.stdin)
    plan = plan_throughput(parse_throughput(task["study"], source="study"))
    todo = {int(index): places for index, places in task["todo"].items()}
    slow: Slow = {}
    for index, place in task["slow"]:
        cell = plan.rounds[index].cells[place]
        slow[cell.curve] = cell.context, cell.tokens_per_step
    for index, measured in measure_rounds(plan, todo, slow):
        values = [one.model_dump(mode="json") for one in measured]
        lines.write(json.dumps({"round": index, "measurements": values}) + "\n")
        lines.flush()


if __name__ == "__main__":
    main()
