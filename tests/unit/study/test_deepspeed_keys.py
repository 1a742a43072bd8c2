"""DeepSpeed's keys in a study file: what DeepSpeed would ignore is refused, what it reads is taken."""

import copy
from typing import Any, Self

import pytest

from vqscale.errors import StudyError
from vqscale.study.deepspeed_keys import KEYS, check_deepspeed_keys
from vqscale.study.spec import parse_study

REMOVED = {
    "amp", "compression_training", "curriculum_learning", "eigenvalue", "elasticity", "graph_harvesting",
    "quantize_training", "sparse_attention", "sparse_gradients",
}  # fmt: skip
"""Keys that DeepSpeed looks for in order to refuse them."""


@pytest.mark.parametrize(
    ("overrides", "named", "meant"),
    [
        ({"zero_optimisation": {"stage": 2}}, "zero_optimisation", "zero_optimization"),
        ({"wall_clock_brakdown": True}, "wall_clock_brakdown", "wall_clock_breakdown"),
        ({"BF16": {"enabled": True}}, "BF16", ""),
        (
            {"zero_optimization": {"overlap_com": True}},
            "zero_optimization.overlap_com",
            "zero_optimization.overlap_comm",
        ),
        ({"zero_optimization": {"offload_optimizer": {"devise": "cpu"}}}, "offload_optimizer.devise", "device"),
        ({"bf16": {"enable": True}}, "bf16.enable", "bf16.enabled"),
        ({"fp16": {"initial_scale": 8}}, "fp16.initial_scale", "fp16.initial_scale_power"),
        ({"reduce_bucket_size": 1000}, "reduce_bucket_size", "zero_optimization.reduce_bucket_size"),
        ({"data_types": {"grad_dtype": "fp32"}}, "data_types.grad_dtype", "data_types.grad_accum_dtype"),
        ({"sparse_attention": {}}, "sparse_attention", ""),
        ({7: 1}, "7", ""),
        ({"bf16": True}, "bf16: True is no mapping", ""),
        (["bf16"], "no mapping", ""),
        (None, "no mapping", ""),
    ],
)
@pytest.mark.parametrize("place", ["train", "sweep", "design"])
def test_key_that_deepspeed_does_not_know_is_refused_with_the_nearest(
    overrides: Any, named: str, meant: str, place: str
) -> None:
    train: dict[str, Any] = {"context": 64, "tokens": 4096, "batch_tokens": 512, "lr": 0.01}
    study = {"study": "s", "data": {"corpus": "c"}, "model": {"arch": "transformer", "preset": "pico"}, "train": train}
    axes = {"train.deepspeed": [{}, overrides]}
    if place == "train":
        train["deepspeed"] = overrides
    elif place == "sweep":
        study["sweep"] = [axes]
    else:
        study["design"] = [{"type": "ladder", "sizes": ["pico", "nano"], "tokens_per_parameter": [1.0], "axes": axes}]
    with pytest.raises(StudyError, match=r"train\.deepspeed") as caught:
        parse_study(study, source="s.yaml")
    assert "s.yaml" in str(caught.value)
    assert named in str(caught.value)
    assert f"{meant}?" in str(caught.value) or not meant


def test_keys_that_deepspeed_knows_are_taken() -> None:
    check_deepspeed_keys(
        {
            "zero_optimization": {"offload_optimizer": {"device": "cpu"}, "stage3_max_live_parameters": 10},
            "bf16": {"enabled": True},
            "tensorboard": {"enabled": True, "output_path": "x"},
            "steps_per_print": 10,
        }
    )


class _Asked(dict[str, Any]):
    """A configuration that remembers which keys it was asked for."""

    def __init__(self, values: dict[str, Any], asked: set[str]) -> None:
        super().__init__(values)
        self.asked = asked

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self.asked.add(str(key))
        return super().__contains__(key)

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)

    def keys(self) -> Self:  # type: ignore[override]
        return self

    def __copy__(self) -> "_Asked":
        return _Asked(dict(self.items()), self.asked)


def test_listed_keys_are_those_that_deepspeed_reads() -> None:
    from vqscale.train.engine import import_deepspeed

    import_deepspeed()
    from deepspeed.profiling.constants import FLOPS_PROFILER
    from deepspeed.runtime.config import DeepSpeedConfig
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from deepspeed.runtime.zero.offload_config import (
        DeepSpeedZeroOffloadOptimizerConfig,
        DeepSpeedZeroOffloadParamConfig,
    )

    def read(section: str) -> set[str]:
        asked: set[str] = set()
        config: dict[str, Any] = {"train_batch_size": 4}
        DeepSpeedConfig(copy.copy(_Asked(config, asked)) if not section else config | {section: _Asked({}, asked)})
        return asked

    # Read only where a process group exists, as it does after other tests; it would divide the workers of a trial.
    assert read("") - REMOVED - {"sequence_parallel_size"} == KEYS[""]
    for section in ("activation_checkpointing", "data_types", "checkpoint", "torch_autocast", "aio", FLOPS_PROFILER):
        assert read(section) == KEYS[section], section
    models = {
        "zero_optimization": DeepSpeedZeroConfig,
        "zero_optimization.offload_param": DeepSpeedZeroOffloadParamConfig,
        "zero_optimization.offload_optimizer": DeepSpeedZeroOffloadOptimizerConfig,
        "bf16": DeepSpeedBF16Config,
        "fp16": DeepSpeedFP16Config,
    }
    for section, model in models.items():
        names = set(model.model_fields) | {field.alias for field in model.model_fields.values() if field.alias}
        assert names == KEYS[section], section
