"""Prompts: A1111's syntax, tokens as the reference tokenizer's, embeddings as transformers' CLIP."""

import random
import sys
from importlib.util import module_from_spec, spec_from_file_location

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weights.model_info import ModelError
from weights.prompt_encoder import PromptEncoder
from weights.prompt_syntax import COMMA_REACH, Chunk, PromptPart, parse, split
from weights.tokenizer import clip_tokenizer, merges_file


def parts(*pairs):
    return [PromptPart(text, weight) for text, weight in pairs]


class TestSyntax:
    # The examples are those of A1111's own documentation of its syntax, and its corner cases.
    @pytest.mark.parametrize(
        "text, expected",
        [
            ("", parts(("", 1.0))),
            ("normal text", parts(("normal text", 1.0))),
            ("an (important) word", parts(("an ", 1.0), ("important", 1.1), (" word", 1.0))),
            ("(unbalanced", parts(("unbalanced", 1.1))),
            (r"\(literal\]", parts(("(literal]", 1.0))),
            (r"back\\slash and hatsune\_miku", parts((r"back\slash and hatsune_miku", 1.0))),
            ("(unnecessary)(parens)", parts(("unnecessaryparens", 1.1))),
            ("a [less] b", parts(("a ", 1.0), ("less", 1 / 1.1), (" b", 1.0))),
            ("(word:1.5)", parts(("word", 1.5))),
            ("(word : .5 )", parts(("word ", 0.5))),
            ("(word:0)", parts(("word", 0.0))),
            ("(word:-1)", parts(("word", -1.0))),
            ("a:1.5) b]", parts(("a:1.5) b]", 1.0))),
            ("(a:b)", parts(("a:b", 1.1))),
            ("16:9", parts(("16:9", 1.0))),
            ("a BREAK b", parts(("a", 1.0), (None, 1.0), ("b", 1.0))),
            (" BREAK  BREAK \n", parts((None, 1.0), (None, 1.0))),
            ("BREAKFAST", parts(("BREAKFAST", 1.0))),
            ("(a BREAK b:2)", parts(("a", 2.0), (None, 2.0), ("b", 2.0))),
        ],
    )
    def test_a_prompt_is_read(self, text, expected):
        assert parse(text) == expected

    def test_nested_brackets_multiply(self):
        read = {part.text: part.weight for part in parse("a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).")}
        assert read["house"] == pytest.approx(1.3 * 1.1**2) and read["on"] == pytest.approx(1.0)
        assert read["hill"] == pytest.approx(0.55) and read["sky"] == pytest.approx(1.1**4)

    # Where each bracket, space or digit looks at all others, each of these takes long, the last two minutes.
    def test_a_long_prompt_costs_what_its_length_costs(self):
        read = parse("(x" * 5_000)
        assert len(read) == 5_000 and read[6].weight == pytest.approx(1.1**7)
        assert parse("x" + " " * 100_000) == [PromptPart("x" + " " * 100_000)]
        assert parse(":" + "1" * 100_000) == [PromptPart(":" + "1" * 100_000)]

    @given(st.text())
    def test_nothing_is_lost_and_nothing_raises(self, text):
        read = parse(text)
        assert read and all(part.weight == part.weight for part in read)
        if not set(text) & set("()[]\\") and "BREAK" not in text:
            assert read == [PromptPart(text)]


def numbers(count, size=10, comma=None, commas=()):
    """The chunks of tokens 1, 2, ... of which those at `commas` are commas."""
    tokens = [0 if place in commas else place + 1 for place in range(count)]
    return [chunk.tokens for chunk in split([PromptPart("x")], lambda text: tokens, size, comma)]


class TestChunks:
    def test_there_is_always_one(self):
        assert split([PromptPart("")], lambda text: [], 75, None) == [Chunk((), ())]

    @pytest.mark.parametrize(
        "count, sizes", [(9, [9]), (10, [10]), (11, [10, 1]), (30, [10, 10, 10]), (31, [10, 10, 10, 1])]
    )
    def test_long_ones_are_cut(self, count, sizes):
        made = numbers(count)
        assert [len(chunk) for chunk in made] == sizes and [n for chunk in made for n in chunk] == list(
            range(1, count + 1)
        )

    def test_a_full_chunk_ends_after_its_last_comma(self):
        assert [len(chunk) for chunk in numbers(12, commas=(3, 7), comma=0)] == [8, 4]
        assert [len(chunk) for chunk in numbers(12, commas=(9,), comma=0)] == [10, 2]
        # The comma that comes next stays with what it ends, as far as there is room.
        assert [len(chunk) for chunk in numbers(12, commas=(7, 10), comma=0)] == [10, 2]

    def test_but_not_after_one_that_is_far_back(self):
        near, far = 75 - COMMA_REACH, 75 - COMMA_REACH - 1
        assert [len(chunk) for chunk in numbers(80, 75, 0, (near,))] == [near + 1, 80 - near - 1]
        assert [len(chunk) for chunk in numbers(80, 75, 0, (far,))] == [75, 5]

    def test_break_begins_a_new_one(self):
        made = split(parse("a BREAK (b:2) c BREAK"), lambda text: [ord(x) for x in text if x != " "], 75, None)
        assert made == [Chunk((97,), (1.0,)), Chunk((98, 99), (2.0, 1.0))]


@pytest.fixture(scope="module")
def tokenizer():
    return clip_tokenizer()


@pytest.fixture(scope="module")
def reference():
    """OpenAI's own tokenizer from the package clip-anytorch, whose other modules are left alone."""
    spec = spec_from_file_location("clip_simple_tokenizer", merges_file().with_name("simple_tokenizer.py"))
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SimpleTokenizer()


# Without curly quotes and ligatures, which OpenAI's own cleans up beforehand and transformers does not.
WORDS = """a photo of the cat on my blue-ish table, it's 1999's "best" café naïve Ångström Übergröße façade señor
jalapeño don't we'll they've I'd she's rock'n'roll C++ f(x)=2x^2 50% $9.99 #hashtag @user e-mail: x@y.org http://example.org/?q=1&r=2
🚀 👩‍🚀 ❤️ 😀😀 日本語 中文字符 한국어 русский العربية हिन्दी ελληνικά … — «guillemets» ½ ² ™ © № ¿qué? ¡hola!
UPPER MixedCase under_score (parens) [brackets] {braces} <tag> \\ / | ~ ` ^ * + = 3.14159 1,000,000 0x1F ٣ Ⅷ""".split()


def test_tokens_are_the_reference_tokenizers_on_200_prompts(tokenizer, reference):
    shuffled = random.Random(0)
    prompts = [" ".join(shuffled.choices(WORDS, k=shuffled.randint(1, 15))) for _ in range(190)]
    prompts += [
        "",
        " ",
        "  two  spaces ",
        "line\nbreak\ttab",
        ",,,...!!!",
        "a,b;c:d",
        "x" * 100,
        "🎉" * 10,
        "é" * 5,
        "'s 't 're",
    ]
    assert len(prompts) == 200
    for prompt in prompts:
        assert tokenizer(prompt).input_ids[1:-1] == reference.encode(prompt), prompt
        assert tokenizer(prompt).input_ids[0] == reference.encoder["<|startoftext|>"]
        assert tokenizer(prompt).input_ids[-1] == reference.encoder["<|endoftext|>"]


def test_the_package_clip_is_read_and_not_imported():
    assert merges_file().is_file() and "clip" not in sys.modules


def test_padding_is_each_versions_own(tokenizer):
    assert tokenizer("a", padding="max_length").input_ids[-1] == 49407
    assert clip_tokenizer("!")("a", padding="max_length").input_ids[3:] == [0] * 74


@pytest.fixture(scope="module")
def encoder():
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    sizes = dict(hidden_size=64, intermediate_size=256, num_hidden_layers=4, num_attention_heads=2)
    return CLIPTextModel(CLIPTextConfig(vocab_size=49408, eos_token_id=2, **sizes)).eval()


@pytest.fixture(scope="module")
def prompts(tokenizer, encoder):
    return PromptEncoder("mini", tokenizer, encoder)


def theirs(tokenizer, encoder, text):
    tokens = tokenizer(text, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        return encoder(tokens.input_ids, output_hidden_states=True)


class TestEmbeddings:
    @pytest.mark.parametrize("text", ["", "a cat", "naïve 🚀, 16:9", "word " * 75, "a : b"])
    def test_without_weights_they_are_transformers_own_to_the_bit(self, prompts, tokenizer, encoder, text):
        assert torch.equal(prompts.encode(text), theirs(tokenizer, encoder, text).last_hidden_state)

    def test_escaped_brackets_are_the_characters(self, prompts, tokenizer, encoder):
        assert torch.equal(prompts.encode(r"a \(cat\)"), theirs(tokenizer, encoder, "a (cat)").last_hidden_state)

    def test_clip_skip_takes_an_earlier_layer_through_the_last_norm(self, prompts, tokenizer, encoder):
        layers = theirs(tokenizer, encoder, "a cat").hidden_states
        norm = getattr(encoder, "text_model", encoder).final_layer_norm
        with torch.inference_mode():
            assert torch.equal(prompts.encode("a cat", 1), norm(layers[-1]))
            assert torch.equal(prompts.encode("a cat", 2), norm(layers[-2]))
            assert not torch.equal(prompts.encode("a cat", 2), prompts.encode("a cat", 1))

    @pytest.mark.parametrize("skip", [0, 5])
    def test_there_is_no_layer_further_down(self, prompts, skip):
        with pytest.raises(ModelError, match="clip skip is .; the text encoder of model mini allows 1 to 4"):
            prompts.encode("a", skip)

    def test_weights_scale_tokens_and_the_mean_stays(self, prompts):
        plain, weighted = prompts.encode("a red cat"), prompts.encode("a (red:1.4) cat")
        ratio = weighted / plain
        red, others = ratio[0, 2], torch.cat([ratio[0, :2], ratio[0, 3:]])
        # One factor brings the mean back; in relation to it, the word has its weight.
        torch.testing.assert_close(red / others[0], torch.full_like(red, 1.4), rtol=1e-4, atol=0)
        torch.testing.assert_close(others, torch.full_like(others, float(others[0, 0])), rtol=1e-4, atol=0)
        torch.testing.assert_close(weighted.mean(), plain.mean(), rtol=1e-4, atol=1e-7)

    def test_long_prompts_are_chunks_one_after_another(self, prompts, tokenizer, encoder):
        long = prompts.encode("word " * 100)
        first, second = (theirs(tokenizer, encoder, "word " * count).last_hidden_state for count in (75, 25))
        assert torch.equal(long, torch.cat([first, second], 1))
        assert torch.equal(prompts.encode("a BREAK b"), torch.cat([prompts.encode("a"), prompts.encode("b")], 1))

    def test_chunks_follow_the_tokenizers_own_length(self, emoji):
        assert emoji.network.prompts.encode("red apple").shape[1] == 32
        assert emoji.network.prompts.encode("red apple, " * 20).shape[1] % 32 == 0
        assert emoji.count_tokens("apple BREAK apple") == (2, 60)

    def test_tokens_are_counted_without_the_syntax(self, prompts):
        assert [len(chunk.tokens) for chunk in prompts.chunks("a ((red:1.2)) [cat] \\)")] == [4]
