"""merge=lora_...: adapters of one base become one beside it; against PEFT's own merges, and against dense sums."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlx.merges.adapters import Learning, Per
from rlx.merges.base import Factors
from rlx.models.adapters import from_peft
from rlx.nn.lora import attached, folded_tensors
from rlx.stages.estimate import Estimator
from rlx.stages.merging.learning import Matrix, mix, rate
from rlx.stages.start import load_start
from tests.models.foreign import ROWS, a_model, a_tokenizer
from tests.stages.runs import PRETRAIN, place, record, rows, sft

of_peft = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
"""PEFT asks transformers in a way that transformers gives up."""
TOKENS = torch.randint(0, ROWS, (2, 13), generator=torch.Generator().manual_seed(0))
ONE = {"r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj", "down_proj"]}
TWO = {"r": 3, "lora_alpha": 2, "target_modules": ["q_proj", "v_proj", "down_proj"]}
OTHER = {"r": 2, "lora_alpha": 5, "target_modules": ["v_proj", "o_proj", "gate_proj"]}
EXPERTS = {"r": 2, "lora_alpha": 5, "target_modules": ["q_proj"], "target_parameters": ["mlp.experts.gate_up_proj"]}
MORE_EXPERTS = {"r": 2, "lora_alpha": 3, "target_modules": ["v_proj"],
                "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}  # fmt: skip


def base_of(kind: str):
    sizes = {"num_local_experts": 4, "num_experts_per_tok": 2} if kind == "mixtral" else {}
    return a_model(kind, num_key_value_heads=2, tie_word_embeddings=False, **sizes)


def parents(tmp_path: Path, *settings: dict, kind: str = "llama") -> list[Path]:
    """Folders that transformers and PEFT saved: one base, an adapter each."""
    import peft

    folders = []
    for number, values in enumerate(settings):
        folder = tmp_path / f"parent{number}"
        base_of(kind).save_pretrained(folder)
        a_tokenizer().save_pretrained(folder)
        torch.manual_seed(number)
        model = peft.get_peft_model(base_of(kind), peft.LoraConfig(**values, init_lora_weights=False))
        model.save_pretrained(tmp_path / f"adapter{number}")
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copy(tmp_path / f"adapter{number}" / name, folder / name)
        folders.append(folder)
    return folders


def merged(door, folders: list[Path], *more: str) -> Path:
    """The checkpoint of a merge of weights alone."""
    named = ",".join(f"hf:{folder}" for folder in folders)
    done = door("stage=merge", f"merge.models=[{named}]", "trainer.threads=1", *more)
    assert done.code == 0, done.err
    (found,) = place(done.out).glob("checkpoints/*")
    return found


def of_ours(folder: Path) -> torch.Tensor:
    """Logits of what rlx reads in a folder."""
    model = load_start(folder).model.eval()
    with torch.no_grad():
        return model.logits(model(TOKENS)[0])


def with_peft(folder: Path, kind: str = "llama") -> torch.Tensor:
    """Logits of PEFT's model of the base and a folder's adapter."""
    import peft

    model = peft.PeftModel.from_pretrained(base_of(kind), folder).eval()
    with torch.no_grad():
        return model(TOKENS).logits


def by_peft(folders: list[Path], weights: list[float], how: str, **more):
    """PEFT's own merge: its logits, and its tensors."""
    import peft

    one, two = folders  # PEFT takes adapters named 0 and 1 for the layers' numbers
    model = peft.PeftModel.from_pretrained(base_of("llama"), one, adapter_name="one")
    model.load_adapter(two, "two")
    model.add_weighted_adapter(["one", "two"], weights, "new", combination_type=how, **more)
    model.set_adapter("new")
    with torch.no_grad():
        return model.eval()(TOKENS).logits, peft.get_peft_model_state_dict(model, adapter_name="new")


def deltas(folder: Path) -> dict[tuple[str, int | None], torch.Tensor]:
    """What a folder's adapter adds, densely."""
    start = load_start(folder, fold=False)
    described = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    products = from_peft(described, tensors, start.model_config, start.model.vocab_size, folder)
    return {(p.tensor, p.rows.start): p.scale * (p.b.double() @ p.a.double()) for p in products}


def summed(folders: list[Path], weights: list[float]) -> dict[tuple[str, int | None], torch.Tensor]:
    found: dict = {}
    for folder, weight in zip(folders, weights, strict=True):
        for key, delta in deltas(folder).items():
            found[key] = found.get(key, 0) + weight * delta
    return found


def farthest(one: dict, other: dict) -> float:
    assert one.keys() == other.keys()
    return max(float((tensor - other[key]).abs().max()) for key, tensor in one.items())


METHODS = {
    "cat": (["merge=lora_cat"], "cat", {}),
    "linear": (["merge=lora_linear"], "linear", {}),
    "svd": (["merge=lora_svd"], "svd", {}),
    "svd of rank 5": (["merge=lora_svd", "merge.rank=5"], "svd", {"svd_rank": 5}),
}


@of_peft
@pytest.mark.parametrize(("ours", "theirs", "settings"), METHODS.values(), ids=METHODS)
def test_what_peft_makes_of_the_same_weights(door, tmp_path, ours, theirs, settings):
    folders, weights = parents(tmp_path, ONE, TWO), [0.7, -0.4]
    found = merged(door, folders, *ours, "merge.normalize=false", "merge.weights=[0.7,-0.4]")
    expected, tensors = by_peft(folders, weights, theirs, **settings)
    assert (of_ours(found) - expected).abs().max() < 2e-4 and (with_peft(found) - expected).abs().max() < 2e-4
    own = load_file(found / "adapter_model.safetensors")
    assert own.keys() == tensors.keys()
    if "svd" not in theirs:  # where signs are free
        assert all(torch.allclose(own[name], tensor, atol=1e-6) for name, tensor in tensors.items())


@of_peft
@pytest.mark.filterwarnings("ignore:.*_pattern keys did not match any targeted module:RuntimeWarning")
@pytest.mark.parametrize("kind", ["llama", "mixtral"])
def test_the_sum_of_adapters_of_several_ranks_and_targets(door, tmp_path, kind):
    folders = parents(tmp_path, *{"llama": (ONE, OTHER), "mixtral": (EXPERTS, MORE_EXPERTS)}[kind], kind=kind)
    found = merged(door, folders, "merge=lora_cat", "merge.weights=[3,1]")
    assert farthest(deltas(found), summed(folders, [0.75, 0.25])) < 1e-5
    described = json.loads((found / "adapter_config.json").read_text())
    ranks = set(described["rank_pattern"].values()) | {described["r"]}
    assert ranks == ({2, 3, 5} if kind == "llama" else {2, 4}) and described["alpha_pattern"]
    start = load_start(folders[0], fold=False).model.eval()
    weights = start.state_dict()
    for (name, first), delta in summed(folders, [0.75, 0.25]).items():
        first = first or 0
        weights[name][..., first : first + delta.shape[-2], :] += delta.float()
    with torch.no_grad():
        dense = start.logits(start(TOKENS)[0])
    assert (of_ours(found) - dense).abs().max() < 1e-4
    assert (with_peft(found, kind) - dense).abs().max() < 2e-4
    bases = [load_file(folder / "model.safetensors") for folder in (folders[0], found)]
    assert bases[0].keys() == bases[1].keys() and all(torch.equal(t, bases[1][n]) for n, t in bases[0].items())


@of_peft
def test_one_hot_weights_and_order(door, tmp_path):
    folders = parents(tmp_path, ONE, OTHER)
    hot = merged(door, folders, "merge=lora_cat", "merge.weights=[0,1]")
    alone = deltas(folders[1])
    assert all((delta - alone.get(key, 0 * delta)).abs().max() < 1e-6 for key, delta in deltas(hot).items())
    assert (of_ours(hot) - of_ours(folders[1])).abs().max() < 1e-5
    one = merged(door, folders, "merge=lora_cat", "merge.weights=[0.6,0.4]")
    other = merged(door, folders[::-1], "merge=lora_cat", "merge.weights=[0.4,0.6]")
    assert farthest(deltas(one), deltas(other)) < 1e-6
    full = merged(door, folders, "merge=lora_svd", "merge.weights=[0.6,0.4]", "merge.rank=5")
    assert farthest(deltas(full), deltas(one)) < 1e-5


@of_peft
def test_how_far_from_the_sum_is_said(door, tmp_path):
    folders, report = parents(tmp_path, ONE, TWO), {}
    for name in ("cat", "linear", "svd"):
        found = merged(door, folders, f"merge=lora_{name}")
        report[name] = json.loads((found.parents[1] / "merge.json").read_text())["adapter"]
        wanted, made = summed(folders, [0.5, 0.5]), deltas(found)
        between = sum(float((made[key] - delta).square().sum()) for key, delta in wanted.items())
        expected = (between / sum(float(delta.square().sum()) for delta in wanted.values())) ** 0.5
        assert report[name]["sum_error"] == pytest.approx(expected, abs=1e-6)
        (row,) = rows(found.parents[1])
        assert row["merge/sum_error"] == report[name]["sum_error"]
    assert report["cat"]["sum_error"] < 1e-6 and report["linear"]["sum_error"] > 0.1
    assert 0 < report["svd"]["sum_error"] < report["linear"]["sum_error"]
    assert set(report["cat"]["ranks"].values()) == {6} and set(report["svd"]["ranks"].values()) == {3}
    assert report["cat"]["weights"]["model.layers.0.self_attn.q_proj"] == [0.5, 0.5]


@of_peft
def test_the_adapter_may_be_stored_in_fewer_bits(door, tmp_path):
    found = merged(door, parents(tmp_path, ONE, TWO), "merge=lora_cat", "merge.dtype=bfloat16")
    assert {t.dtype for t in load_file(found / "adapter_model.safetensors").values()} == {torch.bfloat16}
    assert {t.dtype for t in load_file(found / "model.safetensors").values()} == {torch.float32}


@of_peft
def test_what_cannot_be_merged_is_one_line(door, tmp_path):
    one, two = parents(tmp_path, ONE, OTHER)
    done = door("stage=merge", "merge=lora_linear", f"merge.models=[hf:{one},hf:{two}]")
    assert done.code == 2 and done.err.count("\n") == 1
    assert "model.layers.0.self_attn.v_proj: ranks 3, 2 cannot be added factor by factor" in done.err
    tensors = load_file(two / "model.safetensors")
    tensors["model.norm.weight"][3] += 1e-3
    save_file(tensors, two / "model.safetensors", metadata={"format": "pt"})
    done = door("stage=merge", "merge=lora_cat", f"merge.models=[hf:{one},hf:{two}]")
    assert (
        done.code == 2 and done.err.count("\n") == 1 and f"{two} has another base than {one}: norm.weight" in done.err
    )
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (two / name).unlink()
    done = door("stage=merge", "merge=lora_cat", f"merge.models=[hf:{one},hf:{two}]")
    assert done.code == 2 and done.err.count("\n") == 1 and f"{two} has no adapter to be merged" in done.err
    done = door("stage=merge", "merge=lora_hub", f"merge.models=[hf:{one},hf:{one}]")
    assert done.code == 2 and "merge=lora_hub finds its weights on documents; give task= or corpus=" in done.err
    assert not list(Path().glob("runs/*"))


# Weights that are learned


def tuned(door, start: Path, *more: str) -> Path:
    return place(door(*sft(start, "adapter=lora", "adapter.rank=2", "optim=adamw", "optim.lr=3e-2", *more)).out)


@pytest.fixture
def pair(door) -> list[Path]:
    """Two runs with adapters on one base."""
    start = place(door(*PRETRAIN, "stage.steps=4", "stage.val_every=0").out)
    return [tuned(door, start, f"seed={seed}", "checkpoint.every=12") for seed in (1, 2)]


def merge(pair: list[Path], *more: str) -> list[str]:
    named = ",".join(map(str, pair))
    return ["task=countdown", "task.numbers=3", "task.trace=operations", "scale=smoke", "trainer.threads=1",
            "stage=merge", f"merge.models=[{named}]", "stage.val_tokens=640", "stage.row_tokens=64", "stage.problems=0",
            "stage.compare=false", *more]  # fmt: skip


LEARN = ("merge=lora_cat", "merge.steps=12", "merge.batch_tokens=256", "merge.warmup=3", "merge.lr=0.3")


def report(run: Path) -> dict:
    return json.loads((run / "merge.json").read_text())["adapter"]


@pytest.mark.parametrize("per", ["module", "layer", "whole"])
@pytest.mark.parametrize("learn", ["softmax", "free"])
def test_weights_are_learned(door, pair, learn, per):
    done = door(*merge(pair, *LEARN, f"merge.learn={learn}", f"merge.per={per}"))
    assert done.code == 0, done.err
    run = place(done.out)
    weights, seen = report(run)["weights"], rows(run)
    assert len(weights) == 2 * 7, "q, k, v, out, gate, up, down of two layers"
    assert len({tuple(each) for each in weights.values()}) == {"module": 14, "layer": 2, "whole": 1}[per]
    sums = [sum(each) for each in weights.values()]
    assert all(abs(each - 1) < 1e-6 for each in sums) == (learn == "softmax")
    assert [row["step"] for row in seen] == list(range(1, 13))
    assert all(one["train/loss"] > 0 and one["flops/train"] > 0 for one in seen)
    spent = [row["flops/train"] for row in seen]
    assert spent == sorted(spent) and record(run)["flops"]["train"] == spent[-1]
    assert record(run)["steps"] == 12 and record(run)["tokens"] == seen[-1]["tokens"] > 0
    (folder,) = run.glob("checkpoints/*")
    assert folder.name == "step-000012"
    own, others = deltas(folder), [deltas(sorted(each.glob("checkpoints/*"))[-1]) for each in pair]
    for (name, first), delta in own.items():
        known = [each[name, first] for each in others]
        fits = [w for w in weights.values() if (delta - w[0] * known[0] - w[1] * known[1]).abs().max() < 1e-6]
        assert fits, f"{name}: the learned weights are in the adapter"


def test_learning_is_the_same_each_time_and_begins_where_it_is_told(door, pair):
    one = place(door(*merge(pair, *LEARN, "merge.learn=softmax")).out)
    again = place(door(*merge(pair, *LEARN, "merge.learn=softmax", "rerun=again")).out)
    assert report(one) == report(again) and rows(one) == rows(again)
    other = place(door(*merge(pair, *LEARN, "merge.learn=softmax", "seed=5")).out)
    assert report(one)["weights"] != report(other)["weights"]
    still = place(door(*merge(pair, *LEARN, "merge.learn=softmax", "merge.lr=1e-12", "merge.init_std=0")).out)
    assert all(abs(w - 0.5) < 1e-6 for each in report(still)["weights"].values() for w in each)
    free = place(door(*merge(pair, *LEARN, "merge.learn=free", "merge.lr=1e-12")).out)
    assert all(abs(w - 0.5) < 1e-6 for each in report(free)["weights"].values() for w in each)


def test_what_is_learned_makes_the_loss_less(door):
    """One adapter is the other's opposite: at equal weights nothing is left, and what is learned leaves the one."""
    start = place(door(*PRETRAIN, "stage.steps=80", "stage.val_every=0", "optim.lr=3e-2", "checkpoint.every=80").out)
    good = sorted(tuned(door, start, "stage.steps=40", "optim.lr=1e-2").glob("checkpoints/*"))[-1]
    shutil.copytree(good, "opposite")
    (Path("opposite") / "SHA256SUMS").unlink()
    tensors = load_file(good / "adapter_model.safetensors")
    save_file(
        {name: -t if "lora_B" in name else t for name, t in tensors.items()}, "opposite/adapter_model.safetensors"
    )
    pair = [good, Path("opposite")]
    told = place(door(*merge(pair, "merge=lora_cat")).out)
    done = door(*merge(pair, *LEARN, "merge.learn=softmax", "merge.steps=40", "merge.init_std=0"))
    learned = place(done.out)
    losses = json.loads((told / "merge.json").read_text())["losses"]
    assert losses["parent_0"][""] < losses["result"][""] - 0.03
    left = rows(learned)[-1]["val/loss"] - losses["parent_0"][""]
    assert left < 0.3 * (losses["result"][""] - losses["parent_0"][""])
    assert all(each[0] > 0.6 for each in report(learned)["weights"].values())
    assert "mixing weights" in done.out and "14 matrices of rank 4, mean weights 0." in done.out


def test_weights_are_searched(door, pair):
    run = place(door(*merge(pair, "merge=lora_hub", "merge.evaluations=9", "merge.batch_tokens=128")).out)
    tried = report(run)["tried"]
    assert len(tried) == 9 and tried[0]["weights"] == [0, 0]
    best = min(tried, key=lambda each: each["value"])["weights"]
    assert all(each == best for each in report(run)["weights"].values())
    assert record(run)["flops"]["train"] > 0 and rows(run)[-1]["step"] == 0
    cat = place(door(*merge(pair, "merge=lora_hub", "merge.combine=cat", "merge.evaluations=9")).out)
    assert report(cat)["sum_error"] < 1e-6 < report(run)["sum_error"]


def test_a_try_says_nothing_of_the_next(door, pair, monkeypatch):
    from rlx.stages.merging import learning

    def search(value, size, **_):
        return [(weights, value(weights)) for weights in ([0.0, 0.0], [1.0, -0.5], [0.3, 0.3], [1.0, -0.5])]

    monkeypatch.setattr(learning, "search", search)
    run = place(door(*merge(pair, "merge=lora_hub", "merge.penalty=0.5")).out)
    values = [each["value"] for each in report(run)["tried"]]
    assert values[1] == values[3] and len(set(values)) == 3
    free = place(door(*merge(pair, "merge=lora_hub", "merge.penalty=0")).out)
    without = [each["value"] for each in report(free)["tried"]]
    assert [a - b for a, b in zip(values, without, strict=True)] == pytest.approx([0, 0.375, 0.15, 0.375], abs=1e-6)


def test_a_merge_that_was_stopped_begins_again(door, pair, monkeypatch):
    from rlx.stages.merging import learning

    whole = place(door(*merge(pair, *LEARN, "merge.learn=softmax", "rerun=whole")).out)
    count, loss = 0, learning.Learner.loss

    def stopped(self, *given):
        nonlocal count
        count += 1
        if count == 6:
            self.stop.signal = 15
        return loss(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(learning.Learner, "loss", stopped)
        done = door(*merge(pair, *LEARN, "merge.learn=softmax"))
    assert done.code == 75, done.err
    run = place(done.out)
    assert 0 < len(rows(run)) < 6 and not list(run.glob("checkpoints/*"))
    shutil.copytree(sorted(pair[0].glob("checkpoints/*"))[-1], run / "checkpoints" / "step-000003")
    done = door(*merge(pair, *LEARN, "merge.learn=softmax"))
    assert [folder.name for folder in run.glob("checkpoints/*")] == ["step-000012"]
    assert done.code == 0 and rows(run) == rows(whole) and report(run) == report(whole)


def test_the_result_is_trained_on_evaluated_and_exported(door, pair):
    run = place(door(*merge(pair, *LEARN, "merge.learn=softmax")).out)
    loss = rows(run)[-1]["val/loss"]
    done = door("stage=export", f"init_from={run}", "stage.to=out")
    assert done.code == 0, done.err
    (folder,) = run.glob("checkpoints/*")
    expected = load_start(folder).model.state_dict()
    got = load_start(Path("out")).model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in got.items())
    more = door(*sft(run, "stage.steps=1", "adapter=lora", "adapter.rank=2", "optim.lr=1e-9", "stage.val_tokens=640"))
    assert more.code == 0 and rows(place(more.out))[0]["val/loss"] == pytest.approx(loss, abs=0.05)
    again = place(door(*merge([run, pair[0]], "merge=lora_cat")).out)
    assert set(report(again)["ranks"].values()) == {6}


def test_only_mixing_numbers_have_gradients(door, pair):
    """And the mixed model is that of the dense sum: u = 0 is the mean of the products."""
    start = load_start(sorted(pair[0].glob("checkpoints/*"))[-1], fold=False)
    factors = []
    for number, run in enumerate(pair):
        folder = sorted(run.glob("checkpoints/*"))[-1]
        described = json.loads((folder / "adapter_config.json").read_text())
        tensors = load_file(folder / "adapter_model.safetensors")
        factors.append(from_peft(described, tensors, start.model_config, start.model.vocab_size, number))
    matrices = [
        Matrix(
            f"m{n}", one.tensor, one.rows, {0: Factors(one.a, one.b, one.scale), 1: Factors(two.a, two.b, two.scale)}
        )
        for n, (one, two) in enumerate(zip(*factors, strict=True))
    ]
    dense = copy.deepcopy(start.model)
    with torch.no_grad():
        for one, two in zip(*factors, strict=True):
            mean = (one.scale * one.b @ one.a + two.scale * two.b @ two.a) / 2
            dense.state_dict()[one.tensor][..., one.rows, :] += mean
    model = start.model
    mixings = mix(model, matrices, Learning(True, Per.module, 1, 1.0, 0, 64, 0.0), 2, seed=0)
    tokens = torch.randint(0, model.vocab_size, (2, 9), generator=torch.Generator().manual_seed(1))
    found, expected = model.logits(model(tokens)[0]), dense.logits(dense(tokens)[0])
    assert (found - expected).abs().max() < 1e-5
    found.logsumexp(-1).sum().backward()
    trained = {id(mixing.raw) for mixing in mixings.values()}
    assert len(trained) == len(matrices)
    for parameter in model.parameters():
        assert (parameter.grad is not None) == (id(parameter) in trained) == parameter.requires_grad
    assert all(mixing.raw.grad.abs().max() > 0 for mixing in mixings.values())
    assert not list(attached(model)) and folded_tensors(model)


def test_the_rate_rises_and_falls():
    learning = Learning(True, Per.module, 10, 2.0, 4, 64, 0.0)
    assert [rate(step, learning) for step in range(4)] == [0.5, 1.0, 1.5, 2.0]
    assert rate(4, learning) == 2.0 and rate(9, learning) == pytest.approx(2.0 / 6) and rate(7, learning) == 1.0
    flat = Learning(True, Per.module, 5, 1.0, 0, 64, 0.0)
    assert [rate(step, flat) for step in range(5)] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])


@pytest.mark.parametrize(
    ("more", "steps"),
    [
        ((*LEARN, "merge.learn=softmax"), 12),
        (("merge=lora_hub", "merge.combine=cat", "merge.evaluations=5"), 0),
        (("merge=lora_cat",), 0),
    ],
    ids=["learned", "searched", "told"],
)
def test_what_it_will_take_is_told(door, pair, asked, more, steps):
    cost = Estimator("runs").estimate(*asked(*merge(pair, *more))).cost
    spent = record(place(door(*merge(pair, *more)).out))["flops"]["train"]
    assert cost is not None and cost.steps == steps
    assert cost.train == pytest.approx(spent, rel=0.1)
