"""The measuring itself, with a tiny file and without the rivals: no figure is judged here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import attrs
import pytest

from benchmarks.contender import Contender, measure
from benchmarks.files import MIB, make_file, same
from benchmarks.measure import BenchError, cpu_seconds, forget_peaks, peak_rss, run
from benchmarks.musts import MUSTS, figures, judge
from benchmarks.report import BEGIN, END, insert, render
from tests.rig.host import PATIENCE

TOP = Path(__file__).resolve().parents[2]


def bench(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.bench", *args], cwd=TOP, env=os.environ | env, text=True,
        capture_output=True, timeout=4 * PATIENCE, check=False,
    )  # fmt: skip


def test_a_tiny_run_measures_all_that_needs_no_rival(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    size, keys = 8 * MIB, ["p2pd", "p2pd-asked", "p2pd-4", "raw", "raw-hash"]
    done = bench(
        "--only", "memory", "--size", str(size), "--rounds", "1", "--contenders", ",".join(keys),
        "--results", str(results),
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr  # 1: a must was missed, which is not tested here
    found = json.loads(results.read_text())
    part = found["parts"]["memory"]
    assert part["size"] == size
    assert sorted(part["contenders"]) == sorted(keys)
    for key, contender in part["contenders"].items():
        (only,) = contender["rounds"]
        assert only["seconds"] > 0
        assert only["receiver_cpu"] > 0
        assert only["sender_rss"] > MIB
        assert only["receiver_rss"] > MIB
        if key.startswith("p2pd"):
            assert 0 < only["data_seconds"] < only["seconds"]
    (asked,) = part["contenders"]["p2pd-asked"]["rounds"]
    for side in ("sender", "receiver"):
        answers = asked["probes"][side]
        assert answers["count"] > 0
        assert 0 < answers["median"] <= answers["p99"] <= answers["max"]
    assert {"four-over-one", "rss-memory"} <= figures(found["parts"]).keys()
    assert "| limit: raw sockets |" in done.stdout
    assert "| one holder, over curl from nginx |  | ≥ 1.3 | ≥ 1.8 | not measured |" in done.stdout


def test_one_that_is_stopped_leaves_nothing_behind() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        command = [
            sys.executable, "-m", "benchmarks.bench", "--only", "memory", "--size", "8Mi", "--rounds", "999",
            "--contenders", "p2pd,raw", "--memory", folder,
        ]  # fmt: skip
        with subprocess.Popen(command, cwd=TOP, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            said = next((line for line in process.stdout if line.startswith("round 1")), "")
            process.terminate()
            assert process.wait(PATIENCE) == 128 + signal.SIGTERM
        assert said
        assert os.listdir(folder) == []
        assert not [path for path in Path("/proc").glob("[0-9]*") if folder in command_line(path)]


def command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_a_missing_rival_is_named_with_its_package() -> None:
    done = bench("--only", "memory", PATH="/nonexistent")
    assert done.returncode == 2
    assert "curl (Debian package curl)" in done.stderr
    assert "rsync (Debian package rsync)" in done.stderr


def test_a_folder_that_is_no_memory_is_refused() -> None:
    done = bench("--only", "memory", "--contenders", "raw", "--memory", "/proc")
    assert done.returncode == 2
    assert "memory is wanted" in done.stderr


def test_a_wrong_copy_counts_for_nothing(tmp_path: Path) -> None:
    original, other, made = (tmp_path / name for name in ("original", "other", "made"))
    make_file(original, 3 * MIB)
    make_file(other, 3 * MIB)
    right = Contender(
        "right", "right", ["cp", str(original), str(made)], made, os.environ, senders=lambda: [os.getpid()]
    )
    measured = measure(right, original, cold=False)
    assert measured["seconds"] > 0
    assert not made.exists()
    wrong = attrs.evolve(right, command=["cp", str(other), str(made)])
    with pytest.raises(BenchError, match="not the original"):
        measure(wrong, original, cold=False)
    assert not made.exists()


def test_files_are_of_their_size_and_compared_to_the_last_byte(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    make_file(one, 5 * MIB + 3)
    assert one.stat().st_size == 5 * MIB + 3
    content = one.read_bytes()
    assert len({content[n * MIB : (n + 1) * MIB] for n in range(5)}) == 5
    other.write_bytes(content)
    assert same(one, other)
    other.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert not same(one, other)
    other.write_bytes(content[:-1])
    assert not same(one, other)


def test_a_command_that_fails_is_told_with_what_it_said() -> None:
    with pytest.raises(BenchError, match=r"exit status 3\nbecause"):
        run([sys.executable, "-c", "import sys; print('because', file=sys.stderr); sys.exit(3)"], os.environ)


def test_processor_time_and_memory_are_those_of_children_too() -> None:
    child = """
import sys, time
held = bytearray(64 * 2**20); held[::4096] = b"x" * (len(held) // 4096)
until = time.process_time() + 0.2
while time.process_time() < until: pass
del held
print("up", flush=True)
sys.stdin.readline()
"""
    parent = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    process = subprocess.Popen(
        [sys.executable, "-c", parent, child], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        assert cpu_seconds([process.pid]) >= 0.2
        assert peak_rss([process.pid]) >= 64 * MIB
        forget_peaks([process.pid])
        assert peak_rss([process.pid]) < 64 * MIB
        process.stdin.close()
        process.stdin = None


def rounds(seconds: list[float], cpu: float, rss: int = 10 * MIB) -> dict[str, object]:
    one = {"sender_cpu": cpu, "receiver_cpu": cpu, "sender_rss": rss, "receiver_rss": 2 * rss}
    return {"title": "", "rounds": [{"seconds": each, "data_seconds": None, **one} for each in seconds]}


def test_ratios_are_of_rounds_and_musts_are_judged() -> None:
    contenders = {
        "p2pd": rounds([1, 2, 4], cpu=1),
        "p2pd-4": rounds([2, 4, 8], cpu=1),
        "curl": rounds([2, 4, 7], cpu=2),
        "rsync": rounds([1.2, 2.4, 4.8], cpu=2),
    }
    parts = {"memory": {"size": 2**30, "filesystem": "tmpfs", "contenders": contenders}}
    found = figures(parts)
    assert found == {
        "over-curl": 2, "over-rsync": pytest.approx(1.2), "four-over-one": 0.5, "cpu": 0.5, "rss-memory": 20
    }  # fmt: skip
    verdicts = {verdict.must.key: verdict for verdict in judge(parts)}
    assert [key for key, verdict in verdicts.items() if verdict.missed] == ["over-rsync", "four-over-one"]
    assert verdicts["over-libtorrent"].figure is None
    assert len(verdicts) == len(MUSTS)


def test_a_page_keeps_what_was_written_by_hand(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{BEGIN}\nstale\n{END}\n\nafter\n")
    machine = {"cores": 2, "cpu": "x", "memory": 2**30, "kernel": "6", "python": "3", "p2pd": "0"}
    results = {
        "date": "2026-01-01",
        "rounds": 3,
        "machine": {**machine, "versions": {"curl": "8"}},
        "parts": {"client": {"version": [0.1, 0.2, 0.3], "status": [0.1]}},
    }
    for _ in range(2):
        insert(page, render(results, None))
        text = page.read_text()
        assert text.startswith("before\n\n")
        assert text.endswith("\n\nafter\n")
        assert "stale" not in text
        assert "| `p2pctl version` | 200 (100 to 300) |" in text
    page.write_text("no marks")
    with pytest.raises(BenchError, match="no marks"):
        insert(page, "text")


def test_the_page_has_its_marks() -> None:
    text = (TOP / "docs/performance.md").read_text("utf-8")
    assert text.count(BEGIN) == text.count(END) == 1
