"""The experiment runner and the benchmarks, on a few scenes and for a few iterations."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from seqae.checkpoints.manifest import verify

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=250)


def experiment(out: Path, row: str, *more: str) -> tuple[str, list[dict[str, Any]]]:
    """Three iterations of rows, offline: what is printed, and the records."""
    small = (
        "data.digits=bundled",
        "data.train_scenes=30",
        "data.val_scenes=6",
        "data.test_scenes=12",
        "schedule.batch_size=4",
    )
    given = [word for pair in small for word in ("--set", pair)]
    done = run(
        "tests.benchmarks.experiments", "--row", row, "--seed", "3", "--iterations", "3", "--threads", "1",
        "--out", str(out), "--cache-dir", str(out / "data"), *given, *more,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def test_rows_are_repeated_on_the_same_scenes(tmp_path: Path) -> None:
    printed, (ours, draw) = experiment(tmp_path, "default,draw", "--set", "schedule.evaluate_every=2")
    for record, looked_at in ((ours, [2, 3]), (draw, [1, 2, 3])):  # another method's evaluations are the scoreboard's
        assert (record["seed"], record["iterations"], record["scenes"]) == (3, 3, 12)
        assert [point["iteration"] for point in record["evaluations"]] == looked_at
        assert record["evaluations"][-1]["minutes"] == pytest.approx(record["minutes"])
        assert math.isfinite(record["mse"])
        assert -1 < record["fg_ari"] <= 1
    assert ours["empty_mse"] == pytest.approx(draw["empty_mse"]), "the same scenes"
    assert ours["components_fg_ari"] == draw["components_fg_ari"]
    kept = verify(tmp_path / "default-3" / "checkpoint")
    assert kept.iteration == 3
    assert kept.metrics["val/mse"] == pytest.approx(ours["evaluations"][-1]["mse"], rel=1e-5)
    rows = [line for line in printed.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[1] for row in rows] == ["seed", "---", "3", "3"]
    given = ("--checkpoint", str(tmp_path / "default-3" / "checkpoint"), "--cache-dir", str(tmp_path / "data"))
    done = run("tests.benchmarks.reading", *given)
    assert done.returncode == 0, done.stderr
    assert "12 test scenes of its own" in done.stdout
    table = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in done.stdout.splitlines() if "+-" in line}
    components, looks = table["connected components"], table["the strongest after 2 looks"]
    assert float(components[1].split(" +- ")[0]) == pytest.approx(ours["components_fg_ari"], abs=6e-5)
    assert float(looks[1].split(" +- ")[0]) == pytest.approx(ours["fg_ari"], abs=6e-5)
    assert components[-1] == looks[-1] == f"{ours['touching']:.1%} |"


def test_two_workers_are_one_run(tmp_path: Path) -> None:
    _, records = experiment(tmp_path, "workers")
    assert [record["iterations"] for record in records] == [3], "one record, of the first worker"


def test_what_choosing_on_the_test_scenes_is_worth_is_printed(tmp_path: Path) -> None:
    given = ("--seed", "0,1", "--iterations", "4", "--every", "2", "--scenes", "6", "--cache-dir", str(tmp_path))
    done = run("tests.benchmarks.selection", *given, "--set", "data.digits=bundled", "--set", "data.train_scenes=30")
    assert done.returncode == 0, done.stderr
    rows = {line.split(" | ")[0].strip("| "): line for line in done.stdout.splitlines() if line.startswith("| ")}
    assert {"objective", "mse", "fg_ari", "val", "the test scenes themselves"} <= set(rows)
    assert rows["objective"].count("+-") == 3
    assert "2 seeds, 4 iterations, 2 evaluations each" in done.stdout


def test_every_row_is_a_valid_run() -> None:
    program = (
        "from tests.benchmarks.rows import ROWS, config_of\n"
        "for row in ROWS.values():\n"
        "    config = config_of(row, 1, {}, 1000, 10_000)\n"
        "    assert config.seed == 1 and len(config.schedule.growth) == len(row.growth)\n"
        "    assert round(config.schedule.epochs * 10_000 / config.schedule.batch_size) == 1000\n"
        "print(len(ROWS))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 5


def test_the_benchmark_ends_with_its_ratio(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    given = ("--quick", "--rounds", "1", "--threads", "1", "--no-compile", "--only", "step,gpu")
    done = run("tests.benchmarks.main", *given, "--out", str(out))
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    ratio = report["cpu_step_ratio"]
    assert done.stdout.splitlines()[-1] == f"bench: cpu step {ratio:.2f} x floor on {report['machine']['cpu']}"
    assert ratio > 1, "nothing is faster than its floor"
    assert {"machine", "figures", "not_measured"} <= set(report)
    assert all(figure["unit"] for figure in report["figures"])
    floors = [figure["value"] for figure in report["figures"] if figure["name"].startswith("floor")]
    assert floors
    assert all(floor > 0 for floor in floors)
