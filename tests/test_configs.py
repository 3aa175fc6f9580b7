"""The configurations for many devices, as accelerate itself reads them: loaded, launched up to the last step, and made into its plugins."""

from pathlib import Path

import pytest
import yaml
from accelerate.commands import launch
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.utils import DeepSpeedPlugin, DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def launched(path, monkeypatch):
    """The environment that `accelerate launch --config_file path` would give its processes; they are not started."""
    started = []
    for launcher in ("deepspeed_launcher", "multi_gpu_launcher", "simple_launcher"):
        monkeypatch.setattr(launch, launcher, lambda args, launcher=launcher: started.append((launcher, args)))
    launch.launch_command(launch.launch_command_parser().parse_args(["--config_file", str(path), "--main_process_port", "0", "-m", "lab"]))
    [(launcher, args)] = started
    assert launcher == ("deepspeed_launcher" if args.use_deepspeed else "multi_gpu_launcher")
    return prepare_deepspeed_cmd_env(args)[1] if args.use_deepspeed else prepare_multi_gpu_env(args)


def in_environment(monkeypatch, found):
    for key, value in found.items():
        if key.startswith(("ACCELERATE_", "FSDP_")):
            monkeypatch.setenv(key, value)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_configuration_is_one_that_accelerate_knows(path, monkeypatch):
    """Its keys are accelerate's own, and each key of its inner part is an option of `accelerate launch`."""
    config = load_config_from_file(str(path))  # raises for a key that accelerate does not know
    assert isinstance(config, ClusterConfig) and config.num_processes > 1 and config.mixed_precision == "bf16"
    options = set(vars(launch.launch_command_parser().parse_args(["-m", "lab"])))
    assert set(config.fsdp_config) | set(config.deepspeed_config) <= options
    assert launched(path, monkeypatch)["ACCELERATE_MIXED_PRECISION"] == "bf16"


def test_every_kind_of_configuration_is_there():
    assert {load_config_from_file(str(path)).distributed_type for path in CONFIGS} == {
        DistributedType.MULTI_GPU, DistributedType.FSDP, DistributedType.DEEPSPEED}


def test_fsdp_shards_everything_a_block_at_a_time(monkeypatch):
    in_environment(monkeypatch, launched(ROOT / "configs/fsdp.yaml", monkeypatch))
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2 and plugin.reshard_after_forward is True and plugin.activation_checkpointing
    assert plugin.auto_wrap_policy.__name__ == "transformer_auto_wrap_policy" and plugin.state_dict_type.name == "FULL_STATE_DICT"


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_shards_by_its_stage(monkeypatch, stage):
    in_environment(monkeypatch, launched(ROOT / f"configs/deepspeed-zero{stage}.yaml", monkeypatch))
    plugin = DeepSpeedPlugin()
    assert plugin.zero_stage == plugin.deepspeed_config["zero_optimization"]["stage"] == stage
    assert plugin.zero3_init_flag == plugin.zero3_save_16bit_model == (stage == 3)
    assert plugin.offload_optimizer_device == plugin.offload_param_device == "none"


@pytest.mark.parametrize("change, error", [({"fsdp_confg": {}}, "unknown keys"), ({"distributed_type": "FSPD"}, "FSPD")])
def test_a_mistyped_configuration_is_refused(tmp_path, change, error):
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load((ROOT / "configs/fsdp.yaml").read_text()) | change))
    with pytest.raises((ValueError, KeyError), match=error):
        load_config_from_file(str(path))
