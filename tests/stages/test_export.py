"""stage=export and init_from=hf:<folder>: what is written opens in transformers, and comes back as it was."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlx.data.tokenizers.char import CharConfig
from rlx.merges.linear import LinearConfig
from rlx.models.dense import DenseConfig
from rlx.models.folder import weights_of
from rlx.runs.model_directory import save_model_directory
from rlx.stages.merging.parents import open_parents
from rlx.stages.start import Start, load_start
from tests.conftest import COUNTDOWN, only
from tests.models.foreign import saved
from tests.stages.runs import PRETRAIN, digest, place, record, rl, sft

SHORT = ("stage.steps=1", "stage.val_every=0")
ONE = (*SHORT, "stage.preflight_problems=0")
MODELS: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {"n_kv_heads": 2},
    "Qwen3ForCausalLM": {"qk_norm": True, "head_dim": 12, "n_heads": 3, "tie_embeddings": False},
}


def made(folder: str, **fields: Any) -> Start:
    """A folder of rlx with random weights."""
    config = DenseConfig(**{"d_model": 32, "n_layers": 2, "init_std": 0.2, **fields})
    tokenizer = CharConfig().build()
    start = Start(model=config.build(tokenizer.vocab_size), model_config=config, tokenizer=tokenizer, depth=1)
    save_model_directory(folder, weights_of(start.model), start.description(), tokenizer.to_json())
    return start


def last(run: Path) -> Path:
    return sorted(run.glob("checkpoints/*"))[-1]


def opened(folder: Path | str) -> tuple[Any, Any]:
    """Model and tokenizer as transformers reads them."""
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)


@torch.no_grad()
def same_model(start: Start, theirs: Any) -> None:
    tokens = torch.randint(start.model.vocab_size, (2, 40), generator=torch.Generator().manual_seed(3))
    expected = theirs(tokens).logits
    torch.testing.assert_close(start.model.logits(start.model(tokens)[0]), expected, atol=1e-4, rtol=0)


def same_start(found: Start, expected: Start) -> None:
    """Weights, config and tokenizer to the bit."""
    assert found.model_config == expected.model_config
    assert found.tokenizer.to_json() == expected.tokenizer.to_json()
    assert found.tokenizer.tokens == expected.tokenizer.tokens
    assert found.tokenizer.vocab_size == expected.tokenizer.vocab_size
    weights = expected.model.state_dict()
    assert found.model.state_dict().keys() == weights.keys()
    for name, tensor in found.model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


@pytest.mark.parametrize("name", MODELS)
def test_an_export_opens_in_transformers_and_comes_back(door, name) -> None:
    start = made("start", **MODELS[name])
    done = door("stage=export", "init_from=start", "stage.to=models/out", "stage.max_length=640")
    assert done.code == 0, done.err
    assert len(done.out.splitlines()) == 1 and "init_from=hf:models/out" in done.out
    folder = Path("models/out")
    theirs, tokenizer = opened(folder)
    assert type(theirs).__name__ == name
    same_model(start, theirs)
    same_start(load_start(folder), start)

    for text in ("3 5 7 -> 40\n", "", "  two  spaces ", "~!(a*b)/c"):
        ids = start.tokenizer.encode(text)
        assert tokenizer(text).input_ids == ids and tokenizer.decode(ids) == text
    ids = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert ids == (start.tokenizer.pad_id, start.tokenizer.begin_id, start.tokenizer.end_id)
    assert tokenizer(tokenizer.bos_token + "3").input_ids == [start.tokenizer.begin_id, *start.tokenizer.encode("3")]
    assert tokenizer.model_max_length == theirs.config.max_position_embeddings == 640
    assert theirs.generation_config.pad_token_id == start.tokenizer.pad_id
    assert json.loads((folder / "config.json").read_text())["torch_dtype"] == "float32"
    assert theirs.get_input_embeddings().padding_idx is None  # else its row gets no gradient


def test_generate_stops_at_the_end_mark(door) -> None:
    """A head that gives all to one token: the end mark ends it at once, another goes on to the limit."""
    made("start", tie_embeddings=False)
    assert door("stage=export", "init_from=start", "stage.to=out").code == 0
    theirs, tokenizer = opened("out")
    prompt = tokenizer(["3 5", "3"], return_tensors="pt", padding=True)
    lengths = []
    for favourite in (tokenizer.eos_token_id, tokenizer("7").input_ids[0]):
        with torch.no_grad():
            theirs.lm_head.weight.zero_()
            theirs.model.norm.weight.fill_(1)
            theirs.lm_head.weight[favourite] = 1
            theirs.model.norm.register_forward_hook(lambda module, given, out: torch.ones_like(out))
            lengths.append(theirs.generate(**prompt, max_new_tokens=6).shape[1] - prompt.input_ids.shape[1])
    assert lengths == [1, 6]


def test_a_saved_folder_goes_on_through_every_stage(door) -> None:
    """Its tokenizer has other names for its marks, and fewer tokens than the model has rows."""
    theirs = saved(Path("start"), "qwen3", head_dim=16, num_key_value_heads=2, half=True, shards=True,
                   tie_word_embeddings=True)  # fmt: skip
    same_model(load_start(Path("start")), theirs)
    tokens = {"pad": "<|endoftext|>", "begin": "<|im_end|>", "end": "<|im_end|>"}

    done = door(*sft("hf:start", *SHORT))
    assert done.code == 0, done.err
    tuned = place(done.out)
    assert tuned.parent.name.startswith("countdown-hf-sft-h")
    assert record(tuned)["parents"][0]["content"]
    assert json.loads((last(tuned) / "config.json").read_text())["tokens"] == tokens
    assert load_start(last(tuned)).tokenizer.tokens == tokens

    done = door(*rl(tuned, *ONE))
    assert done.code == 0, done.err
    trained = place(done.out)
    done = door("stage=eval", *COUNTDOWN, "trainer.threads=1", f"init_from={trained}", "stage.problems=4",
               "stage.samples=2", "decode.max_tokens=8")  # fmt: skip
    assert done.code == 0, done.err

    merge = ("stage=merge", "merge=linear", *COUNTDOWN, "trainer.threads=1", "stage.val_tokens=640", "stage.problems=0")
    done = door(*merge, f"merge.models=[hf:start,{trained}]", "merge.weights=[1,3]")
    assert done.code == 0, done.err
    merged = last(place(done.out))
    first, second = (load_start(folder).model.state_dict() for folder in (Path("start"), last(trained)))
    for name, tensor in load_file(merged / "model.safetensors").items():
        assert (tensor - (0.25 * first[name] + 0.75 * second[name])).abs().max() < 1e-6
    assert load_start(merged).tokenizer.tokens == tokens

    assert door("stage=export", f"init_from={merged}", "stage.to=out").code == 0
    theirs, tokenizer = opened("out")
    same_model(load_start(merged), theirs)
    same_start(load_start(Path("out")), load_start(merged))
    assert (tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token) == tuple(tokens.values())
    assert tokenizer("25 -> 40").input_ids == load_start(merged).tokenizer.encode("25 -> 40")


def test_training_goes_on_from_an_export_as_from_its_run(door) -> None:
    """Out, in, a step, out: the same bits on both ways."""
    run = place(door(*PRETRAIN, *SHORT).out)
    assert door("stage=export", f"init_from={run}", "stage.to=out").code == 0
    first, second = (place(door(*PRETRAIN, *SHORT, f"init_from={start}").out) for start in (run, "hf:out"))
    assert first != second
    same_start(load_start(last(second)), load_start(last(first)))
    assert door("stage=export", f"init_from={second}", "stage.to=out2").code == 0
    before, after = (load_file(f"{folder}/model.safetensors") for folder in ("out", "out2"))
    assert before.keys() == after.keys()
    assert not any(torch.equal(before[name], after[name]) for name in before if "proj" in name)
    same_model(load_start(last(second)), opened("out2")[0])


def test_a_folder_is_found_again_by_what_it_holds(door) -> None:
    """The run's hash has the content, not the path; another tokenizer setting is another run."""
    saved(Path("start"))
    first = place(door(*sft("hf:start", *SHORT)).out)
    Path("start").rename("moved")
    done = door(*sft("hf:moved", *SHORT))
    assert "finished already" in done.out and str(first) in done.out
    settings = json.loads(Path("moved/tokenizer_config.json").read_text())
    Path("moved/tokenizer_config.json").write_text(json.dumps({**settings, "eos_token": "<|endoftext|>"}))
    other = place(door(*sft("hf:moved", *SHORT)).out)
    assert other != first and load_start(last(other)).tokenizer.tokens["end"] == "<|endoftext|>"


def test_nothing_is_overwritten_and_nothing_half_written(door, monkeypatch) -> None:
    made("start")
    Path("taken").mkdir()
    Path("taken/notes.txt").write_text("mine")
    Path("file").write_text("mine")
    Path("empty").mkdir()
    Path("link").symlink_to("empty")
    Path("nowhere").symlink_to("gone")
    for target in ("taken", "file", "start", "link", "nowhere"):
        done = door("stage=export", "init_from=start", f"stage.to={target}")
        assert done.code == 2 and f"stage.to={target} is there already" in done.err
        assert len(done.err.strip().splitlines()) == 1
    done = door("stage=export", "init_from=start", "stage.to=file/inside")
    assert done.code == 2 and "stage.to=file/inside is inside a file" in done.err
    assert sorted(path.name for path in Path("taken").iterdir()) == ["notes.txt"]
    assert door("stage=export", "init_from=start", "stage.to=empty/").code == 0
    same_start(load_start(Path("empty")), load_start(Path("start")))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rlx.stages.export.write_json", full)
    done = door("stage=export", "init_from=start", "stage.to=new/deep")
    assert done.code == 1 and "the disk is full" in done.err
    assert list(Path("new").iterdir()) == []


def test_who_reads_the_rest_of_a_folder_reads_its_weights(door) -> None:
    """safetensors lets the owner alone read what it writes."""
    made("start")
    door("stage=export", "init_from=start", "stage.to=out")
    for folder in (Path("out"), Path("start")):
        modes = {stat.S_IMODE((folder / name).stat().st_mode) for name in ("config.json", "model.safetensors")}
        assert len(modes) == 1


WRONG = {
    "no start": ((), "init_from=<run>"),
    "fresh weights": (("init_from=random", "stage.to=out"), "init_from=<run>"),
    "no place": (("init_from=start",), "stage.to=<folder>"),
    "a place to be quoted": (("init_from=start", 'stage.to="a b"'), "quote"),
    "no length": (("init_from=start", "stage.to=out", "stage.max_length=0"), "stage.max_length=0"),
    "a group": (("init_from=start", "stage.to=out", "model=dense"), "does not use model"),
    "not there": (("init_from=hf:nowhere", "stage.to=out"), "nowhere"),
}


def test_weights_of_other_shapes_are_one_line(door) -> None:
    saved(Path("start"))
    config = json.loads(Path("start/config.json").read_text())
    Path("start/config.json").write_text(json.dumps({**config, "intermediate_size": 96}))
    done = door("stage=export", "init_from=hf:start", "stage.to=out")
    assert done.code == 2 and "gate_up.weight is (160, 48), expected (192, 48)" in done.err
    assert not Path("out").exists()


def test_what_is_missing_is_one_line(door) -> None:
    made("start")
    for arguments, says in WRONG.values():
        done = door("stage=export", *arguments)
        assert done.code == 2 and says in done.err and len(done.err.strip().splitlines()) == 1, (arguments, done.err)
    assert not Path("out").exists()


def test_padding_is_never_looked_at(door) -> None:
    """One token may pad, begin and end: the same bits as with a padding token of its own."""
    digests = []
    for folder, changes in (("own", {}), ("shared", {"pad_token": None})):
        saved(Path(folder))
        settings = json.loads(Path(folder, "tokenizer_config.json").read_text())
        Path(folder, "tokenizer_config.json").write_text(json.dumps({**settings, **changes}))
        tokenizer = load_start(Path(folder)).tokenizer
        assert tokenizer.begin_id == tokenizer.end_id == 1 and tokenizer.pad_id == (0 if folder == "own" else 1)
        tuned = place(door(*sft(f"hf:{folder}", *SHORT)).out)
        trained = place(door(*rl(tuned, *ONE, "decode.max_tokens=64", "algorithm.group_size=16")).out)
        digests.append([*digest(tuned).values(), *digest(trained).values()])
    assert digests[0] == digests[1] and len(set(digests[0])) == 2


def test_a_folder_with_an_at_sign_is_a_folder(door) -> None:
    saved(Path("models/tiny@v1"))
    assert door("stage=export", "init_from=hf:models/tiny@v1", "stage.to=out").code == 0
    same_start(load_start(Path("out")), load_start(Path("models/tiny@v1")))


def test_tensors_cannot_be_changed_on_the_way(door) -> None:
    """`model.head_dim` and the like touch tensors, `model.rope_theta` does not."""
    saved(Path("start"))
    done = door(*sft("hf:start", *SHORT, "model.head_dim=16"))
    assert done.code == 2 and "model.head_dim=16" in done.err
    done = door(*sft("hf:start", *SHORT, "model.rope_theta=500.0"))
    assert done.code == 0, done.err
    config = json.loads((only("runs/*/seed0/checkpoints/*") / "config.json").read_text())
    assert config["fields"]["rope_theta"] == 500.0


def test_a_saved_folder_is_merged_as_it_is_read(tmp_path) -> None:
    """Parts of fused tensors, each read where it will stand, in float32 and in half."""
    for half in (False, True):
        folder = tmp_path / f"half-{half}"
        saved(folder, "qwen3", head_dim=16, num_key_value_heads=2, half=half, shards=True, tie_word_embeddings=True)
        expected = weights_of(load_start(folder).model)
        with open_parents([folder], None, LinearConfig()) as parents:
            assert parents.shapes() == [{name: tuple(tensor.shape) for name, tensor in expected.items()}]
            assert any(len(place.theirs) > 1 for place in parents.members[0].places.values())
            for name, tensor in expected.items():
                assert torch.equal(parents.tensor(0, name), tensor), name
