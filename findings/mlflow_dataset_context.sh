#!/usr/bin/env bash
# MLflow keeps one dataset input per run for each name and digest: a second context is dropped without a word.
#
# Expectation: a corpus is logged twice as an input of one run, first with the context "training", then, for its
#   held-out split, with the context "validation". The run then has two inputs, or one with both contexts.
# Behaviour:   no error and no warning. The run has one input, with the context of the first call. The same holds for
#   two inputs of one call. Only another name or another digest makes a second input.
# Seen with:   mlflow 3.17.2, SQLAlchemy 2.1.9, SQLite, Python 3.11, on 2026-12-01. Output:
#     one name, two calls: [('corpus', 'training')]
#     one name, one call: [('corpus', 'training')]
#     two names: [('corpus', 'training'), ('corpus/validation', 'validation')]
#
# Fails if any of this changes. Run: findings/mlflow_dataset_context.sh
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check mlflow==3.17.2 SQLAlchemy==2.1.9
cd "$work"
MLFLOW_DISABLE_TELEMETRY=true MLFLOW_LOGGING_LEVEL=ERROR "$work/venv/bin/python" -W ignore - <<'PYTHON'
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag

client = MlflowClient(tracking_uri="sqlite:///runs.db")
experiment = client.create_experiment("contexts")


def one(name: str, context: str) -> DatasetInput:
    data = Dataset(name=name, digest="0123abcd", source_type="corpus", source='{"uri": "s3://bucket/corpus"}')
    return DatasetInput(data, [InputTag("mlflow.data.context", context)])


def logged(*calls: list[DatasetInput]) -> list[tuple[str, str]]:
    run = client.create_run(experiment).info.run_id
    for inputs in calls:
        client.log_inputs(run, inputs)
    kept = client.get_run(run).inputs.dataset_inputs
    return sorted((each.dataset.name, tag.value) for each in kept for tag in each.tags)


found = {
    "one name, two calls": logged([one("corpus", "training")], [one("corpus", "validation")]),
    "one name, one call": logged([one("corpus", "training"), one("corpus", "validation")]),
    "two names": logged([one("corpus", "training"), one("corpus/validation", "validation")]),
}
for title, inputs in found.items():
    print(f"{title}: {inputs}")
assert found["one name, two calls"] == [("corpus", "training")], "a second context is kept now"
assert found["one name, one call"] == [("corpus", "training")], "a second context of one call is kept now"
assert found["two names"] == [("corpus", "training"), ("corpus/validation", "validation")]
PYTHON
