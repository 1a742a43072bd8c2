"""The keys of DeepSpeed's configuration: it ignores one that it does not know, so that a typing error has no effect.

Listed here because a study file is read where DeepSpeed is not loaded; a test compares them with what DeepSpeed reads.
"""

import difflib
from collections.abc import Mapping
from typing import Any

KEYS: dict[str, frozenset[str]] = {
    name: frozenset(keys.split())
    for name, keys in {
        "": "activation_checkpointing aio autotuning bf16 bfloat16 checkpoint comet comms_logger"
        " communication_data_type compile csv_monitor data_efficiency data_types dataloader_drop_last datastates_ckpt"
        " disable_allgather"
        " disable_python_gc dump_state expert_parallel flops_profiler fp16 gradient_accumulation_steps"
        " gradient_allreduce_op gradient_clipping gradient_predivide_factor hybrid_engine log_level"
        " managed_gradient_accumulation memory_breakdown nebula optimizer pipeline prescale_gradients"
        " progressive_layer_drop scheduler seq_parallel_communication_data_type steps_per_print tensor_parallel"
        " tensorboard timers torch_autocast train_batch_size train_micro_batch_size_per_gpu"
        " use_data_before_expert_parallelism vocabulary_size wall_clock_breakdown wandb weight_quantization"
        " zero_allow_untested_optimizer zero_force_ds_cpu_optimizer zero_optimization",
        "activation_checkpointing": "contiguous_memory_optimization cpu_checkpointing number_checkpoints"
        " partition_activations profile synchronize_checkpoint_boundary",
        "aio": "block_size intra_op_parallelism overlap_events queue_depth single_submit use_gds",
        "bf16": "enabled immediate_grad_update check_grad_overflow bf16_master_weights_and_grads bf16_optimizer_states",
        "bfloat16": "enabled immediate_grad_update check_grad_overflow bf16_master_weights_and_grads "
        "bf16_optimizer_states",
        "checkpoint": "checkpoint_serialization load_universal parallel_write tag_validation use_node_local_storage"
        " writer",
        "data_types": "buffer_dtype grad_accum_dtype keep_in_fp32_modules param_dtype",
        "flops_profiler": "detailed enabled module_depth output_file profile_step recompute_fwd_factor top_modules",
        "fp16": "enabled auto_cast loss_scale initial_scale_power loss_scale_window hysteresis consecutive_hysteresis"
        " min_loss_scale fp16_master_weights_and_grads",
        "timers": "throughput",
        "torch_autocast": "dtype enabled lower_precision_safe_modules",
        "zero_optimization": "stage contiguous_gradients reduce_scatter reduce_bucket_size allgather_partitions"
        " allgather_bucket_size overlap_comm load_from_fp32_weights elastic_checkpoint offload_param offload_optimizer"
        " zenflow sub_group_size cpu_offload_param cpu_offload_use_pin_memory cpu_offload prefetch_bucket_size"
        " stage3_prefetch_bucket_size param_persistence_threshold stage3_param_persistence_threshold"
        " model_persistence_threshold stage3_model_persistence_threshold max_live_parameters"
        " stage3_max_live_parameters max_reuse_distance stage3_max_reuse_distance gather_16bit_weights_on_model_save"
        " stage3_gather_16bit_weights_on_model_save module_granularity_threshold stage3_module_granularity_threshold"
        " use_all_reduce_for_fetch_params stage3_use_all_reduce_for_fetch_params allgather_sequential"
        " stage3_allgather_sequential stage3_gather_fp16_weights_on_model_save ignore_unused_parameters legacy_stage1"
        " round_robin_gradients zero_hpz_partition_size zero_quantized_weights zero_quantized_nontrainable_weights"
        " zero_quantized_gradients memory_efficient_linear pipeline_loading_checkpoint override_module_apply"
        " log_trace_cache_warnings enable_sanity_checks compute_grad_norm save_muon_momentum_buffer_in_memory"
        " parameter_alignment use_multi_rank_bucket_allreduce leaf_module",
        "zero_optimization.offload_param": "device nvme_path buffer_count buffer_size max_in_cpu pin_memory",
        "zero_optimization.offload_optimizer": "device nvme_path buffer_count pin_memory pipeline_read pipeline_write"
        " fast_init ratio super_offload cpuadam_cores_perc",
    }.items()
}
"""By section its keys, the empty name for those outside of sections. Sections that are not listed, such as those of
monitors and profilers, are not looked into."""


def check_deepspeed_keys(overrides: Any, section: str = "") -> None:
    """Raises ValueError that names the first key which DeepSpeed does not know, with the known key that is nearest."""
    path = f"{section}." if section else ""
    if not isinstance(overrides, Mapping):
        stage = " The stage is set by train.zero." if section == "zero_optimization" else ""
        named = f"{section}: {overrides!r}" if section else repr(overrides)
        raise ValueError(f"train.deepspeed: {named} is no mapping of DeepSpeed's settings.{stage}")
    for key, value in overrides.items():
        if key not in KEYS[section]:
            raise ValueError(f"train.deepspeed: {path}{key} is no setting of DeepSpeed{_nearest(str(key), section)}")
        if f"{path}{key}" in KEYS:
            check_deepspeed_keys(value, f"{path}{key}")


def _nearest(key: str, section: str) -> str:
    """A known key that may be meant, of the same section or of another one."""
    found = difflib.get_close_matches(key, KEYS[section], 1, 0.6)
    places = {name: other for other, names in KEYS.items() for name in names}
    if found:
        place, name = section, found[0]
    elif found := difflib.get_close_matches(key, places, 1, 0.75):
        place, name = places[found[0]], found[0]
    else:
        return f". Known are {', '.join(sorted(KEYS[section]))}"
    return f". Did you mean {f'{place}.{name}' if place else name}?"
