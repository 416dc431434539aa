import numpy as np
import pytest
import torch
from sdxl_trainer.trainer.config import PivotalConfig
from sdxl_trainer.trainer.errors import InputError
from sdxl_trainer.trainer.sdxl.half_linear import hold_in_half
from sdxl_trainer.trainer.sdxl.model import TextEncoders
from sdxl_trainer.trainer.sdxl.sdxl_files import open_checkpoint
from sdxl_trainer.trainer.sdxl.text_encoder import SDXLTextEncoder
from sdxl_trainer.trainer.text.new_tokens import NewTokens
from sdxl_trainer.trainer.text.token_vectors import attach_new_tokens, with_vectors
from torch import nn
from transformers import CLIPTokenizer

WIDTHS = {"clip_l": 16, "clip_g": 24}
TWO = NewTokens((("TOK", 2), ("STY", 3)))
SPELLED = {
    "a photo of TOK, sitting": "a photo of <s0><s1>, sitting",
    "STY": "<s2><s3><s4>",
    "a plain one": "a plain one",
    "tok in the style of STY and TOK": "<s0><s1> in the style of <s2><s3><s4> and <s0><s1>",
}
CAPTIONS = list(SPELLED)
RANDOM = PivotalConfig(token="TOK, STY", new_tokens="2, 3")


def load_encoders(folder, dtype=torch.float32):
    files = open_checkpoint(folder)
    return TextEncoders(*(part.load(torch.device("cpu"), dtype) for part in (files.clip_l, files.clip_g)))


@pytest.fixture
def encoders(stand_in_folder):
    return load_encoders(stand_in_folder)


def table_of(encoder):
    return getattr(encoder, "text_model", encoder).embeddings.token_embedding


def conditions(encoders, captions=CAPTIONS):
    return SDXLTextEncoder(encoders, TWO).encode_with_gradient(captions)


def loss_of(states, pooled):
    """Any smooth function in which every number counts differently."""
    generator = torch.Generator().manual_seed(7)
    factors = torch.randn(states.shape, generator=generator), torch.randn(pooled.shape, generator=generator)
    return (states.sin() * factors[0]).mean() + (pooled.sin() * factors[1]).mean()


def our_loss(encoders):
    found = conditions(encoders)
    return loss_of(torch.stack([c.prompt_embeds for c in found]), torch.stack([c.pooled for c in found]))


def reference_gradients(folder, vectors):
    """Of whole tables with 49,408 + 5 rows: transformers' own models, tokenizer and pooling."""
    plain = load_encoders(folder)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    names = [f"<s{i}>" for i in range(TWO.total)]
    assert tokenizer.add_tokens(names) == TWO.total
    ids = tokenizer(
        list(SPELLED.values()), padding="max_length", max_length=77, return_tensors="pt"
    ).input_ids
    tables = {}
    for name, encoder in (("clip_l", plain.clip_l), ("clip_g", plain.clip_g)):
        whole = torch.cat([table_of(encoder).weight, vectors[name]])
        encoder.set_input_embeddings(nn.Embedding.from_pretrained(whole, freeze=False))
        tables[name] = table_of(encoder).weight
    first_end = (ids == 49407).int().argmax(dim=1)
    padded_g = ids.masked_fill(torch.arange(77) > first_end[:, None], 0)
    small = plain.clip_l(ids, output_hidden_states=True)
    large = plain.clip_g(padded_g, output_hidden_states=True)
    states = torch.cat([small.hidden_states[-2], large.hidden_states[-2]], dim=-1)
    loss_of(states, large.text_embeds).backward()
    return {name: table.grad for name, table in tables.items()}


def test_gradients_equal_autograd_through_whole_tables(stand_in_folder, encoders):
    tokens = attach_new_tokens(encoders, TWO, RANDOM, seed=3)
    wanted = reference_gradients(stand_in_folder, tokens.state_dict())

    our_loss(encoders).backward()

    for name, width in WIDTHS.items():
        found = tokens.weights.view(tokens.weights.gradient, name)
        assert found.shape == (5, width)
        assert (found.abs().amax(dim=1) > 1e-3).all()
        expected = wanted[name][49408:]
        assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
        # what the whole table would have had to be kept from doing
        assert wanted[name][:49408].abs().max() > 1e-3


def test_nothing_else_in_the_encoders_moves_or_has_a_gradient(encoders):
    networks = {"clip_l": encoders.clip_l, "clip_g": encoders.clip_g}
    before = {(n, key): t.clone() for n, net in networks.items() for key, t in net.state_dict().items()}
    tables = {name: table_of(net) for name, net in networks.items()}
    tokens = attach_new_tokens(encoders, TWO, RANDOM, seed=0)
    start = tokens.state_dict()
    optimizer = torch.optim.AdamW(tokens.weights.parameters(), lr=1e-2)
    for _ in range(2):
        tokens.weights.zero_gradients()
        our_loss(encoders).backward()
        optimizer.step()
        tokens.keep_norms()

    assert not any(
        p.requires_grad or p.grad is not None for net in networks.values() for p in net.parameters()
    )
    assert all(not torch.equal(start[name], tokens.state_dict()[name]) for name in WIDTHS)
    tokens.detach()
    assert {name: table_of(net) for name, net in networks.items()} == tables
    after = {(n, key): t for n, net in networks.items() for key, t in net.state_dict().items()}
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_the_trained_part_is_as_large_as_the_new_rows(encoders):
    tokens = attach_new_tokens(encoders, TWO, RANDOM, seed=0)
    optimizer = torch.optim.AdamW(tokens.weights.parameters())
    kept = []

    def keep(tensor):
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = our_loss(encoders)
    loss.backward()
    optimizer.step()

    rows = TWO.total * sum(WIDTHS.values())
    assert tokens.weights.master.numel() == tokens.weights.gradient.numel() == rows
    moments = [t for state in optimizer.state.values() for t in state.values() if t.ndim]
    assert sum(t.numel() for t in moments) == 2 * rows
    assert kept
    assert max(kept) < 49408 * min(WIDTHS.values())


def test_several_backward_passes_add_up_and_zero_gradients_empties(encoders):
    tokens = attach_new_tokens(encoders, TWO, RANDOM, seed=0)
    our_loss(encoders).backward()
    once = tokens.weights.gradient.clone()
    our_loss(encoders).backward()
    torch.testing.assert_close(tokens.weights.gradient, 2 * once)
    tokens.weights.zero_gradients()
    assert not tokens.weights.gradient.any()


def test_random_starts_have_the_deviation_of_the_table_and_follow_the_seed(encoders):
    many = NewTokens((("TOK", 40), ("STY", 30)))
    config = PivotalConfig(token="TOK, STY", new_tokens="40, 30")
    first = attach_new_tokens(encoders, many, config, seed=5)
    state = first.state_dict()
    first.detach()
    for name in WIDTHS:
        std = table_of(getattr(encoders, name)).weight.std()
        assert abs(state[name].std() / std - 1) < 0.05
        assert abs(state[name].mean()) < 0.05 * std

    again = attach_new_tokens(encoders, many, config, seed=5)
    assert all(torch.equal(again.state_dict()[name], state[name]) for name in WIDTHS)
    again.detach()
    other = attach_new_tokens(encoders, many, config, seed=6)
    assert not any((other.state_dict()[name] == state[name]).any() for name in WIDTHS)
    other.detach()
    # a word's start does not depend on which words stand beside it
    alone = attach_new_tokens(encoders, NewTokens((("sty", 30),)), PivotalConfig(token="sty"), seed=5)
    assert all(torch.equal(alone.state_dict()[name], state[name][40:]) for name in WIDTHS)
    assert not torch.equal(state["clip_l"][:30], state["clip_l"][40:])


def test_initial_words_are_copied_and_repeated(encoders):
    config = PivotalConfig(token="TOK, STY", new_tokens="2, 3", initial_words="cat, red circle")
    tokens = attach_new_tokens(encoders, TWO, config, seed=0)
    state = tokens.state_dict()
    tokens.detach()
    cat, red, circle = 2368, 736, 7117
    for name in WIDTHS:
        wanted = table_of(getattr(encoders, name)).weight[[cat, cat, red, circle, red]]
        assert torch.equal(state[name], wanted)
    with pytest.raises(InputError, match="initial_words"):
        attach_new_tokens(encoders, TWO, PivotalConfig(token="TOK, STY", initial_words="cat"), seed=0)


def test_a_start_as_a_known_word_reads_as_that_word(encoders):
    config = PivotalConfig(token="TOK", new_tokens="1", initial_words="circle")
    one = NewTokens((("TOK", 1),))
    (wanted,) = SDXLTextEncoder(encoders).encode(["a red circle on blue"])
    attach_new_tokens(encoders, one, config, seed=0)
    (found,) = SDXLTextEncoder(encoders, one).encode(["a red TOK on blue"])
    assert torch.equal(found.prompt_embeds, wanted.prompt_embeds)
    assert torch.equal(found.pooled, wanted.pooled)


def lengths_of(tokens, name):
    return np.linalg.norm(tokens.state_dict()[name].double().numpy(), axis=1)


def test_lengths_are_pulled_to_the_typical_one_and_held_in_the_range_of_real_tokens(encoders):
    tokens = attach_new_tokens(encoders, TWO, RANDOM, seed=0)
    state = tokens.state_dict()
    for name in WIDTHS:
        state[name] *= torch.tensor([0.8, 1.3, 50.0, 1e-4, 1.0])[:, None]
    tokens.load_state_dict(state)
    before = {name: lengths_of(tokens, name) for name in WIDTHS}

    tokens.keep_norms()

    for name in WIDTHS:
        table = table_of(getattr(encoders, name)).table.weight.double().numpy()
        real = np.linalg.norm(table, axis=1)
        wanted = before[name] * (np.median(real) / before[name]) ** 0.1
        wanted = np.clip(wanted, real.min(), real.max())
        wanted[4] = before[name][4]  # as it started: never touched
        np.testing.assert_allclose(lengths_of(tokens, name), wanted, rtol=1e-5)
        assert wanted[2] == real.max() < before[name][2]
        assert torch.equal(tokens.state_dict()[name][4], state[name][4])
        turned = torch.cosine_similarity(tokens.state_dict()[name], state[name], dim=1)
        torch.testing.assert_close(turned, torch.ones(5))


@pytest.mark.parametrize(("pull", "moves"), [(0.0, False), (1.0, True)])
def test_norm_pull_says_how_far(encoders, pull, moves):
    config = PivotalConfig(token="TOK, STY", norm_pull=pull, initial_words="cat, circle")
    tokens = attach_new_tokens(encoders, TWO, config, seed=0)
    state = {name: vectors.flip(1) for name, vectors in tokens.state_dict().items()}  # same lengths
    tokens.load_state_dict(state)
    tokens.keep_norms()
    for name in WIDTHS:
        real = np.linalg.norm(table_of(getattr(encoders, name)).table.weight.double().numpy(), axis=1)
        if moves:
            np.testing.assert_allclose(lengths_of(tokens, name), np.median(real), rtol=1e-5)
        else:
            torch.testing.assert_close(tokens.state_dict()[name], state[name], rtol=1e-6, atol=0)


def test_tokens_that_no_caption_holds_stay_as_they_started_and_are_counted(encoders):
    tokens = attach_new_tokens(encoders, TWO, RANDOM, seed=0)
    start = tokens.state_dict()
    assert tokens.num_still() == 5
    optimizer = torch.optim.AdamW(tokens.weights.parameters(), lr=1e-2, weight_decay=0)
    (condition,) = conditions(encoders, ["a TOK"])
    loss_of(condition.prompt_embeds, condition.pooled).backward()
    optimizer.step()
    tokens.keep_norms()
    assert tokens.num_still() == 3
    assert all(torch.equal(tokens.state_dict()[name][2:], start[name][2:]) for name in WIDTHS)


def test_state_round_trip_and_what_is_not_this_state(encoders):
    tokens = attach_new_tokens(encoders, TWO, RANDOM, seed=0)
    state = {name: vectors * 2 for name, vectors in tokens.state_dict().items()}
    before = conditions(encoders)[0].prompt_embeds.detach()
    tokens.load_state_dict(state)
    assert all(torch.equal(tokens.state_dict()[name], state[name]) for name in WIDTHS)
    assert not torch.equal(conditions(encoders)[0].prompt_embeds, before)
    with pytest.raises(ValueError, match="clip_l and clip_g"):
        tokens.load_state_dict({"clip_l": state["clip_l"]})
    with pytest.raises(ValueError, match=r"clip_g is \(4, 24\), but must be \(5, 24\)"):
        tokens.load_state_dict({**state, "clip_g": state["clip_g"][:4]})


def test_encoders_take_new_tokens_only_once(encoders):
    attach_new_tokens(encoders, TWO, RANDOM, seed=0)
    with pytest.raises(ValueError, match="already"):
        attach_new_tokens(encoders, TWO, RANDOM, seed=0)


def test_finished_vectors_act_as_the_trained_ones_did(encoders):
    tokens = attach_new_tokens(encoders, TWO, RANDOM, seed=0)
    wanted, vectors = conditions(encoders), tokens.state_dict()
    tokens.detach()
    tables = [table_of(net) for net in (encoders.clip_l, encoders.clip_g)]

    with with_vectors(encoders, vectors):
        found = conditions(encoders)

    assert all(torch.equal(f.prompt_embeds, w.prompt_embeds) for f, w in zip(found, wanted, strict=True))
    assert [table_of(net) for net in (encoders.clip_l, encoders.clip_g)] == tables


def test_encoders_held_in_half_start_and_train_as_float32_ones_of_the_same_numbers(stand_in_folder):
    half, full = load_encoders(stand_in_folder, torch.float16), load_encoders(stand_in_folder, torch.float16)
    full = TextEncoders(full.clip_l.float(), full.clip_g.float())
    hold_in_half(half.clip_l)
    hold_in_half(half.clip_g)
    trained = [attach_new_tokens(encoders, TWO, RANDOM, seed=1) for encoders in (half, full)]
    for encoders in (half, full):
        our_loss(encoders).backward()
    assert torch.equal(trained[0].weights.master, trained[1].weights.master)
    torch.testing.assert_close(trained[0].weights.gradient, trained[1].weights.gradient, rtol=1e-6, atol=1e-6)
