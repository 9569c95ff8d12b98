"""model=moe: what its sizes mean, the published ones included; aux losses, loads and biases in training; routing that
is recorded while sampling and replayed in updates."""

import json
import signal
from pathlib import Path
from shutil import which
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlx.decoding.engine import Engine
from rlx.decoding.logprobs import token_logprobs
from rlx.decoding.sample import SampleConfig
from rlx.errors import ConfigError
from rlx.models.dense import DenseConfig
from rlx.models.layers.experts import WithExperts
from rlx.models.moe import MoeConfig
from rlx.models.size import matrix_numel, parameter_counts
from rlx.nn.experts import Experts, Router, routed_layers
from tests.conftest import COUNTDOWN
from tests.stages.runs import digest, place, rl, rows

VARIANTS: list[dict[str, Any]] = [
    {"n_experts": 4, "top_k": 1},
    {"n_experts": 6, "top_k": 3, "n_shared_experts": 1, "router": Router.sigmoid},
    {"layers": ["attention+mlp", "attention+experts"], "n_experts": 3, "qk_norm": True},
]
"""Settings that the contract of mixers is tested with."""
SMALL = ("stage.batch_tokens=256", "stage.row_tokens=64", "stage.val_tokens=256", "trainer.threads=1")
PRETRAIN = (*COUNTDOWN, *SMALL, "stage=pretrain", "model=moe", "stage.steps=5", "stage.val_every=3",
            "checkpoint.every=2", "model.balance_rate=0.001")  # fmt: skip


def on_meta(config: MoeConfig, vocab_size: int) -> Any:
    with torch.device("meta"):
        return config.build(vocab_size)


@pytest.mark.parametrize(
    ("width", "n_experts", "total", "active"), [(512, 8, 320e6, 170e6), (1024, 16, 1.9e9, 470e6)], ids=["d512", "d1024"]
)
def test_published_sizes(width: int, n_experts: int, total: float, active: float) -> None:
    """arXiv 2508.18672: 16 layers, experts of width 2 d, 2 a token, about 99.6k tokens and two embeddings."""
    vocab = 99_600
    config = MoeConfig(
        d_model=width, n_layers=16, n_heads=8, n_experts=n_experts, d_expert=2 * width, tie_embeddings=False
    )
    model = on_meta(config, vocab)
    formula = [16 * (4 * width**2 + count * 6 * width**2) + 2 * vocab * width for count in (n_experts, 2)]
    small = 16 * (n_experts * width + 2 * width) + width  # routers and norms
    counts = parameter_counts(model)
    assert (counts["total"], counts["active"]) == (formula[0] + small, formula[1] + small)
    assert counts["total"] == pytest.approx(total, rel=0.02)
    assert counts["active"] == pytest.approx(active, rel=0.02)
    assert matrix_numel(model) == formula[1] - vocab * width + 16 * n_experts * width


@pytest.mark.parametrize("parts", [(1, 0), (2, 0), (3, 0), (4, 1), (7, 1)], ids=str)
@pytest.mark.parametrize("d_ff", [None, 200])
def test_a_token_meets_as_many_weights_as_in_dense(parts: tuple[int, int], d_ff: int | None) -> None:
    top_k, shared = parts
    config = MoeConfig(d_model=64, n_experts=16, top_k=top_k, n_shared_experts=shared, d_ff=d_ff)
    dense, moe = DenseConfig(d_model=64, d_ff=d_ff).build(50), config.build(50)
    rounding = 3 * 64 * 4 * (top_k + shared) / 2  # half a column of every expert that a token meets
    routers = sum(layer.router.numel() for layer in routed_layers(moe))
    counts = parameter_counts(dense)
    assert abs(parameter_counts(moe)["active"] - routers - counts["total"]) <= rounding
    assert counts["active"] == counts["total"]
    assert matrix_numel(moe) - routers == pytest.approx(matrix_numel(dense), abs=rounding)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"top_k": 9}, r"model\.top_k=9 is more than model\.n_experts=8"),
        ({"top_k": 0}, r"model\.top_k=0 must be at least 1"),
        ({"n_experts": 0}, r"model\.n_experts=0 must be at least 1"),
        ({"d_expert": 0}, r"model\.d_expert=0 must be at least 1"),
        ({"n_shared_experts": -1}, r"model\.n_shared_experts=-1 must be at least 0"),
        ({"balance_loss": -0.1}, r"model\.balance_loss=-0\.1 must be at least 0"),
        ({"router_z_loss": float("nan")}, r"model\.router_z_loss=nan must be at least 0"),
        ({"balance_rate": -1.0}, r"model\.balance_rate=-1\.0 must be at least 0"),
        ({"top_k": 1, "renormalise": True}, r"makes every gate 1 and the router learns nothing"),
        ({"layers": ["attention+expert"]}, "did you mean experts"),
    ],
    ids=lambda value: None if isinstance(value, str) else next(iter(value)),
)
def test_wrong_settings_are_one_line(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        MoeConfig(**settings)
    assert "\n" not in str(error.value)


def test_every_routed_layer_has_its_number_and_its_init() -> None:
    config = MoeConfig(d_model=64, n_layers=5, layers=["mlp", "experts*2", "mlp", "experts"], n_shared_experts=1)
    model = config.build(50)
    assert [layer.number for layer in routed_layers(model)] == [0, 1, 2]
    assert len(model(torch.zeros(1, 3, dtype=torch.int64))[1].routing) == 3
    for layer in routed_layers(model):
        assert isinstance(layer, Experts) and layer.shared is not None
        for weight, std in ((layer.gate_up, 0.02), (layer.router, 0.02), (layer.down, 0.02 / 10**0.5),
                            (layer.shared.down.weight, 0.02 / 10**0.5)):  # fmt: skip
            assert weight.std().item() == pytest.approx(std, rel=0.1)


def test_what_touches_no_tensor_may_change() -> None:
    plain = MoeConfig().build(50).state_dict()
    free = {
        "router": Router.sigmoid,
        "renormalise": False,
        "balance_loss": 0.5,
        "router_z_loss": 0.5,
        "balance_rate": 1.0,
    }
    assert WithExperts.tensor_free >= free.keys() and MoeConfig.tensor_free >= free.keys()
    other = MoeConfig(**free).build(50).state_dict()
    assert {name: t.shape for name, t in other.items()} == {name: t.shape for name, t in plain.items()}


def trained(door: Any, *arguments: str) -> Path:
    done = door(*arguments)
    assert done.code == 0, done.err
    return place(done.out)


def test_a_run_says_how_its_experts_are_loaded(door: Any) -> None:
    run = trained(door, *PRETRAIN)
    found = rows(run)
    for row in found:
        assert row["moe/dropped"] == 0 and row["moe/load_min"] <= 1 <= row["moe/load_max"] and row["moe/load_cv"] > 0
        assert 0 < row["moe/entropy"] <= torch.tensor(8.0).log() + 1e-6
        assert row["moe/balance_loss"] == pytest.approx(0.01 * 2, rel=0.2), "two layers, nearly even"
    shares = {name: value for name, value in found[0].items() if name.startswith("moe/share/")}
    assert shares.keys() == {f"moe/share/{layer}/{expert}" for layer in range(2) for expert in range(8)}
    assert sum(shares.values()) == pytest.approx(2) and max(shares.values()) * 8 == pytest.approx(
        found[0]["moe/load_max"]
    )
    assert not any(name.startswith("moe/share/") for name in found[1])
    bias = load_file(run / "checkpoints/step-000005/model.safetensors")["blocks.0.channel.bias"] / 0.001
    torch.testing.assert_close(bias, bias.round(), atol=1e-3, rtol=0)
    assert bias.abs().max() <= 5.01 and bias.unique().numel() > 1


def test_parts_of_a_step_count_together(door: Any) -> None:
    """The bias moves once a step by the load of all of them; train/loss is the cross-entropy alone."""
    short = (*PRETRAIN, "stage.steps=1", "model.balance_loss=0")
    whole = trained(door, *short)
    parts = trained(door, *short, "stage.micro_batches=4")
    for one, two in zip(rows(whole), rows(parts), strict=True):
        for name in ("train/loss", "moe/load_max", "moe/entropy", "moe/router_z_loss", "val/loss"):
            assert name not in one or one[name] == pytest.approx(two[name], rel=1e-4), name
    one, two = (load_file(run / "checkpoints/step-000001/model.safetensors") for run in (whole, parts))
    assert torch.equal(one["blocks.1.channel.bias"], two["blocks.1.channel.bias"])
    assert one["blocks.1.channel.bias"].abs().max() > 0
    heavy = rows(trained(door, *PRETRAIN, "stage.steps=1", "model.balance_loss=10"))[0]
    assert heavy["moe/balance_loss"] > 10
    assert heavy["train/loss"] == rows(whole)[0]["train/loss"]
    assert heavy["train/grad_norm"] != rows(whole)[0]["train/grad_norm"]


def test_parts_weigh_by_all_their_tokens(door: Any) -> None:
    """In sft and rl few tokens count in the loss, and other shares of them in every part."""
    heavy = ("model=moe", "model.balance_loss=0", "model.router_z_loss=10", "stage.steps=1")
    tuning = [argument for argument in PRETRAIN if argument.split("=")[0] not in ("stage", "model", "stage.steps")]
    tuning = ["stage=sft", *tuning, *heavy]
    start = trained(door, *tuning)
    learning = rl(start, *heavy, "stage.val_every=0", "stage.preflight_problems=0")
    for command, parts in ((tuning, "stage.micro_batches=4"), (learning, "stage.micro_rows=3")):
        one, two = (rows(trained(door, *command, *more, "rerun=parts"))[0] for more in ((), (parts,)))
        for name in ("moe/router_z_loss", "train/grad_norm", "moe/load_max"):
            assert one[name] == pytest.approx(two[name], rel=2e-5), name


@pytest.mark.parametrize("optim", ["adamw", "muon"])
def test_a_stopped_run_goes_on_with_the_same_bits(door: Any, monkeypatch: pytest.MonkeyPatch, optim: str) -> None:
    """Biases included: they are in the checkpoint."""
    from rlx.runs.metrics import MetricsLog
    from rlx.signals import stop

    arguments = [*PRETRAIN, f"optim={optim}"]
    whole = trained(door, *arguments, "runs_dir=whole")
    append, count = MetricsLog.append, 0

    def stopping(log: MetricsLog, row: dict) -> None:
        nonlocal count
        append(log, row)
        count += 1
        if count == 3:
            stop.signal = signal.SIGTERM

    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "append", stopping)
        assert door(*arguments).code == 75
    broken = trained(door, *arguments)
    assert rows(broken) == rows(whole) and digest(broken)["step-000005"] == digest(whole)["step-000005"]


@pytest.mark.slow
@pytest.mark.skipif(which("g++") is None, reason="compiling needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")
def test_compiled_training_is_the_same(door: Any) -> None:
    short = (*PRETRAIN, "stage.steps=3", "stage.val_every=0", "model.n_layers=1")
    plain, made = (rows(trained(door, *short, *more)) for more in ((), ("trainer.compile=true", "runs_dir=other")))
    for one, two in zip(plain, made, strict=True):
        for name in ("train/loss", "moe/balance_loss", "moe/entropy"):
            assert two[name] == pytest.approx(one[name], rel=1e-4)
        assert one["moe/load_max"] == pytest.approx(two["moe/load_max"], rel=0.05)


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(2, 12, (length,), generator=generator).tolist() for length in (1, 6, 3, 9, 2)]


def sampler(compile: bool = False) -> Engine:
    torch.manual_seed(0)
    model = MoeConfig(d_model=32, n_layers=3, layers=["experts", "mlp", "experts"], init_std=0.25).build(12)
    with torch.no_grad():
        for layer in routed_layers(model):
            layer.bias.normal_(std=0.1)
    return Engine(model, end_id=1, pad_id=0, compile=compile)


@pytest.mark.parametrize("batch", [2, 64])
def test_the_recorded_routing_is_that_of_a_full_pass(prompts: list[list[int]], batch: int) -> None:
    """For every token of prompt and completion but the last, with rows that are refilled and dropped."""
    engine, decode = sampler(), SampleConfig(max_tokens=10, rows=batch)
    keys = list(range(5))
    done = engine.complete(prompts, keys=keys, samples=3, decode=decode, routing=True)
    plain = engine.complete(prompts, keys=keys, samples=3, decode=decode)
    assert plain.routing is None and torch.equal(plain.tokens, done.tokens)
    assert done.routing is not None and done.routing.shape == (15, 19, 2, 2)
    assert done.lengths.unique().numel() > 1
    for row in range(15):
        prompt, drawn = prompts[row // 3], int(done.lengths[row])
        tokens = torch.tensor([[*prompt, *done.tokens[row, : drawn - 1].tolist()]])
        with torch.no_grad():
            aux = engine.model(tokens)[1]
        passed = tokens.shape[1]
        for number, routing in enumerate(aux.routing):
            assert torch.equal(done.routing[row, :passed, number].long(), routing.chosen[0])
        assert (done.routing[row, passed:] == -1).all()


def test_biases_reach_the_copy_that_samples_in_bfloat16(prompts: list[list[int]]) -> None:
    """The copy outlives the call: what training changed since must be in it."""
    engine, decode = sampler(), SampleConfig(max_tokens=4)
    with torch.autocast("cpu", torch.bfloat16):
        engine.complete(prompts, keys=list(range(5)), samples=1, decode=decode)
        with torch.no_grad():
            for layer in routed_layers(engine.model):
                layer.bias.zero_()
                layer.bias[5] = 100.0
        done = engine.complete(prompts, keys=list(range(5)), samples=1, decode=decode, routing=True)
    assert done.routing is not None and (done.routing[:, 0] == 5).any(-1).all()


GAP = "sampling/sampling_logp_difference"


def test_replayed_updates_see_what_was_sampled(door: Any) -> None:
    """In float32 the gap is as in dense, rounding alone."""
    start = trained(door, *PRETRAIN, "runs_dir=start", "model.init_std=0.3")
    short = ("stage.steps=2", "stage.val_every=0", "stage.preflight_problems=0", "stage.prompts=8")
    replayed = rows(trained(door, *rl(start, *short, "stage.replay_routing=true")))
    assert all(row[f"{GAP}/mean"] <= 1e-5 for row in replayed if f"{GAP}/mean" in row)
    assert all(0 < row[f"{GAP}/max"] <= 1e-4 for row in replayed if f"{GAP}/max" in row)
    for row in replayed:
        assert row["moe/dropped"] == 0 and row["moe/balance_loss"] > 0


def test_replay_shrinks_the_gap_of_sampling_in_bfloat16(prompts: list[list[int]]) -> None:
    """Against a pass in float32, where choices flip that were close; the gates are those of float32."""
    engine = sampler()
    with torch.autocast("cpu", torch.bfloat16):
        done = engine.complete(
            prompts * 8, keys=list(range(40)), samples=4, decode=SampleConfig(max_tokens=10), routing=True
        )
    assert done.routing is not None
    gaps: dict[bool, list[float]] = {True: [], False: []}
    for row in range(len(done.tokens)):
        prompt, drawn = (prompts * 8)[row // 4], int(done.lengths[row])
        tokens = torch.tensor([[*prompt, *done.tokens[row, :drawn].tolist()]])
        routing = done.routing[row, : tokens.shape[1], None].permute(2, 1, 0, 3).long()  # [L, 1, T, K]
        for replays, found in gaps.items():
            with torch.no_grad():
                hidden, aux = engine.model(tokens, routing=routing if replays else None)
                logprobs = token_logprobs(engine.model.logits(hidden), tokens)[0, len(prompt) :]
            found += (logprobs - done.logprobs[row, :drawn]).abs().tolist()
            assert not replays or torch.equal(aux.routing[1].chosen[0, :-1], routing[1, 0, :-1])
    held, free = (sum(gaps[replays]) / len(gaps[replays]) for replays in (True, False))
    assert 0 < held < 0.9 * free


def test_a_model_that_routes_nothing_replays_nothing(door: Any) -> None:
    start = trained(door, *[part for part in PRETRAIN if "moe" not in part and "balance" not in part], "runs_dir=start")
    done = door(*rl(start, "stage.replay_routing=true"))
    assert done.code == 2 and "stage.replay_routing=true: the model has no experts" in done.err
    assert not list(Path().glob("*/*-rl-*")), "nothing is written"


def test_a_run_of_moe_is_exported(door: Any) -> None:
    transformers = pytest.importorskip("transformers")
    run = trained(door, *[part for part in PRETRAIN if "balance" not in part])
    assert door("stage=export", f"init_from={run}", "stage.to=out").code == 0
    theirs = transformers.AutoModelForCausalLM.from_pretrained("out", dtype=torch.float32, local_files_only=True)
    assert type(theirs).__name__ == "MixtralForCausalLM"
    from rlx.stages.start import load_start

    start = load_start(sorted(run.glob("checkpoints/*"))[-1])
    tokens = torch.randint(start.model.vocab_size, (2, 20), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = theirs.eval()(tokens).logits
        torch.testing.assert_close(start.model.logits(start.model(tokens)[0]), expected, atol=1e-4, rtol=0)
    assert json.loads(Path("out/config.json").read_text())["num_local_experts"] == 8
    done = door("stage=export", f"init_from={trained(door, *PRETRAIN, 'runs_dir=biased')}", "stage.to=other")
    assert done.code == 2 and "bias is not zero" in done.err
