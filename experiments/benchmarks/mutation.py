"""Mutation score of the unit tests of a package. `python -m benchmarks.mutation --help`.

Mutants are made by the operators of cosmic-ray, in a copy of the checkout. For each mutant, the unit tests of its
package that execute the mutated statement run until the first failure: killed means that a test failed. A line
coverage with one context per test, measured once, says which tests those are.
"""

import argparse
import ast
import importlib
import json
import os
import random
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import coverage
import pandas as pd

from benchmarks.document import facts, publish
from vqscale.provenance import git_commit

TOOL = "cosmic-ray==8.7.0"
TESTS = {
    "laws": ("tests/unit/laws",),
    "planning": ("tests/unit/planning", "tests/unit/cli/test_next_command.py"),
    "data": ("tests/unit/data",),
}
"""The unit tests of each package. What `planning.next_study` makes is tested by its command."""
SAMPLE = 80
FILE = "mutation"
EQUIVALENT = "equivalent"
"""How the note of a mutant begins that no test can kill."""
SOURCE_ROOTS = ("platform", "kernels", "experiments", "tests/support")
MEMORY_BYTES = 16 * 2**30
"""Of one test process: a mutated size must not fill the machine."""
SECONDS_TO_START = 60.0
TIMES_SLOWER = 5.0
"""The time limit of a mutant is `SECONDS_TO_START` and this many times what its tests took without a mutation."""

# Operators are replaced within their group only: `+` to `<<` on floats raises TypeError in any test at all, and
# `==` to `is` on small integers changes nothing.
GROUPS = (
    {"Add", "Sub", "Mul", "Div", "FloorDiv", "Mod", "Pow"},
    {"RShift", "LShift", "BitOr", "BitAnd", "BitXor"},
    {"Eq", "NotEq", "Lt", "LtE", "Gt", "GtE"},
    {"Is", "IsNot"},
)


class Mutant(NamedTuple):
    file: str
    """Relative to the checkout."""
    operator: str
    occurrence: int
    """Which of the operator's positions in the file, as cosmic-ray counts them."""
    line: int
    column: int


@dataclass(frozen=True)
class Baseline:
    """What the package's tests do without a mutation."""

    seconds: dict[str, float]
    """Of each test, by node id, shortest first."""
    tests_by_line: dict[str, dict[int, set[str]]]
    """file -> line -> node ids; tests whose fixtures execute the line bring along all tests of their file."""


def load_tool(folder: Path) -> None:
    """Install the pinned cosmic-ray apart from the environment, after whose own packages it is searched."""
    if not (folder / "cosmic_ray").is_dir():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*command, "--target", str(folder), TOOL], check=True)
    sys.path.append(str(folder))


def copy_checkout(checkout: Path, folder: Path) -> None:
    """Copy what git tracks: nothing is ever mutated in the checkout itself."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=checkout, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (checkout / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(checkout / name, folder / name)


def _operators() -> Iterator[tuple[str, Any]]:
    plugins = importlib.import_module("cosmic_ray.plugins")
    for name in sorted(plugins.operator_names()):
        operator = plugins.get_operator(name)
        words = name.rpartition("/")[2].split("_")
        if operator.arguments() or words[0] == "NoOp":
            continue
        if words[0] in ("ReplaceBinaryOperator", "ReplaceComparisonOperator") and not any(
            {words[1], words[2]} <= group for group in GROUPS
        ):
            continue
        yield name, operator


def find_mutants(root: Path, package: str) -> dict[tuple[str, int, int], list[Mutant]]:
    """All mutants by their place (file, line, column), but those in annotations."""
    get_ast = importlib.import_module("cosmic_ray.ast").get_ast
    places: dict[tuple[str, int, int], list[Mutant]] = defaultdict(list)
    for path in sorted((root / "platform/vqscale" / package).rglob("*.py")):
        name, code = str(path.relative_to(root)), path.read_text()
        annotations = _annotations(ast.parse(code))
        nodes = list(_nodes(get_ast(code)))
        for operator_name, operator in _operators():
            positions = [place for node in nodes for place in operator().mutation_positions(node)]
            for occurrence, ((line, column), _) in enumerate(positions):
                if not any(start <= (line, column) < stop for start, stop in annotations):
                    places[name, line, column].append(Mutant(name, operator_name, occurrence, line, column))
    return dict(places)


def _nodes(node: Any) -> Iterator[Any]:
    """A node before its children, the order in which cosmic-ray counts occurrences."""
    yield node
    for child in getattr(node, "children", ()):
        yield from _nodes(child)


def _annotations(tree: ast.AST) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    found: list[ast.expr | None] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign):
            found.append(node.annotation)
        elif isinstance(node, ast.FunctionDef):
            found.append(node.returns)
    return [
        ((node.lineno, node.col_offset), (node.end_lineno or 0, node.end_col_offset or 0))
        for node in found
        if node is not None
    ]


def draw(places: dict[tuple[str, int, int], list[Mutant]], count: int, seed: int) -> list[Mutant]:
    """`count` places with equal probability, and one mutant of each: a `+` with six does not count six times."""
    rng = random.Random(seed)
    return sorted(rng.choice(places[place]) for place in rng.sample(sorted(places), min(count, len(places))))


def mutate(code: str, mutant: Mutant) -> str:
    plugins = importlib.import_module("cosmic_ray.plugins")
    mutating = importlib.import_module("cosmic_ray.mutating")
    changed = mutating.mutate_code(code, plugins.get_operator(mutant.operator)(), mutant.occurrence)
    assert changed is not None, mutant
    return str(changed)


def _pytest(root: Path, tests: Iterable[str], seconds: float | None, **environment: str) -> int | None:
    """The exit code of pytest, None where it took too long. Nothing that it starts outlives it."""
    roots = os.pathsep.join(str(root / name) for name in SOURCE_ROOTS)
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    with tempfile.TemporaryDirectory() as scratch:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "pytest",
                "-x",
                "-q",
                "-p",
                "no:cacheprovider",
                "--basetemp",
                f"{scratch}/t",
                *tests,
            ],
            cwd=root,
            env=os.environ | one_thread | {"PYTHONPATH": roots} | environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES)),
        )
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def measure_baseline(root: Path, package: str) -> Baseline:
    """Run the package's tests once, with the lines that each executes."""
    with tempfile.TemporaryDirectory() as scratch:
        code = _pytest(
            root,
            (
                *TESTS[package],
                f"--cov={root}/platform/vqscale/{package}",
                "--cov-context=test",
                "--cov-report=",
                f"--junitxml={scratch}/times.xml",
            ),
            None,
            COVERAGE_FILE=f"{scratch}/coverage",
        )
        if code != 0:
            raise SystemExit(f"The tests of {package} do not pass without a mutation (pytest exits with {code}).")
        seconds = {}
        for case in xml.etree.ElementTree.parse(f"{scratch}/times.xml").iter("testcase"):
            node_id = f"{str(case.get('classname')).replace('.', '/')}.py::{case.get('name')}"
            seconds[node_id] = float(case.get("time", 0))
        lines = coverage.CoverageData(f"{scratch}/coverage")
        lines.read()
        by_line = {
            str(Path(path).relative_to(root)): {
                line: _tests(names, seconds) for line, names in lines.contexts_by_lineno(path).items()
            }
            for path in lines.measured_files()
        }
    if _pytest(root, ("--collect-only", *seconds), None) != 0:
        raise SystemExit(f"The tests of {package} cannot be run by the names in pytest's own report.")
    return Baseline(dict(sorted(seconds.items(), key=lambda item: item[1])), by_line)


def _tests(contexts: Iterable[str], known: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for context in contexts:
        node_id, _, phase = context.rpartition("|")
        file = node_id.partition("::")[0]
        found |= {one for one in known if one == node_id or (phase == "setup" and one.startswith(f"{file}::"))}
    return found


def covering_tests(baseline: Baseline, mutant: Mutant, code: str) -> list[str]:
    """Shortest first; all tests of the package where the statement runs at import, or in no test's own process."""
    lines = baseline.tests_by_line.get(mutant.file, {})
    span = _statement(ast.parse(code), mutant.line)
    touched = set().union(*(lines.get(line, set()) for line in span)) if span else set()
    near = set().union(*lines.values()) if lines else set()
    if touched:
        return [one for one in baseline.seconds if one in touched]
    return sorted(baseline.seconds, key=lambda one: (one not in near, baseline.seconds[one]))


def _statement(tree: ast.AST, line: int) -> range:
    """Lines of the innermost statement inside a function that contains the line; empty at the level of a module.

    Of a compound statement only the head counts: what is indented below it belongs to statements of its own.
    """
    best = range(0)
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        for node in ast.walk(function):
            if not isinstance(node, ast.stmt) or node is function:
                continue
            body = getattr(node, "body", None)
            last = body[0].lineno - 1 if body else (node.end_lineno or node.lineno)
            span = range(node.lineno, max(last, node.lineno) + 1)
            if line in span and (not best or len(span) < len(best)):
                best = span
    return best


def run_mutant(root: Path, mutant: Mutant, baseline: Baseline) -> dict[str, Any]:
    """Mutate the copy, run the tests, restore the copy."""
    path = root / mutant.file
    code, times = path.read_text(), path.stat()
    changed = mutate(code, mutant)
    tests = covering_tests(baseline, mutant, code)
    limit = SECONDS_TO_START + TIMES_SLOWER * sum(baseline.seconds[one] for one in tests)
    began = time.monotonic()
    try:
        path.write_text(changed)
        # no bytecode is written: it is found by size and second of the source, which two mutants may share
        result = _pytest(root, tests, limit, PYTHONDONTWRITEBYTECODE="1")
    finally:
        path.write_text(code)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    status = {None: "timeout", 0: "survived"}.get(result, "killed")
    before, after = _change(code, changed)
    place = {"file": mutant.file, "line": mutant.line, "column": mutant.column}
    what = {"operator": mutant.operator.removeprefix("core/"), "occurrence": mutant.occurrence}
    outcome = {"tests": len(tests), "seconds": round(time.monotonic() - began, 1), "status": status}
    return place | what | {"code": before, "mutant": after} | outcome


def _change(code: str, changed: str) -> tuple[str, str]:
    """The lines that differ, each side on one line."""
    old, new = code.splitlines(), changed.splitlines()
    first = next((i for i, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]), 0)
    last = next((i for i, pair in enumerate(zip(old[::-1], new[::-1], strict=False)) if pair[0] != pair[1]), 0)
    sides = [" ".join(line.strip() for line in side[first : max(len(side) - last, first + 1)]) for side in (old, new)]
    return sides[0], sides[1]


KEY = ["file", "operator", "occurrence"]


def measure(root: Path, package: str, sample: int, seed: int) -> pd.DataFrame:
    """A row per sampled mutant."""
    places = find_mutants(root, package)
    baseline = measure_baseline(root, package)
    rows = []
    for mutant in draw(places, sample, seed):
        rows.append({"package": package, "places": len(places), "seed": seed} | run_mutant(root, mutant, baseline))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)  # noqa: T201
    table = pd.DataFrame(rows)
    return table.assign(status_now=table["status"], note="")


def measure_again(root: Path, package: str, before: pd.DataFrame) -> pd.DataFrame:
    """The same rows, with `status_now` of the survivors under the tests of today; those with a note do not run again.

    Raises SystemExit where the mutated line has changed since.
    """
    baseline = measure_baseline(root, package)
    table = before.copy()
    for index, row in before[(before["status_now"] == "survived") & (before["note"] == "")].iterrows():
        mutant = Mutant(row["file"], f"core/{row['operator']}", row["occurrence"], row["line"], row["column"])
        found = run_mutant(root, mutant, baseline)
        if (found["code"], found["mutant"]) != (row["code"], row["mutant"]):
            raise SystemExit(f"{mutant.file}:{mutant.line} has changed since the mutants were drawn.")
        print(json.dumps(found), file=sys.stderr, flush=True)  # noqa: T201
        table.loc[index, "status_now"] = found["status"]
    return table


def keep_notes(table: pd.DataFrame, earlier: pd.DataFrame) -> pd.DataFrame:
    """The notes on equal mutants of an earlier table: they are written by hand, into the CSV file."""
    notes = {tuple(row[key] for key in (*KEY, "code")): row["note"] for row in earlier.to_dict("records")}
    found = [notes.get(tuple(row[key] for key in (*KEY, "code")), "") for row in table.to_dict("records")]
    return table.assign(note=found)


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a share by Wilson's score, which stays within 0 and 1."""
    z, share = 1.96, hits / trials
    centre = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * (share * (1 - share) / trials + z**2 / (4 * trials**2)) ** 0.5
    return centre - half, centre + half


def as_markdown(table: pd.DataFrame, command: str) -> str:
    """Scores of each package and all survivors, with everything needed to repeat the measurement."""
    lines = [
        "# Mutation score of the unit tests",
        "",
        "A mutant is one small change of the code, such as `<` to `<=`. It is killed if a unit test of its package",
        "fails. *Places* counts the operators and constants of a package that can be mutated; the sample is drawn",
        "from them with equal probability, with one mutant each. The score is the share of the sample that was",
        "killed or ran into its time limit (late), with its 95 % interval (Wilson). Equivalent mutants, which no",
        "test can kill, count as survivors; the notes name those that were recognised. For each mutant only the",
        "tests that execute the mutated statement ran; where it runs at import, all tests of the package ran. A",
        "second row of a package is the same sample after tests were written for its survivors, so it says nothing",
        "about mutants outside the sample. Tests of other packages, which execute the code too, did not run. The",
        "tests of a package are:",
        "",
        *(f"- {name}: {', '.join(f'`{one}`' for one in tests)}" for name, tests in TESTS.items()),
        "",
        f"- tool: {TOOL}, its operators without arguments; arithmetic operators, bit operators and comparisons are",
        "  replaced among themselves",
        *facts(command),
        "",
        "| package | seed | places | sample | commit | killed | late | survived | equivalent | score | 95 % interval |",
        "|---|--:|--:|--:|---|--:|--:|--:|--:|--:|--:|",
    ]
    for package, rows in table.groupby("package", sort=False):
        first = f"| {package} | {rows['seed'].iloc[0]} | {rows['places'].iloc[0]} | {len(rows)}"
        lines.append(f"{first} | {_short(rows, 'commit')} {_counts(rows['status'], rows['note'])}")
        if (rows["commit"] != rows["commit_now"]).any():
            lines.append(f"{first} | {_short(rows, 'commit_now')} {_counts(rows['status_now'], rows['note'])}")
    killed = table[(table["status"] == "survived") & (table["status_now"] != "survived")]
    survived = table[table["status_now"] == "survived"]
    lines += ["", "## Survivors", "", *_list(survived)]
    if len(killed):
        lines += ["", "## Survivors of the first run that are now killed", "", *_list(killed)]
    return "\n".join(lines) + "\n"


def _short(rows: pd.DataFrame, column: str) -> str:
    return f"`{rows[column].iloc[0][:7]}`"


def _counts(status: "pd.Series[str]", note: "pd.Series[str]") -> str:
    survived, late = int((status == "survived").sum()), int((status == "timeout").sum())
    equal = int(((status == "survived") & note.str.startswith(EQUIVALENT)).sum())
    found = len(status) - survived
    low, high = wilson(found, len(status))
    shares = f"{100 * found / len(status):.0f} % | {100 * low:.0f} to {100 * high:.0f} %"
    return f"| {found - late} | {late} | {survived} | {equal} | {shares} |"


def _list(rows: pd.DataFrame) -> Iterator[str]:
    yield "| place | code | mutant | note |"
    yield "|---|---|---|---|"
    for row in rows.to_dict("records"):
        place = f"{row['file'].removeprefix('platform/vqscale/')}:{row['line']}"
        code, mutant = (row[side].replace("|", "\\|") for side in ("code", "mutant"))
        yield f"| {place} | `{code}` | `{mutant}` | {row['note']} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw mutants of packages, run their tests, and write the scores and survivors as Markdown and CSV."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    csv = Path(options.out) / f"{FILE}.csv"
    earlier = pd.read_csv(csv, keep_default_na=False) if csv.exists() else pd.DataFrame()
    packages = options.package or TESTS
    tables = {str(name): rows for name, rows in earlier.groupby("package")} if len(earlier) else {}
    if not options.page:
        load_tool(Path(options.tool).resolve())
        with tempfile.TemporaryDirectory() as scratch:
            copy_checkout(Path.cwd(), Path(scratch))
            for package in packages:
                tables[package] = _measured(Path(scratch), package, options, tables.get(package))
    table = pd.concat([tables[name] for name in TESTS if name in tables], ignore_index=True)
    publish(
        options.out, FILE, {"": table}, as_markdown(table, shlex.join(["python", "-m", "benchmarks.mutation", *given]))
    )


def _measured(root: Path, package: str, options: argparse.Namespace, earlier: pd.DataFrame | None) -> pd.DataFrame:
    commit = git_commit() or "unknown"
    if options.again:
        if earlier is None:
            raise SystemExit(f"--again: {options.out}/{FILE}.csv has no mutants of {package}; measure them first.")
        return measure_again(root, package, earlier).assign(commit_now=commit)
    table = measure(root, package, options.sample, options.seed).assign(commit=commit, commit_now=commit)
    return table if earlier is None else keep_notes(table, earlier)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutation", description=main.__doc__)
    parser.add_argument("--package", action="append", choices=list(TESTS), help="may be repeated; default: all three")
    parser.add_argument("--sample", type=int, default=SAMPLE, help="mutants of each package")
    parser.add_argument("--seed", type=int, default=0)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--again", action="store_true", help="only the survivors in OUT/mutation.csv, with today's tests")
    what.add_argument(
        "--page", action="store_true", help="only write the page again, after notes were edited in the CSV"
    )
    parser.add_argument("--out", default="docs/benchmarks", help="folder of the results")
    parser.add_argument("--tool", default="runs/mutation-tool", help=f"folder in which {TOOL} is or will be installed")
    return parser


if __name__ == "__main__":
    main()
