"""Prompts that change, several at once, and random choices: A1111's documented rules, and compositions made by hand."""

import itertools
import random
from dataclasses import replace

import pytest
import torch
from conftest import toy
from oracles import guided, normal

from samplers.denoiser import Combined, Network, Scheduled
from samplers.run import plan, run
from samplers.schedule import stable_diffusion
from webui.core.picture_metadata import read_picture
from webui.core.prompt_dialects import unapplied
from webui.core.record import read_record
from webui.core.request import RequestError, read
from webui.core.resolved_request import resolve
from webui.engine.events import Finished
from webui.replay_command import replay_file
from weights.condition import TensorCondition
from weights.extra_networks import ExtraNetworks
from weights.model_info import ModelError
from weights.prompt_choices import come_out, has_choices, names
from weights.prompt_schedule import Clock, changes, stages, subprompts
from weights.prompt_syntax import PromptError, parse

TEN = Clock(tuple(map(float, range(10, -1, -1))))


# What the wiki of A1111's page says of each form, at ten steps: (last step, text).
@pytest.mark.parametrize(
    "prompt, expected",
    [
        ("test", [(10, "test")]),
        ("a [b:3]", [(3, "a "), (10, "a b")]),
        ("a [b: 3]", [(3, "a "), (10, "a b")]),
        ("a [[[b]]:2]", [(2, "a "), (10, "a [[b]]")]),
        ("[(a:2):3]", [(3, ""), (10, "(a:2)")]),
        ("a [b : c : 1] d", [(1, "a b  d"), (10, "a  c  d")]),
        ("a[b:[c:d:2]:1]e", [(1, "abe"), (2, "ace"), (10, "ade")]),
        ("a [unbalanced", [(10, "a [unbalanced")]),
        ("a [b:.5] c", [(5, "a  c"), (10, "a b c")]),
        ("a [b::0.5] c", [(5, "a b c"), (10, "a  c")]),
        ("a [{b|d{:.5] c", [(5, "a  c"), (10, "a {b|d{ c")]),
        ("((a][:b:c [d:3]", [(3, "((a][:b:c "), (10, "((a][:b:c d")]),
        ("[a|(b:1.1)]", [(n, "a" if n % 2 else "(b:1.1)") for n in range(1, 11)]),
        ("[fe|]male", [(n, "female" if n % 2 else "male") for n in range(1, 11)]),
        (
            "[fe|||]male",
            [(1, "female"), (4, "male"), (5, "female"), (8, "male"), (9, "female"), (10, "male")],
        ),
        ("[a:b:1.0]", [(10, "a")]),
        ("[a:b:0]", [(10, "b")]),
        ("[a:b:-1]", [(10, "b")]),
        ("[a:b:99]", [(10, "a")]),
        (r"\[a:b:3\]", [(10, r"\[a:b:3\]")]),
        ("[a ) b:0.5]", [(10, "[a ) b:0.5]")]),
        ("[a (b:0.5]", [(10, "[a (b:0.5]")]),
        ("[a:b:c:0.5]", [(10, "[a:b:c:0.5]")]),
        ("[12:30]", [(10, "")]),
        ("[a:b]", [(10, "[a:b]")]),
        ("(a:1.2) [b] (c|d)", [(10, "(a:1.2) [b] (c|d)")]),
    ],
)
def test_a_schedule_is_read_by_the_documented_rules(prompt, expected):
    if prompt == "[a ) b:0.5]":
        assert not changes(prompt)
    assert stages(prompt, TEN) == expected


def test_two_hundred_prompts_have_the_text_that_each_step_wants():
    """Random trees of changes, written out; their text at a step follows from the tree and not from the parser."""
    pick = random.Random(0)

    def tree(depth):
        """(the prompt as it is written, the text at a step, from 1 on)."""
        kind = pick.choice(["words", "words", "switch", "turns", "weight", "row"] if depth else ["words"])
        if kind == "words":
            word = pick.choice(["cat", "dog ", " a b", "", "x, y", r"\(q\)", "{z"])
            return word, lambda step: word
        if kind == "row":
            parts = [tree(depth - 1) for _ in range(2)]
            return "".join(w for w, _ in parts), lambda step: "".join(at(step) for _, at in parts)
        if kind == "weight":
            inner, at = tree(depth - 1)
            return f"({inner}:1.2)", lambda step: f"({at(step)}:1.2)"
        if kind == "turns":
            parts = [tree(depth - 1) for _ in range(pick.randint(2, 3))]
            return f"[{'|'.join(w for w, _ in parts)}]", lambda step: parts[(step - 1) % len(parts)][1](step)
        (first, before), (second, after) = tree(depth - 1), tree(depth - 1)
        when, last = pick.choice([("3", 3), ("0.25", 2), (" .7 ", 7), ("0", 0)])
        return f"[{first}:{second}:{when}]", lambda step: (before if step <= last else after)(step)

    for _ in range(200):
        written, at = tree(3)
        each = itertools.groupby(range(1, 11), key=at)
        expected = [(list(steps)[-1], text) for text, steps in each]
        assert stages(written, TEN) == expected, written


def test_any_text_is_read_and_deep_or_long_ones_quickly():
    pick = random.Random(1)
    for _ in range(300):
        text = "".join(pick.choice("[]():|\\ab .5") for _ in range(pick.randint(1, 40)))
        assert stages(text, TEN)[-1][0] == 10
        assert not changes(text) or text.count("[") >= 1
    for text in ("[" * 5000 + "a", "[a:" * 2000 + "0.5]" * 2000, "(" * 5000 + "]" * 5000, "[a|b]" * 1000):
        stages(text, TEN)


def test_a_second_pass_counts_on():
    first, second = TEN, Clock(tuple(map(float, range(4, -1, -1))), 10, 1)
    assert stages("[a:b:0.5]", second) == [(4, "b")]
    assert stages("[a:b:1.5]", first) == [(10, "a")]
    assert stages("[a:b:1.5]", second) == [(2, "a"), (4, "b")]
    assert stages("[a:b:13]", second) == [(3, "a"), (4, "b")]


@pytest.mark.parametrize(
    "prompt, expected",
    [
        ("a", [("a", 1.0)]),
        ("at 12:30", [("at 12:30", 1.0)]),
        ("a AND b", [("a", 1.0), ("b", 1.0)]),
        ("a :1.2 AND b:0.5 AND (c:1.3)", [("a", 1.2), ("b", 0.5), ("(c:1.3)", 1.0)]),
        ("a AND b : -0.4", [("a", 1.0), ("b", -0.4)]),
        ("SAND and HAND", [("SAND and HAND", 1.0)]),
        ("a AND\nb :.5", [("a", 1.0), ("b", 0.5)]),
    ],
)
def test_and_joins_prompts_with_weights(prompt, expected):
    assert [(part.text, part.weight) for part in subprompts(prompt)] == expected


class Linear:
    """A network whose output depends on state, level and condition, and which counts its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, scaled, timestep, condition):
        self.calls += len(scaled)
        return 0.3 * scaled + condition.tensors["text"] * (1 + timestep / 1000)


def conditions(count):
    return [TensorCondition({"text": normal(1, 2, 3, 3, seed=seed)}) for seed in range(count)]


@pytest.mark.parametrize("scale", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_several_prompts_are_the_composition_of_their_denoisers(scale, prediction):
    schedule, x, sigma = stable_diffusion(), normal(2, 2, 3, 3, seed=9), 3.0
    first, second, negative = conditions(3)
    alone = [
        guided(lambda s, t, text: 0.3 * s + text * (1 + t / 1000), schedule, prediction, c.tensors["text"], 0 * x[:1])
        for c in (first, second, negative)
    ]
    a, b, none = (denoise(x, sigma) for denoise in alone)
    expected = none + scale * (0.8 * (a - none) + 0.4 * (b - none))
    from samplers.guidance import guide

    network = Linear()
    both = Combined.of([(0.8, first), (0.4, second)], negative)
    made = guide(Network(network, schedule, prediction), both, negative, scale)
    torch.testing.assert_close(made(x, sigma), expected, rtol=1e-9, atol=1e-9)
    # Each condition is asked once for each image; the negative one alone at scale 0.
    assert network.calls == (2 if scale == 0 else 6)
    torch.testing.assert_close(made.parts(x, sigma).unconditional, none, rtol=1e-9, atol=1e-9)


def test_a_condition_changes_at_its_level():
    first, second = conditions(2)
    scheduled = Scheduled((first, second), (2.0,))
    assert [scheduled.at(sigma) for sigma in (9.0, 2.1, 2.0, 0.1)] == [first, first, second, second]


class TestDrawn:
    """On the embedded model."""

    @staticmethod
    def end(emoji, registry, prompt, steps=4, start=None, negative="", **more):
        ready = plan(emoji.schedule, registry.sampler("Euler").item, registry.schedule("Uniform trailing").item, steps)
        denoise = emoji.denoiser(prompt, negative, 3.0, clock=Clock(ready.sigmas), **more)
        return run(ready, denoise, torch.zeros(1, *emoji.latents_shape(64, 64)), (3,)).x

    def test_a_change_is_two_runs_joined(self, emoji, registry):
        ready = plan(emoji.schedule, registry.sampler("Euler").item, registry.schedule("Uniform trailing").item, 4)
        zeros = torch.zeros(1, *emoji.latents_shape(64, 64))
        sigmas = ready.sigmas
        top = run(replace(ready, sigmas=sigmas[:3]), emoji.denoiser("red apple", "", 3.0), zeros, (3,)).x
        low = replace(ready, sigmas=sigmas[2:])
        joined = run(low, emoji.denoiser("rocket", "", 3.0), top, (3,), initial=torch.zeros_like).x
        made = self.end(emoji, registry, "[red apple:rocket:0.5]")
        torch.testing.assert_close(made, joined, rtol=1e-6, atol=1e-6)
        assert not torch.allclose(made, self.end(emoji, registry, "red apple"), atol=1e-2)

    def test_and_is_drawn_and_weighted(self, emoji, registry):
        both, one = (self.end(emoji, registry, text) for text in ("cat AND dog", "cat"))
        assert not torch.allclose(both, one, atol=1e-2)
        # A prompt of weight 0 says nothing.
        torch.testing.assert_close(self.end(emoji, registry, "cat AND dog :0"), one, rtol=1e-4, atol=1e-4)

    def test_without_the_syntax_it_is_words(self, emoji, registry):
        words = self.end(emoji, registry, "[cat:dog:0.5]", prompt_syntax="weights")
        assert torch.equal(words, self.end(emoji, registry, "[cat:dog:0.5] ".rstrip(), prompt_syntax="weights"))
        assert not torch.allclose(words, self.end(emoji, registry, "[cat:dog:0.5]"), atol=1e-2)

    def test_tokens_are_those_of_the_longest_text(self, emoji):
        assert emoji.count_tokens("[cat:red apple:0.5] AND dog") == emoji.count_tokens("red apple")

    def test_steps_have_to_be_known(self, emoji):
        with pytest.raises(ModelError, match="needs to know its steps"):
            emoji.denoiser("[cat:dog:0.5]", "", 3.0)


class TestChoices:
    """Wildcards and random choices."""

    @pytest.fixture
    def folder(self, tmp_path):
        (tmp_path / "wildcards" / "deep").mkdir(parents=True)
        (tmp_path / "wildcards/animal.txt").write_text("cat\ndog # no cat\n\nred {fox|wolf}\n")
        (tmp_path / "wildcards/deep/colour.txt").write_text("red\n__loop__\n")
        (tmp_path / "wildcards/loop.txt").write_text("__loop__ __loop__\n")
        (tmp_path / "wildcards/lists.yaml").write_text("sizes:\n  - small\n  - large\n")
        return tmp_path

    def test_the_seed_makes_them(self, folder):
        made = come_out("{red|blue} __animal__", range(40), folder)
        assert made == come_out("{red|blue} __animal__", range(40), folder)
        expected = {" ".join(p) for p in itertools.product(("red", "blue"), ("cat", "dog", "red fox", "red wolf"))}
        assert {text.strip() for text in made} == expected
        assert come_out("a __sizes__ b", [1], folder)[0] in ("a small b", "a large b")
        assert names(folder) == ["animal", "deep/colour", "loop", "sizes"]

    @pytest.mark.parametrize(
        "text",
        ["{{masterpiece}}", "[a|b]", "a { b", "(a:1.2) <lora:x:1>", "snake_case__", "50% of $5 # 3"],
    )
    def test_other_text_stays_to_the_letter(self, text):
        assert not has_choices(text)
        assert come_out(text, [1, 2], None) == [text, text]

    @pytest.mark.parametrize(
        "text, reason",
        [
            ("a __none__", "wildcard 'none' is not in weights/wildcards/; there is animal, deep/colour"),
            ("{a|b} {c", "every { needs its }"),
            ("__loop__", "never end"),
            ("${x} {a|b}", "cannot be read"),
        ],
    )
    def test_what_cannot_be_read_is_an_error(self, folder, text, reason):
        with pytest.raises(PromptError) as error:
            come_out(text, [1], folder)
        assert reason in str(error.value)

    def test_a_request_has_a_prompt_for_each_picture(self, folder, registry):
        request = read(dict(prompt="{cat|dog} [x:y:0.5]", negative_prompt="{a|b}", seed=5, count=8))
        resolved = resolve(request, registry, {"toy": toy()}, extra=ExtraNetworks(folder))
        each = [resolved.request_of(index) for index in range(8)]
        assert {one.prompt for one in each} == {"cat [x:y:0.5]", "dog [x:y:0.5]"}
        assert {one.prompt_syntax for one in each} == {"fixed"}
        later = resolve(request.model_copy(update=dict(seed=7, count=1)), registry, {"toy": toy()})
        assert later.request_of(0).prompt == each[2].prompt
        plain = resolve(request.model_copy(update=dict(prompt_syntax="fixed")), registry, {"toy": toy()})
        assert plain.came_out == ()

    @pytest.mark.parametrize(
        "fields, reason",
        [
            (dict(prompt="__none__"), "Wildcard 'none' is not in weights/wildcards/"),
            (dict(negative_prompt="a AND b"), "The negative prompt has AND"),
            (dict(prompt="{<lora:nothing:1>|<lora:nothing:2>}"), "LoRA 'nothing' is not in"),
        ],
    )
    def test_a_wrong_prompt_is_refused(self, folder, registry, fields, reason):
        with pytest.raises(RequestError) as error:
            resolve(read(fields), registry, {"toy": toy()}, extra=ExtraNetworks(folder))
        assert reason in str(error.value)

    def test_they_are_off_on_a_shared_page(self, registry):
        from webui.core.limits import PUBLIC

        request = read(dict(prompt="{a|b}"))
        with pytest.raises(RequestError, match="off on this shared page"):
            resolve(request, registry, {"toy": toy()}, limits=PUBLIC)
        resolve(request, registry, {"toy": toy()}, limits=replace(PUBLIC, choices=True))


def test_a_record_from_before_the_syntax_is_drawn_without_it():
    old = {"prompt": "[a:b:0.5]", "negative_prompt": ""}
    assert read_record({"request": old}).request["prompt_syntax"] == "weights"
    assert read_record({"request": {**old, "prompt": "(a:1.2)"}}).request == {**old, "prompt": "(a:1.2)"}
    assert read_record({"request": {**old, "prompt_syntax": "full"}}).request["prompt_syntax"] == "full"


def test_what_is_switched_off_is_told():
    assert unapplied("[a:b:0.5] AND {c|d}") == []
    assert len(unapplied("[a:b:0.5] AND {c|d}", "fixed")) == 1
    assert len(unapplied("[a:b:0.5] AND {c|d}", "weights")) == 3


def test_the_text_of_a_stage_is_parsed_with_its_weights():
    (_, first), (_, second) = stages("a [(b:1.3):[c]:0.5]", TEN)
    assert [(part.text, part.weight) for part in parse(first)] == [("a ", 1.0), ("b", 1.3)]
    assert [part.text for part in parse(second)] == ["a ", "c"]


def test_pictures_carry_what_came_out_and_what_was_written_and_replay(real):
    request = read(dict(prompt="{red apple|rocket} [x:y:0.5]", steps=4, seed=3, count=3))
    job = real.submit(request)
    outcome = job.wait(60)
    assert isinstance(outcome, Finished), outcome
    records = [read_picture(picture.path) for picture in job.pictures]
    prompts = [one.record.request["prompt"] for one in records]
    assert set(prompts) == {"red apple [x:y:0.5]", "rocket [x:y:0.5]"}
    assert [prompt for prompt, _ in outcome.info["prompts"]] == prompts
    assert {one.record.written["prompt"] for one in records} == {request.prompt}
    for one in records:
        assert one.parameters.startswith(one.record.request["prompt"])
        assert f'Template: "{request.prompt}"' in one.parameters
    different = [job.pictures[prompts.index(prompt)].path for prompt in sorted(set(prompts))]
    for path in different:
        assert replay_file(real, path).equal
