"""The parents of a merge: their tensors by our names, each read when it is asked for.

1. Tensors are widened to float32 (float64 stays), and an adapter beside a parent's weights is added to them.
2. Where vocabularies differ (`merge.tokens`), rows stand for the same text in all parents: those of `embed.weight` and
   `head.weight` are put in the order of the result's tokenizer. Rows that a parent has not are the first parent's
   (`first`), or the mean of those that the other parents have (`union`).
3. Where some parents are tied (`merge.tied=untie`), their embedding is read for `head.weight` too.
4. A folder that rlx has no model for has its own names, and its config.json and tokenizer.json are the result's.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlx.data.tokenizers.base import Tokenizer
from rlx.errors import CheckpointError, ConfigError
from rlx.merges.base import Architecture, Tied, Tokens, alike
from rlx.models.base import TIED, ModelConfig
from rlx.options import option_of, plain_value
from rlx.runs.files import MODEL_TOKENIZER
from rlx.runs.model_directory import adapter_files, open_tensors, read_model_config
from rlx.runs.tensor_files import StoredTensors
from rlx.stages.start import read_adapter, read_described

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from rlx.merges.base import MergeConfig
    from rlx.models.adapters import Product
    from rlx.models.layouts.base import Place
    from rlx.nn.decoder import Decoder

EMBEDDING = "embed.weight"
TRAINING_ONLY = frozenset({"z_loss", "init_std", "balance_loss", "router_z_loss", "balance_rate"})
"""Fields of models that say how weights are trained, and nothing of what they compute."""


@dataclass(kw_only=True)
class Parent:
    """A model folder."""

    folder: Path
    description: dict[str, Any]
    config: ModelConfig | None
    """None of a model that rlx has not."""
    tokenizer: Tokenizer | None
    stored: StoredTensors
    products: "list[Product]"
    untied: bool = False
    """The head is the embedding, and is given as if it were one of its own."""
    rows: "Tensor | None" = None
    """[V] for each token of the result the parent's own row, or -1; None: they are the same."""
    moves: "Mapping[str, Callable[[Tensor], Tensor]]" = field(default_factory=dict)
    """By tensor: what puts its units in the order of the first parent's (`merge.align`)."""

    @cached_property
    def places(self) -> "dict[str, Place]":
        """Our names, each with its place in the folder."""
        from rlx.models.folder import places_of
        from rlx.models.layouts.base import Place

        if self.config is None:
            return {name: Place((name,)) for name in self.stored.names}
        found = places_of(self.description, self.config, self.stored.names)
        return {**found, TIED: found[EMBEDDING]} if self.untied else found

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the tensors as they are merged."""
        found = {}
        for name, place in self.places.items():
            shape = place.shape_of([self.stored.shape(part) for part in place.theirs])
            of_tokens = self.rows is not None and name in (EMBEDDING, TIED)
            found[name] = (len(self.rows), *shape[1:]) if of_tokens and self.rows is not None else shape
        return found

    def dtype(self, name: str) -> "torch.dtype":
        """As it is stored."""
        import torch

        parts = self.places[name].theirs
        return self.stored.spec(parts[0]).dtype if parts else torch.float32

    def bare(self, name: str) -> "Tensor":
        """A tensor as it is stored, without what an adapter adds."""
        import torch

        place = self.places[name]
        specs = [self.stored.spec(part) for part in place.theirs]
        if len(specs) < 2 or place.shape is not None or any(spec.dtype is not torch.float32 for spec in specs):
            return place.ours([self.stored.tensor(part) for part in place.theirs])
        whole, first = torch.empty(place.shape_of([spec.shape for spec in specs])), 0
        for spec in specs:  # each where it will stand, instead of side by side and then once more together
            self.stored.read(spec.name, whole[first : first + spec.shape[0]])
            first += spec.shape[0]
        return whole

    def own(self, name: str) -> "Tensor":
        """A tensor with the parent's own rows and units."""
        from rlx.models.adapters import fold

        tensor = self.bare(name)
        kept = EMBEDDING if self.untied and name == TIED else name
        fold({kept: tensor}, [product for product in self.products if product.tensor == kept])
        return tensor

    def checked(self, name: str, tensor: "Tensor") -> "Tensor":
        """The tensor, of that name.

        Raises:
            CheckpointError: it has numbers that are NaN.
        """
        if tensor.is_floating_point() and tensor.sum().isnan() and tensor.isnan().any():
            raise CheckpointError(
                f"{self.folder}: {name} has numbers that are NaN; the model has diverged, or is damaged"
            )
        return tensor

    def tensor(self, name: str) -> "Tensor":
        """A tensor with its units in order; rows of tokens are the parent's own."""
        tensor, move = self.own(name), self.moves.get(name)
        return tensor if move is None else move(tensor)

    def architecture(self) -> Architecture:
        """Its config, with what of it counts."""
        if self.config is None:
            return Architecture("", self.description, where=str(self.folder))
        config = replace(self.config, tie_embeddings=False) if self.untied else self.config
        return Architecture(
            option=option_of(config).name,
            fields=plain_value(config),
            free=TRAINING_ONLY,
            where=str(self.folder),
            plain=config.plain,
        )


@dataclass(kw_only=True)
class Parents:
    """All parents of a merge, and the base."""

    members: list[Parent]
    base: Parent | None
    tokens: Tokens
    tokenizer: Tokenizer | None
    """The result's."""

    @property
    def known(self) -> bool:
        """rlx has a model for them."""
        return self.members[0].config is not None

    def shapes(self) -> list[dict[str, tuple[int, ...]]]:
        """Names and shapes of each parent."""
        return [parent.shapes() for parent in self.members]

    def tensor(self, number: int, name: str) -> "Tensor":
        """A parent's tensor as it is merged."""
        return self._of(self.members[number], name)

    def base_tensor(self, name: str) -> "Tensor":
        """The base's.

        Raises:
            ConfigError: it has none of that name.
        """
        assert self.base is not None
        if name not in self.base.places:
            raise ConfigError(f"the base {self.base.folder} has no tensor {name}; name another one by merge.base=")
        return self._of(self.base, name)

    def _of(self, parent: Parent, name: str) -> "Tensor":
        tensor = parent.tensor(name)
        if parent.rows is None or name not in (EMBEDDING, TIED):
            return tensor
        rows = parent.rows
        found = tensor[rows.clamp_min(0)]
        lacks = rows < 0
        if lacks.any():
            found[lacks] = self._filled(parent, name)[lacks].to(found.dtype)
        return found

    def _filled(self, parent: Parent, name: str) -> "Tensor":
        """[V, D] of what stands for rows that a parent lacks."""
        import torch

        others = [other for other in self.members if other is not parent and name in other.places]
        if self.tokens is Tokens.first:
            others = self.members[:1]
        total = count = None
        for other in others:
            tensor = other.tensor(name)
            rows = torch.arange(len(tensor)) if other.rows is None else other.rows
            has = (rows >= 0)[:, None]
            values = torch.where(has, tensor[rows.clamp_min(0)], 0)
            total = values if total is None else total + values
            count = has.to(tensor.dtype) if count is None else count + has
        assert total is not None and count is not None
        return total / count.clamp_min(1)

    def start(self, number: int, *, adapted: bool = True) -> "Decoder":
        """A parent as a model, with the result's tokens, its units in its own order or the other: the same function.

        Args:
            adapted: with its adapter added; else its base alone, as it is stored.

        Raises:
            ConfigError: as `base_tensor`.
            CheckpointError: it has numbers that are NaN.
        """
        from rlx.models.folder import config_of, load_weights

        parent = self.members[number]
        assert self.tokenizer is not None
        description = described(parent.architecture(), self.tokenizer)
        config, vocab_size = config_of(description, parent.folder)
        model = config.build(vocab_size)
        read = (lambda name: self.tensor(number, name)) if adapted else parent.bare
        tensors = {name: parent.checked(name, read(name)).float() for name in parent.places}
        load_weights(model, tensors, parent.folder)
        return model


def described(architecture: Architecture, tokenizer: Tokenizer) -> dict[str, Any]:
    """config.json of a model that rlx has."""
    from rlx.models.folder import FORMAT

    return {
        "format": FORMAT,
        "model": architecture.option,
        "vocab_size": tokenizer.vocab_size,
        "fields": dict(architecture.fields),
        "tokens": dict(tokenizer.tokens),
    }


@contextmanager
def open_parents(folders: Sequence[Path], base: Path | None, merge: "MergeConfig") -> Iterator[Parents]:
    """The parents' folders, opened, as the merge's policies have them.

    Raises:
        CheckpointError: a folder cannot be read.
        ConfigError: what differs, and must not by `merge.tokens` and `merge.tied`.
    """
    with ExitStack() as stack:
        given = [*folders, *([] if base is None else [base])]
        known = _all_known(given)
        found = [_opened(folder, stack, known=known) for folder in given]
        members, last = found[: len(folders)], None if base is None else found[-1]
        tokenizer = members[0].tokenizer
        if known:
            _untie(found, merge.tied)
            tokenizer = _same_tokens(found, len(members), merge.tokens)
        else:
            _check_raw(found, merge)
        if last is not None and (reason := _other(last, members[0])):
            if merge.base is not None or merge.needs_base:
                raise ConfigError(f"the base {last.folder} {reason}; name another one by merge.base=")
            last = None
        yield Parents(members=members, base=last, tokens=merge.tokens, tokenizer=tokenizer)


def _reason(folder: Path) -> str | None:
    """Why a folder of others is no model that rlx has; None where it is one.

    Raises:
        CheckpointError: it is ours, and damaged.
    """
    from rlx.models.folder import config_of, is_foreign

    description = read_model_config(folder)
    ours = "format" in description and not is_foreign(description)
    try:
        config_of(description, folder)
        if not (folder / MODEL_TOKENIZER).is_file():
            raise CheckpointError(f"{folder} has no {MODEL_TOKENIZER}; save the model's tokenizer beside it")
        return None
    except CheckpointError as error:
        if ours:
            raise
        return str(error)


def _all_known(folders: Sequence[Path]) -> bool:
    """True where rlx has a model for every folder, False where they are merged by their own names.

    Raises:
        CheckpointError: a model of rlx's own is among those that it has no model for.
    """
    reasons = {folder: _reason(folder) for folder in folders}
    unknown = [reason for reason in reasons.values() if reason is not None]
    if unknown and any("format" in read_model_config(folder) for folder in folders):
        raise CheckpointError(f"{unknown[0]}; it cannot be merged with a model of rlx")
    return not unknown


def check_known(folders: Sequence[Path], needs: str) -> None:
    """Raise CheckpointError for a folder that rlx has no model for, which something needs."""
    for folder in folders:
        if (reason := _reason(folder)) is not None:
            raise CheckpointError(f"{reason}: {needs}")


def _opened(folder: Path, stack: ExitStack, *, known: bool) -> Parent:
    stored, description = stack.enter_context(open_tensors(folder)), read_model_config(folder)
    if not known:
        if adapter_files(folder):
            raise CheckpointError(
                f"{folder} has an adapter, and rlx has no model to add it to; merge it into the weights first"
            )
        return Parent(folder=folder, description=description, config=None, tokenizer=None, stored=stored, products=[])
    config, tokenizer = read_described(folder)
    return Parent(
        folder=folder,
        description=description,
        config=config,
        tokenizer=tokenizer,
        stored=stored,
        products=read_adapter(folder, config, tokenizer.vocab_size),
    )


def _untie(parents: Sequence[Parent], policy: Tied) -> None:
    """Untie the tied where not all are, or raise ConfigError."""
    tied = [parent.config is not None and parent.config.tie_embeddings for parent in parents]
    if len(set(tied)) == 1:
        return
    if policy is Tied.same:
        one, other = parents[tied.index(True)].folder, parents[tied.index(False)].folder
        raise ConfigError(
            f"{one} uses its embedding as head (model.tie_embeddings) and {other} does not; merge.tied=untie gives the "
            "first a head of its own"
        )
    for parent, is_tied in zip(parents, tied, strict=True):
        parent.untied = is_tied


def _same_tokens(parents: Sequence[Parent], count: int, policy: Tokens) -> Tokenizer:
    """The result's tokenizer, with each parent's rows for it; the first `count` are the models, then the base, which
    may always have other tokens: models may have got more since.

    Raises:
        ConfigError: they differ, and `merge.tokens=same`; or theirs cannot be joined.
    """
    import torch

    from rlx.data.tokenizers.extension import extended

    tokenizers = [parent.tokenizer for parent in parents if parent.tokenizer is not None]
    first = tokenizers[0]
    others = [number for number, each in enumerate(tokenizers) if _text(each) != _text(first)]
    if not others:
        return first
    where = parents[others[0]].folder
    if policy is Tokens.same and others[0] < count:
        raise ConfigError(
            f"{where} has another tokenizer than {parents[0].folder}; its token ids mean other text. "
            "merge.tokens=first or union puts rows of the same text together"
        )
    result, known = first, set(_tokens(first))
    if policy is Tokens.union:
        more = [token for each in tokenizers[1:count] for token in _tokens(each) if token not in known]
        try:
            result = extended(first, list(dict.fromkeys(more)))
        except ConfigError:
            raise ConfigError(
                "merge.tokens=union joins vocabularies of characters and of words, and those of the parents are not; "
                "take merge.tokens=first"
            ) from None
    names = {number: token for token, number in _tokens(result).items()}
    for parent in parents:
        assert parent.tokenizer is not None
        own = _tokens(parent.tokenizer)
        unnamed = set(range(parent.tokenizer.vocab_size)) - set(own.values())
        rows = [
            own.get(names[number], -1) if number in names else (number if number in unnamed else -1)
            for number in range(result.vocab_size)
        ]
        if rows != list(range(parent.tokenizer.vocab_size)):
            parent.rows = torch.tensor(rows)
    return result


def _tokens(tokenizer: Tokenizer) -> dict[str, int]:
    """Every token's id, special ones too, in the order of ids."""
    return dict(sorted(tokenizer.inner.get_vocab(with_added_tokens=True).items(), key=lambda pair: pair[1]))


def _text(tokenizer: Tokenizer) -> tuple[str, dict[str, str], int]:
    return tokenizer.to_json(), tokenizer.tokens, tokenizer.vocab_size


def _other(base: Parent, parent: Parent) -> str:
    """In what a base is no model like a parent; empty where it is."""
    own, theirs = base.shapes(), parent.shapes()
    for name, shape in theirs.items():
        if own.get(name) != shape:
            return f"has {own[name]} for {name}, the first parent {shape}" if name in own else f"has no tensor {name}"
    try:
        alike([parent.architecture(), base.architecture()])
    except ConfigError as error:
        return f"is another model than the parents ({error})"
    return ""


def _check_raw(parents: Sequence[Parent], merge: "MergeConfig") -> None:
    """Raise ConfigError for what folders that rlx has no model for must have alike, or cannot have done to them."""
    policy = merge.tokens
    if merge.tied is not Tied.same:
        raise ConfigError(f"merge.tied={merge.tied.name} is for models that rlx has; leave it out")
    texts = [path.read_bytes() if (path := each.folder / MODEL_TOKENIZER).is_file() else b"" for each in parents]
    for parent, text in zip(parents, texts, strict=True):
        if text != texts[0] and policy is not Tokens.first:
            raise ConfigError(
                f"{parent.folder} has another {MODEL_TOKENIZER} than {parents[0].folder}; merge.tokens=first takes the "
                "first one's with rows as they stand"
            )
