import ast
import sys
from pathlib import Path

import pytest
import torch
from sdxl_trainer.trainer.config import OptimizerConfig, ProdigyConfig, TrainConfig
from sdxl_trainer.trainer.errors import InputError
from sdxl_trainer.trainer.optimization.optimizer_kinds import KINDS, build_optimizer, require_optimizer
from sdxl_trainer.trainer.optimization.optimizers import AdapterOptimizer, optimizer_description

from .adapter_steps import (
    CPU,
    KIND_NAMES,
    PLUS,
    RATE,
    SOON,
    is_up,
    new_optimizer,
    new_weights,
    require_package,
    take_step,
)

CHANGES = {
    "weight_decay": 0.5,
    "beta1": 0.6,
    "beta2": 0.6,
    "eps": 1e-2,
    "max_grad_norm": 0.5,
    "warmup_steps": 7,
    "lr_schedule": "cosine",
    "scale_lr": True,
    "ema_decay": 0.9,
}
PRODIGY_CHANGES = {
    "d_coef": 2.0,
    "d0": 2e-3,
    "beta3": 0.5,
    "decouple": False,
    "use_bias_correction": False,
    "safeguard_warmup": False,
}
DECAY = {"weight_decay": {"weight_decay": 0.5}}
ADAM = {**DECAY, "beta1": {"betas": (0.6, 0.999)}, "beta2": {"betas": (0.9, 0.6)}, "eps": {"eps": 1e-2}}
ADAPTIVE = {
    **ADAM,
    "beta1": {"betas": (0.6, 0.99)},
    "d_coef": {"d_coef": 2.0},
    "beta3": {"beta3": 0.5},
    "use_bias_correction": {"use_bias_correction": False},
}
REACHES = {
    "adamw": ADAM,
    "adamw8bit": ADAM,
    "prodigy": {
        **ADAPTIVE,
        "d0": {"d0": 2e-3, "d": 2e-3, "d_max": 2e-3},
        "decouple": {"decouple": False},
        "safeguard_warmup": {"safeguard_warmup": False},
    },
    PLUS: {**ADAPTIVE, "d0": {"d0": 2e-3, "d": 2e-3, "d_prev": 2e-3}},
    "adafactor": DECAY,
    "lion": {**DECAY, "beta1": {"betas": (0.6, 0.99)}, "beta2": {"betas": (0.9, 0.6)}},
    "sgd": {**DECAY, "beta1": {"momentum": 0.6}},
}


def group_and_weights(kind, setting=None, num_steps=40):
    """The optimizer's group before, and the weights after some steps, with one setting changed."""
    settings = {setting: CHANGES[setting]} if setting in CHANGES else {}
    prodigy = {**SOON, setting: PRODIGY_CHANGES[setting]} if setting in PRODIGY_CHANGES else SOON
    weights = new_weights()
    optimizer = new_optimizer(weights, kind, ProdigyConfig(**prodigy), **settings)
    group = {k: v for k, v in optimizer.groups[0].items() if k != "params"}
    for number in range(num_steps):
        take_step(weights, optimizer, number, RATE.get(kind, 1e-3) * 0.5)
    return group, weights.master


@pytest.mark.parametrize("setting", [*CHANGES, *PRODIGY_CHANGES])
@pytest.mark.parametrize("kind", KIND_NAMES)
def test_a_setting_reaches_its_place_in_the_group_and_no_other(kind, setting):
    plain, plain_weights = group_and_weights(kind)
    changed, changed_weights = group_and_weights(kind, setting)
    assert plain.keys() == changed.keys()
    assert {k: v for k, v in changed.items() if v != plain[k]} == REACHES[kind].get(setting, {})
    assert torch.equal(plain_weights, changed_weights) == (setting not in REACHES[kind])


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_a_recommended_prodigy_is_the_facts(kind):
    group = new_optimizer(new_weights(), kind).groups[0]
    expected = {
        "lr": 1.0,
        "betas": (0.9, 0.99),
        "weight_decay": 0.01,
        "d0": 1e-6,
        "d_coef": 1.0,
        "beta3": None,
    }
    expected |= {"use_bias_correction": True, "eps": 1e-8}
    if kind == "prodigy":
        expected |= {"decouple": True, "safeguard_warmup": True}
    if kind in ("prodigy", PLUS):
        assert {name: group[name] for name in expected} == expected
    else:
        assert group["lr"] == OptimizerConfig(optimizer=kind).effective_learning_rate
        assert "d0" not in group


@pytest.mark.parametrize("kind", [kind for kind in KIND_NAMES if KINDS[kind].package])
def test_a_missing_package_is_named_with_the_way_out(kind, monkeypatch):
    monkeypatch.setitem(sys.modules, KINDS[kind].path.rpartition(".")[0], None)
    message = rf"optimizer '{kind}' needs the package {KINDS[kind].package}.*pip install .*choose adamw$"
    with pytest.raises(InputError, match=message):
        AdapterOptimizer(new_weights(), OptimizerConfig(optimizer=kind), ProdigyConfig(), is_up)
    with pytest.raises(InputError, match=message):
        require_optimizer(kind, CPU)


def test_a_device_without_eight_bit_kernels_is_refused_in_words():
    require_package("adamw8bit")
    with pytest.raises(InputError, match=r"cannot run it on the device 'mps'.*choose adamw, or adafactor"):
        require_optimizer("adamw8bit", torch.device("mps"))
    require_optimizer("adamw8bit", CPU)


def test_optional_packages_are_imported_by_no_import_statement():
    packages = {kind.path.partition(".")[0] for kind in KINDS.values() if kind.package}
    trainer = Path(sys.modules[AdapterOptimizer.__module__].__file__).parent
    found = [
        (path.name, name)
        for path in trainer.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        for name in imported(node)
        if name.partition(".")[0] in packages
    ]
    assert found == []
    assert packages == {"bitsandbytes", "prodigyopt", "prodigyplus", "lion_pytorch"}


def imported(node):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_description_is_kohyas_and_true(kind):
    require_package(kind)
    optimizer = OptimizerConfig(optimizer=kind, weight_decay=0.25)
    description = optimizer_description(TrainConfig(name="run", steps=9, optimizer=optimizer))
    built = build_optimizer(new_weights().parameters(), optimizer)
    call = ast.parse(description, mode="eval").body
    path = ast.unparse(call.func)
    assert path.rpartition(".")[2] == type(built).__name__
    assert path.partition(".")[0] == type(built).__module__.partition(".")[0]
    stated = {argument.arg: ast.literal_eval(argument.value) for argument in call.keywords}
    assert stated["weight_decay"] == 0.25
    assert stated == {name: built.param_groups[0][name] for name in stated}


def test_description_of_prodigy_word_for_word():
    optimizer = OptimizerConfig(optimizer="prodigy")
    assert optimizer_description(TrainConfig(name="run", steps=9, optimizer=optimizer)) == (
        "prodigyopt.prodigy.Prodigy(weight_decay=0.01,betas=(0.9, 0.99),eps=1e-08,beta3=None,d0=1e-06,"
        "d_coef=1.0,use_bias_correction=True,decouple=True,safeguard_warmup=True)"
    )
