"""`model=gssm`: Mamba-2's logits in transformers, DeltaNet's and the LSTM's layers, fresh weights, sizes, states."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from rlx.batches import Extent
from rlx.decoding.base import DecodeConfig
from rlx.decoding.engine import Engine
from rlx.errors import ConfigError
from rlx.models.base import ModelConfig
from rlx.models.dense import DenseConfig
from rlx.models.gssm import GssmConfig
from rlx.models.size import Operations, matrix_numel, parameter_count
from rlx.nn.cache import StateCache
from rlx.nn.decoder import Decoder
from rlx.nn.delta import Delta
from rlx.nn.rows import Rows
from tests.conftest import environment

VARIANTS: list[dict[str, Any]] = [
    {"layers": ["gssm+none"], "gssm_expand": 2, "gssm_groups": 2, "gssm_dt_max": 0.05},
    {"layers": ["attention", "gssm"], "gssm_heads": 2, "gssm_conv": 2},
    {"layers": ["delta"]},
    {"layers": ["lstm"]},
]
"""Settings that the contract of mixers is tested with."""
VOCAB = 61


def tokens_of(rows: int, length: int) -> torch.Tensor:
    return torch.randint(VOCAB, (rows, length), generator=torch.Generator().manual_seed(2))


def step_cost(model: Decoder, context: int) -> float:
    """Operations of one step of decoding."""
    return Operations(model).forward(Extent.of(torch.tensor([context])), cached=True)


def mixer_numel(width: int, layer: str) -> int:
    model = GssmConfig(d_model=width, n_layers=1, layers=[f"{layer}+none"]).build(VOCAB)
    return parameter_count(model.blocks[0].mixer)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("width", [32, 64, 128, 256, 512])
@pytest.mark.parametrize("layer", ["gssm", "delta", "lstm"])
def test_a_layer_is_as_large_as_one_of_attention(layer: str, width: int) -> None:
    least = 0.85 if (layer, width) in (("gssm", 512), *(("lstm", each) for each in (32, 64, 128, 256, 512))) else 0.98
    assert least < mixer_numel(width, layer) / mixer_numel(width, "attention") < 1.25


def test_parameters_of_mamba_2_by_hand() -> None:
    width, inner, state, groups, heads, conv = 48, 96, 10, 2, 8, 4
    mixed = inner + 2 * groups * state
    expected = width * (inner + mixed + heads) + (conv + 1) * mixed + 3 * heads + inner + inner * width
    model = GssmConfig(
        d_model=width, n_layers=1, layers=["gssm+none"], gssm_expand=2, gssm_state=state, gssm_groups=groups,
        gssm_heads=heads,
    ).build(VOCAB)  # fmt: skip
    assert parameter_count(model.blocks[0].mixer) == expected  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("layer", ["gssm", "delta"])
def test_fresh_decays_and_steps_are_in_mamba_2s_range(layer: str) -> None:
    torch.manual_seed(0)
    heads: dict[str, Any] = {f"{layer}_heads": 128}
    model = GssmConfig(d_model=128, n_layers=4, layers=[layer], **heads).build(VOCAB)
    for block in model.blocks:
        mixer: Any = block.mixer
        rates, steps = mixer.A_log.exp(), nn.functional.softplus(mixer.dt_bias)
        assert 1 <= rates.min() < 2 and 15 < rates.max() <= 16
        assert 0.999e-3 <= steps.min() < 2e-3 and 0.05 < steps.max() <= 0.1001
        assert steps.median() < 0.02, "log-uniform"
        assert 0.45 < mixer.conv.weight.abs().max() <= 0.5
        assert mixer.out.weight.std().item() == pytest.approx(0.02 / 8**0.5, rel=0.1)
    assert not torch.equal(model.blocks[0].mixer.A_log, model.blocks[1].mixer.A_log)  # pyright: ignore


def test_a_fresh_lstm_remembers() -> None:
    """Weights within 1 / sqrt(W), as torch's, and forget gates that begin open."""
    torch.manual_seed(0)
    mixer: Any = GssmConfig(d_model=128, n_layers=1, layers=["lstm"], lstm_width=100).build(VOCAB).blocks[0].mixer
    for weight in (mixer.proj.weight, mixer.again.weight):
        assert 0.099 < weight.abs().max() <= 0.1 and weight.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.02)
    assert mixer.proj.bias.view(4, 100).unique(dim=1).tolist() == [[0.0], [1.0], [0.0], [0.0]]


@pytest.mark.parametrize("layer", ["gssm", "delta", "lstm"])
def test_the_state_is_as_large_at_any_length(layer: str) -> None:
    model = GssmConfig(d_model=32, n_layers=1, layers=[layer]).build(VOCAB)
    mixer = model.blocks[0].mixer
    assert mixer.state_numel(1) == mixer.state_numel(10**6)
    one, other = (model.new_cache(2, length, torch.bfloat16).layers[0] for length in (1, 10**6))
    assert isinstance(one, StateCache)
    assert {name: (x.shape, x.dtype) for name, x in vars(one).items()} == {
        name: (x.shape, x.dtype) for name, x in vars(other).items()
    }
    assert all(x.dtype is torch.float32 for name, x in vars(one).items() if name != "tail"), "the state is not halved"
    costs = {step_cost(model, context) for context in (1, 10**6)}
    assert len(costs) == 1


@pytest.mark.parametrize("layer", ["gssm", "delta"])
@torch.no_grad()
def test_operations_are_those_that_are_counted(layer: str) -> None:
    """Against torch's counter of matrix products; triangular systems and elementwise work are not in its list."""
    from torch.utils.flop_counter import FlopCounterMode

    model = GssmConfig(d_model=64, n_layers=2, layers=[layer]).build(VOCAB)
    with FlopCounterMode(display=False) as counter:
        model.logits(model(tokens_of(2, 128))[0])
    conv = sum(2 * 4 * m.mixer.widths[1] for m in model.blocks)  # pyright: ignore
    solved = 0 if layer == "gssm" else sum(32 * m.mixer.heads * (16 + 32) for m in model.blocks)  # pyright: ignore
    whole = Extent.spans(torch.tensor([1, 1]), torch.tensor([128, 128]))
    found = Operations(model).forward(whole) - 256 * (conv + solved)
    assert found == pytest.approx(counter.get_total_flops(), rel=0.01)
    assert matrix_numel(model) > 2 * 4 * 64 * 64


@torch.no_grad()
def test_the_delta_layer_is_transformers() -> None:
    pytest.importorskip("transformers")
    from transformers import Qwen3NextConfig
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet

    config = Qwen3NextConfig(
        hidden_size=32, linear_num_value_heads=2, linear_num_key_heads=2, linear_key_head_dim=6,
        linear_value_head_dim=16, linear_conv_kernel_dim=4, rms_norm_eps=1e-5, num_hidden_layers=2,
    )  # fmt: skip
    theirs = Qwen3NextGatedDeltaNet(config, 0).eval()
    ours = Delta(d_model=32, width=32, heads=2, state=6, conv=4, norm_eps=1e-5)
    generator = torch.Generator().manual_seed(0)
    for parameter in theirs.parameters():
        parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    heads = theirs.in_proj_qkvz.weight.unflatten(0, (2, 6 + 6 + 16 + 16)).split((6, 6, 16, 16), dim=1)
    q, k, v, z = (x.flatten(0, 1) for x in heads)
    rates, steps = (x.flatten(0, 1) for x in theirs.in_proj_ba.weight.unflatten(0, (2, 2)).split((1, 1), dim=1))
    ours.proj.weight.copy_(torch.cat([z, q, k, v, rates, steps]))
    for mine, other in ((ours.conv.weight, theirs.conv1d.weight), (ours.dt_bias, theirs.dt_bias),
                        (ours.A_log, theirs.A_log), (ours.norm.weight, theirs.norm.weight),
                        (ours.out.weight, theirs.out_proj.weight)):  # fmt: skip
        mine.copy_(other)
    x = torch.randn(2, 45, 32, generator=generator)
    from rlx.kernels.base import Impl

    rows = Rows(positions=torch.arange(45)[None], given={"starts": None, "real": None, "impl/delta": Impl.torch})
    torch.testing.assert_close(ours(x, rows=rows), theirs(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"gssm_heads": 5}, "model.gssm_heads=5 does not divide gssm_expand x d_model=48; try 4 or 6"),
        ({"gssm_groups": 3, "gssm_heads": 4}, "model.gssm_groups=3 does not divide model.gssm_heads=4"),
        ({"gssm_expand": 0}, "model.gssm_expand=0 must be at least 1"),
        ({"gssm_state": 0}, "model.gssm_state=0 must be at least 1"),
        ({"gssm_conv": 0}, "model.gssm_conv=0 must be at least 1"),
        ({"gssm_dt_min": 0.2, "gssm_dt_max": 0.1}, "must be at least 0 and below gssm_dt_max=0.1"),
        ({"layers": ["delta"], "delta_heads": 5}, "model.delta_heads=5 does not divide model.d_model=48"),
        ({"layers": ["delta"], "delta_key": 0}, "model.delta_key=0 must be at least 1"),
        ({"layers": ["lstm"], "lstm_width": 0}, "model.lstm_width=0 must be at least 1"),
        ({"layers": ["attention"], "n_heads": 5}, "model.n_heads=5 does not divide"),
        ({"layers": ["gsm"]}, "names gsm, which is no mixer; did you mean gssm"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value.split()[0],
)
def test_wrong_sizes_are_one_line(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        GssmConfig(**{"d_model": 48, **settings})
    assert says in str(error.value) and "\n" not in str(error.value)


def test_settings_of_layers_that_are_not_there_are_not_looked_at() -> None:
    GssmConfig(d_model=30, n_heads=4, layers=["gssm"])


def test_its_own_layer_is_not_written() -> None:
    assert GssmConfig(layers=["gssm+mlp"]) == GssmConfig()
    assert [each.name for each in GssmConfig(layers=["attention", "gssm"], n_layers=2).pattern()] == [
        "attention+mlp", "gssm+mlp",
    ]  # fmt: skip


def test_without_numbers_nothing_heavy_is_imported() -> None:
    text = (
        "import sys\nfrom rlx.models.gssm import GssmConfig\nfrom rlx.models.size import parameter_count\n"
        "from rlx.models.adapters import without_numbers\n"
        "print(parameter_count(without_numbers(GssmConfig(layers=['gssm', 'delta', 'lstm']), 50)))\n"
        "print(*[name for name in ('torch._dynamo', 'sympy', 'fla') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, env=environment(), timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(parameter_count(GssmConfig(layers=["gssm", "delta", "lstm"]).build(50)))]


@pytest.mark.parametrize("layer", ["gssm", "delta", "lstm"])
@torch.no_grad()
def test_tokens_after_a_rows_end_leave_no_trace(layer: str) -> None:
    """To the bit, whatever they are; a row of one token too."""
    torch.manual_seed(0)
    model = GssmConfig(d_model=32, n_layers=2, layers=[layer], init_std=0.3).build(VOCAB)
    tokens, lengths, found = tokens_of(3, 40), torch.tensor([1, 33, 40]), []
    for junk in (0, 7):
        padded = tokens.masked_fill(torch.arange(40) >= lengths[:, None], junk)
        cache = model.new_cache(3, 40)
        model(padded, cache=cache, slots=40, lengths=lengths)
        found.append([tensor for each in cache.layers for tensor in vars(each).values()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def configs_of(layer: str) -> tuple[ModelConfig, ModelConfig]:
    return DenseConfig(d_model=64), GssmConfig(d_model=64, layers=[layer])


@pytest.mark.parametrize(("layer", "each"), [("gssm", 5), ("delta", 7)])
def test_a_step_is_counted_by_its_recurrence(layer: str, each: int) -> None:
    """Of every number of the state: decay, what comes in (2; the delta rule reads first, 2 more), what is read (2)."""
    model = GssmConfig(d_model=64, n_layers=3, layers=[layer]).build(VOCAB)
    size = sum(block.mixer.size * block.mixer.width for block in model.blocks)  # pyright: ignore
    assert step_cost(model, 10) == 2 * matrix_numel(model) + each * size


@pytest.mark.parametrize("layer", ["gssm", "delta"])
def test_a_step_costs_the_same_however_long_the_row_is(layer: str) -> None:
    dense, fixed = (config.build(VOCAB) for config in configs_of(layer))
    assert step_cost(fixed, 10) == step_cost(fixed, 10**5)
    assert step_cost(dense, 10**5) > 5 * step_cost(fixed, 10**5)


@pytest.mark.parametrize("layer", ["gssm", "delta", "lstm"])
@torch.no_grad()
def test_the_engine_draws_what_full_passes_say(layer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts of unequal length, rows that end and take the next sample, rows that are dropped."""
    monkeypatch.setattr("rlx.decoding.engine.REFILL_SHARE", 0.3)
    torch.manual_seed(0)
    model = GssmConfig(d_model=32, n_layers=2, layers=[layer], init_std=0.4).build(8)
    prompts = [(tokens_of(1, length)[0] % 8).tolist() for length in (1, 7, 3, 12, 40, 2)]
    engine = Engine(model, end_id=5, pad_id=0)
    decode = DecodeConfig(temperature=1.0, max_tokens=9, rows=4)
    done = engine.complete(prompts, keys=list(range(6)), samples=2, decode=decode)
    assert 0 < int(done.finished.sum()) < 12
    for row in range(12):
        drawn = done.tokens[row, : done.lengths[row]]
        whole = torch.tensor([[*prompts[row // 2], *drawn.tolist()]])
        logs = model.logits(model(whole)[0])[0].log_softmax(-1)[len(prompts[row // 2]) - 1 : -1]
        expected = logs.gather(1, drawn[:, None])[:, 0]
        torch.testing.assert_close(done.logprobs[row, : len(drawn)], expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("layer", ["gssm", "delta", "lstm"])
@torch.no_grad()
def test_half_precision_decodes_as_it_trains(layer: str) -> None:
    """What the engine casts once, autocast casts in every pass of the trainer: no weight is rounded in one alone."""
    torch.manual_seed(0)
    model = GssmConfig(d_model=32, n_layers=2, layers=[layer], init_std=0.4).build(8)
    prompts = [(tokens_of(1, length)[0] % 8).tolist() for length in (1, 7, 3)]
    with torch.autocast("cpu", torch.bfloat16):
        decode = DecodeConfig(temperature=1.0, max_tokens=9, rows=3)
        done = Engine(model, end_id=8, pad_id=0).complete(prompts, keys=[0, 1, 2], samples=1, decode=decode)
        for prompt, drawn, logprobs in zip(prompts, done.tokens, done.logprobs, strict=True):
            whole = model.logits(model(torch.tensor([[*prompt, *drawn.tolist()]]))[0])[0].float().log_softmax(-1)
            expected = whole[len(prompt) - 1 : -1].gather(1, drawn[:, None])[:, 0]
            torch.testing.assert_close(logprobs, expected, atol=4e-3, rtol=0)


@pytest.mark.parametrize("layer", ["gssm", "delta", "lstm"])
def test_half_precision_trains_and_decodes(layer: str) -> None:
    torch.manual_seed(0)
    model = GssmConfig(d_model=32, n_layers=2, layers=[layer]).build(VOCAB)
    tokens, documents = tokens_of(2, 40), torch.tensor([[0] * 10 + [1] * 25 + [-1] * 5] * 2)
    exact = model.logits(model(tokens, documents=documents)[0])
    with torch.autocast("cpu", torch.bfloat16):
        found = model.logits(model(tokens, documents=documents)[0])
        found.float().square().mean().backward()
        cache = model.new_cache(2, 41, torch.bfloat16)
        whole = model(tokens)[0]
        model(tokens[:, :39], cache=cache)
        last = model(tokens[:, 39:], positions=torch.full((2, 1), 39), cache=cache)[0]
    assert (found.float() - exact).abs().max() < 0.05 * exact.abs().max()
    assert (last[:, 0].float() - whole[:, -1].float()).abs().max() < 0.1
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
