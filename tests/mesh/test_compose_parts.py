"""What compose.yaml gives to its Envoy and its Prometheus, run without containers."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from support import ROOT, Start, call, command, connect, until
from support.scraping import promtool

from echod.lab.envoy import find
from echod.lab.processes import Process, free_port

FILES = ROOT / "compose"


def test_the_envoy_of_compose_splits_by_its_file_and_follows_it(
    tmp_path: Path, start: Start
) -> None:
    """The same files, with addresses of this host for those of the containers."""
    directory = tmp_path / "envoy"
    shutil.copytree(FILES / "envoy", directory)
    boot, split = directory / "bootstrap.json", directory / "lds.json"
    document = json.loads(boot.read_text().replace("/etc/echod", str(directory)))
    for cluster, prefix in zip(
        document["static_resources"]["clusters"], ("one", "two"), strict=True
    ):
        (endpoints,) = cluster["load_assignment"]["endpoints"]
        address = endpoints["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]
        assert (address["address"], address["port_value"]) == (cluster["name"], 9000)
        address |= {"address": "127.0.0.1", "port_value": start(prefix=prefix).port}
    boot.write_text(json.dumps(document))
    port = free_port()
    for file in directory.glob("*.json"):
        text = file.read_text().replace("0.0.0.0", "127.0.0.1")
        file.write_text(text.replace("31400", str(port)))
    envoy = Process("envoy", [find(), "-c", boot, "--disable-hot-restart"], tmp_path)
    try:

        def listening() -> bool:
            envoy.check()
            try:
                connect(port).close()
            except ConnectionRefusedError:
                return False
            return True

        until(listening)

        def judged(expect: str) -> int:
            words = ("probe", f"127.0.0.1:{port}", "--expect", expect, "--alpha", "0.000001")
            return call(tmp_path, command(*words)).returncode

        assert judged("one=80,two=20") == 0
        for step, expect in (
            ("50-50", "one=50,two=50"),
            ("all-v1", "one=100,two=0"),
            ("all-v2", "one=0,two=100"),
        ):
            Path(shutil.copy(directory / f"{step}.json", directory / "new")).rename(split)
            until(lambda expect=expect: judged(expect) == 0)  # type: ignore[misc]
    finally:
        envoy.stop(5)


def test_the_files_of_compose_pass_the_programs_own_checks(tmp_path: Path) -> None:
    """Envoy's validation of the unchanged bootstrap, promtool's of the scrapes."""
    words = [find(), "--mode", "validate", "-c", str(FILES / "envoy/bootstrap.json")]
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for source in (FILES / "prometheus.yml", ROOT / "monitoring/rules.yml"):
        shutil.copy(source, tmp_path)
    assert "SUCCESS" in promtool("check", "config", tmp_path / "prometheus.yml")
