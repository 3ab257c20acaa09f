"""run.json."""

import hashlib
import json
from datetime import datetime
from pathlib import Path

import numpy as np
import torch

from wan_alpha.config import EvaluateConfig, ExportConfig
from wan_alpha.run_record import config_as_json, now, write_run_record


def test_config_is_plain_json() -> None:
    plain = config_as_json(ExportConfig(source=Path("a/b"), formats=("png", "pair")))
    assert json.loads(json.dumps(plain)) == plain
    assert (plain["source"], plain["formats"], plain["seed"]) == ("a/b", ["png", "pair"], 0)


def test_record_names_config_versions_weights_and_times(tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    files = {"merge": tmp_path / "merge.safetensors", "a": tmp_path / "vae" / "a.bin", "b": tmp_path / "vae" / "b.json"}
    for name, file in files.items():
        file.write_bytes(name.encode() * 1000)
    path = write_run_record(
        tmp_path / "new" / "out",
        verb="evaluate",
        config=EvaluateConfig(seed=7),
        weights={"merge": files["merge"], "vae": tmp_path / "vae"},
        extra={"rgb_mae": np.float32(0.5), "alpha_mae": torch.tensor(2.0), "clips": [Path("x")]},
        started=now(),
    )
    record = json.loads(path.read_text())
    assert path == tmp_path / "new" / "out" / "run.json"
    assert (record["verb"], record["seed"], record["config"]["seed"]) == ("evaluate", 7, 7)
    hashes = {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()}
    assert record["weights"]["merge"] == {str(files["merge"]): hashes["merge"]}
    assert record["weights"]["vae"] == {str(files["a"]): hashes["a"], str(files["b"]): hashes["b"]}
    assert record["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert record["extra"] == {"rgb_mae": 0.5, "alpha_mae": 2.0, "clips": ["x"]}
    assert datetime.fromisoformat(record["started"]) <= datetime.fromisoformat(record["ended"])


def test_the_new_record_replaces_the_old_and_leaves_no_partial(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_run_record(tmp_path, verb="export", config=ExportConfig(seed=seed), weights={})
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]
    assert json.loads((tmp_path / "run.json").read_text())["seed"] == 2
