"""What the merge stage gathers of models, against one document at a time, and merges that ask for it."""

from copy import deepcopy
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from rlx.batches import Batch
from rlx.data.corpora.mixture import MixtureConfig
from rlx.data.corpora.task import TaskCorpusConfig
from rlx.decoding.logprobs import token_logprobs
from rlx.merges.fisher import FisherConfig, Labels
from rlx.models.base import ModelConfig
from rlx.nn.decoder import Decoder
from rlx.nn.experts import Experts
from rlx.options import discover
from rlx.stages.merging.measuring import Meter
from rlx.stages.merging.statistics import Fisher, alone, gather
from rlx.types import Split
from tests.conftest import COUNTDOWN
from tests.stages.runs import PRETRAIN, place, rows, sft

VOCAB = 11


def model_of(name: str = "dense", **fields: Any) -> Decoder:
    torch.manual_seed(0)
    config: ModelConfig = discover("model")[name].config(d_model=16, n_layers=2, init_std=0.3, **fields)
    return config.build(VOCAB)


def rows_of(lengths: list[list[int]], size: int) -> Batch:
    """Rows of documents of these lengths, the first two tokens of each being given."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, VOCAB, (len(lengths), size), generator=generator)
    positions, documents, mask = (torch.zeros(len(lengths), size, dtype=torch.int64) for _ in range(3))
    documents -= 1
    for row, parts in enumerate(lengths):
        start = 0
        for number, length in enumerate(parts):
            span = slice(start, start + length)
            positions[row, span], documents[row, span] = torch.arange(length), number
            mask[row, start + 2 : start + length] = 1
            start += length
    return Batch(tokens=tokens, positions=positions, documents=documents, loss_mask=mask.float())


BATCH = rows_of([[6, 5], [4, 4, 3], [12]], 12)


def meter_of(**settings: Any) -> Meter:
    config = SimpleNamespace(seed=0, merge=FisherConfig(**settings), trainer=discover("trainer")["cpu"].config())
    return Meter(
        config=cast(Any, config),
        tokenizer=cast(Any, None),
        stop=cast(Any, lambda: False),
        held_out=[],
        tasks={},
        problems=0,
        samples=1,
        split=cast(Any, None),
    )


def test_documents_are_taken_out_of_their_rows() -> None:
    found = alone(BATCH)
    assert [part.tokens.shape[1] for part in found] == [6, 5, 4, 4, 3, 12]
    assert torch.equal(torch.cat([part.tokens[0] for part in found[:2]]), BATCH.tokens[0, :11])
    assert all(part.loss_mask[0, 2:].all() and not part.loss_mask[0, :2].any() for part in found)


def per_document(model: Decoder, documents: Tensor, score: Any) -> dict[str, Tensor]:
    """Mean of the squared gradients of score(logits, tokens) of documents [N, T], by torch.func."""
    weights = {name: weight.detach() for name, weight in model.named_parameters()}

    def scored(values: dict[str, Tensor], tokens: Tensor) -> Tensor:
        hidden, _ = functional_call(model, values, (tokens[None],))
        logits = hidden @ values.get("head.weight", values["embed.weight"]).T
        return score(logits, tokens[None])

    grads = vmap(grad(scored), in_dims=(None, 0), randomness="error")(weights, documents)
    return {name: each.square().mean(0) for name, each in grads.items()}


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of vmap over attention
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_the_empirical_fisher_is_that_of_one_gradient_a_document(tied: bool) -> None:
    model = model_of(tie_embeddings=tied)
    batch = rows_of([[6, 6], [6, 6], [6]], 14)
    documents = torch.cat([part.tokens for part in alone(batch)])
    found = gather("fisher", meter_of(labels=Labels.data), model, [batch], "it")
    expected = per_document(model, documents, lambda logits, tokens: token_logprobs(logits, tokens)[0, 2:].sum())
    assert found.keys() == expected.keys() == dict(model.named_parameters()).keys()
    for name, fisher in expected.items():
        torch.testing.assert_close(found[name], fisher, atol=1e-7, rtol=1e-4)


def test_drawn_labels_estimate_the_fisher_of_the_next_token() -> None:
    """E sum_t (d log p(y_t) / dW)^2 over all labels of all places, weighted by the model's own probabilities."""
    model = model_of(n_heads=2)
    batch = rows_of([[4]], 4)
    weights = list(model.named_parameters())
    expected = {name: torch.zeros_like(weight) for name, weight in weights}
    logprobs = model.logits(model(batch.tokens)[0])[0].log_softmax(-1)
    for place_, label in [(p, y) for p in (1, 2) for y in range(VOCAB)]:
        grads = torch.autograd.grad(logprobs[place_, label], [w for _, w in weights], retain_graph=True)
        for (name, _), each in zip(weights, grads, strict=True):
            expected[name] += logprobs[place_, label].exp().detach() * each.square()
    many = [batch] * 1000
    found = gather("fisher", meter_of(), model, many, "it")
    for name in ("embed.weight", "norm.weight", "blocks.1.channel.down.weight"):
        assert (found[name] - expected[name]).norm() < 0.15 * expected[name].norm(), name


def test_the_same_model_has_the_same_fisher_again() -> None:
    model = model_of()
    once, again = (gather("fisher", meter_of(), deepcopy(model), [BATCH], "it") for _ in range(2))
    data = gather("fisher", meter_of(labels=Labels.data), model, [BATCH], "it")
    assert all(torch.equal(once[name], again[name]) for name in once)
    assert not any(torch.equal(once[name], data[name]) for name in once)


def heard(model: Decoder, kind: type[nn.Module]) -> dict[str, list[Any]]:
    """What modules get and give, document by document."""
    found: dict[str, list[Any]] = {}
    for name, module in model.named_modules():
        if isinstance(module, kind):
            found[name] = []
            module.register_forward_hook(lambda _, given, out, name=name: found[name].append((given[0], out)))
    for part in alone(BATCH):
        with torch.no_grad():
            model.logits(model(part.tokens)[0])
    return found


@pytest.mark.parametrize(
    "fields",
    [{"tie_embeddings": False}, {"name": "gssm"}, {"name": "moe", "n_experts": 3, "top_k": 2, "n_shared_experts": 1}],
    ids=["dense", "gssm", "moe"],
)
def test_gram_matrices_are_of_all_real_tokens(fields: dict[str, Any]) -> None:
    model = model_of(**fields)
    found = gather("inputs", meter_of(), model, BATCH.split(2), "it")
    for name, parts in heard(deepcopy(model), nn.Linear).items():
        if name == "head" and model.tied:
            assert "head.weight" not in found
            continue
        x = torch.cat([given.flatten(0, 1) for given, _ in parts]).double()
        torch.testing.assert_close(found[f"{name}.weight"], x.T @ x, atol=1e-4, rtol=1e-4)


def test_gram_matrices_and_usage_of_experts() -> None:
    model = model_of("moe", n_experts=3, top_k=2)
    found, usage = (gather(what, meter_of(), model, BATCH.split(2), "it") for what in ("inputs", "usage"))
    calls = heard(deepcopy(model), Experts)
    assert usage.keys() == {f"{name}.{own}" for name in calls for own in ("router", "gate_up", "down", "bias")}
    for name, parts in calls.items():
        module = cast(Experts, model.get_submodule(name))
        x = torch.cat([given[0] for given, _ in parts])
        chosen = torch.cat([out[1].routing[0].chosen[0] for _, out in parts])
        for expert in range(3):
            own = x[(chosen == expert).any(-1)]
            gate, up = (own @ module.gate_up[expert].T).chunk(2, -1)
            hidden = (nn.functional.silu(gate) * up).detach().double()
            own = own.double()
            torch.testing.assert_close(found[f"{name}.gate_up"][expert], own.T @ own, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(found[f"{name}.down"][expert], hidden.T @ hidden, atol=1e-4, rtol=1e-4)
            assert usage[f"{name}.bias"][expert] == (chosen == expert).sum() == len(own)
    assert all(load.sum() == 34 * 2 for load in usage.values())


MERGE = (*COUNTDOWN, "trainer.threads=1", "stage=merge", "stage.val_tokens=640", "stage.problems=0",
         "stage.path_points=0", "merge.stat_tokens=1280")  # fmt: skip
MIXED = "corpus=mixture", "corpus.sources={own:{weight:0.5},copy:{task:copy,weight:0.5}}"


def weights(run: Any) -> dict[str, Tensor]:
    return load_file(sorted(run.glob("checkpoints/*/model.safetensors"))[-1])


@pytest.mark.parametrize("method", ["fisher", "regmean"])
def test_a_model_with_itself_is_itself(door: Any, method: str) -> None:
    start = place(door(*PRETRAIN, "stage.steps=2", "model.tie_embeddings=false").out)
    done = door(*MERGE, f"merge={method}", f"merge.models=[{start},{start}]")
    assert done.code == 0, done.err
    run = place(done.out)
    for name, tensor in weights(run).items():
        torch.testing.assert_close(tensor, weights(start)[name], atol=1e-6, rtol=1e-5)
    assert not (run / "statistics").exists()
    (row,) = rows(run)
    plain = door(*MERGE, "merge=linear", f"merge.models=[{start},{start}]")
    (other,) = rows(place(plain.out))
    assert row["flops/eval"] > other["flops/eval"], "gathering counts"


def test_parents_are_measured_on_their_own_sources(door: Any) -> None:
    start = place(door(*PRETRAIN, "stage.steps=2", *MIXED).out)
    tuned = place(door(*sft(start, *MIXED)).out)
    found = {}
    for sources in ("[own,copy]", "[copy,own]", None):
        told = [] if sources is None else [f"merge.sources={sources}"]
        done = door(*MERGE, *MIXED, *told, "merge=regmean", f"merge.models=[{start},{tuned}]")
        assert done.code == 0, done.err
        run = place(done.out)
        found[sources] = weights(run)["blocks.0.channel.down.weight"]
        (row,) = rows(run)
        assert {"val/loss", "val/loss/own", "val/loss/copy", "merge/barrier"} <= row.keys()
    values = list(found.values())
    assert not any(torch.equal(values[one], values[other]) for one, other in ((0, 1), (0, 2), (1, 2)))
    for told, says in (
        (["merge.sources=[own,nope]"], "merge.sources has nope, which is no source of the corpus; did you mean copy?"),
        (["merge.sources=[own]"], "merge.sources has 1 names for 2 models"),
    ):
        done = door(*MERGE, *MIXED, *told, "merge=regmean", f"merge.models=[{start},{tuned}]")
        assert done.code == 2 and done.err.count("\n") == 1 and says in done.err
    done = door(*MERGE, "merge.sources=[a,b]", "merge=fisher", f"merge.models=[{start},{tuned}]")
    assert done.code == 2 and "no source of the corpus; take corpus=mixture" in done.err
    done = door(*MERGE, "merge.sources=[a,b]", "merge=linear", f"merge.models=[{start},{tuned}]")
    assert done.code == 2 and "this merge has none; leave it out" in done.err


def test_the_rule_gets_what_was_gathered_of_each_parent(door: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each parent on training documents of its own source, with its own norm, solutions alone counting."""
    start = place(door(*PRETRAIN, "stage.steps=2", *MIXED).out)
    tuned = place(door(*sft(start, *MIXED)).out)
    asked, seen, source, mean = [], [], MixtureConfig.source, FisherConfig.mean

    def recording(self: Any, name: str, *given: Any, **named: Any) -> Any:
        asked.append((name, named["split"], named["whole"]))
        return source(self, name, *given, **named)

    def told(self: FisherConfig, given: Any) -> Tensor:
        seen.append((given.statistics, given.norms))
        return mean(self, given)

    monkeypatch.setattr(MixtureConfig, "source", recording)
    monkeypatch.setattr(FisherConfig, "mean", told)
    done = door(*MERGE, *MIXED, "merge.sources=[own,copy]", "merge=fisher", f"merge.models=[{start},{tuned}]")
    assert done.code == 0, done.err
    assert asked == [("own", Split.train, False), ("copy", Split.train, False)]
    assert len(seen) == len(weights(start))
    for number in range(2):
        squares = [each[0][number].double().square().sum() for each in seen]
        norm = float(torch.stack(squares).sum().sqrt())
        assert norm > 0 and all(each[1][number] == pytest.approx(norm) for each in seen)
    assert not any(torch.equal(statistics[0], statistics[1]) for statistics, _ in seen)

    asked.clear()
    build = TaskCorpusConfig.build

    def built(self: Any, *given: Any, **named: Any) -> Any:
        if "statistics" in named["key"]:
            asked.append((named["split"], named["whole"]))
        return build(self, *given, **named)

    monkeypatch.setattr(TaskCorpusConfig, "build", built)
    assert door(*MERGE, "merge=regmean", f"merge.models=[{start},{tuned}]").code == 0
    assert asked == [(Split.train, False)] * 2


def test_without_documents_nothing_is_gathered(door: Any) -> None:
    start = place(door(*PRETRAIN, "stage.steps=2").out)
    done = door("scale=smoke", "stage=merge", "merge=fisher", f"merge.models=[{start},{start}]")
    assert done.code == 2 and done.err.count("\n") == 1
    assert "merge=fisher measures the parents on documents; give task=" in done.err


def test_stopping_while_gathering_leaves_nothing(door: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from rlx.signals import stop

    start = place(door(*PRETRAIN, "stage.steps=2").out)
    add, calls = Fisher.add, []

    def stopping(self: Fisher, batch: Batch) -> None:
        add(self, batch)
        calls.append(1)
        if len(calls) == 3:
            stop.signal = 15

    with monkeypatch.context() as patch:
        patch.setattr(Fisher, "add", stopping)
        done = door(*MERGE, "merge=fisher", f"merge.models=[{start},{start}]")
    assert done.code == 75 and len(calls) == 3
    run = place(done.out)
    assert not (run / "statistics").exists() and not list(run.glob("checkpoints/*"))
    (run / "statistics").mkdir()
    (run / "statistics" / "parent_0.safetensors").write_text("left by a killed attempt")
    assert door(*MERGE, "merge=fisher", f"merge.models=[{start},{start}]").code == 0
    assert not (run / "statistics").exists() and weights(run)


def test_experts_are_averaged_by_how_often_they_are_used(door: Any) -> None:
    one, other = (place(door(*PRETRAIN, "stage.steps=2", "model=moe", f"seed={n}").out) for n in (0, 1))
    runs = []
    for by in ("weights", "usage"):
        done = door(*MERGE, "merge=experts", f"merge.by={by}", f"merge.models=[{one},{other}]")
        assert done.code == 0, done.err
        runs.append(weights(place(done.out)))
    differ = {name for name in runs[0] if not torch.equal(runs[0][name], runs[1][name])}
    assert differ and all(".channel." in name for name in differ)
