"""The platform as a wheel, made from the files that this process imports: a cluster runs the code that ran here.

An editable checkout cannot be sent (a worker would import whatever its own disk holds), and building a wheel with pip
needs a network. So the archive is written here, from the files of the two packages and the installed metadata.
"""

import base64
import csv
import hashlib
import importlib.metadata
import importlib.util
import io
import zipfile
from pathlib import Path

DISTRIBUTION = "vqscale"
WHEEL_PACKAGES = ("vqscale", "vqkernels")
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip entry can have, the same for all entries, so that equal files give equal bytes."""
_LEFT_OUT = {"__pycache__"}
_DEPENDENCY_FIELDS = ("Requires-Dist:", "Provides-Extra:")


def build_wheel(folder: str | Path) -> Path:
    """Write the platform's wheel into `folder` and return its path. The same files give the same name and bytes.

    The name has a build tag made from the content's hash: a cluster identifies a wheel by its name alone and would
    keep running an older one of the same name.
    The wheel lists no dependencies: Ray installs it with a plain `pip install --target`, which ignores what the node
    has and would download torch again for every job. The cluster's image provides them (`constraints.txt`).
    """
    distribution = importlib.metadata.distribution(DISTRIBUTION)
    stem = f"{DISTRIBUTION}-{distribution.version}"
    files = {name: path.read_bytes() for name, path in _package_files()}
    files |= {f"{stem}.dist-info/{name}": data for name, data in _metadata(distribution).items()}
    record = f"{stem}.dist-info/RECORD"
    files[record] = _record(files, record)
    target = Path(folder) / f"{stem}-0{hashlib.sha256(files[record]).hexdigest()[:12]}-py3-none-any.whl"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16  # Unix permissions are in the upper 16 bits
            archive.writestr(entry, data)
    return target


def _package_files() -> list[tuple[str, Path]]:
    """Archive name and path of every file of the two packages, data files included, in a fixed order."""
    found = []
    for package in WHEEL_PACKAGES:
        spec = importlib.util.find_spec(package)
        assert spec is not None, f"{package} is not importable"
        assert spec.origin is not None, f"{package} is a namespace, not a package"
        root = Path(spec.origin).parent
        for path in sorted(root.rglob("*")):
            parts = path.relative_to(root).parts
            if path.is_file() and not _LEFT_OUT.intersection(parts) and not path.name.startswith("."):
                found.append(("/".join((package, *parts)), path))
    return found


def _metadata(distribution: importlib.metadata.Distribution) -> dict[str, bytes]:
    """The files of the dist-info folder, without RECORD."""
    head, separator, body = (distribution.read_text("METADATA") or "").partition("\n\n")
    fields = [line for line in head.splitlines() if not line.startswith(_DEPENDENCY_FIELDS)]
    wheel = "Wheel-Version: 1.0\nGenerator: vqscale\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files = {
        "METADATA": "\n".join(fields) + separator + body,
        "WHEEL": wheel,
        "entry_points.txt": distribution.read_text("entry_points.txt") or "",
        "licenses/LICENSE": distribution.read_text("licenses/LICENSE") or "",
    }
    return {name: text.encode() for name, text in files.items() if text}


def _record(files: dict[str, bytes], record: str) -> bytes:
    """RECORD: name, sha256 and size of every file, its own line empty (the wheel format, PEP 427)."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        writer.writerow((name, f"sha256={digest}", len(data)))
    writer.writerow((record, "", ""))
    return lines.getvalue().encode()
