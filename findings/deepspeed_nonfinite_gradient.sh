#!/usr/bin/env bash
# What does DeepSpeed do with a NaN or infinite gradient in fp32, where there is no loss scaling?
#
# Expectation: the same at every ZeRO stage: stages shard the work and do not change it. Skipping is part of fp16's
#              loss scaling; in fp32 an update with NaN is applied, as torch does, and the norm that is reported is NaN.
# Behaviour:   stage 0 applies the update (every parameter is NaN from then on) and reports no norm at all (None).
#              Stages 1 to 3 skip it: parameters stay as they are, no warning, no exception. They report the norm inf,
#              also for NaN. Finite gradients whose squares overflow fp32 (1e25) are skipped at stages 1 and 2 and
#              applied, clipped, at stage 3, which sums squares in fp64.
#              `skipped_steps` counts the skips, `was_step_applied()` says so for the last step.
# Seen with:   deepspeed 0.19.8, torch 2.13.0, Python 3.11, CPU (gloo, one process), client torch.optim.AdamW, clipping 1
#              stage 0: nan applied, norm None;  inf applied, norm None;  1e25 applied, norm None
#              stage 1: nan skipped, norm inf;   inf skipped, norm inf;   1e25 skipped, norm inf
#              stage 2: as stage 1
#              stage 3: nan skipped, norm inf;   inf skipped, norm inf;   1e25 applied, norm 3.6e+26
# So:          who compares stages, or counts tokens per update, decides what an update with such a gradient is, the
#              same at every stage, and counts the skips: a run may end some updates short without a word.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 deepspeed==0.19.8 setuptools

export DS_ACCELERATOR=cpu DS_SKIP_CUDA_CHECK=1 DEEPSPEED_LOG_LEVEL=error OMP_NUM_THREADS=1
export RANK=0 WORLD_SIZE=1 LOCAL_RANK=0 MASTER_ADDR=127.0.0.1
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import math
import os
import socket

import deepspeed
import torch

deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # it is compiled at first use; gloo takes its place
deepspeed.utils.logger.setLevel("ERROR")
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    os.environ["MASTER_PORT"] = str(probe.getsockname()[1])
torch.distributed.init_process_group("gloo")


def update(stage: int, factor: float) -> tuple[bool, float | None, int]:
    """Whether an update whose gradient is `factor` moved the parameters, the norm reported for it, and skipped_steps."""
    torch.manual_seed(0)
    module = torch.nn.Linear(4, 4)
    engine, *_ = deepspeed.initialize(
        model=module,
        optimizer=torch.optim.AdamW(module.parameters(), lr=0.1),
        config={
            "train_batch_size": 8, "train_micro_batch_size_per_gpu": 8, "gradient_clipping": 1.0,
            "zero_optimization": {"stage": stage}, "zero_allow_untested_optimizer": True, "steps_per_print": 10**9,
        },
    )

    def weights() -> torch.Tensor:
        with deepspeed.zero.GatheredParameters(list(module.parameters()), enabled=stage == 3):
            return torch.cat([p.detach().clone().flatten() for p in module.parameters()])

    before = weights()
    engine.backward(engine(torch.ones(8, 4)).sum() * factor)
    engine.step()
    norm = engine.get_global_grad_norm()
    moved, skipped = not torch.equal(weights(), before), engine.skipped_steps
    engine.destroy()
    return moved, None if norm is None else float(norm), skipped


print("torch", torch.__version__, "deepspeed", deepspeed.__version__)
for stage in range(4):
    for name, factor in (("nan", math.nan), ("inf", math.inf), ("1e25", 1e25)):
        moved, norm, skipped = update(stage, factor)
        print(f"stage {stage}: {name} {'applied' if moved else 'skipped'}, norm {norm}, skipped_steps {skipped}")
        expected = stage == 0 or (stage == 3 and name == "1e25")
        assert moved == expected, "the update is treated otherwise now"
        assert skipped == int(not moved), "skipped_steps counts otherwise now"
        assert (norm is None) == (stage == 0), "which stages report a norm has changed"
        assert norm is None or moved or norm == math.inf, "a skipped update reports another norm now"
torch.distributed.destroy_process_group()
PYTHON
echo "as described"
