"""The rollout engine against full passes of the same model, brute force, and the distribution it should draw from."""

from collections import Counter
from shutil import which
from typing import Any

import pytest
import torch

from rlx.decoding import engine as engine_module
from rlx.decoding.base import DecodeConfig
from rlx.decoding.completions import Completions
from rlx.decoding.drawing import draw, restrict
from rlx.decoding.engine import Engine
from rlx.decoding.greedy import GreedyConfig
from rlx.decoding.logprobs import token_logprobs
from rlx.decoding.sample import SampleConfig
from rlx.errors import ConfigError, Stopped
from rlx.models.dense import DenseConfig
from rlx.models.iha import IhaConfig
from rlx.models.layers.attention import Position
from rlx.nn.decoder import Decoder

VOCAB, PAD, END = 12, 0, 1
LENGTHS = (1, 6, 3, 9, 2, 4)
KEYS = [11, 2**62, -5, 0, 7, 8]


@pytest.fixture(scope="module")
def model() -> Decoder:
    """A random model that ends some rows early and some not at all."""
    torch.manual_seed(0)
    return DenseConfig(d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, init_std=0.25).build(VOCAB)


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(2, VOCAB, (length,), generator=generator).tolist() for length in LENGTHS]


def complete(
    model: Decoder, prompts: list[list[int]], *, samples: int = 4, keys: Any = None, **decode: Any
) -> Completions:
    settings = SampleConfig(**{"max_tokens": 16, **decode})
    engine = Engine(model, end_id=END, pad_id=PAD)
    keys = KEYS[: len(prompts)] if keys is None else keys
    return engine.complete(prompts, keys=keys, samples=samples, decode=settings)


def next_logits(model: Decoder, tokens: list[int]) -> torch.Tensor:
    """[V] after `tokens`, by a full pass without a cache."""
    with torch.no_grad():
        return model.logits(model(torch.tensor([tokens]))[0])[0, -1]


def row_tokens(done: Completions, row: int) -> list[int]:
    return done.tokens[row, : int(done.lengths[row])].tolist()


def same(one: Completions, other: Completions) -> None:
    """Equal tokens; log-probabilities up to what matrix products of another shape may round."""
    assert torch.equal(one.tokens, other.tokens)
    assert torch.equal(one.lengths, other.lengths) and torch.equal(one.finished, other.finished)
    torch.testing.assert_close(one.logprobs, other.logprobs, atol=1e-5, rtol=0)


def test_greedy_is_the_argmax_of_full_passes(model: Decoder, prompts: list[list[int]]) -> None:
    done = Engine(model, end_id=END, pad_id=PAD).complete(
        prompts, keys=KEYS, samples=1, decode=GreedyConfig(max_tokens=16)
    )
    for row, prompt in enumerate(prompts):
        text: list[int] = []
        while len(text) < 16 and END not in text:
            text.append(int(next_logits(model, prompt + text).argmax()))
        assert row_tokens(done, row) == text


@pytest.mark.parametrize("temperature", [0.6, 1.0])
def test_logprobs_are_the_trainers(model: Decoder, prompts: list[list[int]], temperature: float) -> None:
    done = complete(model, prompts, temperature=temperature)
    width = max(LENGTHS) + 16
    tokens = torch.full((len(prompts) * 4, width), PAD)
    for row in range(len(tokens)):
        text = prompts[row // 4] + row_tokens(done, row)
        tokens[row, : len(text)] = torch.tensor(text)
    with torch.no_grad():
        trained = token_logprobs(model.logits(model(tokens)[0]), tokens, temperature)
    for row, length in enumerate(done.lengths.tolist()):
        start = LENGTHS[row // 4]
        torch.testing.assert_close(done.logprobs[row, :length], trained[row, start : start + length], atol=1e-5, rtol=0)
        assert done.logprobs[row, length:].abs().sum() == 0


def test_samples_are_what_the_distribution_and_the_numbers_say(model: Decoder, prompts: list[list[int]]) -> None:
    """Each token by inverting the cumulative distribution of a full pass at the row's own numbers."""
    from rlx.decoding.uniforms import sample_keys, uniforms

    done = complete(model, prompts, temperature=0.6)
    keys = sample_keys(torch.tensor(KEYS), 4)
    for row in range(len(keys)):
        text: list[int] = []
        for token in row_tokens(done, row):
            share = torch.softmax(next_logits(model, prompts[row // 4] + text).double() / 0.6, -1).cumsum(-1)
            point = float(uniforms(keys[row, None], len(text)))
            assert token == int((share <= point).sum())
            text.append(token)


def test_marks_lengths_and_padding(model: Decoder, prompts: list[list[int]]) -> None:
    done = complete(model, prompts)
    assert done.tokens.shape == done.logprobs.shape == (len(prompts) * 4, 16)
    assert 0 < done.finished.sum() < len(done.finished), "the setting has rows of both kinds"
    assert done.lengths[done.finished].unique().numel() > 3, "ending at several places"
    for row, length in enumerate(done.lengths.tolist()):
        text = done.tokens[row].tolist()
        assert END not in text[: length - 1]
        assert (text[length - 1] == END) is bool(done.finished[row])
        assert length == 16 or done.finished[row]
        assert text[length:] == [PAD] * (16 - length)
        assert (done.logprobs[row, :length] < 0).all()


def test_an_end_mark_at_the_cap_is_an_end(model: Decoder, prompts: list[list[int]]) -> None:
    done = complete(model, prompts)
    row = int(done.finished.nonzero()[0])
    length = int(done.lengths[row])
    cut = complete(model, prompts, max_tokens=length)
    assert bool(cut.finished[row]) and int(cut.lengths[row]) == length
    if length > 1:
        cut = complete(model, prompts, max_tokens=length - 1)
        assert not bool(cut.finished[row]) and int(cut.lengths[row]) == length - 1


@pytest.mark.parametrize("rows", [1, 4, 5, 9, 512])
def test_samples_do_not_depend_on_the_wave(model: Decoder, prompts: list[list[int]], rows: int) -> None:
    same(complete(model, prompts, rows=rows), complete(model, prompts, rows=24))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0], ids=["at once", "half", "all"])
def test_samples_do_not_depend_on_refill(
    model: Decoder, prompts: list[list[int]], share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = complete(model, prompts)
    monkeypatch.setattr(engine_module, "REFILL_SHARE", share)
    found = complete(model, prompts, rows=6)
    same(found, expected)
    assert (found.prefilled, found.decoded) == (expected.prefilled, expected.decoded)


def test_rows_that_ended_take_the_next_samples(model: Decoder, prompts: list[list[int]], monkeypatch: Any) -> None:
    """With refill a batch needs about its tokens over its rows in steps, not every wave's longest row in sum."""
    steps, step = [], Engine._step
    monkeypatch.setattr(Engine, "_step", lambda self, *given: (steps.append(1), step(self, *given))[1])
    done = complete(model, prompts, rows=6)
    waves = sum(int(wave.max()) - 1 for wave in done.lengths.split(6))
    tokens = int((done.lengths - 1).sum())
    assert tokens / 6 <= len(steps) < waves


@pytest.mark.parametrize("share", [0.0, 0.5, 2.0], ids=["never", "half", "every step"])
def test_samples_do_not_depend_on_compaction(
    model: Decoder, prompts: list[list[int]], share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = complete(model, prompts)
    monkeypatch.setattr(engine_module, "ALIVE_SHARE", share)
    found = complete(model, prompts)
    same(found, expected)
    assert (found.prefilled, found.decoded) == (expected.prefilled, expected.decoded)


WINDOWED: dict[str, Any] = {
    "window 4": DenseConfig(d_model=32, n_layers=2, n_heads=4, init_std=0.25, layers=["attention.local+mlp"], window=4),
    "hard alibi": DenseConfig(d_model=32, n_layers=2, n_heads=4, init_std=0.25, position=Position.hard_alibi),
    "iha": IhaConfig(d_model=32, n_layers=2, n_heads=4, init_std=0.25, layers=["iha.local+mlp"], window=2),
}


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", WINDOWED)
def test_idle_rows_leave_nothing_behind(name: str, half: bool, prompts: list[list[int]]) -> None:
    """Of rows that wait for the next sample no position may be seen any more, where layers have windows."""
    torch.manual_seed(0)
    model = WINDOWED[name].build(VOCAB)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        found, expected = (complete(model, prompts, samples=30, rows=rows, max_tokens=48) for rows in (32, 180))
    assert found.logprobs.isfinite().all()
    if not half:
        same(found, expected)


def test_a_row_does_not_depend_on_its_neighbours(model: Decoder, prompts: list[list[int]]) -> None:
    together = complete(model, prompts)
    for number, prompt in enumerate(prompts):
        alone = complete(model, [prompt], keys=[KEYS[number]])
        rows = slice(4 * number, 4 * number + 4)
        assert torch.equal(alone.tokens, together.tokens[rows])
        fewer = complete(model, [prompt], keys=[KEYS[number]], samples=2)
        assert torch.equal(fewer.tokens, together.tokens[rows][:2])
    turned = complete(model, prompts[::-1], keys=KEYS[::-1])
    assert torch.equal(turned.tokens.view(6, 4, -1).flip(0), together.tokens.view(6, 4, -1))


def test_keys_make_the_samples(model: Decoder, prompts: list[list[int]]) -> None:
    first = complete(model, prompts)
    assert torch.equal(complete(model, prompts).tokens, first.tokens)
    other = complete(model, prompts, keys=[key + 1 for key in KEYS])
    assert not torch.equal(other.tokens, first.tokens)
    group = complete(model, prompts[1:2], samples=32).tokens
    assert len({tuple(row) for row in group.tolist()}) > 16, "samples of a group differ"
    twice = complete(model, [prompts[1]] * 2, keys=[3, 4])
    assert not torch.equal(twice.tokens[:4], twice.tokens[4:]), "so do two groups of one prompt"


def test_what_is_passed_is_counted(model: Decoder, prompts: list[list[int]]) -> None:
    """A prompt passes once a group; every sampled token passes, save a row's last."""
    done = complete(model, prompts, rows=9)
    given, drawn = Counter[int](), Counter[int]()
    for number, prompt in enumerate(prompts):
        given.update(place + 1 for place in range(len(prompt)))
        for length in done.lengths[4 * number : 4 * number + 4].tolist():
            drawn.update(len(prompt) + place + 1 for place in range(length - 1))
    for extent, expected in ((done.prefilled, given), (done.decoded, drawn)):
        assert {n + 1: count for n, count in enumerate(extent.plain()) if count} == expected


def test_no_prompts_give_no_rows(model: Decoder) -> None:
    done = complete(model, [])
    assert done.tokens.shape == done.logprobs.shape == (0, 16)
    assert (len(done.lengths), len(done.finished), done.prefilled.tokens, done.decoded.tokens) == (0, 0, 0, 0)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_mode_is_restored_and_no_graph_is_kept(model: Decoder, prompts: list[list[int]], training: bool) -> None:
    model.train(training)
    done = complete(model, prompts)
    assert model.training is training
    assert not done.logprobs.requires_grad
    model.train()


def test_stop_abandons_the_call(model: Decoder, prompts: list[list[int]]) -> None:
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3

    model.train()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    engine = Engine(model, end_id=END, pad_id=PAD, stop=stop)
    with pytest.raises(Stopped):
        engine.complete(prompts, keys=KEYS, samples=4, decode=SampleConfig(max_tokens=16))
    assert model.training and asked == 4
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_bfloat16_autocast_runs_and_is_near(model: Decoder, prompts: list[list[int]]) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        done = complete(model, prompts[:2])
    assert done.logprobs.dtype is torch.float32
    for row in range(8):
        before = prompts[row // 4]
        exact = torch.log_softmax(next_logits(model, before), -1)[done.tokens[row, 0]]
        assert abs(done.logprobs[row, 0] - exact) < 0.1


def test_bfloat16_weights_follow_the_models(prompts: list[list[int]]) -> None:
    """The copy in bf16 is brought up to date at every call, the embedding of a tied head included."""
    torch.manual_seed(3)
    one = DenseConfig(d_model=32, n_layers=2, n_heads=4, init_std=0.25).build(VOCAB)
    engine = Engine(one, end_id=END, pad_id=PAD)

    def drawn(engine: Engine) -> Completions:
        with torch.autocast("cpu", torch.bfloat16):
            return engine.complete(prompts, keys=KEYS, samples=2, decode=SampleConfig(max_tokens=8))

    before = drawn(engine)
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    after = drawn(engine)
    assert not torch.equal(before.logprobs, after.logprobs)
    fresh = drawn(Engine(one, end_id=END, pad_id=PAD))
    assert torch.equal(after.logprobs, fresh.logprobs) and torch.equal(after.tokens, fresh.tokens)
    assert one.head.weight is one.embed.weight and one.head.weight.dtype is torch.float32


@pytest.mark.slow
@pytest.mark.skipif(which("g++") is None, reason="compiling needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
def test_a_compiled_step_draws_the_same(model: Decoder, prompts: list[list[int]], half: bool) -> None:
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        expected = complete(model, prompts, rows=16)
        engine = Engine(model, end_id=END, pad_id=PAD, compile=True)
        found = engine.complete(prompts, keys=KEYS, samples=4, decode=SampleConfig(max_tokens=16, rows=16))
    assert (found.prefilled, found.decoded) == (expected.prefilled, expected.decoded) or half
    if half:
        first = found.logprobs[:, 0] - expected.logprobs[:, 0]
        assert first.abs().max() < 0.05
    else:
        same(found, expected)


def some_logits(rows: int, vocab: int = 9) -> torch.Tensor:
    return 2 * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize(
    "limits",
    [*({"top_k": k} for k in (1, 3, 100)), *({"top_p": p} for p in (0.05, 0.7, 0.99)), {"top_k": 4, "top_p": 0.6}],
    ids=str,
)
def test_kept_tokens_are_those_of_brute_force(limits: dict[str, Any]) -> None:
    decode = DecodeConfig(**limits)
    logs = torch.log_softmax(some_logits(200), -1)
    kept = restrict(logs, decode)
    for row, values in enumerate(logs.double().exp().tolist()):
        order = sorted(range(9), key=lambda token: (-values[token], token))
        expected, mass = [], 0.0
        for token in order:
            if len(expected) == (decode.top_k or 9) or (decode.top_p < 1 and mass >= decode.top_p):
                break
            expected.append(token)
            mass += values[token]
        assert kept[row].isfinite().nonzero().squeeze(1).tolist() == sorted(expected)
        assert torch.equal(kept[row, expected], logs[row, expected])


def test_ties_go_to_the_lower_token() -> None:
    logs = torch.log_softmax(torch.zeros(1, 6), -1)
    assert restrict(logs, DecodeConfig(top_k=2)).isfinite().tolist() == [[True, True, False, False, False, False]]


def test_only_kept_tokens_are_drawn_and_their_logprobs_are_whole() -> None:
    """Up to the very ends of (0, 1); the recorded number is of the full vocabulary."""
    logits = some_logits(50)
    decode = DecodeConfig(top_k=2, temperature=0.7)
    whole = torch.log_softmax(logits / 0.7, -1)
    for point in (2.0**-53, 0.25, 0.5, 0.75, 1 - 2.0**-53):
        tokens, logprobs = draw(logits, torch.full((50,), point, dtype=torch.float64), decode)
        assert restrict(whole, decode).gather(1, tokens[:, None]).isfinite().all()
        assert torch.equal(logprobs, whole.gather(1, tokens[:, None]).squeeze(1))


def test_temperature_0_takes_the_most_likely_token() -> None:
    logits = some_logits(50)
    tokens, logprobs = draw(logits, torch.full((50,), 0.999, dtype=torch.float64), DecodeConfig(temperature=0))
    assert torch.equal(tokens, logits.argmax(-1))
    assert torch.equal(logprobs, torch.log_softmax(logits, -1).amax(-1))


@pytest.mark.parametrize("temperature", [0.6, 1.0])
@pytest.mark.parametrize("top_k", [None, 4], ids=["all", "top 4"])
def test_frequencies_are_the_distributions(temperature: float, top_k: int | None) -> None:
    """Chi-square over 100,000 draws with the engine's own numbers; 28 is the 99.95 % point at 8 degrees."""
    from rlx.decoding.uniforms import uniforms

    count, logits = 100_000, some_logits(1)[0]
    decode = DecodeConfig(temperature=temperature, top_k=top_k)
    tokens, _ = draw(logits.expand(count, -1), uniforms(torch.arange(count), 3), decode)
    share = torch.softmax(logits.double() / temperature, -1)
    if top_k is not None:
        share[share < share.sort(descending=True).values[top_k - 1]] = 0
        share /= share.sum()
    observed = torch.bincount(tokens, minlength=9).double()
    assert observed[share == 0].sum() == 0
    expected = (share * count)[share > 0]
    assert ((observed[share > 0] - expected) ** 2 / expected).sum() < 28


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"max_tokens": 0}, "decode.max_tokens=0"),
        ({"rows": 0}, "decode.rows=0"),
        ({"temperature": -0.1}, "decode.temperature=-0.1"),
        ({"top_p": 0.0}, "decode.top_p=0.0"),
        ({"top_p": 1.5}, "decode.top_p=1.5"),
        ({"top_k": 0}, "decode.top_k=0"),
    ],
    ids=lambda value: str(value),
)
def test_wrong_settings_are_one_line(values: dict[str, Any], names: str) -> None:
    with pytest.raises(ConfigError, match=names.replace(".", r"\.")) as error:
        SampleConfig(**values)
    assert "\n" not in str(error.value)
