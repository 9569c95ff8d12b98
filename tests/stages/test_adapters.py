"""adapter=lora through the door: a frozen base, an adapter beside it in every checkpoint, and all that reads them."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlx.batches import Extent
from rlx.decoding.engine import Engine
from rlx.nn.lora import attached, is_adapted
from rlx.runs.checksums import check_whole
from rlx.stages.modules import policy
from rlx.stages.start import load_start
from tests.stages.runs import PRETRAIN, digest, evaluation, merge, place, record, rl, rows, sft

LORA = ("adapter=lora", "adapter.rank=2", "optim.lr=1e-2")
ON = "init.state=all"
NAMES = ("adapter_config.json", "adapter_model.safetensors")


def last(run: Path) -> Path:
    return sorted(run.glob("checkpoints/*"))[-1]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def whole(folder: Path) -> dict[str, torch.Tensor]:
    """The weights that a child of a checkpoint begins with."""
    return load_start(folder).model.state_dict()


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def difference(one: dict, other: dict) -> float:
    return max(float((tensor - other[name]).abs().max()) for name, tensor in one.items())


MOE = (*PRETRAIN, "model=moe", "model.n_experts=4", "model.d_expert=24", "model.balance_rate=0.01")


@pytest.fixture
def start(door) -> Path:
    return place(door(*PRETRAIN, "stage.steps=4", "stage.val_every=0").out)


@pytest.fixture
def routed(door) -> Path:
    """A model of experts, whose biases have moved."""
    run = place(door(*MOE, "stage.steps=3", "stage.val_every=0").out)
    assert all(weights(last(run))[f"blocks.{layer}.channel.bias"].any() for layer in range(2))
    return run


def test_the_base_stays_and_the_adapter_lies_beside_it(door, start):
    done = door(*sft(start, *LORA, "adapter.targets=[q,v,down]", "checkpoint.keep=all"))
    assert done.code == 0, done.err
    run = place(done.out)
    counts = record(run)["parameters"]
    assert counts["trained"] == 2 * 2 * (2 * (32 + 32) + (96 + 32))  # layers x rank x (inputs + outputs)
    assert counts["total"] == record(start)["parameters"]["total"] + counts["trained"]
    assert record(start)["parameters"]["trained"] == record(start)["parameters"]["total"]
    assert f"adapter: {counts['trained']:,} of {counts['total']:,} parameters are trained" in done.out
    folders = sorted(run.glob("checkpoints/*"))
    base = weights(last(start))
    assert len(folders) == 4 and all(same(weights(folder), base) for folder in folders)
    adapters = [hashlib.sha256((folder / NAMES[1]).read_bytes()).hexdigest() for folder in folders]
    assert len(set(adapters)) == 4
    sums = (folders[0] / "SHA256SUMS").read_text()
    assert all(name in sums for name in NAMES)
    described = json.loads((folders[0] / NAMES[0]).read_text())
    assert described["r"] == 2 and described["target_modules"] == ["q_proj", "v_proj", "down_proj"]
    moved = whole(folders[-1])
    assert not same(moved, whole(last(start)))
    state = torch.load(folders[-1] / "trainer/state.pt", weights_only=True)
    kept = {id(t): t.numel() for t in _tensors(state["trainer"]["optimizer_states"])}
    assert sum(kept.values()) <= 2 * counts["trained"] + 100


def _tensors(value):
    if torch.is_tensor(value):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)


def test_what_is_trained_is_what_is_evaluated_exported_and_merged(door, start):
    """The held-out loss of the last row, measured with the adapter beside its base, is that of the weights folded."""
    run = place(door(*sft(start, *LORA)).out)
    expected = whole(last(run))
    done = door("stage=export", f"init_from={run}", "stage.to=out")
    assert done.code == 0, done.err
    assert difference(whole(Path("out")), expected) == 0 and not (Path("out") / NAMES[0]).exists()
    full = place(door(*sft(run, "stage.steps=1", "optim=adamw", "optim.lr=1e-9")).out)
    assert rows(full)[0]["val/loss"] == pytest.approx(rows(run)[-1]["val/loss"], abs=1e-6)
    assert not (last(full) / NAMES[0]).exists() and difference(weights(last(full)), weights(last(start))) > 1e-3
    merged = place(door(*merge(start, run)).out)
    mean, base = weights(last(merged)), weights(last(start))
    assert difference(mean, {name: (tensor + expected[name]) / 2 for name, tensor in base.items()}) < 1e-6
    assert difference(mean, base) > 1e-3
    assert door(*evaluation(run, "stage.problems=4")).code == 0


def test_a_second_adapter_is_put_on_the_folded_weights(door, start):
    first = place(door(*sft(start, *LORA)).out)
    second = place(door(*sft(first, *LORA)).out)
    assert difference(weights(last(second)), whole(last(first))) == 0
    assert difference(weights(last(second)), weights(last(start))) > 1e-3
    assert not same(load_file(last(second) / NAMES[1]), load_file(last(first) / NAMES[1]))


def test_two_runs_with_one_adapter_are_one(door, start):
    more = (*LORA, "schedule=constant", "checkpoint.every=6")
    one = place(door(*sft(start, *more, "runs_dir=whole")).out)
    first = place(door(*sft(start, *more, "stage.steps=6")).out)
    second = place(door(*sft(first, *more, ON)).out)
    assert digest(second)["step-000012"] == digest(one)["step-000012"]
    assert [row["train/loss"] for row in rows(second)] == [row["train/loss"] for row in rows(one)[6:]]


OTHERS = {
    "none": ((), "adapter=null but", "give adapter=lora"),
    "another rank": (("adapter=lora", "adapter.rank=3"), "adapter.rank=3 but", "give adapter.rank=2"),
    "other targets": (("adapter=lora", "adapter.rank=2", "adapter.targets=[q,v]"), "adapter.targets=[q,v]", "[all]"),
}


@pytest.mark.parametrize("other, expected, remedy", OTHERS.values(), ids=OTHERS.keys())
def test_another_adapter_cannot_go_on(door, start, other, expected, remedy):
    first = place(door(*sft(start, *LORA, "stage.steps=3")).out)
    done = door(*sft(first, *other, "optim.lr=1e-2", ON))
    assert done.code == 2 and expected in done.err and remedy in done.err and done.err.count("\n") == 1
    done = door(*sft(start, *LORA, ON))
    assert done.code == 2  # the parent is another stage, and had no adapter
    assert len(list(Path("runs").iterdir())) == 2


def test_the_base_of_experts_stays_with_its_biases(door, routed):
    """The bias that balances experts is the base's, as its router is: one base serves all its adapters."""
    done = door(*sft(routed, *LORA, "adapter.targets=[q,experts]", "checkpoint.keep=all", "stage.steps=6"))
    assert done.code == 0, done.err
    run, base = place(done.out), weights(last(routed))
    folders = sorted(run.glob("checkpoints/*"))
    assert len(folders) == 2 and all(same(weights(folder), base) for folder in folders)
    described = json.loads((folders[0] / NAMES[0]).read_text())
    assert described["target_modules"] == ["q_proj"]
    assert described["target_parameters"] == ["gate_up_proj", "down_proj"]
    child = whole(folders[-1])
    moved = {name for name, tensor in base.items() if not torch.equal(tensor, child[name])}
    assert {name.split(".", 2)[2] for name in moved} == {"mixer.qkv.weight", "channel.gate_up", "channel.down"}
    counts, plain = record(run)["parameters"], record(routed)["parameters"]
    each = 2 * (32 + 48 + 24 + 32)  # rank x (inputs + outputs) of gate_up and down
    assert counts["trained"] == 2 * (2 * (32 + 32) + 4 * each)
    assert counts["active"] == plain["active"] + 2 * (2 * (32 + 32) + 2 * each)
    assert max(row["moe/load_max"] for row in rows(run) if "moe/load_max" in row) > 1


def test_two_runs_with_one_adapter_of_experts_are_one(door, routed):
    more = (*LORA, "schedule=constant", "stage.val_every=0", "checkpoint.every=2", "optim=muon")
    one = place(door(*sft(routed, *more, "stage.steps=4", "runs_dir=whole")).out)
    first = place(door(*sft(routed, *more, "stage.steps=2")).out)
    second = place(door(*sft(first, *more, "stage.steps=4", ON)).out)
    assert digest(second)["step-000004"] == digest(one)["step-000004"]
    assert [row["train/loss"] for row in rows(second)] == [row["train/loss"] for row in rows(one)[2:]]


def test_replay_with_adapted_experts(door, routed):
    arguments = rl(routed, *LORA, "adapter.targets=[experts,q]", "stage.replay_routing=true", "stage.val_every=0")
    done = door(*arguments, "algorithm.kl_coefficient=0.1")
    assert done.code == 0, done.err
    found = rows(place(done.out))
    gaps = [row["sampling/sampling_logp_difference/max"] for row in found if row.get("train/grad_norm")]
    assert len(gaps) > 2 and 0 < max(gaps) < 1e-4
    kl = [row["kl"] for row in found if "kl" in row]
    assert abs(kl[0]) < 1e-8 and kl[-1] > 1e-7  # the reference is the start without the adapter


def test_stopped_inside_and_taken_up(door, start, monkeypatch):
    arguments = rl(start, *LORA, "algorithm.minibatches=2", "algorithm.kl_coefficient=0.1")
    unbroken = place(door(*arguments, "runs_dir=whole").out)
    stepped, made = policy.stepped, []

    def breaking(*given):
        made.append(given)
        if len(made) == 8:
            raise KeyboardInterrupt
        return stepped(*given)

    with monkeypatch.context() as patch:
        patch.setattr(policy, "stepped", breaking)
        assert door(*arguments).code == 130
    run = place(door(*arguments).out)
    assert rows(run) == rows(unbroken) and digest(run) == digest(unbroken)
    assert record(run)["parameters"] == record(unbroken)["parameters"]


@pytest.mark.parametrize("precision, limit", [("fp32", 1e-5), ("bf16", 2e-2)])
def test_rl_samples_from_what_it_trains_and_stays_near_the_base(door, start, precision, limit):
    arguments = rl(start, *LORA, "algorithm.kl_coefficient=0.1", f"trainer.precision={precision}", "stage.val_every=0")
    done = door(*arguments)
    assert done.code == 0, done.err
    found = rows(place(done.out))
    gaps = [row["sampling/sampling_logp_difference/mean"] for row in found if row.get("train/grad_norm")]
    assert len(gaps) > 2 and 0 < max(gaps) < limit
    kl = [row["kl"] for row in found if "kl" in row]
    assert abs(kl[0]) < 1e-3 and kl[-1] > 1e-5  # the reference is the start without the adapter


@pytest.mark.parametrize("kind", ["start", "routed"])
def test_the_engine_takes_the_adapter_of_the_moment(kind, request):
    from rlx.adapters.lora import LoraConfig

    found = load_start(last(request.getfixturevalue(kind)))
    LoraConfig(rank=2).attach(found.model)
    engine = Engine(found.model, end_id=1, pad_id=0)
    for _ in range(2):
        for each in attached(found.model):
            torch.nn.init.normal_(each.adapter.factors()[1], std=0.3)
        copy = engine._weights()
        assert not is_adapted(copy)
        tokens = torch.arange(9)[None]
        with torch.no_grad():
            gap = copy.logits(copy(tokens)[0]) - found.model.logits(found.model(tokens)[0])
        assert gap.abs().max() < 1e-4


WRONG = {
    "unknown": ("adapter.targets=[qq]", "did you mean q?"),
    "of another model": ("adapter.targets=[experts]", "no linear layer of this model"),
    "tied head": ("adapter.targets=[head]", "tie_embeddings"),
    "rank": ("adapter.rank=0", "must be at least 1"),
}


@pytest.mark.parametrize("wrong, expected", WRONG.values(), ids=WRONG.keys())
def test_what_a_model_has_not_is_one_line_and_nothing_written(door, wrong, expected):
    begun = place(door(*PRETRAIN, "stage.steps=1", "stage.val_every=0").out)
    for arguments in (sft(begun, *LORA, wrong), [*PRETRAIN, *LORA, wrong]):
        done = door(*arguments)
        assert done.code == 2 and expected in done.err and done.err.count("\n") == 1, done
    assert len(list(Path("runs").iterdir())) == 1
    done = door(*evaluation(begun, "adapter=lora"))
    assert done.code == 2 and "does not use adapter" in done.err


def test_a_lost_or_damaged_adapter_is_told(door, start):
    run = place(door(*sft(start, *LORA)).out)
    path = last(run) / NAMES[1]
    data = path.read_bytes()
    path.write_bytes(data[:-4] + b"\0\0\0\1")
    done = door(*sft(run))
    assert done.code == 2 and NAMES[1] in done.err and done.err.count("\n") == 1
    with pytest.raises(Exception, match=NAMES[1]):
        check_whole(last(run), trainer=False)
    path.unlink()
    (last(run) / "SHA256SUMS").unlink()
    done = door(*sft(run))
    assert done.code == 2 and NAMES[1] in done.err and done.err.count("\n") == 1


def test_no_adapter_is_the_run_that_it_was(door, start):
    plain = place(door(*sft(start, "stage.steps=1")).out)
    asked = place(door(*sft(start, "stage.steps=1", "adapter=null")).out)
    other = place(door(*sft(start, "stage.steps=1", "adapter=lora")).out)
    more = place(door(*sft(start, "stage.steps=1", "adapter=lora", "adapter.alpha=8")).out)
    assert plain == asked and len({plain, other, more}) == 3


def test_an_adapter_beside_an_exported_base_is_read(door, start):
    """As PEFT's files put into the folder of the base."""
    run = place(door(*sft(start, *LORA)).out)
    assert door("stage=export", f"init_from={start}", "stage.to=base").code == 0
    for name in NAMES:
        (Path("base") / name).write_bytes((last(run) / name).read_bytes())
    assert difference(whole(Path("base")), whole(last(run))) == 0
    assert door(*sft("hf:base", "stage.steps=1")).code == 0


def test_the_estimate_counts_the_adapter(door, start):
    from rlx.adapters.lora import LoraConfig
    from rlx.stages.estimate import shape_of

    run = place(door(*sft(start, *LORA)).out)
    config = load_start(last(start)).model_config
    adapted, plain = shape_of(config, 112, LoraConfig(rank=2)), shape_of(config, 112)
    assert adapted.parameters - plain.parameters == record(run)["parameters"]["trained"]
    one = Extent.of(torch.tensor([1]))
    more = adapted.operations.forward(one) - plain.operations.forward(one)
    assert more == 2 * (adapted.parameters - plain.parameters)
