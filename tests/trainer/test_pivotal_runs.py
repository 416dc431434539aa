"""Whole runs that train new tokens or the text encoders, on a very small model with CLIP's vocabulary."""

import dataclasses
import gc
import json
import weakref
from contextlib import contextmanager

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from sdxl_trainer.trainer.config import PivotalConfig, TextEncoderConfig
from sdxl_trainer.trainer.data.dataset_sets import with_class_images
from sdxl_trainer.trainer.errors import CancelledError, InputError
from sdxl_trainer.trainer.events import SilentListener
from sdxl_trainer.trainer.runs import result_files
from sdxl_trainer.trainer.runs.checkpoint import list_states
from sdxl_trainer.trainer.sdxl.model import TextEncoders
from sdxl_trainer.trainer.sdxl.sdxl_model import HeadlessSDXL
from sdxl_trainer.trainer.settings.part_rates import text_end_step
from sdxl_trainer.trainer.text.new_tokens import NewTokens
from sdxl_trainer.trainer.text.token_vectors import attach_new_tokens
from sdxl_trainer.trainer.trained_part import TrainedPart

TOK = {"token": "TOK", "new_tokens": "2", "learning_rate": 1e-2}
LONG = " and ".join(["a large red star"] * 20)
CAPTIONS = ["a photo of TOK", "TOK, sitting", f"a tok with {LONG}", "nothing of it", "TOK and TOK"]
STEPS = 6


@pytest.fixture(scope="module")
def dataset(tiny_run, tmp_path_factory):
    """Captions with the word once, twice, late in a long text, and without it; and class images."""
    folder = tmp_path_factory.mktemp("dataset")
    tiny_run.draw_pictures(folder / "pictures", captions=CAPTIONS)
    tiny_run.draw_pictures(folder / "class" / "pictures", 3, ["a cat"] * 3, seed=4)
    return with_class_images(tiny_run.tiny_dataset(folder), tiny_run.tiny_dataset(folder / "class"))


@pytest.fixture
def run(tiny_run, dataset, tmp_path):
    def go(name="a", listener=None, model=None, **values):
        job = tiny_run.tiny_job(tmp_path / name, dataset, **{"steps": STEPS, **values})
        return tiny_run.train(job, model or tiny_run.TinyModel(), listener or tiny_run.StopAfter())

    return go


def states_of(folder):
    """Weights by step of every kept state: `{3: {"tokens": ..., "unet": ...}}`."""
    found = {}
    for path in list_states(folder / "runs" / "cat" / "state"):
        tensors = load_file(path)
        parts = {"unet": "lora/"} | {name: f"{name}/lora/" for name in ("tokens", "clip_l", "clip_g")}
        found[int(path.stem.removeprefix("step-"))] = {
            part: torch.cat([v.flatten() for k, v in sorted(tensors.items()) if k.startswith(prefix)])
            for part, prefix in parts.items()
            if any(k.startswith(prefix) for k in tensors)
        }
    return found


class Steps:
    """Listens to a run and looks at its state after each step."""

    def __new__(cls, tiny_run, folder):
        listener = tiny_run.StopAfter()
        listener.weights = {}
        hear = listener.checkpoint

        def checkpoint(step, path):
            hear(step, path)
            listener.weights |= {step: states_of(folder)[step]}

        listener.checkpoint = checkpoint
        return listener


def weights_by_step(tiny_run, run, tmp_path, **values):
    listener = Steps(tiny_run, tmp_path / "a")
    values["run"] = {**values.get("run", {}), "save_every": 1, "keep_last": 0}
    run(listener=listener, **values)
    return listener.weights


def moves(weights, part):
    """The steps that moved a part, of those after the first."""
    return [s for s in weights if s > 1 and not torch.equal(weights[s][part], weights[s - 1][part])]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"pivotal": TOK}, {"tokens": [2, 3], "unet": [4, 5, 6]}),
        ({"pivotal": {**TOK, "train_first": "tokens+lora"}}, {"tokens": [2, 3], "unet": [2, 3, 4, 5, 6]}),
        ({"pivotal": {**TOK, "ti_fraction": 0.3}}, {"tokens": [2], "unet": [3, 4, 5, 6]}),
        ({"pivotal": {**TOK, "ti_fraction": 1.0}}, {"tokens": [2, 3, 4, 5, 6]}),
        (
            {"pivotal": TOK, "text_encoder": {"train_text_encoder": "both"}},
            {"tokens": [2, 3], "unet": [4, 5, 6], "clip_l": [4, 5, 6], "clip_g": [4, 5, 6]},
        ),
        (
            {"text_encoder": {"train_text_encoder": "both", "stop_fraction": 0.5}},
            {"unet": [2, 3, 4, 5, 6], "clip_l": [2, 3], "clip_g": [2, 3]},
        ),
        (
            {"text_encoder": {"train_text_encoder": "clip_g"}},
            {"unet": [2, 3, 4, 5, 6], "clip_g": [2, 3, 4, 5, 6]},
        ),
    ],
)
def test_each_part_moves_in_its_own_steps_and_in_no_other(tiny_run, run, tmp_path, values, expected):
    weights = weights_by_step(tiny_run, run, tmp_path, **values)
    assert set(weights[STEPS]) == set(expected)
    assert {part: moves(weights, part) for part in expected} == expected


def test_a_run_of_one_epoch_pivots_in_its_middle(tiny_run, run, tmp_path):
    """5 pictures one by one are an epoch of 5 steps; diffusers' script would pivot before the first."""
    weights = weights_by_step(tiny_run, run, tmp_path, steps=5, pivotal=TOK)
    assert {part: moves(weights, part) for part in weights[5]} == {"tokens": [2], "unet": [3, 4, 5]}


RUNS = {
    "tokens, then the LoRA": {"pivotal": TOK},
    "several words, batches, caption dropout": {
        "pivotal": {**TOK, "token": "TOK, star", "new_tokens": "2, 3"},
        "batch_size": 2,
        "objective": {"caption_dropout": 0.5},
    },
    "with text encoders after it": {
        "pivotal": {**TOK, "ti_fraction": 0.35},
        "text_encoder": {"train_text_encoder": "both", "stop_fraction": 0.7},
    },
    "text encoders alone, with dropout and EMA": {
        "text_encoder": {"train_text_encoder": "both", "stop_fraction": 0.6},
        "lora": {"dropout": 0.2, "module_dropout": 0.2},
        "optimizer": {"ema_decay": 0.9},
    },
    "EMA and previews across the pivot": {
        "pivotal": TOK,
        "optimizer": {"ema_decay": 0.9},
        "preview": {"preview_every": 2, "steps": 1, "prompts": "TOK"},
    },
    "Prodigy on the LoRA, AdamW on the tokens": {
        "pivotal": {**TOK, "train_first": "tokens+lora"},
        "optimizer": {"optimizer": "prodigy", "learning_rate": 1.0},
    },
    "schedule-free for both": {
        # its first five steps move nothing
        "steps": 14,
        "pivotal": {**TOK, "optimizer": "same", "learning_rate": 1.0},
        "optimizer": {"optimizer": "prodigy_plus_schedule_free", "learning_rate": 1.0},
    },
    "the base model as teacher": {
        "pivotal": TOK,
        "text_encoder": {"train_text_encoder": "both"},
        "prior": {"prior_preservation": "base_model", "class_prompt": "a cat"},
    },
    "tokens alone": {"pivotal": {**TOK, "ti_fraction": 1.0}, "run": {"save_every": 2}},
    "held-out loss": {"pivotal": TOK, "validation": {"validation_share": 0.2, "validate_every": 1}},
    "held-out loss while the text encoders learn": {
        "text_encoder": {"train_text_encoder": "both", "stop_fraction": 0.8},
        "validation": {"validation_share": 0.2, "validate_every": 1},
    },
}


def files_of(folder):
    """Every LoRA and embedding, byte for byte, and the digest of the last state."""
    files = {p.name: p.read_bytes() for part in ("loras", "embeddings") for p in (folder / part).glob("*")}
    (state,) = list_states(folder / "runs" / "cat" / "state")
    with safe_open(state, framework="pt") as file:
        return {**files, "state": file.metadata()["digest"]}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("where", [-1, 0, 1], ids=["before", "at", "after"])
def test_resumed_at_the_turn_of_the_text_equals_uninterrupted(tiny_run, run, tmp_path, name, where):
    values = RUNS[name]
    turn = text_end_step(tiny_run.tiny_config(**{"steps": STEPS, **values}))
    at = min(turn + where, values.get("steps", STEPS) - 1)
    if "prodigy" in str(values):
        pytest.importorskip("prodigyplus" if "free" in str(values) else "prodigyopt")
    keeps = {**values.get("run", {}), "save_every": 0, "keep_last": 0}
    whole = run("a", **{**values, "run": keeps})
    with pytest.raises(CancelledError) as stopped:
        run("b", tiny_run.StopAfter(at), **{**values, "run": keeps})
    assert stopped.value.lora_path.name == f"cat-step{at:06d}.safetensors"
    resumed = run("b", **{**values, "run": keeps})
    assert resumed.resumed_from == at
    expected, found = (
        {name: content for name, content in files_of(tmp_path / folder).items() if "-step" not in name}
        for folder in "ab"
    )
    assert found == expected
    assert resumed.final_loss == whole.final_loss


def test_the_text_encoders_are_let_go_as_soon_as_nothing_of_them_learns(tiny_run, run):
    model = tiny_run.TinyModel()

    class Watching(tiny_run.StopAfter):
        open_at = ()

        def step(self, report):
            super().step(report)
            self.open_at = (*self.open_at, report.step) if model.text_is_open else self.open_at

    listener = Watching()
    run(model=model, listener=listener, pivotal=TOK)
    assert [report.learning for report in listener.reports] == ["the new tokens"] * 3 + ["the LoRA"] * 3
    # the figures of a step are told before the encoders go
    assert listener.open_at == (1, 2, 3)
    assert model.encoded_captions == []


@pytest.mark.parametrize(
    "values",
    [
        {"pivotal": {**TOK, "ti_fraction": 0.5}},
        {"text_encoder": {"train_text_encoder": "both", "stop_fraction": 0.5}},
    ],
)
def test_without_comfyui_their_memory_goes_with_them(run, dataset, stand_in_folder, values):
    kept = []

    class Counting(HeadlessSDXL):
        @contextmanager
        def open_text_encoders(self):
            with super().open_text_encoders() as encoders:
                tensors = [*encoders.clip_l.parameters(), *encoders.clip_g.parameters()]
                kept.extend(weakref.ref(tensor.untyped_storage()) for tensor in tensors)
                del tensors
                yield encoders
            del encoders

    alive = []

    class Looking(SilentListener):
        def step(self, report):
            gc.collect()
            alive.append(sum(storage() is not None for storage in kept))

    run(model=Counting.load(stand_in_folder), listener=Looking(), steps=4, **values)
    assert alive[0] == alive[1] == len(kept) > 60
    assert alive[3] == 0


def test_a_preview_that_fails_at_the_pivot_costs_no_run(tiny_run, run):
    class Mute(tiny_run.TinyModel):
        def encode_prompts(self, prompts, negative, encoder=None):
            raise RuntimeError("no voice")

    result = run(model=Mute(), pivotal=TOK, preview={"preview_every": 2, "steps": 1, "prompts": "TOK"})
    assert result.steps == STEPS
    assert "could not be drawn (RuntimeError: no voice)" in result.report


def test_a_stop_while_captions_are_encoded_at_the_pivot_loses_nothing(tiny_run, run, tmp_path):
    class Stopping(tiny_run.StopAfter):
        encodings = 0

        def phase(self, name, done, total):
            self.encodings += name == "encoding captions" and done == 0

        def should_stop(self):
            return self.encodings == 1

    with pytest.raises(CancelledError, match=r"stopped at step 3, kept in cat-step000003\.safetensors"):
        run("b", Stopping(), pivotal=TOK)
    whole, resumed = run("a", pivotal=TOK), run("b", pivotal=TOK)
    assert resumed.resumed_from == 3
    assert resumed.lora_path.read_bytes() == whole.lora_path.read_bytes()


def test_a_step_without_a_finite_gradient_leaves_the_tokens_alone(tiny_run):
    encoders = TextEncoders(*tiny_run.tiny_text_encoders())
    pivotal = PivotalConfig(**TOK)
    tokens = attach_new_tokens(encoders, NewTokens.parse(pivotal), pivotal, seed=1)
    part = TrainedPart.of("tokens", tokens, tiny_run.tiny_config(pivotal=TOK))
    part.after_update = tokens.keep_norms
    tokens.weights.gradient.normal_()
    part.update(1e-2, torch.tensor(True))
    before = tokens.weights.master.clone()
    part.update(1e-2, torch.tensor(False))
    assert torch.equal(tokens.weights.master, before)
    part.update(1e-2, torch.tensor(True))
    assert not torch.equal(tokens.weights.master, before)


def test_a_full_disk_leaves_no_embedding_without_its_lora(tiny_run, run, tmp_path, monkeypatch):
    real = result_files.write_lora

    def write_lora(path, *values):
        if path.name == "cat-step000002.safetensors":
            raise OSError(28, "No space left on device")
        real(path, *values)

    monkeypatch.setattr(result_files, "write_lora", write_lora)
    run(pivotal=TOK, run={"save_every": 2, "keep_last": 0})
    names = sorted(path.name for path in (tmp_path / "a" / "embeddings").iterdir())
    assert names == ["cat-step000004_emb.safetensors", "cat_emb.safetensors"]


def test_nothing_is_left_on_the_models(tiny_run, run):
    model = tiny_run.TinyModel()
    opened = []
    open_text = model.open_text_encoders

    def watched():
        context = open_text()
        opened.append(context)
        return context

    model.open_text_encoders = watched
    run(model=model, pivotal=TOK, text_encoder={"train_text_encoder": "both"})
    assert len(opened) == 1 and not model.text_is_open
    assert not [name for name, module in model.unet.named_modules() if "forward" in vars(module)]


def test_class_images_and_dropped_captions_teach_tokens_nothing(tiny_run, run, tmp_path):
    """A step of which no caption holds the word leaves the tokens alone, and is no error."""
    values = {"pivotal": {**TOK, "ti_fraction": 1.0}, "objective": {"caption_dropout": 1.0}}
    with pytest.raises(InputError, match="no weight of the new tokens has moved"):
        run(**values)


def test_tokens_that_met_no_caption_end_the_run_at_the_pivot(tiny_run, run):
    """Not after hours of training the LoRA, and with what helps."""
    listener = tiny_run.StopAfter()
    with pytest.raises(InputError, match=r"after 1 steps .* the new tokens has moved .* raise ti_fraction"):
        run(listener=listener, pivotal={**TOK, "ti_fraction": 0.01}, objective={"caption_dropout": 0.999})
    assert [report.step for report in listener.reports] == [1]


def test_files_hold_words_and_tell_of_them(run, tmp_path):
    folder = tmp_path / "a" / "embeddings"
    folder.mkdir(parents=True)
    (folder / "cat_emb_v2_emb.safetensors").write_bytes(b"of another run, cat_emb_v2")
    result = run(pivotal={**TOK, "token": "TOK, sitting", "new_tokens": "2, 3", "bundle": True})
    stems = ["cat_emb", "cat_emb_tok", "cat_emb_sitting"]
    assert [path.stem for path in result.embeddings] == stems
    assert result.embedding == "cat_emb_tok, cat_emb_sitting"
    joint, tok, sitting = (load_file(folder / f"{stem}.safetensors") for stem in stems)
    for name, width in (("clip_l", 6), ("clip_g", 10)):
        assert joint[name].shape == (5, width) and joint[name].dtype == torch.float32
        assert torch.equal(joint[name], torch.cat([tok[name], sitting[name]]))
    lora = load_file(result.lora_path)
    assert torch.equal(lora["bundle_emb.cat_emb_tok.clip_g"], tok["clip_g"])
    with safe_open(result.lora_path, framework="pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["sdxl_trainer_words"]) == [["TOK", 0, 2], ["sitting", 2, 3]]
    assert metadata["sdxl_trainer_embedding"] == "cat_emb"


def test_tokens_alone_give_a_file_of_words(run, tmp_path):
    result = run(pivotal={**TOK, "ti_fraction": 1.0})
    assert set(load_file(result.lora_path)) == {"bundle_emb.cat_emb.clip_l", "bundle_emb.cat_emb.clip_g"}
    with safe_open(result.lora_path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["modelspec.architecture"] == "stable-diffusion-xl-v1-base/textual-inversion"
    assert "strength" not in metadata["modelspec.usage_hint"]
    again = run(pivotal={**TOK, "ti_fraction": 1.0})
    assert again.trained_steps == 0
    assert again.embedding == "cat_emb"


def test_a_lost_embedding_is_written_again_without_training(run, tmp_path):
    result = run(pivotal=TOK)
    before = result.embeddings[0].read_bytes()
    result.embeddings[0].unlink()
    again = run(pivotal=TOK)
    assert again.trained_steps == 0
    assert again.embeddings[0].read_bytes() == before


WORDS = {**TOK, "token": "TOK, sitting", "new_tokens": "2, 3"}


@pytest.mark.parametrize("lost", ["cat_emb", "cat_emb_sitting"])
def test_each_lost_embedding_of_several_is_written_again(run, lost):
    result = run(pivotal=WORDS)
    (path,) = [path for path in result.embeddings if path.stem == lost]
    before = path.read_bytes()
    path.unlink()
    again = run(pivotal=WORDS)
    assert (again.trained_steps, again.embedding) == (0, "cat_emb_tok, cat_emb_sitting")
    assert path.read_bytes() == before


def test_words_that_are_nowhere_any_more_are_learned_anew(run, tmp_path):
    result = run(pivotal=TOK)
    before = result.embeddings[0].read_bytes()
    for path in (*result.embeddings, *list_states(tmp_path / "a" / "runs" / "cat" / "state")):
        path.unlink()
    again = run(pivotal=TOK)
    assert (again.name, again.trained_steps) == ("cat", STEPS)
    assert again.embeddings[0].read_bytes() == before


def test_an_embedding_of_somebody_else_is_not_overwritten(run, tmp_path):
    folder = tmp_path / "a" / "embeddings"
    folder.mkdir(parents=True)
    (folder / "cat_emb.safetensors").write_bytes(b"mine")
    result = run(pivotal=TOK)
    assert result.name == "cat-2"
    assert (folder / "cat_emb.safetensors").read_bytes() == b"mine"


def test_a_word_that_only_held_out_pictures_carry_is_refused_before_anything_is_read(tiny_run, tmp_path):
    folder = tmp_path / "pictures"
    tiny_run.draw_pictures(folder, captions=["nothing"] * 5)
    dataset = tiny_run.tiny_dataset(tmp_path)
    held_out = dataset.split(0.2)[1]
    (folder / held_out.pictures[0].name).with_suffix(".txt").write_text("TOK")
    model = tiny_run.TinyModel()
    with pytest.raises(InputError, match="held-out"):
        tiny_run.run_tiny(tmp_path, model=model, pivotal=TOK, validation={"validation_share": 0.2})
    assert model.encoded_pictures == 0


def test_a_word_in_no_caption_is_refused_before_anything_is_read(tiny_run, run, tmp_path):
    model = tiny_run.TinyModel()
    with pytest.raises(InputError, match="XYZ"):
        run(model=model, pivotal={**TOK, "token": "XYZ"})
    assert model.encoded_pictures == 0
    assert not (tmp_path / "a" / "loras").exists()


def test_old_runs_are_the_same_runs(tiny_run, tmp_path):
    """Sections that do nothing are no part of what a run is."""
    from sdxl_trainer.trainer.runs.run_identity import run_identity

    config = tiny_run.tiny_config()
    changed = dataclasses.replace(
        config, pivotal=PivotalConfig(ti_fraction=0.3), text_encoder=TextEncoderConfig(stop_fraction=0.2)
    )
    dataset = tiny_run.tiny_dataset(tmp_path)
    one, other = (run_identity(c, ("x", dataset.config), ("m", "t")) for c in (config, changed))
    assert one == other and "pivotal" not in one.values["settings"]
