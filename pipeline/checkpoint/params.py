"""The configs of a checkpoint's parts: from diffusers' and transformers' JSON to the shapes of the networks.

Each function raises CheckpointError for what the networks here lack; it names the file, the field and what is expected.
"""

from pipeline.checkpoint.config import CheckpointError, Config
from pipeline.model.autoencoder import AutoencoderParams
from pipeline.model.qwen3 import Qwen3Params
from pipeline.model.scheduler import Schedule
from pipeline.model.transformer import TransformerParams

UNSUPPORTED_SCHEDULES = {
    "use_dynamic_shifting": False,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "invert_sigmas": False,
    "stochastic_sampling": False,
    "shift_terminal": None,
}


def transformer_params(config: Config) -> TransformerParams:
    """Read diffusers' config of a ZImageTransformer2DModel, `transformer/config.json`."""
    config.expect("_class_name", "ZImageTransformer2DModel")
    config.expect("qk_norm", True, default=True)
    config.expect("siglip_feat_dim", None)
    config.expect("all_f_patch_size", [1])
    patch_sizes, num_heads = config.integers("all_patch_size"), config.integer("n_heads")
    config.expect("all_patch_size", [patch_sizes[0]])
    config.expect("n_kv_heads", num_heads, default=num_heads)
    params = TransformerParams(
        in_channels=config.integer("in_channels"),
        patch_size=patch_sizes[0],
        caption_dim=config.integer("cap_feat_dim"),
        dim=config.integer("dim"),
        num_heads=num_heads,
        num_layers=config.integer("n_layers"),
        num_refiner_layers=config.integer("n_refiner_layers"),
        norm_eps=config.positive("norm_eps"),
        rope_theta=config.positive("rope_theta"),
        rope_axes=config.integers("axes_dims"),
        time_scale=config.positive("t_scale"),
    )
    axes = params.rope_axes
    if len(axes) != 3 or any(channels % 2 for channels in axes) or sum(axes) * num_heads != params.dim:
        raise CheckpointError(
            f"{config.path}: axes_dims is {list(axes)}, expected 3 even numbers that add up to dim / n_heads"
        )
    return params


def autoencoder_params(config: Config) -> AutoencoderParams:
    """Read diffusers' config of an AutoencoderKL, `vae/config.json`."""
    config.expect("_class_name", "AutoencoderKL")
    config.expect("mid_block_add_attention", True, default=True)
    config.expect("use_quant_conv", False, default=True)
    config.expect("use_post_quant_conv", False, default=True)
    config.expect("act_fn", "silu", default="silu")
    in_channels = config.integer("in_channels")
    config.expect("out_channels", in_channels)
    channels, groups = config.integers("block_out_channels"), config.integer("norm_num_groups")
    if any(count % groups for count in channels):
        raise CheckpointError(f"{config.path}: norm_num_groups is {groups}, expected a divisor of {list(channels)}")
    return AutoencoderParams(
        in_channels=in_channels,
        latent_channels=config.integer("latent_channels"),
        block_channels=channels,
        layers_per_block=config.integer("layers_per_block"),
        norm_groups=groups,
        scaling_factor=config.positive("scaling_factor"),
        shift_factor=config.number("shift_factor"),
    )


def qwen3_params(config: Config) -> Qwen3Params:
    """Read transformers' config of a Qwen3Model, `text_encoder/config.json`."""
    config.expect("architectures", ["Qwen3Model"], ["Qwen3ForCausalLM"])
    config.expect("hidden_act", "silu", default="silu")
    config.expect("attention_bias", False, default=False)
    config.expect("use_sliding_window", False, default=False)
    config.expect("rope_scaling", None)
    # transformers 5 writes it so; the released checkpoint has the older form.
    rope = config.section("rope_parameters") if config.values.get("rope_parameters") else config
    rope.expect("rope_type", "default", default="default")
    num_heads, num_kv_heads = config.integer("num_attention_heads"), config.integer("num_key_value_heads")
    if num_heads % num_kv_heads:
        raise CheckpointError(
            f"{config.path}: num_key_value_heads is {num_kv_heads}, expected a divisor of {num_heads}"
        )
    head_dim = config.integer("head_dim")
    if head_dim % 2:
        raise CheckpointError(f"{config.path}: head_dim is {head_dim}, expected an even number")
    return Qwen3Params(
        vocab_size=config.integer("vocab_size"),
        hidden_size=config.integer("hidden_size"),
        intermediate_size=config.integer("intermediate_size"),
        num_layers=config.integer("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        norm_eps=config.positive("rms_norm_eps"),
        rope_theta=rope.positive("rope_theta"),
    )


def schedule(config: Config) -> Schedule:
    """Read diffusers' config of a FlowMatchEulerDiscreteScheduler, `scheduler/scheduler_config.json`."""
    config.expect("_class_name", "FlowMatchEulerDiscreteScheduler")
    for option, off in UNSUPPORTED_SCHEDULES.items():
        config.expect(option, off, default=off)
    return Schedule(shift=config.positive("shift"), train_steps=config.integer("num_train_timesteps"))
