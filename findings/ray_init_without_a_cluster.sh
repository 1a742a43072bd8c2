#!/usr/bin/env bash
# How long does ray.init take to say that nothing listens at an address?
#
# Expectation: the port refuses connections, so ray.init raises within seconds.
# Behaviour:   an attempt waits for 41 s, although every connection is refused at once: 5 s and 5 s for two connections,
#              30 s for an answer, 1 s of pause. There are 20 attempts, so the error comes after a quarter of an hour.
#              RAY_gcs_server_port_wait_time_s, in spite of its name, is the number of attempts of a driver that joins.
# Seen with:   ray 2.60.0 (Python 3.11, Linux): "1 attempt: ConnectionError after 41 s; by default 20 attempts"
# So:          look whether anything listens before ray.init, and set the number of attempts.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check ray==2.60.0

RAY_USAGE_STATS_ENABLED=0 RAY_gcs_server_port_wait_time_s=1 "$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import socket
import time

import ray
from ray._private import ray_constants

with socket.socket() as one:
    one.bind(("127.0.0.1", 0))
    port = one.getsockname()[1]
began = time.monotonic()
try:
    socket.create_connection(("127.0.0.1", port))
except ConnectionRefusedError:
    pass
else:
    raise AssertionError("something listens there")
assert time.monotonic() - began < 1

began, raised = time.monotonic(), None
try:
    ray.init(address=f"127.0.0.1:{port}", logging_level="CRITICAL")
except Exception as error:  # which one is part of what is seen
    raised = error
seconds, attempts = time.monotonic() - began, ray_constants.NUM_REDIS_GET_RETRIES
print(f"1 attempt: {type(raised).__name__} after {seconds:.0f} s; by default {attempts} attempts")
assert raised is not None
assert seconds > 30, "an attempt is given up sooner now"
assert attempts == 20, "the number of attempts has changed"
PYTHON
