"""Parents as they are merged: whose rows stand where, what is untied, and folders that rlx has no model for."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlx.errors import CheckpointError, ConfigError
from rlx.merges.base import Dtype, Tied, Tokens
from rlx.merges.linear import LinearConfig
from rlx.models.dense import DenseConfig
from rlx.models.folder import config_of
from rlx.stages.merging.parents import open_parents
from rlx.stages.merging.tensors import Merged
from rlx.stages.start import load_start
from tests.stages.merging.folders import DENSE, saved, words


def merged(folders: list[Path], out: Path, **settings) -> Path:
    config = LinearConfig(models=[str(folder) for folder in folders], **settings)
    with open_parents(folders, None, config) as parents:
        Merged(config, parents, seed=0).write(out, lambda: False)
    return out


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_whole_models_are_merged_by_the_rule(tmp_path):
    one, other = saved(tmp_path / "a", 0), saved(tmp_path / "b", 1)
    out = merged([one, other], tmp_path / "out", weights=[1.0, 3.0])
    first, second = weights(one), weights(other)
    for name, tensor in weights(out).items():
        torch.testing.assert_close(tensor, 0.25 * first[name] + 0.75 * second[name], atol=1e-7, rtol=1e-6)
    assert load_start(out).tokenizer.to_json() == load_start(one).tokenizer.to_json()


@pytest.mark.parametrize("shard_bytes", [None, 3000], ids=["one", "many"])
def test_shards_in_and_out(tmp_path, shard_bytes):
    one, other = saved(tmp_path / "a", 0), saved(tmp_path / "b", 1)
    parts = merged([one, other], tmp_path / "parts", shard_bytes=3000)
    assert len(list(parts.glob("*.safetensors"))) > 3
    again = merged([parts, parts], tmp_path / "again", shard_bytes=shard_bytes)
    whole = merged([one, other], tmp_path / "whole")
    first, second = (load_start(folder).model.state_dict() for folder in (again, whole))
    assert all(torch.equal(first[name], second[name]) for name in second)


def test_the_result_has_the_widest_dtype_or_the_one_asked_for(tmp_path):
    half, single = saved(tmp_path / "a", 0, dtype=torch.bfloat16), saved(tmp_path / "b", 1)
    for folders, settings, expected in (
        ([half, half], {}, torch.bfloat16),
        ([half, single], {}, torch.float32),
        ([single, half], {}, torch.float32),
        ([single, single], {"dtype": Dtype.float16}, torch.float16),
    ):
        out = merged(folders, tmp_path / f"out{len(list(tmp_path.iterdir()))}", **settings)
        assert {tensor.dtype for tensor in weights(out).values()} == {expected}


def test_bfloat16_parents_are_added_up_in_float32(tmp_path):
    """257 times 1: in bfloat16 the sum stops at 256."""
    one = saved(tmp_path / "a", dtype=torch.bfloat16)
    tensors = {name: torch.ones_like(tensor) for name, tensor in weights(one).items()}
    save_file(tensors, one / "model.safetensors")
    out = merged([one] * 257, tmp_path / "out", normalize=False)
    assert all((tensor == 257).all() or (tensor == 256).all() for tensor in weights(out).values())
    wide = merged([one] * 257, tmp_path / "wide", normalize=False, dtype=Dtype.float32)
    assert all((tensor == 257).all() for tensor in weights(wide).values())


def test_different_vocabularies_are_refused(tmp_path):
    one, other = saved(tmp_path / "a", tokenizer=words("x", "y")), saved(tmp_path / "b", tokenizer=words("y", "z"))
    with pytest.raises(ConfigError, match=r"another tokenizer.*merge.tokens=first or union") as error:
        merged([one, other], tmp_path / "out")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("tied", [True, False])
def test_union_puts_rows_of_one_text_together(tmp_path, tied):
    config = DenseConfig(**DENSE, tie_embeddings=tied)
    mine, theirs = words("a", "b"), words("b", "c")
    one = saved(tmp_path / "a", 0, tokenizer=mine, config=config)
    other = saved(tmp_path / "b", 1, tokenizer=theirs, config=config)
    out = merged([one, other], tmp_path / "out", tokens=Tokens.union, weights=[1.0, 3.0])
    start = load_start(out)
    ids = start.tokenizer.inner.get_vocab()
    assert start.tokenizer.vocab_size == mine.vocab_size + 1
    assert [start.tokenizer.decode(start.tokenizer.encode(text)) for text in ("ab", "bc")] == ["ab", "bc"]
    first, second, found = weights(one), weights(other), weights(out)
    for name in ("embed.weight", *([] if tied else ["head.weight"])):

        def row(tensors, tokenizer, token, name=name):
            return tensors[name][tokenizer.inner.get_vocab()[token]]

        shared = 0.25 * row(first, mine, "b") + 0.75 * row(second, theirs, "b")
        torch.testing.assert_close(found[name][ids["b"]], shared)
        torch.testing.assert_close(found[name][ids["a"]], row(first, mine, "a"))
        torch.testing.assert_close(found[name][ids["c"]], row(second, theirs, "c"))
        end = 0.25 * row(first, mine, "<|end|>") + 0.75 * row(second, theirs, "<|end|>")
        torch.testing.assert_close(found[name][ids["<|end|>"]], end)


def test_union_of_three_fills_with_the_mean_of_those_that_have_a_token(tmp_path):
    tokenizers = [words("a"), words("a", "c"), words("c", "a")]
    folders = [saved(tmp_path / str(n), n, tokenizer=each) for n, each in enumerate(tokenizers)]
    out = merged(folders, tmp_path / "out", tokens=Tokens.union)
    rows = [weights(folder)["embed.weight"][each.inner.get_vocab()["c"]]
            for folder, each in zip(folders[1:], tokenizers[1:], strict=True)]  # fmt: skip
    found = weights(out)["embed.weight"][load_start(out).tokenizer.inner.get_vocab()["c"]]
    torch.testing.assert_close(found, (rows[0] + rows[1]) / 2)


def test_first_keeps_the_first_vocabulary(tmp_path):
    mine, theirs = words("a", "b"), words("b", "c")
    one, other = saved(tmp_path / "a", 0, tokenizer=mine), saved(tmp_path / "b", 1, tokenizer=theirs)
    out = merged([one, other], tmp_path / "out", tokens=Tokens.first)
    assert load_start(out).tokenizer.to_json() == mine.to_json()
    found, first, second = weights(out), weights(one), weights(other)
    at = mine.inner.get_vocab()
    assert torch.equal(found["embed.weight"][at["a"]], first["embed.weight"][at["a"]])
    both = (first["embed.weight"][at["b"]] + second["embed.weight"][theirs.inner.get_vocab()["b"]]) / 2
    torch.testing.assert_close(found["embed.weight"][at["b"]], both)


def test_a_parent_with_the_union_s_tokens_computes_what_it_did(tmp_path):
    """Logits of the tokens that it knew are the same."""
    mine, theirs = words("a", "b"), words("b", "c")
    one, other = saved(tmp_path / "a", 0, tokenizer=mine), saved(tmp_path / "b", 1, tokenizer=theirs)
    config = LinearConfig(models=[str(one), str(other)], tokens=Tokens.union)
    with open_parents([one, other], None, config) as parents:
        model = parents.start(1)
        assert parents.tokenizer is not None
        ids = [parents.tokenizer.inner.get_vocab()[name] for name in ("b", "c", "b")]
    own = load_start(other)
    before = [theirs.inner.get_vocab()[name] for name in ("b", "c", "b")]
    with torch.no_grad():
        logits, wanted = (
            each.logits(each(torch.tensor([tokens]))[0]) for each, tokens in ((model, ids), (own.model, before))
        )
    torch.testing.assert_close(logits[0][:, ids[:2]], wanted[0][:, before[:2]])


def test_tied_and_untied_parents(tmp_path):
    one = saved(tmp_path / "a", 0)
    other = saved(tmp_path / "b", 1, config=DenseConfig(**DENSE, tie_embeddings=False))
    with pytest.raises(ConfigError, match=r"uses its embedding as head.*merge.tied=untie"):
        merged([one, other], tmp_path / "out")
    for order in ([one, other], [other, one]):
        out = merged(order, tmp_path / f"out-{order[0].name}", tied=Tied.untie)
        found, first, second = weights(out), weights(one), weights(other)
        torch.testing.assert_close(found["head.weight"], (first["embed.weight"] + second["head.weight"]) / 2)
        torch.testing.assert_close(found["embed.weight"], (first["embed.weight"] + second["embed.weight"]) / 2)
        assert load_start(out).model_config.tie_embeddings is False


def test_settings_of_training_alone_may_differ(tmp_path):
    one = saved(tmp_path / "a", 0)
    other = saved(tmp_path / "b", 1, config=DenseConfig(**DENSE, z_loss=1e-4, init_std=0.1))
    merged([one, other], tmp_path / "out")
    third = saved(tmp_path / "c", 1, config=DenseConfig(**DENSE, rope_theta=500.0))
    with pytest.raises(ConfigError, match=r"differ in model.rope_theta: 10000.0 in .*a, 500.0 in .*c"):
        merged([one, third], tmp_path / "no")


def raw(folder: Path, seed: int, **config) -> Path:
    """A folder as others save it, of a kind that rlx has no model for."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    tensors = {"h.0.w": torch.randn(4, 3, generator=generator).bfloat16(), "h.0.ids": torch.arange(5)}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt_bigcode", "n_embd": 3, **config}))
    return folder


def test_folders_that_rlx_has_no_model_for_are_merged_by_name(tmp_path):
    one, other = raw(tmp_path / "a", 0), raw(tmp_path / "b", 1, n_ctx=9)
    (one / "tokenizer.json").write_text("{}")
    (other / "tokenizer.json").write_text("{}")
    out = merged([one, other], tmp_path / "out")
    first, second, found = weights(one), weights(other), weights(out)
    mean = (first["h.0.w"].float() + second["h.0.w"].float()) / 2
    assert torch.equal(found["h.0.w"], mean.bfloat16()) and torch.equal(found["h.0.ids"], torch.arange(5))
    assert json.loads((out / "config.json").read_text()) == {"model_type": "gpt_bigcode", "n_embd": 3}
    assert (out / "tokenizer.json").read_text() == "{}"


def test_whole_numbers_are_copied_and_must_be_equal(tmp_path):
    one, other = raw(tmp_path / "a", 0), raw(tmp_path / "b", 1)
    save_file({**weights(other), "h.0.ids": torch.arange(1, 6)}, other / "model.safetensors")
    with pytest.raises(ConfigError, match=r"h.0.ids holds torch.int64 and differs between parents 1 and 2"):
        merged([one, other], tmp_path / "out")


def test_raw_folders_with_other_tokenizers_are_refused(tmp_path):
    one, other = raw(tmp_path / "a", 0), raw(tmp_path / "b", 1)
    (other / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"another tokenizer\.json"):
        merged([one, other], tmp_path / "out")
    merged([one, other], tmp_path / "out", tokens=Tokens.first)


def test_raw_and_ours_are_told_apart(tmp_path):
    one, other = saved(tmp_path / "a"), raw(tmp_path / "b", 1)
    with pytest.raises(CheckpointError, match=r"model_type=gpt_bigcode.*cannot be merged with a model of rlx"):
        merged([one, other], tmp_path / "out")


def test_a_damaged_folder_of_ours_is_no_raw_one(tmp_path):
    one = saved(tmp_path / "a")
    config = json.loads((one / "config.json").read_text())
    (one / "config.json").write_text(json.dumps({**config, "fields": {"d_model": "x"}}))
    with pytest.raises(CheckpointError, match="is not an rlx model"):
        merged([one, one], tmp_path / "out")


def test_a_result_that_is_no_model_is_named(tmp_path):
    """A method whose architecture does not fit its tensors."""
    one = saved(tmp_path / "a")

    class Deeper(LinearConfig):
        def architecture(self, parents):
            return replace(parents[0], fields={**parents[0].fields, "n_layers": 3})

    config = Deeper(models=[str(one)])
    with open_parents([one], None, config) as parents, pytest.raises(ConfigError, match=r"would lack blocks\.2\."):
        Merged(config, parents, seed=0)


def test_a_base_is_read_with_the_result_s_tokens(tmp_path):
    mine, theirs = words("a", "b"), words("b", "c")
    one, other = saved(tmp_path / "a", 0, tokenizer=mine), saved(tmp_path / "b", 1, tokenizer=theirs)
    base = saved(tmp_path / "base", 2, tokenizer=words("b"))
    config = LinearConfig(models=[str(one), str(other)], tokens=Tokens.union)
    with open_parents([one, other], base, config) as parents:
        found = parents.base_tensor("embed.weight")
        assert parents.tokenizer is not None
        ids = parents.tokenizer.inner.get_vocab()
        assert torch.equal(found[ids["b"]], weights(base)["embed.weight"][words("b").inner.get_vocab()["b"]])
        assert torch.equal(found[ids["a"]], weights(one)["embed.weight"][mine.inner.get_vocab()["a"]])
        with pytest.raises(ConfigError, match="has no tensor nothing"):
            parents.base_tensor("nothing")


def test_config_of_the_result_is_read_back(tmp_path):
    out = merged([saved(tmp_path / "a"), saved(tmp_path / "b", 1)], tmp_path / "out")
    config, size = config_of(json.loads((out / "config.json").read_text()), out)
    assert config == DenseConfig(**DENSE) and size == load_start(out).tokenizer.vocab_size


def test_first_fills_rows_from_the_first_parent_alone(tmp_path):
    tokenizers = [words("a"), words("a", "b"), words("b")]
    folders = [saved(tmp_path / str(n), n, tokenizer=each) for n, each in enumerate(tokenizers)]
    out = merged(folders, tmp_path / "out", tokens=Tokens.first)
    rows = [weights(folder)["embed.weight"] for folder in folders]
    at = [each.inner.get_vocab() for each in tokenizers]
    mean = (rows[0][at[0]["a"]] + rows[1][at[1]["a"]] + rows[0][at[0]["a"]]) / 3
    torch.testing.assert_close(weights(out)["embed.weight"][at[0]["a"]], mean)


def test_each_tensor_has_the_seed_that_is_recorded(tmp_path):
    from rlx.merges.dare import DareConfig

    base, one = saved(tmp_path / "base", 0), saved(tmp_path / "a", 1)
    config = DareConfig(models=[str(one)], density=0.5)
    with open_parents([one], base, config) as parents:
        made = Merged(config, parents, seed=0)
        seeds = made.seeds()
        assert len(set(seeds.values())) == len(seeds) == len(made.outputs)
        for output in made.outputs:
            draw = torch.rand(output.shape, generator=torch.Generator().manual_seed(seeds[output.name]))
            delta = weights(one)[output.name] - weights(base)[output.name]
            expected = weights(base)[output.name] + 2 * delta * (draw < 0.5)
            torch.testing.assert_close(made.tensor(output), expected)
        assert Merged(config, parents, seed=1).seeds() != seeds


def test_float64_counts_wherever_it_stands(tmp_path):
    single, double = saved(tmp_path / "a", 0), saved(tmp_path / "b", 1, dtype=torch.float64)
    out = merged([single, double], tmp_path / "out", weights=[1.0, 2.0])
    first, second = weights(single), weights(double)
    for name, tensor in weights(out).items():
        assert tensor.dtype is torch.float64
        torch.testing.assert_close(tensor, (first[name].double() + 2 * second[name]) / 3, atol=1e-15, rtol=1e-14)


def test_what_lies_beside_raw_weights_is_carried_or_refused(tmp_path):
    one, other = raw(tmp_path / "a", 0, dtype="bfloat16"), raw(tmp_path / "b", 1)
    for name in ("vocab.json", "merges.txt", "tokenizer.model", "tokenizer_config.json"):
        (one / name).write_text(name)
    out = merged([one, other], tmp_path / "out", dtype=Dtype.float16)
    assert all((out / name).read_text() == name for name in ("vocab.json", "merges.txt", "tokenizer.model"))
    assert json.loads((out / "config.json").read_text())["dtype"] == "float16"
    with pytest.raises(ConfigError, match=r"merge\.tied=untie is for models that rlx has"):
        merged([one, other], tmp_path / "no", tied=Tied.untie)
    (other / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="has an adapter, and rlx has no model to add it to"):
        merged([one, other], tmp_path / "no")
    third = raw(tmp_path / "c", 1, model_type="other")
    with pytest.raises(ConfigError, match=r"differ in model_type: gpt_bigcode in .*a, other in .*c"):
        merged([one, third], tmp_path / "no")


def test_a_raw_result_says_the_dtype_that_it_has(tmp_path):
    one, other = raw(tmp_path / "a", 0, torch_dtype="bfloat16"), raw(tmp_path / "b", 1)
    tensors = weights(other)
    save_file({**tensors, "h.0.w": tensors["h.0.w"].half()}, other / "model.safetensors")
    out = merged([one, other], tmp_path / "out")
    assert weights(out)["h.0.w"].dtype is torch.float32
    assert json.loads((out / "config.json").read_text())["torch_dtype"] == "float32"
    assert json.loads((merged([one, one], tmp_path / "same") / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_a_base_may_have_fewer_tokens_whatever_the_policy(tmp_path):
    """Models that were given more tokens since: what one did not have is the mean of theirs."""
    some, more = words("a"), words("a", "b")
    base = saved(tmp_path / "base", 0, tokenizer=some)
    folders = [saved(tmp_path / str(n), n, tokenizer=more) for n in (1, 2)]
    with open_parents(folders, base, LinearConfig(models=[str(folder) for folder in folders])) as parents:
        found, own = parents.base_tensor("embed.weight"), [weights(folder)["embed.weight"] for folder in folders]
    at, before = more.inner.get_vocab(), some.inner.get_vocab()
    torch.testing.assert_close(found[at["b"]], (own[0][at["b"]] + own[1][at["b"]]) / 2)
    assert torch.equal(found[at["a"]], weights(base)["embed.weight"][before["a"]])


@pytest.mark.parametrize("number", [0, 1])
def test_nan_is_named_where_it_came_from(tmp_path, number):
    folders = [saved(tmp_path / str(n), n) for n in (0, 1)]
    tensors = weights(folders[number])
    tensors["norm.weight"][3] = float("nan")
    save_file(tensors, folders[number] / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"/{number}: norm\.weight has numbers that are NaN"):
        merged(folders, tmp_path / "out")
