"""Parents whose units are put in the order of the first's: a model that was only permuted is found again."""

from dataclasses import replace
from itertools import pairwise, permutations, product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from rlx.batches import Batch
from rlx.errors import ConfigError
from rlx.merges.base import Align, Tokens
from rlx.merges.linear import LinearConfig
from rlx.models.base import ModelConfig
from rlx.models.folder import describe
from rlx.models.symmetry import RESIDUAL, Group, Order, Part, Symmetry, permuted, symmetry_of
from rlx.options import discover
from rlx.runs.model_directory import save_model_directory
from rlx.stages.merging.alignment import Matching, activations, align, assigned, check_alignment
from rlx.stages.merging.measuring import HeldOut, Meter
from rlx.stages.merging.parents import open_parents
from rlx.stages.merging.tensors import Merged
from rlx.stages.start import load_start
from rlx.types import Split
from tests.stages.merging.folders import saved, words

MODELS: dict[str, dict[str, Any]] = {
    "tied": {"name": "dense", "d_ff": 24},
    "untied": {"name": "dense", "d_ff": 24, "tie_embeddings": False},
    "grouped": {"name": "dense", "n_heads": 6, "head_dim": 4, "n_kv_heads": 2, "qk_norm": True, "d_ff": 24},
    "moe": {"name": "moe", "n_experts": 4, "d_expert": 6},
    "hybrid": {"name": "hybrid", "layers": ["attention", "gssm"], "d_ff": 24},
}


def config_of(case: str) -> ModelConfig:
    fields = dict(MODELS[case])
    return discover("model")[fields.pop("name")].config(**{"d_model": 16, "n_layers": 2, "init_std": 0.3, **fields})


def shuffled(folder: Path, out: Path, case: str, noise: float = 0.0) -> Path:
    """The same model with all its units in another order."""
    symmetry = symmetry_of(config_of(case).build(96))
    torch.manual_seed(7)
    orders = {name: drawn(group) for name, group in symmetry.groups.items()}
    out.mkdir()
    for path in folder.iterdir():
        (out / path.name).write_bytes(path.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    found = {name: permuted(tensor, symmetry.parts[name], orders).clone() for name, tensor in tensors.items()}
    found = {name: tensor + noise * torch.randn(tensor.shape) for name, tensor in found.items()}
    save_file(found, out / "model.safetensors", metadata={"format": "pt"})
    return out


def drawn(group: Group) -> Order:
    inner = torch.stack([torch.randperm(group.inner) for _ in range(group.units)]) if group.inner > 1 else None
    return Order(torch.randperm(group.units), inner)


def outputs(model: Any) -> Tensor:
    tokens = torch.randint(0, 90, (2, 9), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return model.logits(model(tokens)[0])


@pytest.mark.parametrize("case", MODELS)
def test_a_permuted_copy_is_found_again(tmp_path: Path, case: str) -> None:
    one = saved(tmp_path / "a", config=config_of(case))
    other = shuffled(one, tmp_path / "b", case)
    merge = LinearConfig(models=[str(one), str(other)], align=Align.weights)
    own = load_file(one / "model.safetensors")
    with open_parents([one, other], None, merge) as parents:
        assert any(not torch.equal(parents.tensor(1, name), tensor) for name, tensor in own.items())
        report, flops = align(parents, Align.weights, 0, lambda: False, None)
        for name, tensor in own.items():
            torch.testing.assert_close(parents.tensor(1, name), tensor, atol=1e-6, rtol=0)
        assert flops > 0
        (told,) = report
        assert told["before"] < 0.9 and told["after"] == pytest.approx(1, abs=1e-6)
        assert told["sweeps"] == 2 and sum(told["moved"].values()) > 10
        Merged(merge, parents, seed=0).write(tmp_path / "out", lambda: False)
    for name, tensor in load_file(tmp_path / "out" / "model.safetensors").items():
        torch.testing.assert_close(tensor, own[name], atol=1e-6, rtol=0)


@pytest.mark.parametrize("policy", [Tokens.first, Tokens.union], ids=lambda policy: policy.name)
@pytest.mark.parametrize("lacking", [0, 1])
def test_rows_of_tokens_that_a_parent_lacks_are_not_matched(tmp_path: Path, policy: Tokens, lacking: int) -> None:
    """What stands for them is in the first parent's order of units."""
    all_of, some = words(*"abcdefghij"), words("a", "b")
    one = saved(tmp_path / "a", config=config_of("tied"), tokenizer=all_of)
    other = shuffled(one, tmp_path / "b", "tied")
    folders = [one, other]
    tensors = load_file(folders[lacking] / "model.safetensors")
    rows = [all_of.inner.get_vocab()[token] for token in sorted(some.inner.get_vocab(), key=some.inner.get_vocab().get)]
    tensors = {name: x[rows] if name in ("embed.weight", "head.weight") else x for name, x in tensors.items()}
    description = describe(config_of("tied"), some.vocab_size, some.tokens)
    save_model_directory(tmp_path / "c", tensors, description, some.to_json())
    folders[lacking] = tmp_path / "c"
    merge = LinearConfig(models=[str(folder) for folder in folders], align=Align.weights, tokens=policy)
    with open_parents(folders, None, merge) as parents:
        (told,), _ = align(parents, Align.weights, 0, lambda: False, None)
    assert told["after"] == pytest.approx(1, abs=1e-6)


def test_a_permuted_copy_is_found_where_all_weights_at_once_mislead() -> None:
    """What is still in disorder outweighs the embedding."""
    torch.manual_seed(0)
    symmetry = Symmetry(
        {RESIDUAL: Group(30), "g": Group(40)},
        {"e": (Part((5, 30), (None, RESIDUAL)),), "w": (Part((30, 40), (RESIDUAL, "g")),)},
    )
    first = {"e": 0.1 * torch.randn(5, 30), "w": torch.randn(30, 40)}
    orders = {name: drawn(group) for name, group in symmetry.groups.items()}
    other = {name: permuted(tensor, symmetry.parts[name], orders) for name, tensor in first.items()}
    found = Matching(symmetry, first, other, 0, cast(Any, lambda: False)).run("it")
    assert found.after == pytest.approx(1, abs=1e-6)


def test_what_is_found_and_is_worse_is_not_taken() -> None:
    """The embedding says that the stream is swapped, which its small numbers do not pay for."""
    symmetry = Symmetry(
        {RESIDUAL: Group(2), "g": Group(2)},
        {"e": (Part((1, 2), (None, RESIDUAL)),), "w": (Part((2, 2), (RESIDUAL, "g")),)},
    )
    big = torch.tensor([[10.0, 0.0], [0.0, 1.0]])
    first, other = {"e": torch.tensor([[0.1, 0.0]]), "w": big}, {"e": torch.tensor([[0.0, 0.1]]), "w": big}
    found = Matching(symmetry, first, other, 0, cast(Any, lambda: False)).run("it")
    assert found.after == found.before and not any(found.told()["moved"].values())


@pytest.mark.parametrize("case", MODELS)
def test_an_aligned_parent_computes_what_it_did(tmp_path: Path, case: str) -> None:
    one, other = (saved(tmp_path / name, seed, config=config_of(case)) for seed, name in enumerate("ab"))
    before = outputs(load_start(other).model.eval())
    with open_parents([one, other], None, LinearConfig(align=Align.weights)) as parents:
        (told,), _ = align(parents, Align.weights, 0, lambda: False, None)
        torch.testing.assert_close(outputs(parents.start(1).eval()), before, atol=1e-5, rtol=1e-5)
        moved = {name: parents.tensor(1, name) for name in parents.members[1].places}
        first = {name: parents.tensor(0, name) for name in moved}
    norms = [sum(float(t.square().sum()) for t in each.values()) ** 0.5 for each in (first, moved)]
    cosine = sum(float((first[name] * moved[name]).sum()) for name in moved) / (norms[0] * norms[1])
    assert told["after"] == pytest.approx(cosine, abs=1e-5) and told["after"] > told["before"] + 0.01


def meter() -> Meter:
    """Documents of drawn tokens, of two lengths."""
    tokens = torch.randint(0, 90, (8, 24), generator=torch.Generator().manual_seed(3))
    positions = torch.cat([torch.arange(14), torch.arange(8), torch.zeros(2, dtype=torch.int64)]).expand(8, -1)
    documents = torch.tensor([0] * 14 + [1] * 8 + [-1] * 2).expand(8, -1)
    batch = Batch(tokens=tokens, positions=positions, documents=documents, loss_mask=torch.ones(8, 24))
    config = SimpleNamespace(seed=0, trainer=discover("trainer")["cpu"].config())
    return Meter(
        config=cast(Any, config), tokenizer=cast(Any, None), stop=cast(Any, lambda: False),
        held_out=[HeldOut("", 1.0, batch.split(3))], tasks={}, problems=0, samples=1, split=Split.val,
    )  # fmt: skip


@pytest.mark.parametrize("case", MODELS)
def test_a_permuted_copy_is_found_by_what_it_does(tmp_path: Path, case: str) -> None:
    one = saved(tmp_path / "a", config=config_of(case))
    other, own, used = shuffled(one, tmp_path / "b", case), load_file(one / "model.safetensors"), meter()
    with open_parents([one, other], None, LinearConfig(align=Align.activations)) as parents:
        (told,), _ = align(parents, Align.activations, 0, lambda: False, used)
        for name, tensor in own.items():
            torch.testing.assert_close(parents.tensor(1, name), tensor, atol=1e-6, rtol=0)
    assert told["after"] == pytest.approx(1, abs=1e-4) and told["before"] < 0.6
    assert used.flops > 0


def test_activations_are_correlations_over_the_real_tokens(tmp_path: Path) -> None:
    """Of a parent's hidden units and its residual stream, against numpy."""
    one = saved(tmp_path / "a", config=config_of("grouped"))
    with open_parents([one], None, LinearConfig()) as parents:
        model, used = parents.start(0).eval(), meter()
    found = activations(used, model, symmetry_of(model))
    assert set(found) == {"behind 0", "behind 1", *(f"blocks.{n}.{m}" for n in range(2) for m in ("mixer", "channel"))}
    hidden: list[Tensor] = []
    down = cast(Any, model.blocks[1].channel).down
    down.register_forward_pre_hook(lambda _, given: hidden.append(given[0].detach()))
    for batch in used.held_out[0].batches:
        model(batch.tokens, positions=batch.positions, documents=batch.documents)
    x = torch.cat([each[:, :22].flatten(0, 1) for each in hidden]).double().numpy()
    mine = found["blocks.1.channel"].double()
    np.testing.assert_allclose((mine @ mine.T).numpy(), np.corrcoef(x.T), atol=1e-4)
    assert found["blocks.0.mixer"].shape == (2, 3, 4 * len(x)) and found["behind 1"].shape == (16, len(x))


def test_models_that_are_near_are_left_as_they_are(tmp_path: Path) -> None:
    one = saved(tmp_path / "a", config=config_of("grouped"))
    tensors = load_file(one / "model.safetensors")
    near = shuffled(one, tmp_path / "b", "grouped")
    torch.manual_seed(2)
    save_file({n: t + 1e-3 * torch.randn(t.shape) for n, t in tensors.items()}, near / "model.safetensors")
    with open_parents([one, near], None, LinearConfig(align=Align.weights)) as parents:
        (told,), _ = align(parents, Align.weights, 0, lambda: False, None)
    assert not any(told["moved"].values()) and told["after"] == told["before"]


@pytest.mark.parametrize("seed", range(4))
def test_a_nested_group_is_matched_exactly(seed: int) -> None:
    """Against all permutations of two levels."""
    torch.manual_seed(seed)
    first, other = torch.randn(3, 2, 5), torch.randn(3, 2, 5)
    alone, others = torch.randn(3, 4), torch.randn(3, 4)
    symmetry = Symmetry(
        {"g": Group(3, 2)}, {"x": (Part((3, 2, 5), ("g", "g/inner", None)),), "y": (Part((3, 4), ("g", None)),)}
    )
    values = {"x": first, "y": alone}, {"x": other, "y": others}
    found = Matching(symmetry, *values, 0, cast(Any, lambda: False)).run("it")
    best = max(
        float((first * torch.stack([other[u][list(inner)] for u, inner in zip(units, inners, strict=True)])).sum())
        + float((alone * others[list(units)]).sum())
        for units in permutations(range(3))
        for inners in product(permutations(range(2)), repeat=3)
    )
    norms = [sum(float(t.square().sum()) for t in each.values()) ** 0.5 for each in values]
    assert found.after == pytest.approx(best / (norms[0] * norms[1]), abs=1e-6)


def test_assignment_is_scipys() -> None:
    gains = torch.randn(30, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    _, columns = linear_sum_assignment(-gains.numpy())
    assert assigned(gains).tolist() == columns.tolist()


def test_the_sum_never_falls(tmp_path: Path) -> None:
    """Every sweep gains or is the last, from any seed."""
    one, other = (saved(tmp_path / name, seed, config=config_of("grouped")) for seed, name in enumerate("ab"))
    symmetry = symmetry_of(config_of("grouped").build(96))
    values = [load_file(folder / "model.safetensors") for folder in (one, other)]
    for seed in range(4):
        matching = Matching(symmetry, values[0], values[1], seed, cast(Any, lambda: False))
        found = matching.run("it")
        assert found.after > found.before and found.sweeps < 100
        for name in symmetry.groups:
            assert not matching._better(name), "nothing is gained by one more"


def test_what_cannot_be_aligned_is_one_line(tmp_path: Path) -> None:
    one = saved(tmp_path / "a")
    wide = saved(tmp_path / "b", config=replace(config_of("tied"), d_model=24))
    merge = LinearConfig(align=Align.activations)
    with open_parents([one, one], None, merge) as parents:
        check_alignment(merge, parents, measured=True)
        with pytest.raises(ConfigError, match=r"looks at documents; give task= or corpus=text, or take weights"):
            check_alignment(merge, parents, measured=False)
    with open_parents([one, wide], None, merge) as parents, pytest.raises(ConfigError, match="parent 2 has another"):
        check_alignment(merge, parents, measured=True)
    with pytest.raises(ConfigError, match="another order than the base's") as error:
        LinearConfig(align=Align.weights, base="runs/a")
    assert "\n" not in str(error.value)


WIDTH, CLASSES, INPUTS = 128, 10, 16
TOY = Symmetry(
    {"one": Group(WIDTH), "two": Group(WIDTH)},
    {
        "0.weight": (Part((WIDTH, INPUTS), ("one", None)),),
        "0.bias": (Part((WIDTH,), ("one",)),),
        "2.weight": (Part((WIDTH, WIDTH), ("two", "one")),),
        "2.bias": (Part((WIDTH,), ("two",)),),
        "4.weight": (Part((CLASSES, WIDTH), (None, "two")),),
        "4.bias": (Part((CLASSES,), (None,)),),
    },
)


def toy() -> nn.Sequential:
    sizes = INPUTS, WIDTH, WIDTH, CLASSES
    one, two, three = (nn.Linear(a, b) for a, b in pairwise(sizes))
    return nn.Sequential(one, nn.ReLU(), two, nn.ReLU(), three)


def clusters(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Points around three centres a class."""
    centres = 1.2 * torch.randn(3 * CLASSES, INPUTS, generator=torch.Generator().manual_seed(100))
    generator = torch.Generator().manual_seed(seed)
    which = torch.randint(0, len(centres), (count,), generator=generator)
    return centres[which] + torch.randn(count, INPUTS, generator=generator), which % CLASSES


def trained(seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    model, (x, y) = toy(), clusters(4000, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(200):
        rows = torch.randint(0, len(x), (128,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    return model.state_dict()


def barrier(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The most that the held-out loss on the way lies above the chord."""
    model, (x, y) = toy(), clusters(4000, 2)
    losses = []
    for number in range(11):
        model.load_state_dict({name: torch.lerp(one[name], other[name], number / 10) for name in one})
        with torch.no_grad():
            losses.append(float(nn.functional.cross_entropy(model(x), y)))
    return max(
        loss - torch.lerp(*torch.tensor([losses[0], losses[-1]]), n / 10).item() for n, loss in enumerate(losses)
    )


def test_matching_lowers_the_barrier_between_networks_trained_apart() -> None:
    """By at least 30 % for an MLP of two hidden layers; measured: from 0.81 to 0.03 nats."""
    one, other = trained(0), trained(1)
    found = Matching(TOY, one, other, 0, cast(Any, lambda: False)).run("it")
    matched = {name: permuted(tensor, TOY.parts[name], found.orders) for name, tensor in other.items()}
    before, after = barrier(one, other), barrier(one, matched)
    assert before > 0.3 and after <= 0.7 * before
    assert 2 < found.sweeps < 20
