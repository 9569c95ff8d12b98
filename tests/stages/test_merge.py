"""stage=merge: what is merged, and what is measured of parents and result."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlx.data.stored import cache_folder
from rlx.nn.decoder import Decoder
from rlx.runs import checksums
from rlx.runs.checksums import check_whole, sums_of, write_checksums
from rlx.stages.merging import measuring
from rlx.stages.merging.adapters import _weight_sums
from rlx.stages.merging.kept import weights_hash
from tests.conftest import COUNTDOWN, only
from tests.stages.merging.folders import saved
from tests.stages.runs import PRETRAIN, arithmetic_of, merge, place, record, rows, sft

MERGE = (*COUNTDOWN, "trainer.threads=1", "stage=merge", "merge=linear", "stage.val_tokens=640", "stage.problems=4",
         "stage.samples=2", "decode.max_tokens=6", "stage.path_points=3")  # fmt: skip


def weights(run):
    return load_file(sorted(run.glob("checkpoints/*/model.safetensors"))[-1])


def test_merge_of_two_runs(door):
    start = place(door(*PRETRAIN).out)
    tuned = place(door(*sft(start)).out)
    done = door(*MERGE, f"merge.models=[{start},{tuned}]", "merge.weights=[1,3]")
    assert done.code == 0, done.err
    run = place(done.out)
    first, second, result = weights(start), weights(tuned), weights(run)
    for name, tensor in result.items():
        assert (tensor - (0.25 * first[name] + 0.75 * second[name])).abs().max() < 1e-6
    (row,) = rows(run)
    parents = [row["merge/parent_0/val_loss"], row["merge/parent_1/val_loss"]]
    assert abs(row["merge/barrier"] - (row["val/loss"] - sum(parents) / 2)) < 1e-12
    lineage = record(run)["lineage"]
    assert set(lineage) == {str(start), str(tuned), str(run)}
    assert door(*sft(run)).code == 0


def test_models_that_do_not_fit_are_one_line(door):
    start = place(door(*PRETRAIN).out)
    wide = place(door(*PRETRAIN, "model.d_model=48").out)
    done = door(*MERGE, f"merge.models=[{start},{wide}]")
    assert done.code == 2 and "d_model" in done.err and len(done.err.strip().splitlines()) == 1
    other = place(door(*PRETRAIN, "model=iha").out)
    done = door(*MERGE, f"merge.models=[{start},{other}]")
    assert done.code == 2 and done.err.count("\n") == 1
    assert f"differ in their model: dense in {start}/checkpoints" in done.err and f", iha in {other}/" in done.err
    nope = place(door(*PRETRAIN, "model.layers=[attention.nope,attention]").out)
    done = door(*MERGE, f"merge.models=[{start},{nope}]")
    assert done.code == 2 and done.err.count("\n") == 1 and "differ in model.layers: None in" in done.err
    assert "['attention.nope+mlp', 'attention+mlp'] in" in done.err
    assert not list(Path().glob("*/*-merge-*")), "nothing is written"


def test_precision_is_that_of_the_trainer(door, monkeypatch):
    start = place(door(*PRETRAIN).out)
    seen = arithmetic_of(monkeypatch, Decoder, "run")
    done = door(*MERGE, f"merge.models=[{start},{start}]", "trainer.precision=bf16")
    assert done.code == 0 and seen and all(seen)


def pair(door, *more: str) -> tuple[Path, Path, Path]:
    """A run and two that began from it."""
    start = place(door(*PRETRAIN, *more).out)
    return start, place(door(*sft(start)).out), place(door(*sft(start, "optim.lr=3e-2")).out)


def test_parents_and_result_are_evaluated_on_the_task(door):
    _, one, other = pair(door)
    run = place(door(*merge(one, other)).out)
    (row,) = rows(run)
    found = json.loads((run / "eval.json").read_text())
    assert (found["task"], found["n_problems"], found["n_samples"]) == ("countdown", 4, 2)
    assert [found["models"][f"parent_{n}"]["reference"] for n in (0, 1)] == [str(one), str(other)]
    for n in (0, 1):
        theirs = found["models"][f"parent_{n}"]["tasks"]["countdown"]
        assert [problem["id"] for problem in theirs["problems"]] == [problem["id"] for problem in found["problems"]]
        assert row[f"merge/parent_{n}/countdown/pass@1"] == theirs["metrics"]["eval/countdown/pass@1"]
    assert row["eval/countdown/pass@1"] == found["metrics"]["eval/countdown/pass@1"]
    assert row["flops/eval"] == row["flops/total"] > 0 and row["flops/train"] == 0


def test_an_evaluation_is_that_of_the_eval_stage(door):
    _, one, other = pair(door)
    run = place(door(*merge(one, other)).out)
    asked = ("stage.problems=4", "stage.samples=2", "decode.max_tokens=6", "trainer.threads=1")
    for reference, mine in ((run, None), (one, "parent_0")):
        alone = place(door("stage=eval", *COUNTDOWN, f"init_from={reference}", *asked).out)
        found = json.loads((run / "eval.json").read_text())
        found = found if mine is None else found["models"][mine]["tasks"]["countdown"]
        expected = json.loads((alone / "eval.json").read_text())
        assert {name: found[name] for name in expected} == expected


def test_what_is_measured_of_parents_is_kept(door, monkeypatch, tmp_path):
    """Merges that share parents measure them once, and count it as if they had not."""
    monkeypatch.setenv("RLX_CACHE", str(tmp_path / "cache"))
    _, one, other = pair(door)
    evaluated, walked = [], []
    evaluations, path = measuring.Meter.evaluations, measuring.path

    def evaluate(self, model, label):
        evaluated.append(label)
        return evaluations(self, model, label)

    monkeypatch.setattr(measuring.Meter, "evaluations", evaluate)
    monkeypatch.setattr(measuring, "path", lambda *given: walked.append(1) or path(*given))
    first = place(door(*merge(one, other)).out)
    assert evaluated == ["parent 0", "parent 1", "result"] and walked == [1]
    again = place(door(*merge(one, other, "rerun=again")).out)
    assert evaluated[3:] == ["result"] and walked == [1]
    assert rows(first) == rows(again)
    place(door(*merge(one, other, "merge.weight=0.25")).out)
    assert evaluated[4:] == ["result"] and walked == [1]
    place(door(*merge(one, other, "stage.samples=3")).out)
    assert evaluated[5:] == ["parent 0", "parent 1", "result"], "another question"
    for path_ in cache_folder("merges").glob("*.json"):
        path_.write_text("{")
    assert rows(place(door(*merge(one, other, "rerun=torn")).out)) == rows(first), "torn files are made anew"


def test_the_way_between_two_parents(door):
    start, one, other = pair(door)
    run = place(door(*merge(one, other, "stage.path_points=3")).out)
    found = json.loads((run / "merge.json").read_text())
    assert found["base"] == f"{start}/checkpoints/step-000012"
    (way,) = found["likeness"]["pairs"]
    (row,) = rows(run)
    ends = [row["merge/parent_0/val_loss"], row["merge/parent_1/val_loss"]]
    assert way["path"] == pytest.approx([ends[0], row["val/loss"], ends[1]], abs=1e-6), "linear merges lie on it"
    rise = max(0, row["val/loss"] - sum(ends) / 2)
    assert row["merge/barrier_height"] == pytest.approx(rise, abs=1e-6) and row["merge/convexity_gap"] >= rise - 1e-6
    first, second, base = (
        torch.cat([tensor.flatten() for _, tensor in sorted(weights(each).items())]).double()
        for each in (one, other, start)
    )
    cosine = torch.cosine_similarity(first - base, second - base, dim=0).item()
    assert row["merge/cosine"] == pytest.approx(cosine, abs=1e-4) == way["cosine"]
    assert found["likeness"]["of"] == "differences"
    assert len(way["cka"]) == 2 and all(value <= 1 for value in way["cka"])
    alone = place(door(*merge(one, other, "stage.compare=false")).out)
    assert "likeness" not in json.loads((alone / "merge.json").read_text())


def test_a_model_is_wholly_like_itself(door):
    start = place(door(*PRETRAIN).out)
    run = place(door(*merge(start, start)).out)
    (row,) = rows(run)
    assert row["merge/cka"] == pytest.approx(1, abs=1e-6) and row["merge/convexity_gap"] == 0
    assert row["merge/barrier"] == 0


def test_strangers_are_told_by_name(door):
    one, other = (place(door(*PRETRAIN, f"seed={seed}").out) for seed in (0, 1))
    done = door(*merge(one, other))
    assert f"alarm: {one} and {other} share no ancestor" in done.out
    run = place(done.out)
    assert any("share no ancestor" in sentence for sentence in record(run)["alarms"])
    found = json.loads((run / "merge.json").read_text())
    assert found["base"] is None and found["likeness"]["of"] == "weights" and found["unrelated"] == [[0, 1]]
    child = place(door(*sft(one)).out)
    related = door(*merge(one, child))
    assert "alarm" not in related.out and "alarms" not in record(place(related.out))
    assert json.loads((place(related.out) / "merge.json").read_text())["unrelated"] == []
    three = place(door(*merge(one, child), f"merge.models=[{one},{other},{child}]").out)
    assert json.loads((three / "merge.json").read_text())["unrelated"] == [[0, 1], [1, 2]]


def test_parents_of_unknown_origin_are_told_in_one_line(door, tmp_path):
    start, one, _ = pair(door)
    for name in ("a", "b"):
        shutil.copytree(next(one.glob("checkpoints/*")), name)
    done = door(*merge(start, one), f"merge.models=[{start},hf:a,{one},hf:b]", "stage.problems=0")
    assert done.code == 0, done.err
    told = [line for line in done.out.splitlines() if "alarm" in line]
    assert len(told) == 1 and "nothing says where hf:a and hf:b came from" in told[0], told
    check_whole(next(place(done.out).glob("checkpoints/*")))


def test_a_checkpoint_that_an_attempt_left_is_made_anew(door, monkeypatch):
    start, one, _ = pair(door)
    with monkeypatch.context() as patched:
        patched.setattr("rlx.stages.merge.write_eval", lambda *given: 1 / 0)
        broken = door(*merge(start, one, "stage.problems=0"))
    (run,) = Path().glob("*/*-merge-*/seed0")
    path = only(f"{run}/checkpoints/*") / "model.safetensors"
    assert broken.code
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    done = door(*merge(start, one, "stage.problems=0"))
    assert done.code == 0, done.err
    check_whole(path.parent)
    assert path.read_bytes()[-4:] != b"\0\0\0\0", "nothing of the earlier attempt is taken"


def test_weights_are_summed_while_they_are_written(door, monkeypatch):
    start, one, _ = pair(door)
    read, real = [], checksums._sum
    monkeypatch.setattr(checksums, "_sum", lambda path: read.append(str(path)) or real(path))
    run = place(door(*merge(start, one, "stage.problems=0", "stage.compare=false")).out)
    own = [Path(path).name for path in read if "-merge-" in path]
    assert "config.json" in own and "model.safetensors" not in own
    assert "model.safetensors" in sums_of(only(f"{run}/checkpoints/*"))


def test_a_ceiling_is_measured_beside_them(door):
    start, one, other = pair(door)
    run = place(door(*merge(one, other, f"stage.ceiling={start}")).out)
    (row,) = rows(run)
    assert {"merge/ceiling/val_loss", "merge/ceiling/countdown/pass@1"} <= row.keys()
    assert str(start) not in [parent["reference"] for parent in record(run)["parents"]]
    assert run != place(door(*merge(one, other)).out), "the result is another"


MIXED = "corpus.sources={easy:{task:countdown,weight:0.5,settings:{max_number:25}},words:{task:copy,weight:0.5}}"


@pytest.mark.parametrize("name", ["merge.base", "stage.ceiling"])
def test_a_damaged_base_or_ceiling_is_refused_as_a_parent_is(door, name):
    start, one, other = pair(door)
    shutil.copytree(next(start.glob("checkpoints/step-000012")), "damaged")
    weights_of = Path("damaged/model.safetensors")
    weights_of.write_bytes(weights_of.read_bytes()[:-1] + b"\x01")
    done = door(*merge(one, other, f"{name}=damaged"))
    assert done.code == 2 and "damaged/model.safetensors is not what was written" in done.err
    assert done.err.count("\n") == 1 and not list(Path().glob("*/*-merge-*")), "nothing is written"


def test_every_task_of_a_mixture_is_measured(door):
    _, one, other = pair(door)
    done = door(*merge(one, other, "corpus=mixture", MIXED, "stage.val_tokens=2048", "stage.row_tokens=1024"))
    assert done.code == 0, done.err
    run = place(done.out)
    (row,) = rows(run)
    for name in ("countdown", "easy", "words"):
        assert f"eval/{name}/pass@1" in row and f"merge/parent_1/{name}/pass@1" in row
    assert {"val/loss/easy", "val/loss/words", "merge/parent_0/val_loss/words"} <= row.keys()
    assert row["val/loss"] == pytest.approx((row["val/loss/easy"] + row["val/loss/words"]) / 2, rel=0.05)
    found = json.loads((run / "eval.json").read_text())
    assert found["task"] == "countdown" and set(found["tasks"]) == {"easy", "words"}
    assert set(found["models"]["parent_0"]["tasks"]) == {"countdown", "easy", "words"}


def test_without_a_task_weights_alone_are_merged(door):
    _, one, other = pair(door)
    done = door("stage=merge", "merge=linear", f"merge.models=[{one},{other}]", "trainer.threads=1")
    assert done.code == 0, done.err
    run = place(done.out)
    assert run.parent.name.startswith("any-dense-merge-") and "weights alone" in done.out
    (row,) = rows(run)
    assert not any(name.startswith(("val/", "eval/")) for name in row) and not (run / "eval.json").exists()
    assert load_file(run / "checkpoints/step-000000/model.safetensors").keys() == weights(one).keys()


def test_folders_that_rlx_has_no_model_for(door):
    from safetensors.torch import save_file

    for name in ("x", "y"):
        Path(name).mkdir()
        save_file({"h.0.w": torch.randn(3, 3)}, f"{name}/model.safetensors")
        Path(name, "config.json").write_text('{"model_type": "gpt_bigcode"}')
    command = ("stage=merge", "merge=linear", "merge.models=[hf:x,y]", "trainer.threads=1")
    done = door(*command)
    assert done.code == 0, done.err
    assert "nothing says where hf:x and y came from" in done.out
    held = load_file(place(done.out) / "checkpoints/step-000000/model.safetensors")["h.0.w"]
    ends = [load_file(f"{name}/model.safetensors")["h.0.w"] for name in ("x", "y")]
    torch.testing.assert_close(held, (ends[0] + ends[1]) / 2)
    refused = door(*command, *COUNTDOWN)
    assert refused.code == 2 and refused.err.count("\n") == 1
    assert "model_type=gpt_bigcode" in refused.err and "leave task= and corpus= out" in refused.err


def test_a_tokenizer_that_cannot_read_the_task_is_one_line(door):
    from tests.stages.merging.folders import words

    for name in ("x", "y"):
        saved(Path(name), 0, tokenizer=words("a", "b"))
    done = door(*merge("x", "y"))
    assert done.code and done.err.count("\n") == 1 and "has no token for" in done.err


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("stage.path_points=1", "stage.path_points=1 must be 0, or at least 2"),
        ("stage.samples=0", "stage.samples=0 must be at least 1"),
        ("stage.problems=-1", "stage.problems=-1 must be at least 0"),
        ("init_from=x", "leave init_from out"),
        ("merge.models=[x]", "merge=linear needs at least 2 parents, got 1"),
        ("merge.models=[x,y]", "x is not there"),
        ("merge.weight=x", "merge.weight"),
    ],
)
def test_wrong_values_are_one_line(door, given, says):
    done = door(*merge("a", "b"), given)
    assert done.code == 2 and done.err.count("\n") == 1 and says in done.err
    assert not list(Path().glob("*/*-merge-*"))


def test_what_is_kept_is_known_by_parents_and_base_apart(door, monkeypatch, tmp_path):
    """Three parents, and two with the third as base: the same folders in the same order."""
    monkeypatch.setenv("RLX_CACHE", str(tmp_path / "cache"))
    one, other, third = (place(door(*PRETRAIN, f"seed={seed}").out) for seed in (0, 1, 2))
    common = ("stage.problems=0", "stage.path_points=3")
    three = [*merge(one, other), f"merge.models=[{one},{other},{third}]", *common]
    two = [*merge(one, other), f"merge.base={third}", *common]
    for first, second in ((three, two), (two, three)):
        for path in cache_folder("merges").glob("*.json"):
            path.unlink()
        found = {}
        for arguments in (first, second):
            run = place(door(*arguments, f"rerun=x{len(first)}{arguments is first}").out)
            found[len(json.loads((run / "merge.json").read_text())["models"])] = json.loads(
                (run / "merge.json").read_text()
            )["likeness"]
        assert len(found[3]["pairs"]) == 3 and found[3]["of"] == "weights"
        assert len(found[2]["pairs"]) == 1 and found[2]["of"] == "differences"
    (row,) = rows(place(door(*three).out))
    pairs = found[3]["pairs"]
    for name in ("barrier_height", "convexity_gap"):
        assert row[f"merge/{name}"] == max(pair[name] for pair in pairs), "the worst of three unequal ones"
        assert len({pair[name] for pair in pairs}) == 3


def test_what_is_kept_is_known_by_how_it_was_computed(monkeypatch, tmp_path):
    from types import SimpleNamespace

    from rlx.data.tokenizers.char import CharConfig
    from rlx.decoding.sample import SampleConfig
    from rlx.stages.merging.measuring import Meter
    from rlx.trainers.base import Precision
    from rlx.trainers.cpu import CpuConfig
    from rlx.types import Split

    def asked(threads: int = 1, **trainer) -> dict:
        torch.set_num_threads(threads)
        config = SimpleNamespace(decode=SampleConfig(), trainer=CpuConfig(**trainer), seed=0)
        meter = Meter(config=config, tokenizer=CharConfig().build(), stop=lambda: False, held_out=[], tasks={},
                      problems=1, samples=1, split=Split.test)  # fmt: skip
        return meter.asked()

    before = torch.get_num_threads()
    try:
        assert asked() == asked()
        for other in (asked(2), asked(precision=Precision.bf16), asked(compile=True)):
            assert other != asked()
    finally:
        torch.set_num_threads(before)


def test_activations_are_those_of_tokens_that_count():
    from types import SimpleNamespace

    from rlx.batches import Batch
    from rlx.data.tokenizers.char import CharConfig
    from rlx.decoding.sample import SampleConfig
    from rlx.models.dense import DenseConfig
    from rlx.stages.merging.measuring import HeldOut, Meter
    from rlx.trainers.cpu import CpuConfig
    from rlx.types import Split

    torch.manual_seed(0)
    model = DenseConfig(d_model=16, n_layers=2, n_heads=2).build(20)
    tokens = torch.randint(0, 20, (4, 50))
    documents = torch.zeros_like(tokens)
    documents[:, 40:] = -1
    counts = torch.zeros(4, 50)
    counts[:, 5:40] = 1  # 140 tokens: two batches of 64, and what is left over is not looked at
    positions = torch.arange(50).expand(4, 50)
    batch = Batch(tokens=tokens, positions=positions, documents=documents, loss_mask=counts)
    config = SimpleNamespace(decode=SampleConfig(), trainer=CpuConfig(), seed=0)
    meter = Meter(config=config, tokenizer=CharConfig().build(), stop=lambda: False,
                  held_out=[HeldOut("", 1.0, [batch])], tasks={}, problems=1, samples=1, split=Split.test)  # fmt: skip
    found = meter.activations(model)
    with torch.no_grad():
        rows = model.rows(tokens, positions=positions, documents=documents)
        x = model.embed(tokens)
        for layer, block in enumerate(model.blocks):
            x, _ = block(x, rows=rows)
            assert [len(part) for part in found[layer]] == [64, 64]
            torch.testing.assert_close(torch.cat(found[layer]), x[counts.bool()][:128])


def test_what_is_kept_is_known_by_all_files_of_a_model(tmp_path):
    """Sums of other files than the weights say nothing of them."""
    for number, folder in enumerate((tmp_path / "a", tmp_path / "b")):
        saved(folder, number)
        write_checksums(folder)
        sums = (folder / "SHA256SUMS").read_text().splitlines(keepends=True)
        (folder / "SHA256SUMS").write_text("".join(line for line in sums if "config.json" in line))
    assert weights_hash(tmp_path / "a") != weights_hash(tmp_path / "b")
    assert not _weight_sums(tmp_path / "a")
    write_checksums(tmp_path / "a")
    before = weights_hash(tmp_path / "a")
    (tmp_path / "a" / "trainer").mkdir()
    (tmp_path / "a" / "trainer" / "state.pt").write_bytes(b"state")
    write_checksums(tmp_path / "a")
    assert weights_hash(tmp_path / "a") == before and _weight_sums(tmp_path / "a")


def test_what_is_kept_is_known_by_the_code(monkeypatch, tmp_path):
    from rlx.stages.merging import kept

    monkeypatch.setenv("RLX_CACHE", str(tmp_path / "cache"))
    assert kept.kept(["a"], lambda: {"x": float("nan")})["x"] != 0
    again = kept.kept(["a"], lambda: {"x": 1.0})["x"]
    assert again != again, "NaN is a measurement too"
    monkeypatch.setattr(kept, "_code", lambda: "other")
    assert kept.kept(["a"], lambda: {"x": 1.0}) == {"x": 1.0}
    monkeypatch.setattr(torch, "__version__", "other")
    assert kept.kept(["a"], lambda: {"x": 2.0}) == {"x": 2.0}


def test_without_a_cache_nothing_is_kept_and_it_is_said(door, monkeypatch, tmp_path):
    _, one, other = pair(door)
    Path("file").write_text("")
    monkeypatch.setenv("RLX_CACHE", str(tmp_path / "file" / "x"))
    done = door(*merge(one, other))
    assert done.code == 0, done.err
    assert "what was measured is not kept" in done.out


def test_parents_in_different_basins_are_told(door, monkeypatch):
    from rlx.stages.merging import findings

    one, other = (place(door(*PRETRAIN, f"seed={seed}", "optim.lr=3e-2").out) for seed in (0, 1))
    run = place(door(*merge(one, other, "stage.problems=0", "stage.path_points=5")).out)
    (row,) = rows(run)
    monkeypatch.setattr(findings, "WARN", row["merge/convexity_gap"] - 1e-6)
    done = door(*merge(one, other, "stage.problems=0", "stage.path_points=5", "rerun=a"))
    assert "different basins" in done.out
    monkeypatch.setattr(findings, "WARN", row["merge/convexity_gap"] + 1e-6)
    done = door(*merge(one, other, "stage.problems=0", "stage.path_points=5", "rerun=b"))
    assert row["merge/convexity_gap"] > 0 and "different basins" not in done.out


def test_normalised_accuracy_is_over_the_best_parent():
    from rlx.stages.merging.findings import rows_of

    def model(a: float, b: float) -> dict:
        tasks = {
            name: {"metrics": {f"eval/{name}/pass@1": value, f"eval/{name}/greedy": 0.0}}
            for name, value in (("a", a), ("b", b))
        }
        return {"losses": {"": a + b}, "tasks": tasks}

    row = rows_of({"parent_0": model(0.8, 0.1), "parent_1": model(0.2, 0.5), "result": model(0.4, 0.4)})
    assert row["merge/normalised_accuracy"] == pytest.approx((0.4 / 0.8 + 0.4 / 0.5) / 2)
    assert row["merge/barrier"] == pytest.approx(0.8 - (0.9 + 0.7) / 2)
    row = rows_of({"parent_0": model(0.8, 0.0), "parent_1": model(0.2, 0.0), "result": model(0.4, 0.4)})
    assert row["merge/normalised_accuracy"] == 0.5, "of a task that no parent can do nothing is said"


def test_a_source_that_is_called_like_the_task_and_is_another_is_refused(door):
    _, one, other = pair(door)
    source = "corpus.sources={countdown:{task:countdown,weight:1,settings:{max_number:25}}}"
    done = door(*merge(one, other, "corpus=mixture", source))
    assert done.code == 2 and "call the source otherwise" in done.err and done.err.count("\n") == 1
    assert not list(Path().glob("*/*-merge-*"))


def test_fields_of_the_model_are_refused(door):
    _, one, other = pair(door)
    done = door(*merge(one, other, "model.rope_theta=5"))
    assert done.code == 2 and "model.rope_theta says nothing to stage=merge" in done.err


def test_a_ceiling_with_another_tokenizer_is_refused_beforehand(door):
    from tests.stages.merging.folders import words

    _, one, other = pair(door)
    saved(Path("x"), 0, tokenizer=words("a", "b"))
    done = door(*merge(one, other, "stage.ceiling=x"))
    assert done.code == 2 and "stage.ceiling=x has another tokenizer" in done.err
    assert not list(Path().glob("*/*-merge-*"))
    bare = ("stage=merge", "merge=linear", f"merge.models=[{one},{other}]", f"stage.ceiling={one}", "trainer.threads=1")
    done = door(*bare)
    assert done.code == 2 and "stage.ceiling is measured beside the parents" in done.err


def test_a_base_that_is_another_model_is_refused_beforehand(door):
    _, one, other = pair(door)
    wide = place(door(*PRETRAIN, "model.d_model=48").out)
    turned = place(door(*PRETRAIN, "model.rope_theta=500").out)
    for method in ("merge=linear", "merge=task_arithmetic"):
        for base, says in ((wide, "(32, 96); name another one by merge.base="), (turned, "differ in model.rope_theta")):
            done = door(*merge(one, other, method, f"merge.base={base}"))
            assert done.code == 2 and done.err.count("\n") == 1 and says in done.err, done.err
    assert not list(Path().glob("*/*-merge-*"))


def test_nan_in_a_parent_is_named(door):
    _, one, other = pair(door)
    file = next(other.glob("checkpoints/step-000012")) / "model.safetensors"
    tensors = load_file(file)
    tensors["norm.weight"][3] = float("nan")
    from safetensors.torch import save_file

    save_file(tensors, file, metadata={"format": "pt"})
    (file.parent / "SHA256SUMS").unlink()
    done = door(*merge(one, other))
    assert done.code and "norm.weight has numbers that are NaN" in done.err and str(other) in done.err
    assert done.err.count("\n") == 1


def test_weights_are_finite_numbers(door):
    _, one, other = pair(door)
    done = door(*merge(one, other, "merge.weights=[1,nan]"))
    assert done.code == 2 and "merge.weights=[1.0, nan]: expected finite numbers" in done.err


def test_all_pairs_of_strangers_are_told(door):
    start, one, _ = pair(door)
    other = place(door(*PRETRAIN, "seed=1").out)
    both = place(door(*merge(start, other, "stage.problems=0", "stage.compare=false")).out)
    done = door(*merge(both, one), f"merge.models=[{both},{one},{other}]", "stage.problems=0", "stage.compare=false")
    assert done.code == 0, done.err
    assert f"{one} and {other} share no ancestor" in done.out
    assert f"{both} and" not in done.out


def test_ancestors_are_known_where_runs_are_gone(door):
    start = place(door(*PRETRAIN).out)
    middles = [place(door(*sft(start, *more)).out) for more in ((), ("optim.lr=3e-2",))]
    ends = [place(door(*sft(middle, "stage.steps=2")).out) for middle in middles]
    for middle in middles:
        middle.parent.rename(f"gone-{middle.parent.name}")
    done = door(*merge(*ends, "merge=task_arithmetic", "stage.problems=0"))
    assert done.code == 0, done.err
    assert "share no ancestor" not in done.out
    assert json.loads((place(done.out) / "merge.json").read_text())["base"] == f"{start}/checkpoints/step-000012"


def test_averaged_checkpoints_are_the_parents(door):
    start = place(door(*PRETRAIN, "checkpoint.keep=all").out)
    done = door(*merge(start, start), "merge=average", f"merge.models=[{start}]", "merge.last=2", "stage.problems=0")
    assert done.code == 0, done.err
    known = record(place(done.out))
    assert [parent["step"] for parent in known["parents"]] == [9, 12]
    assert set(known["lineage"]) == {str(start), str(place(done.out))}
