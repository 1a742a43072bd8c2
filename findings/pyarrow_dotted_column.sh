#!/usr/bin/env bash
# Which columns does pyarrow read for a name with a dot?
#
# Expectation: columns=["a.b"] reads one column: the one of that name or, where there is none, member b of struct a.
# Behaviour:   the name matches both, and the result has the struct column "a" (with b only) and the column "a.b", in
#              the order of the file. A reader that takes column 0 of what it asked for gets the struct or the text,
#              depending on how the file was written. Names that only begin alike are not matched: "a.b" leaves "a.bc".
# Seen with:   pyarrow 25.0.1 (Python 3.11); a file with columns a{b, c}, "a.b", "a.bc"
#              ParquetFile.read(columns=["a.b"]), iter_batches(columns=["a.b"])  -> ['a', 'a.b'], a = struct<b: string>
#              read_table(columns=["a.b"]), dataset.to_table(columns=["a.b"])    -> ['a.b'], the column of that name
# So:          read by name and then pick the field by its name from the schema of the batch, never by its place.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pyarrow==25.0.1

"$folder/venv/bin/python" - "$folder/table.parquet" <<'PYTHON'
import sys

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

path = sys.argv[1]
struct = [{"b": "member 1", "c": 1}, {"b": "member 2", "c": 2}]
pq.write_table(pa.table({"a": struct, "a.b": ["flat 1", "flat 2"], "a.bc": ["x", "y"]}), path)

table = pq.read_table(path, columns=["a.b"])
batch = next(pq.ParquetFile(path).iter_batches(columns=["a.b"]))
dataset = ds.dataset(path).to_table(columns=["a.b"])
print("pyarrow", pa.__version__)
print("ParquetFile.read  ", pq.ParquetFile(path).read(columns=["a.b"]).schema.to_string().replace("\n", "; "))
print("iter_batches      ", batch.schema.names, batch.column(0).to_pylist())
print("read_table        ", table.schema.names)
print("dataset.to_table  ", dataset.schema.names, dataset.column(0).to_pylist())

assert batch.schema.names == ["a", "a.b"], "iter_batches reads one column now"
assert batch.column(0).to_pylist() == [{"b": "member 1"}, {"b": "member 2"}], "column 0 is not the struct now"
assert table.schema.names == dataset.schema.names == ["a.b"], "read_table reads more than one column now"
assert batch.column(batch.schema.get_field_index("a.b")).to_pylist() == ["flat 1", "flat 2"]
print("as recorded: the struct's member comes first, the column of that name second")
PYTHON
