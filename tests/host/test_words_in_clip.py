"""A CLIP with words: bit for bit what `embedding:` gives in ComfyUI's CLIP Text Encode, and no other CLIP.

The prompts on the left hold words, those on the right name the same vectors' files, as a user would.
"""

import copy
import random

import pytest
import torch

WIDTHS = {"clip_l": 16, "clip_g": 24}
LONG = "a very long prompt, " + ", ".join(f"thing{i} of {i}" for i in range(60))
PROMPTS = [
    ("TOK", "embedding:cat_emb_tok"),
    ("a photo of TOK", "a photo of embedding:cat_emb_tok"),
    ("tok, on a table", "embedding:cat_emb_tok, on a table"),
    ("Tok on a table.", "embedding:cat_emb_tok on a table."),
    ("a TOK. It's blue", "a embedding:cat_emb_tok . It's blue"),
    ("a TOK's tail", "a embedding:cat_emb_tok 's tail"),
    ('the "TOK"!', 'the " embedding:cat_emb_tok "!'),
    ("anti-TOK/TOK", "anti- embedding:cat_emb_tok / embedding:cat_emb_tok"),
    ("a (TOK:1.2) here", "a (embedding:cat_emb_tok:1.2) here"),
    ("a (TOK)", "a (embedding:cat_emb_tok)"),
    ("((TOK)), (very blue TOK:0.5)", "((embedding:cat_emb_tok)), (very blue embedding:cat_emb_tok:0.5)"),
    ("(in (the TOK:1.3) style:0.8)", "(in (the embedding:cat_emb_tok:1.3) style:0.8)"),
    ("(a TOK and TOK)", "(a embedding:cat_emb_tok and embedding:cat_emb_tok)"),
    ("TOK TOK TOK", "embedding:cat_emb_tok embedding:cat_emb_tok embedding:cat_emb_tok"),
    ("TOK\nTOK,\n\nTOK", "embedding:cat_emb_tok\n embedding:cat_emb_tok,\n\n embedding:cat_emb_tok"),
    (r"a TOK \(animal\), \(TOK\)", r"a embedding:cat_emb_tok \(animal\), \( embedding:cat_emb_tok \)"),
    (r"(TOK\):1.1) and \\TOK", r"(embedding:cat_emb_tok \):1.1) and \\ embedding:cat_emb_tok"),
    ("TOK in the style of STY", "embedding:cat_emb_tok in the style of embedding:cat_emb_sty"),
    ("TOK,STY", "embedding:cat_emb_tok, embedding:cat_emb_sty"),
    ("(TOK STY-2:1.4)", "(embedding:cat_emb_tok embedding:cat_emb_sty2:1.4)"),
    ("TOK beside embedding:other", "embedding:cat_emb_tok beside embedding:other"),
    ("(embedding:other:1.3) by TOK", "(embedding:other:1.3) by embedding:cat_emb_tok"),
    ("(embedding:my-TOK, by:1.1) TOK", "(embedding:my-TOK, by:1.1) embedding:cat_emb_tok"),
    ("TOKEN, stok, TOK_2, 1TOK", "TOKEN, stok, TOK_2, 1TOK"),
    ("no word at all", "no word at all"),
    ("", ""),
    (f"{LONG}, TOK", f"{LONG}, embedding:cat_emb_tok"),
    (f"TOK, {LONG}, (STY:0.7) {LONG}", f"embedding:cat_emb_tok, {LONG}, (embedding:cat_emb_sty:0.7) {LONG}"),
]


def vectors(tokens, seed):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(tokens, width, generator=generator) for name, width in WIDTHS.items()}


VECTORS = {"TOK": vectors(2, 1), "STY": vectors(4, 2), "STY-2": vectors(9, 3)}
OTHER = vectors(3, 4)


def words(*names):
    from sdxl_trainer.trainer.files.embedding_file import WordVectors

    return WordVectors({name: VECTORS[name] for name in names or VECTORS})


@pytest.fixture
def core_clip(stand_in, tmp_path):
    """The stand-in's CLIP as a checkpoint loader gives it: with an embeddings folder."""
    from safetensors.torch import save_file

    for stem, tensors in zip(
        ("cat_emb_tok", "cat_emb_sty", "cat_emb_sty2", "other", "my-TOK"),
        (*VECTORS.values(), OTHER, OTHER),
        strict=True,
    ):
        save_file(tensors, tmp_path / f"{stem}.safetensors")
    clip = stand_in[1]
    for name, width in WIDTHS.items():
        tokenizer = getattr(clip.tokenizer, name)
        tokenizer.embedding_directory, tokenizer.embedding_size = [str(tmp_path)], width
    return clip


@pytest.fixture
def teach():
    from sdxl_trainer.nodes.comfy_bridge.new_words import clip_with_words

    return clip_with_words


@pytest.fixture
def encode():
    """ComfyUI's CLIP Text Encode."""
    import nodes

    def run(clip, prompt):
        with torch.inference_mode():
            return nodes.CLIPTextEncode().encode(clip, prompt)[0]

    return run


def assert_equal(found, expected):
    ((states, more), (core_states, core_more)) = found[0], expected[0]
    assert len(found) == len(expected) == 1
    assert torch.equal(states, core_states)
    assert torch.equal(more["pooled_output"], core_more["pooled_output"])
    assert more.keys() == core_more.keys()


def plain(tokens):
    """Tokens as numbers and lists, that can be compared; words numbered as they come."""
    numbers = {}
    return {
        name: [
            [
                (
                    t.tolist() if torch.is_tensor(t) else t,
                    weight,
                    *(numbers.setdefault(n, len(numbers)) for n in word),
                )
                for t, weight, *word in window
            ]
            for window in windows
        ]
        for name, windows in tokens.items()
    }


@pytest.mark.parametrize(("prompt", "named"), PROMPTS)
def test_a_word_is_read_as_core_reads_its_embedding(core_clip, teach, encode, prompt, named):
    assert_equal(encode(teach(core_clip, words()), prompt), encode(core_clip, named))


def test_windows_and_word_numbers_of_random_prompts_are_those_of_the_embedding(core_clip, teach):
    rng, taught = random.Random(0), teach(core_clip, words("TOK", "STY"))
    parts = [
        "cat",
        "a",
        "red,",
        "(blue:1.2)",
        "TOK",
        "(TOK:1.3)",
        "STY",
        "(TOK, STY)",
        r"\(x\)",
        "embedding:other",
    ]
    names = {"TOK": "embedding:cat_emb_tok", "STY": "embedding:cat_emb_sty"}
    cut = 0
    for _ in range(300):
        prompt = " ".join(rng.choices(parts, k=rng.choice([1, 3, 10, 60, 120])))
        named = prompt
        for word, name in names.items():
            named = named.replace(word, name)
        found = taught.tokenize(prompt, return_word_ids=True)
        assert plain(found) == plain(core_clip.tokenize(named, return_word_ids=True)), prompt
        cut += len(found["l"]) > 1
    assert cut > 50


def test_the_word_alone_makes_the_difference(core_clip, teach, encode):
    taught = encode(teach(core_clip, words("TOK")), "a photo of TOK")[0][0]
    assert not torch.allclose(taught, encode(core_clip, "a photo of TOK")[0][0], atol=1e-2)


def test_the_given_clip_and_its_other_clones_know_nothing(core_clip, teach):
    tokenizer, other = core_clip.tokenizer, core_clip.clone()
    parts = {name: vars(getattr(tokenizer, name)).copy() for name in WIDTHS}
    before = plain(core_clip.tokenize("a (TOK:1.2) and embedding:other"))
    taught = teach(core_clip, words())
    assert core_clip.tokenizer is tokenizer is other.tokenizer
    assert taught.tokenizer is not tokenizer
    assert {name: vars(getattr(tokenizer, name)) for name in WIDTHS} == parts
    for clip in (core_clip, other):
        assert plain(clip.tokenize("a (TOK:1.2) and embedding:other")) == before
    assert plain(taught.tokenize("a (TOK:1.2) and embedding:other")) != before
    assert taught.cond_stage_model is core_clip.cond_stage_model
    assert isinstance(taught.tokenizer.clip_g, type(tokenizer.clip_g))


def test_clones_and_patches_of_the_taught_clip_and_its_last_layer_keep_the_words(core_clip, teach, encode):
    import nodes

    with torch.inference_mode():
        (deeper,) = nodes.CLIPSetLastLayer().set_last_layer(teach(core_clip, words()), -1)
        (core_deeper,) = nodes.CLIPSetLastLayer().set_last_layer(core_clip, -1)
    key = next(k for k in core_clip.cond_stage_model.state_dict() if k.endswith("layers.0.mlp.fc1.weight"))
    weight = core_clip.cond_stage_model.state_dict()[key]
    patch = {key: ("diff", (torch.ones_like(weight),))}
    unpatched = encode(deeper, "a TOK")
    for clip in (deeper, core_deeper):
        assert clip.add_patches(patch, 0.5)
    assert_equal(encode(deeper, "a TOK"), encode(core_deeper, "a embedding:cat_emb_tok"))
    assert not torch.equal(encode(deeper, "a TOK")[0][0], unpatched[0][0])


def test_cores_text_encode_for_sdxl_knows_the_words_too(core_clip, teach):
    from comfy_extras.nodes_clip_sdxl import CLIPTextEncodeSDXL

    def run(clip, text_g, text_l):
        node = CLIPTextEncodeSDXL
        arguments = (clip, 1024, 1024, 0, 0, 1024, 1024, text_g, text_l)
        with torch.inference_mode():
            made = node.execute(*arguments) if hasattr(node, "execute") else node().encode(*arguments)
        return (made if isinstance(made, tuple) else made.args)[0]

    expected = run(core_clip, f"embedding:cat_emb_tok {LONG}", "a (embedding:cat_emb_sty:1.2)")
    assert_equal(run(teach(core_clip, words()), f"TOK {LONG}", "a (STY:1.2)"), expected)


def test_words_of_two_loras_are_both_known_and_the_later_of_the_same_name_is_read(core_clip, teach, encode):
    first = teach(core_clip, words("TOK"))
    second = teach(first, words("STY"))
    named = encode(core_clip, "embedding:cat_emb_tok by embedding:cat_emb_sty")
    assert_equal(encode(second, "TOK by STY"), named)
    assert_equal(encode(first, "TOK by STY"), encode(core_clip, "embedding:cat_emb_tok by STY"))

    from sdxl_trainer.trainer.files.embedding_file import WordVectors

    again = teach(second, WordVectors({"tok": OTHER}))
    assert_equal(encode(again, "TOK by STY"), encode(core_clip, "embedding:other by embedding:cat_emb_sty"))
    assert_equal(encode(second, "TOK by STY"), named)


def test_a_clip_without_an_embeddings_folder_can_learn_words(stand_in, core_clip, teach, encode, loading):
    with torch.inference_mode():
        clip = loading.load_clip()
    assert clip.tokenizer.clip_l.embedding_directory is None
    assert_equal(encode(teach(clip, words()), "a TOK"), encode(core_clip, "a embedding:cat_emb_tok"))
    assert clip.tokenizer.clip_l.embedding_directory is None


def test_vectors_of_another_width_are_refused(core_clip, teach):
    from sdxl_trainer.trainer.errors import InputError
    from sdxl_trainer.trainer.files.embedding_file import WordVectors

    wide = {"clip_l": torch.zeros(2, 768), "clip_g": torch.zeros(2, 1280)}
    with pytest.raises(InputError, match="vectors of 'TOK' for clip_l are 768 wide, but clip's are 16"):
        teach(core_clip, WordVectors({"TOK": wide}))


def test_a_clip_that_is_no_pair_is_refused(core_clip, teach):
    import comfy.sd1_clip
    from sdxl_trainer.trainer.errors import InputError

    clip = core_clip.clone()
    clip.tokenizer = comfy.sd1_clip.SD1Tokenizer()
    with pytest.raises(InputError, match="clip has no clip_g: wire the CLIP of an SDXL checkpoint"):
        teach(clip, words())


def test_what_a_clip_knows_can_be_told(core_clip, teach):
    from sdxl_trainer.nodes.comfy_bridge.new_words import known_words

    assert known_words(core_clip) == {}
    found = known_words(teach(teach(core_clip, words("TOK")), words("STY")))
    assert found.keys() == {"tok", "sty"}
    assert all(torch.equal(a, VECTORS["STY"][n]) for a, n in zip(found["sty"], WIDTHS, strict=True))


def test_a_tokenizer_that_another_pack_has_bound_is_refused(core_clip, teach):
    """A method on the instance goes before the class that reads the words."""
    from sdxl_trainer.trainer.errors import InputError

    clip = core_clip.clone()
    clip.tokenizer = copy.copy(core_clip.tokenizer)
    clip.tokenizer.clip_g = copy.copy(core_clip.tokenizer.clip_g)
    clip.tokenizer.clip_g.tokenize_with_weights = core_clip.tokenizer.clip_g.tokenize_with_weights
    with pytest.raises(InputError, match="clip does not read the word TOK, though it was taught: another"):
        teach(clip, words())
