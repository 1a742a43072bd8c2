"""How many trials a cluster holds, and the workers that no node of it could hold."""

from typing import Any

import pytest
import ray

from vqscale.errors import ClusterError
from vqscale.study.spec import Resources
from vqscale.sweep.driver.cluster import group_count

Node = dict[str, float]


def pretend(monkeypatch: pytest.MonkeyPatch, alive: list[Node], dead: list[Node] | None = None) -> None:
    """A cluster of the nodes `alive`; Ray also lists nodes that are gone."""
    nodes: list[dict[str, Any]] = [{"Alive": True, "Resources": node} for node in alive]
    nodes += [{"Alive": False, "Resources": node} for node in dead or []]
    total = {kind: sum(node.get(kind, 0) for node in alive) for kind in ("CPU", "GPU")}
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(ray, "cluster_resources", lambda: total)


def test_group_count_is_what_the_cluster_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, [{"CPU": 4}, {"CPU": 4}])
    assert group_count(Resources(cpus_per_worker=4), 0, trials=10) == 2
    assert group_count(Resources(workers=2, cpus_per_worker=4), 0, trials=10) == 1
    assert group_count(Resources(), 0, trials=3) == 3
    assert group_count(Resources(max_concurrent=2), 0, trials=10) == 2


def test_group_count_refuses_a_worker_larger_than_every_node(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, [{"CPU": 4}, {"CPU": 2}], dead=[{"CPU": 64}])
    with pytest.raises(ClusterError, match=r"5 CPUs .*largest node of the cluster has 4 CPUs.*cpus_per_worker"):
        group_count(Resources(cpus_per_worker=5), 0, trials=1)


def test_group_count_refuses_gpus_that_lie_on_several_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, [{"CPU": 4, "GPU": 1}, {"CPU": 4, "GPU": 1}])
    assert group_count(Resources(), 1, trials=10) == 2
    with pytest.raises(ClusterError, match=r"2 GPUs on one node, .* 1 GPUs.*gpus_per_worker"):
        group_count(Resources(gpus_per_worker=2), 2, trials=1)


def test_group_count_refuses_cpus_and_gpus_on_different_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, [{"CPU": 8}, {"CPU": 1, "GPU": 1}])
    with pytest.raises(ClusterError, match=r"4 CPUs and 1 GPUs on one node, .* has 1 CPUs and 1 GPUs"):
        group_count(Resources(cpus_per_worker=4), 1, trials=1)


def test_group_count_refuses_what_the_whole_cluster_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, [{"CPU": 2}])
    with pytest.raises(ClusterError, match=r"need 3 CPUs, but the cluster has 2"):
        group_count(Resources(workers=3), 0, trials=1)
