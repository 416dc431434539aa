"""Training through ComfyUI's text encoders: gradients arrive, and the host's CLIP stays what it was."""

import pytest
import torch
from safetensors.torch import save_file

FIRST_ID = 49408
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
ENCODERS = ("clip_l", "clip_g")


def named_gradients(vectors):
    return {n: p.grad for n, p in zip(vectors.weights.names, vectors.weights.parameters(), strict=True)}


def test_comfyuis_own_layers_cannot_be_trained_through(load_clip):
    """Why the weights are looked at through other classes."""
    from comfy.ldm.modules.attention import optimized_attention_for_device

    layer = load_clip(torch.float32).cond_stage_model.clip_l.transformer.text_model.encoder.layers[0]
    ordinary = {name: p.detach().clone() for name, p in layer.named_parameters()}
    x = torch.randn(1, 7, 16, requires_grad=True)
    attention = optimized_attention_for_device(x.device, mask=True, small_input=True)
    mask = torch.full((7, 7), -1e9).triu_(1)
    with pytest.raises(RuntimeError, match="inplace operation"):
        torch.func.functional_call(layer, ordinary, (x * 1.0, mask, attention)).sum().backward()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("breaks", [False, True])
def test_tokens_and_adapters_train_and_the_host_is_as_it_was(
    open_host, stand_in, load_clip, host_state, new_tokens, conditions, dtype, breaks
):
    clip = load_clip(dtype)
    wired = (stand_in[0], clip, stand_in[2])
    before, state = conditions.comfy_condition(clip, conditions.SHORT), host_state(*wired)
    try:
        with torch.inference_mode(), open_host(clip).open_text_encoders() as encoders:
            words, vectors = new_tokens(encoders)
            adapters = text_adapters(encoders)
            captions = ["a photo of TOK", f"{conditions.LONG} tok"]
            encoded = conditions.encoder_of(encoders, words).encode_with_gradient(captions)
            sum(c.prompt_embeds.square().mean() + c.pooled.square().mean() for c in encoded).backward()
            assert host_state(*wired) == state
            assert all(g.abs().amin(dim=1).gt(0).all() for g in named_gradients(vectors).values())
            assert all(moving_layers(a) == set(a.paths) - a.idle for a in adapters)
            if breaks:
                raise ArithmeticError("while everything is still attached")
            for part in (*adapters, vectors):
                part.detach()
    except ArithmeticError:
        assert breaks
    assert host_state(*wired) == state
    after = conditions.comfy_condition(clip, conditions.SHORT)
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


def text_adapters(encoders):
    from sdxl_trainer.trainer.adapter.lora import attach_text_adapter
    from sdxl_trainer.trainer.config import LoRAConfig

    config = LoRAConfig(rank=4, alpha=4.0)
    return [attach_text_adapter(getattr(encoders, name), name, config, 4, seed=1) for name in ENCODERS]


def moving_layers(adapter):
    """Paths of the layers whose update has a gradient."""
    parts = [name for name in adapter.weights.names if name.endswith("lora_up")]
    gradient = adapter.weights.compute_gradient
    return {name.rpartition(".")[0] for name in parts if adapter.weights.view(gradient, name).any()}


def test_gradients_are_those_of_a_whole_float32_table(open_host, load_clip, new_tokens, conditions):
    """Against autograd through transformers' own float32 modules with the rows written into the table."""
    caption = f"a photo of TOK, sitting, {conditions.LONG}"
    with torch.inference_mode(), open_host(load_clip(torch.float16)).open_text_encoders() as encoders:
        words, vectors = new_tokens(encoders)
        encoder = conditions.encoder_of(encoders, words)
        (condition,) = encoder.encode_with_gradient([caption])
        (condition.prompt_embeds.square().sum() + condition.pooled.square().sum()).backward()
        ours, rows, windows = named_gradients(vectors), vectors.state_dict(), encoder.tokenize(caption)
        vectors.detach()
        plain = {name: in_float32(getattr(encoders, name), rows[name]) for name in ENCODERS}
    small = plain["clip_l"](windows.clip_l, output_hidden_states=True).hidden_states[-2]
    large = plain["clip_g"](windows.clip_g, output_hidden_states=True)
    first_end = windows.clip_g[0].tolist().index(49407)
    pooled = plain["clip_g"].text_projection(large.last_hidden_state[0, first_end])
    (small.square().sum() + large.hidden_states[-2].square().sum() + pooled.square().sum()).backward()
    for name, encoder in plain.items():
        table = getattr(encoder, "text_model", encoder).embeddings.token_embedding.weight
        assert conditions.distance(ours[name], table.grad[FIRST_ID:]) < 1e-5


def in_float32(view, rows):
    """The encoder of a view in transformers' own modules, its table longer by `rows` and trainable."""
    made = type(view)(view.config).requires_grad_(False).eval()
    # the view's stand-ins for linear layers name the tensors they share
    made.load_state_dict({n.replace("stored_", ""): p.float() for n, p in view.named_parameters()})
    embeddings = getattr(made, "text_model", made).embeddings
    table = torch.cat([embeddings.token_embedding.weight.detach(), rows])
    embeddings.token_embedding = torch.nn.Embedding.from_pretrained(table, freeze=False)
    return made


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("encoders_first", [True, False])
def test_text_encoders_and_denoiser_are_open_together(
    open_host, stand_in, load_clip, host_state, new_tokens, conditions, dtype, encoders_first
):
    clip = load_clip(dtype)
    wired = (stand_in[0], clip, stand_in[2])
    state, expected = host_state(*wired), conditions.comfy_condition(clip, conditions.SHORT)
    host = open_host(clip)
    opens = [host.open_text_encoders, lambda: host.open_denoiser(0)]
    first, second = opens if encoders_first else reversed(opens)
    with torch.inference_mode(), first() as one, second() as two, torch.inference_mode(False):
        encoders, denoiser = (one, two) if encoders_first else (two, one)
        words, vectors = new_tokens(encoders)
        (plain,) = conditions.encoder_of(encoders).encode([conditions.SHORT])
        conditions.assert_equal_conditions(plain, expected)
        (condition,) = conditions.encoder_of(encoders, words).encode_with_gradient(["a TOK"])
        predict(denoiser, condition).square().mean().backward()
        assert all(g.abs().sum() > 0 for g in named_gradients(vectors).values())
        vectors.detach()
    assert host_state(*wired) == state
    assert host.notes == []


def test_a_clip_that_knows_words_is_refused_before_anything_is_loaded(open_host, stand_in):
    from sdxl_trainer.nodes.comfy_bridge.new_words import clip_with_words
    from sdxl_trainer.trainer.errors import InputError
    from sdxl_trainer.trainer.files.embedding_file import WordVectors

    vectors = {"clip_l": torch.ones(2, 16), "clip_g": torch.ones(2, 24)}
    host = open_host(clip_with_words(stand_in[1], WordVectors({"Zorp": vectors})))
    message = "clip knows the word zorp from a LoRA in front, .* it would be read as plain text: wire the"
    with pytest.raises(InputError, match=message), host.open_text_encoders():
        pass


def test_hooks_on_clip_are_named_while_text_trains(open_host, stand_in):
    import comfy.hooks

    hooked = stand_in[1].clone()
    hooked.patcher.forced_hooks = comfy.hooks.HookGroup()
    hooked.patcher.forced_hooks.add(comfy.hooks.WeightHook())
    host = open_host(hooked)
    assert host.notes == []
    with torch.inference_mode(), host.open_text_encoders():
        pass
    assert host.notes == ["ignored while text encoders or new tokens train: forced_hooks of CLIP"]


def predict(denoiser, condition):
    from sdxl_trainer.trainer.diffusion.conditioning import Batch, inference_time_ids, stack_time_ids

    time_ids = stack_time_ids([inference_time_ids((64, 64))])
    batch = Batch(torch.ones(1, 4, 8, 8), condition.prompt_embeds[None], condition.pooled[None], time_ids)
    return denoiser.predict(batch.latents, torch.tensor([500]), batch)


@pytest.fixture
def read_embeddings(tmp_path):
    """A function that makes CLIP look `embedding:x` up: the vectors in a temporary folder."""

    def use(clip, vectors):
        save_file(vectors, tmp_path / "x.safetensors")
        for tokenizer, width in ((clip.tokenizer.clip_l, 16), (clip.tokenizer.clip_g, 24)):
            tokenizer.embedding_directory, tokenizer.embedding_size = str(tmp_path), width

    return use


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("count", [2, 9])
@pytest.mark.parametrize(
    "template",
    [
        "a photo of X , sitting",
        "X",
        "X and again X",
        "LONG X LONG",
        "word " * 74 + "X behind the first window",
    ],
)
def test_new_tokens_are_to_the_trainer_what_an_embedding_is_to_core(
    open_host, load_clip, new_tokens, read_embeddings, conditions, dtype, count, template
):
    clip, text = load_clip(dtype), template.replace("LONG", conditions.LONG)
    with torch.inference_mode(), open_host(clip).open_text_encoders() as encoders:
        words, vectors = new_tokens(encoders, count)
        read_embeddings(clip, vectors.state_dict())
        (condition,) = conditions.encoder_of(encoders, words).encode([text.replace("X", "TOK")])
    prompt = text.replace("X", "embedding:x")
    windows = clip.tokenize(prompt)["l"]
    found = sum(isinstance(token, torch.Tensor) for window in windows for token, _ in window)
    assert found == count * text.count("X")
    conditions.assert_equal_conditions(condition, conditions.comfy_condition(clip, prompt), 1e-4)


def test_new_tokens_in_weighted_preview_prompts_equal_cores_embedding(
    open_host, load_clip, new_tokens, read_embeddings, conditions
):
    clip = load_clip(torch.float16)
    host = open_host(clip)
    prompts = ["a (large X:1.3) on grass", "( X :0.6), " + conditions.LONG, "((X))"]
    with torch.inference_mode(), host.open_text_encoders() as encoders:
        words, vectors = new_tokens(encoders)
        read_embeddings(clip, vectors.state_dict())
        encoder = conditions.encoder_of(encoders, words)
        encoded = host.encode_prompts([p.replace("X", "tok") for p in prompts], "no TOK", encoder)
    cores = host.encode_prompts([p.replace("X", "embedding:x") for p in prompts], "no embedding:x")
    pairs = zip([*encoded.positives, encoded.negative], [*cores.positives, cores.negative], strict=True)
    for ours, theirs in pairs:
        conditions.assert_equal_conditioning(ours, theirs, 1e-4)
