"""Prometheus' own evaluation of k8s/monitoring's rules: what fires, when, and what does not."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ALERTS = Path(__file__).parents[2] / "k8s" / "monitoring" / "alerts.yaml"
HOUR = 60  # in minutes, the interval of the series below
# Names and labels of Argo's controller (its documentation, "Metrics") and of kube-state-metrics.
FAILED = 'argo_workflows_total_count{namespace="stargan", phase="Failed"}'
ERROR = 'argo_workflows_total_count{namespace="stargan", phase="Error"}'
FINE = 'argo_workflows_total_count{namespace="stargan", phase="Succeeded"}'
OTHERS = 'argo_workflows_total_count{namespace="kubeflow", phase="Failed"}'
CREATED = 'kube_cronjob_created{namespace="stargan", cronjob="backup"}'
LAST = 'kube_cronjob_status_last_successful_time{namespace="stargan", cronjob="backup"}'
JOB = 'kube_job_status_failed{namespace="stargan", job_name="backup-29401637"}'
TRAIN = 'kube_job_status_failed{namespace="stargan", job_name="train-0123456789abcdef-node-0"}'
Series = dict[str, str]
# Alert, series by name, and whether it fires after these minutes.
CASES: dict[str, tuple[str, Series, dict[int, bool]]] = {
    "the first failed run is a series that begins": (
        "RunFailed", {FAILED: "_x9 1+0x60"}, {8: False, 12: True, 40: False}),
    "another failed run": (
        "RunFailed", {FAILED: "3+0x30 4+0x60"}, {20: False, 33: True, 60: False}),
    "a run in error": ("RunFailed", {ERROR: "0+0x30 1+0x60"}, {33: True}),
    "a failed run of others, and a good one": (
        "RunFailed", {OTHERS: "0+1x60", FINE: "0+1x60"}, {30: False}),
    "a backup every night": (
        "BackupMissing", {CREATED: "0x4320", LAST: "0x1440 86400x1440 172800x1440"},
        {1000: False, 2800: False, 4300: False}),
    "no backup for two nights": (
        "BackupMissing", {CREATED: "0x4320", LAST: "0x4320"}, {35 * HOUR: False, 37 * HOUR: True}),
    "never a backup": ("BackupMissing", {CREATED: "0x4320"}, {35 * HOUR: False, 37 * HOUR: True}),
    "no cron job": ("BackupMissing", {FINE: "0x120"}, {10: False, 20: True}),
    "a failed backup": ("BackupFailed", {JOB: "0x10 1x60"}, {5: False, 15: True}),
    "a failed training is no backup": ("BackupFailed", {TRAIN: "1x60"}, {15: False}),
}  # fmt: skip


def rules() -> dict[str, Any]:
    *_, found = yaml.safe_load_all(ALERTS.read_text())
    return {"groups": found["spec"]["groups"]}


def evaluated(folder: Path, groups: dict[str, Any], case: str) -> subprocess.CompletedProcess[str]:
    """`promtool test rules` on one case: only the names of the alerts that fire are compared."""
    alert, series, expected = CASES[case]
    (rule,) = (r for g in groups["groups"] for r in g["rules"] if r["alert"] == alert)
    plain = {**rule, "annotations": {}, "labels": {}, "expr": f"count({rule['expr']}) > 0"}
    (folder / "rules.yml").write_text(
        yaml.safe_dump({"groups": [{"name": "one", "rules": [plain]}]})
    )
    test = {
        "rule_files": ["rules.yml"], "evaluation_interval": "1m",
        "tests": [{
            "interval": "1m",
            "input_series": [{"series": n, "values": text} for n, text in series.items()],
            "alert_rule_test": [
                {"eval_time": f"{minute}m", "alertname": alert,
                 "exp_alerts": [{"exp_labels": {}}] if fires else []}
                for minute, fires in expected.items()
            ],
        }],
    }  # fmt: skip
    (folder / "test.yml").write_text(yaml.safe_dump(test))
    return subprocess.run(
        ["promtool", "test", "rules", "test.yml"], cwd=folder, capture_output=True, text=True
    )


@pytest.fixture(autouse=True)
def promtool() -> None:
    if not shutil.which("promtool"):
        pytest.skip("promtool is not installed: apt-get install prometheus")


@pytest.mark.parametrize("case", CASES)
def test_an_alert_fires_when_it_should_and_only_then(case: str, tmp_path: Path) -> None:
    done = evaluated(tmp_path, rules(), case)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "case", ["another failed run", "no backup for two nights", "never a backup", "a failed backup"]
)
def test_a_renamed_metric_is_seen(case: str, tmp_path: Path) -> None:
    text = yaml.safe_dump(rules(), width=10_000)
    for name in ("argo_workflows_total_count", "kube_cronjob_created", "kube_job_status_failed",
                 "kube_cronjob_status_last_successful_time"):  # fmt: skip
        text = text.replace(name, f"{name}_renamed")
    done = evaluated(tmp_path, yaml.safe_load(text), case)
    assert done.returncode == 1
    assert "FAILED" in done.stderr


def test_prometheus_reads_every_rule_with_its_annotations(tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rules()))
    done = subprocess.run(
        ["promtool", "check", "rules", "rules.yml"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    count = sum(len(group["rules"]) for group in rules()["groups"])
    assert f"{count} rules found" in done.stdout
