#!/usr/bin/env bash
# What does s3fs see of an object that another client wrote, after it has listed the folder?
#
# Expectation: `ls` may be cached, as fsspec's documentation says of listings. Reading an object asks the server: an
#              object that the same file system has just found can be read, and rm removes it.
# Behaviour:   one `ls` of a folder also answers info, exists, cat_file, open and rm(recursive=True) of everything in
#              it, for as long as the instance lives (instances are shared in a process, and nothing expires):
#              `find` returns another client's new object, and cat_file of that very path raises FileNotFoundError
#              without asking the server; rm removes it, rm(recursive=True) says that there is none. An object that was
#              replaced is read by cat_file, and open().read() raises FileExpired. A removed object "exists".
#              The server knows better: pipe_file(mode="create") of an object that exists() denies is refused.
# Seen with:   s3fs 2026.9.0, fsspec 2026.9.0, moto 5.2.5 as the server, Python 3.11
#              after ls:  exists False, cat_file FileNotFoundError, find has it, rm(recursive=True) FileNotFoundError
#              replaced:  cat_file new content, open().read() FileExpired;   removed by the other client: exists True
# So:          call invalidate_cache() before every look (use_listings_cache=False is no argument that all of fsspec's
#              file systems take), and let two processes agree by conditional writes, never by exists().
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check s3fs==2026.9.0 fsspec==2026.9.0 'moto[server]==5.2.5'

"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import logging
import os
from importlib.metadata import version

from moto.server import ThreadedMotoServer

logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
os.environ |= {
    "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
}

import s3fs

ours, theirs = (s3fs.S3FileSystem(skip_instance_cache=True) for _ in range(2))


def outcome(call):
    try:
        return call()
    except Exception as error:
        return type(error).__name__


ours.mkdir("bucket")
ours.pipe_file("bucket/f/old", b"short")
ours.ls("bucket/f")
theirs.pipe_file("bucket/f/new", b"new")
theirs.pipe_file("bucket/f/old", b"longer than before")
seen = {
    "exists": ours.exists("bucket/f/new"),
    "cat_file": outcome(lambda: ours.cat_file("bucket/f/new")),
    "ls": ours.ls("bucket/f"),
    "find": ours.find("bucket/f"),
    "rm(recursive=True)": outcome(lambda: ours.rm("bucket/f/new", recursive=True)),
    'pipe_file(mode="create")': outcome(lambda: ours.pipe_file("bucket/f/new", b"mine", mode="create")),
    "replaced: cat_file": ours.cat_file("bucket/f/old"),
    "replaced: open().read()": outcome(lambda: ours.open("bucket/f/old").read()),
}
ours.invalidate_cache()
ours.ls("bucket/f")
theirs.rm_file("bucket/f/old")
seen["removed by the other: exists"] = ours.exists("bucket/f/old")
ours.invalidate_cache()
seen["after invalidate_cache: exists"] = ours.exists("bucket/f/old")
seen["after invalidate_cache: cat_file"] = ours.cat_file("bucket/f/new")
server.stop()

print("s3fs", version("s3fs"), "fsspec", version("fsspec"), "moto", version("moto"))
for name, found in seen.items():
    print(f"{name:34} {found}")
assert seen == {
    "exists": False,
    "cat_file": "FileNotFoundError",
    "ls": ["bucket/f/old"],
    "find": ["bucket/f/new", "bucket/f/old"],
    "rm(recursive=True)": "FileNotFoundError",
    'pipe_file(mode="create")': "FileExistsError",
    "replaced: cat_file": b"longer than before",
    "replaced: open().read()": "FileExpired",
    "removed by the other: exists": True,
    "after invalidate_cache: exists": False,
    "after invalidate_cache: cat_file": b"new",
}, "s3fs answers differently now"
print("as recorded: a listing answers for objects, except find, conditional writes and reads of known names")
PYTHON
