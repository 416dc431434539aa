"""A model's config without what would make transformers fetch programs from the hub, and run them.

A config.json can name how attention and experts are computed: `flash_attention_2`, which is fetched where
the package `kernels` is there and `flash_attn` is not, or any repository of kernels. See "Attention
backends" and "Loading kernels" in https://huggingface.co/docs/transformers.
"""

from pathlib import Path
from typing import Any

_CHOICES = ("_attn_implementation_internal", "_experts_implementation_internal")


def plain_config(transformers: Any, folder: Path) -> Any:
    """The config of a folder, with the choice of attention and experts left to the model's class.

    Left alone, that is torch's own attention (sdpa) or the class's plain one (eager), and never a kernel.
    """
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    _clear(config, transformers.PretrainedConfig)
    return config


def _clear(value: Any, kind: type) -> None:
    """At every depth: configs of parts that their class does not declare, and tables that become such."""
    if isinstance(value, kind):
        for name in _CHOICES:
            if name in vars(value):
                setattr(value, name, None)
        value = vars(value)
    if isinstance(value, dict):
        for name in [name for name in value if _is_choice(name) and name not in _CHOICES]:
            del value[name]
        for inner in list(value.values()):
            _clear(inner, kind)
    elif isinstance(value, list | tuple):
        for inner in value:
            _clear(inner, kind)


def _is_choice(name: object) -> bool:
    return str(name).endswith(("attn_implementation", "experts_implementation"))
