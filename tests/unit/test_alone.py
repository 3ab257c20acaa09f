"""One run at a time in one output folder; a killed one blocks nobody."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from wan_alpha import doctor as doctor_module
from wan_alpha import export as export_module
from wan_alpha import prepare as prepare_module
from wan_alpha.caching import build_cache
from wan_alpha.config import CacheConfig, DoctorConfig, ExportConfig, PrepareConfig
from wan_alpha.data.manifest import read_manifest
from wan_alpha.errors import DatasetError, UsageError
from wan_alpha.media import alone
from wan_alpha.media.atomic import alone_beside, alone_in

ANOTHER = r"where another run works \(process \d+ on .+ since .+\), expected one run at a time; wait for it, .*remove .*lock"


def second_run(monkeypatch: pytest.MonkeyPatch, module: object, name: str, verb, config) -> list[str]:
    """Run VERB; each time that it calls MODULE.NAME, a second one into the same folder is tried. What that was told."""
    told: list[str] = []
    real = getattr(module, name)

    def disturbed(*args: object, **kwargs: object) -> object:
        with pytest.raises(UsageError, match=ANOTHER) as refused:
            verb(config)
        told.append(str(refused.value))
        return real(*args, **kwargs)

    monkeypatch.setattr(module, name, disturbed)
    verb(config)
    return told


def test_prepare(three_clips, tmp_path, monkeypatch):
    """Under another name of the folder too; the first run loses nothing and leaves no lock."""
    output = tmp_path / "out"
    config = PrepareConfig(source=three_clips, output_path=output)
    told = second_run(monkeypatch, prepare_module, "verify_pair", prepare_module.prepare, config)
    assert len(told) == 3
    assert f"process {os.getpid()} on " in told[0]
    assert [entry.name for entry in read_manifest(output)] == ["0", "1", "2"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
    (tmp_path / "link").symlink_to(output)
    with alone_beside(output), pytest.raises(UsageError, match=ANOTHER):
        prepare_module.prepare(PrepareConfig(source=three_clips, output_path=tmp_path / "link"))


def test_doctor_and_export(three_clips, tmp_path, monkeypatch):
    repairing = DoctorConfig(source=three_clips, output_path=tmp_path / "found", fix=True)
    assert len(second_run(monkeypatch, doctor_module, "prepare", doctor_module.doctor, repairing)) == 1
    assert not (tmp_path / "found" / ".lock").exists()
    writing = ExportConfig(source=three_clips / "0.webp", output_path=tmp_path / "made", formats=("webp",))
    assert len(second_run(monkeypatch, export_module, "write_format", export_module.export, writing)) == 1
    assert not [path.name for path in (tmp_path / "made").iterdir() if path.name.endswith((".lock", ".partial"))]


def test_cache_processes_of_one_job_work_together(tmp_path, monkeypatch):
    config = CacheConfig(dataset_base_path=tmp_path / "none", output_path=tmp_path / "cache")
    with alone_in(tmp_path / "cache", rank=1, count=2):
        with pytest.raises(UsageError, match=ANOTHER):
            build_cache(config)
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(DatasetError, match="no such folder"):  # let in
            build_cache(config)
        monkeypatch.setenv("RANK", "1")
        with pytest.raises(UsageError, match=ANOTHER):
            build_cache(config)
        assert (tmp_path / "cache" / ".lock").exists()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["0.alive"]  # why process 0 ended


def test_a_killed_run_blocks_nobody(tmp_path):
    code = "import sys, pathlib; from wan_alpha.media.atomic import alone_beside\nwith alone_beside(pathlib.Path(sys.argv[1])):\n"
    code += "    print('in', flush=True)\n    sys.stdin.read()"
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "out")], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == b"in\n"
    with pytest.raises(UsageError, match=f"process {holder.pid} on "), alone_beside(tmp_path / "out"):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    holder.stdin.close()
    holder.stdout.close()
    assert (tmp_path / ".out.lock").exists()
    with alone_beside(tmp_path / "out"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_its_holder_removes_meanwhile_is_none(tmp_path, monkeypatch):
    """Between opening and locking: then it is another file that stands there, or none."""
    lock, real, calls = tmp_path / ".lock", alone.fcntl.flock, []

    def flock(file: int, how: int) -> None:
        calls.append(how)
        if len(calls) == 1:
            lock.unlink()
        real(file, how)

    monkeypatch.setattr(alone.fcntl, "flock", flock)
    with alone.alone(lock, place=tmp_path):
        assert lock.exists()
    assert len(calls) == 3


def test_where_nothing_can_be_locked_a_warning_says_so(tmp_path, monkeypatch, caplog):
    def flock(file: int, how: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(alone.fcntl, "flock", flock)
    with alone_in(tmp_path / "out"):
        pass
    assert "cannot be locked (Operation not supported)" in caplog.text
    assert list((tmp_path / "out").iterdir()) == []
    monkeypatch.setattr(alone, "fcntl", None)
    with alone_in(tmp_path / "out"):
        pass
    assert "this system locks no files" in caplog.text


def test_a_folder_that_cannot_be_written_is_named_not_its_lock(tmp_path, monkeypatch):
    def refused(*_arguments):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / ".out.lock"))

    monkeypatch.setattr("wan_alpha.media.alone.os.open", refused)
    with pytest.raises(UsageError, match="got Permission denied, expected a folder that can be written; choose another") as error:
        prepare_module.prepare(PrepareConfig(synthetic=1, output_path=tmp_path / "out"))
    assert ".lock" not in str(error.value)
