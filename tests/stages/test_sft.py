"""stage=sft: on from a run, its model and tokenizer, prompts masked."""

from pathlib import Path

from tests.conftest import COUNTDOWN, SMALL
from tests.stages.runs import PRETRAIN, place, record, rows, sft


def test_sft_goes_on_from_a_run_and_from_a_step_of_it(door):
    start = place(door(*PRETRAIN, "checkpoint.keep=all").out)
    last = place(door(*sft(start)).out)
    assert record(last)["parents"][0]["step"] == 12
    assert record(last)["flops"]["lineage"] == record(last)["flops"]["total"] + record(start)["flops"]["total"]
    early = place(door(*sft(f"{start}@3")).out)
    assert record(early)["parents"][0]["step"] == 3 and early.parent != last.parent
    folder = place(door(*sft(start / "checkpoints/step-000003")).out)
    assert folder == early
    assert last.parent.name.startswith("countdown-dense-sft-")


def test_the_model_is_the_checkpoints_whatever_the_scale_says(door):
    start = place(door(*PRETRAIN, "model.d_model=48").out)
    run = place(door(*sft(start)).out)
    assert record(run)["parameters"] == record(start)["parameters"]
    assert "d_model: 48" in (run / "config.yaml").read_text()


def test_another_model_than_the_checkpoints_is_one_line_and_nothing_written(door):
    start = place(door(*PRETRAIN).out)
    done = door(*sft(start, "model.d_model=64"))
    assert done.code == 2 and "model.d_model=64" in done.err and len(done.err.strip().splitlines()) == 1
    assert len(list(start.parents[1].iterdir())) == 1
    assert door(*sft(start, "model.d_model=32")).code == 0
    assert "tokenizer" in door(*sft(start, "tokenizer=char")).err


def test_only_solutions_count(door):
    start = place(door(*PRETRAIN).out)
    masked = rows(place(door(*sft(start, "stage.steps=1")).out))
    whole = [*COUNTDOWN, *SMALL, "stage=pretrain", f"init_from={start}", "stage.steps=1"]
    assert rows(place(door(*whole).out))[0]["train/loss"] != masked[0]["train/loss"]


def test_documents_without_an_answer_are_told_of(door):
    start = place(door(*PRETRAIN).out)
    done = door(*sft(start, "corpus.max_tokens=5", "stage.val_every=0"))
    assert done.code == 2 and "no token of step 1 counts in the loss" in done.err and "corpus.max_tokens" in done.err


def test_matched_operations(door):
    start = place(door(*PRETRAIN).out)
    first = place(door(*sft(start)).out)
    second = place(door(*sft(first, "stage.steps=null", f"stage.match_flops={first}")).out)
    spent = [record(run)["flops"]["train"] for run in (first, second)]
    assert abs(spent[1] / spent[0] - 1) < 0.1
    done = door(*sft(first, "stage.steps=null", "stage.match_flops=runs/none"))
    assert done.code == 2 and "match_flops" in done.err


def test_an_unfinished_parent_is_refused_unless_a_step_is_named(door):
    start = place(door(*PRETRAIN, "checkpoint.keep=all").out)
    (start / "status").write_text('{"state": "stopped"}')
    done = door(*sft(start))
    assert done.code == 2 and "not finished" in done.err and "@12" in done.err
    assert door(*sft(f"{start}@12")).code == 0


def preset(text: str) -> tuple[str, ...]:
    """The arguments that take `text` as a preset."""
    folder = Path("my_conf/experiment")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mine.yaml").write_text(f"# @package _global_\n{text}\n")
    return ("--config-dir", "my_conf", "experiment=mine")


def test_a_presets_model_fields_count_as_typed(rlx):
    start = place(rlx(*PRETRAIN).out)
    plain = place(rlx(*sft(start)).out)
    done = rlx(*preset("model: {d_model: 48}"), *sft(start))
    assert done.code == 2 and "model.d_model=48" in done.err
    far = place(rlx(*preset("model: {rope_theta: 500.0}"), *sft(start)).out)
    assert far.parent != plain.parent and "rope_theta: 500.0" in (far / "config.yaml").read_text()
    assert place(rlx(*sft(start, "model.rope_theta=5e2")).out) == far
    assert "finished already" in rlx(*sft(start, "model=dense")).out
    whole = preset("defaults: [{override /stage: sft}]\nstage: {clip_norm: 0.5}")  # a preset that chooses the stage
    rest = [text for text in sft(start) if text != "stage=sft"]
    assert rlx(*whole, *rest).code == 0


def test_a_parent_is_charged_up_to_the_step_that_was_taken(door):
    start = place(door(*PRETRAIN, "checkpoint.keep=all").out)
    early = record(place(door(*sft(f"{start}@3")).out))["flops"]
    spent = {row["step"]: row["flops/total"] for row in rows(start)}
    assert early["lineage"] == early["total"] + spent[3] < early["total"] + spent[12]
